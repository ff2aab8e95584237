"""Whether the evidence carries a description: one verdict per sentence, one status for the whole."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from okrcell.enrich.draft import Draft, Sentence
from okrcell.enrich.evidence import Evidence

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder

__all__ = ["KEEP_FRACTION", "SUPPORTED", "Claim", "Judgement", "judge", "normalise_text", "verify"]

SUPPORTED = "supported"
KEEP_FRACTION = 0.7
"""A description is kept without its failing sentences if at least this share is supported."""

_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
_DASHES = re.compile("[\u2010-\u2015\u2212]")


@dataclass(frozen=True)
class Claim:
    """A sentence with its verdict; ``score`` is None where an earlier check already failed."""

    sentence: Sentence
    verdict: str
    score: float | None


@dataclass(frozen=True)
class Judgement:
    """What becomes of a description. ``text`` holds supported sentences only, "" when rejected."""

    status: str
    text: str
    reason: str
    support: float


def normalise_text(text: str) -> str:
    """Return text in which only wording counts: NFKC, plain quotes and dashes, spaces, case."""
    plain = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    return " ".join(_DASHES.sub("-", plain).split()).casefold()


def verify(
    drafts: Sequence[tuple[Draft, Mapping[str, Evidence]]], embedder: Embedder, threshold: float
) -> list[list[Claim]]:
    """Check every sentence of every draft against the evidence that was offered for it.

    In order: each cited id was offered (``unknown_snippet``), the quote stands verbatim in a cited
    snippet (``quote_not_found``), that snippet is not retracted (``retracted``), and sentence and
    quote mean the same (``unsupported`` below ``threshold``).

    Parameters
    ----------
    threshold
        Least cosine between the vectors of sentence and quote. A proxy of entailment: it notices
        another topic and misses a negation.

    Returns
    -------
    list
        Claims of each draft, in its order.
    """
    early = [
        [(sentence, _early_verdict(sentence, offered)) for sentence in draft.sentences]
        for draft, offered in drafts
    ]
    pairs = sorted(
        {(s.text, s.quote) for claims in early for s, verdict in claims if verdict == SUPPORTED}
    )
    scores = dict(zip(pairs, _cosines(pairs, embedder), strict=True))
    return [
        [_claim(s, verdict, scores.get((s.text, s.quote)), threshold) for s, verdict in claims]
        for claims in early
    ]


def _early_verdict(sentence: Sentence, offered: Mapping[str, Evidence]) -> str:
    if not sentence.snippet_ids or any(key not in offered for key in sentence.snippet_ids):
        return "unknown_snippet"
    quote = normalise_text(sentence.quote)
    if not quote:
        return "quote_not_found"
    whole_words = re.compile(rf"(?<!\w){re.escape(quote)}(?!\w)")
    cited = [offered[key] for key in sentence.snippet_ids]
    if not any(whole_words.search(normalise_text(item.text)) for item in cited):
        return "quote_not_found"
    return "retracted" if any(item.is_retracted for item in cited) else SUPPORTED


def _claim(sentence: Sentence, verdict: str, score: float | None, threshold: float) -> Claim:
    if verdict != SUPPORTED or score is None:
        return Claim(sentence, verdict, None)
    return Claim(sentence, SUPPORTED if score >= threshold else "unsupported", score)


def _cosines(pairs: Sequence[tuple[str, str]], embedder: Embedder) -> list[float]:
    if not pairs:
        return []
    vectors: npt.NDArray[np.float32] = embedder.encode([text for pair in pairs for text in pair])
    cosines = np.einsum("nd,nd->n", vectors[0::2], vectors[1::2])
    # Rounded, so that the last bits of a matrix product do not reach the table.
    return [round(float(value), 4) for value in cosines]


def judge(claims: Sequence[Claim]) -> Judgement:
    """Return status, text and reason of a description.

    It is rejected unless a sentence on identity and at least ``KEEP_FRACTION`` of all sentences
    are supported; what fails in an accepted one is left out of the text and counted in the reason.
    """
    kept = [claim for claim in claims if claim.verdict == SUPPORTED]
    failed = [claim.verdict for claim in claims if claim.verdict != SUPPORTED]
    support = len(kept) / len(claims)
    counts = ", ".join(f"{failed.count(kind)} {kind}" for kind in sorted(set(failed)))
    if not any(claim.sentence.facet == "identity" for claim in kept):
        reason = "no supported sentence says what the cell type is"
        return Judgement("rejected", "", f"{reason} ({counts})" if counts else reason, support)
    if support < KEEP_FRACTION:
        reason = f"{len(failed)} of {len(claims)} sentences fail ({counts})"
        return Judgement("rejected", "", reason, support)
    reason = f"dropped {len(failed)} of {len(claims)} sentences ({counts})" if failed else ""
    text = " ".join(" ".join(claim.sentence.text.split()) for claim in kept)
    return Judgement("accepted", text, reason, support)
