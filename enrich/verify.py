"""Whether the evidence carries a description: checks and a verdict per sentence, one for the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from okrcell.corpus import ontology
from okrcell.enrich.claims import CHECKS, SUPPORTED, Check, Claim, Outcome
from okrcell.enrich.contradictions import contradiction, disagreement
from okrcell.enrich.draft import Draft, Facet, Sentence
from okrcell.enrich.evidence import Evidence, Request
from okrcell.enrich.hostile import intrusion, is_hostile
from okrcell.enrich.masking import given_away
from okrcell.enrich.names import find_names
from okrcell.enrich.profile_text import Subject
from okrcell.enrich.quotes import find_quote, is_telling
from okrcell.enrich.support import OfflineScorer, Support, SupportScorer

__all__ = ["Judgement", "judge", "needs_scoring", "support_of", "verify"]

Spans = tuple[tuple[int, int] | None, ...]
Finding = tuple[Outcome, str]


@dataclass(frozen=True)
class Judgement:
    """What becomes of a description.

    Attributes
    ----------
    text
        The sentences that are kept; "" when rejected.
    reason
        Why it is rejected, or what was dropped from it.
    support
        Share of its sentences that are supported; repaired ones do not count.
    claims
        The claims, those that fail with the state ``dropped``.
    """

    status: str
    text: str
    reason: str
    support: float
    claims: tuple[Claim, ...]


def verify(
    drafts: Sequence[tuple[Draft, Request]], scorer: SupportScorer, threshold: float
) -> list[list[Claim]]:
    """Check every sentence of every draft against the evidence that was offered for it.

    The checks are made in the order of ``claims.CHECKS``; the first that fails gives the verdict,
    and those after it are not run.

    Parameters
    ----------
    threshold
        Least score of a sentence that counts as supported.

    Returns
    -------
    list
        Claims of each draft, in its order.
    """
    begun = [
        [(sentence, request, *_early(sentence, request)) for sentence in draft.sentences]
        for draft, request in drafts
    ]
    waiting = {
        support_of(sentence, request): None
        for row in begun
        for sentence, request, checks, _ in row
        if not _failed(checks)
    }
    pairs = list(waiting)
    scores = dict(zip(pairs, scorer.score(pairs), strict=True))
    return [
        [
            _finish(sentence, request, checks, spans, scores, scorer, threshold)
            for sentence, request, checks, spans in row
        ]
        for row in begun
    ]


def needs_scoring(draft: Draft, request: Request) -> list[int]:
    """Return the indices of the sentences that pass the checks before ``supported``."""
    return [
        n for n, sentence in enumerate(draft.sentences) if not _failed(_early(sentence, request)[0])
    ]


def support_of(sentence: Sentence, request: Request) -> Support:
    """Return a sentence with its quotes and the passages it cites, as a scorer takes it."""
    offered = request.offered
    context = tuple(offered[key].text for key in sentence.snippet_ids if key in offered)
    return Support(sentence.text, sentence.quotes, context, request.subject)


# --- the checks, in order ----------------------------------------------------------------------


def _early(sentence: Sentence, request: Request) -> tuple[tuple[Check, ...], Spans]:
    """Make the checks that need no scorer and come before it."""
    offered = request.offered
    spans = tuple(
        find_quote(citation.quote, offered[citation.snippet_id].text)
        if citation.snippet_id in offered
        else None
        for citation in sentence.citations
    )
    checks: list[Check] = []
    steps: dict[str, Callable[[], Finding]] = {
        "id_offered": lambda: _id_offered(sentence, offered),
        "quote_found": lambda: _quote_found(sentence, spans),
        "not_retracted": lambda: _not_retracted(sentence, offered),
        "no_instruction": lambda: _no_instruction(sentence, offered),
        "label_hidden": lambda: _label_hidden(sentence, request),
    }
    for name, step in steps.items():
        checks.append(Check(name, "not_run") if _failed(checks) else Check(name, *step()))
    return tuple(checks), spans


def _failed(checks: Sequence[Check]) -> str:
    """Return the name of the check that failed, or ""."""
    return next((check.check for check in checks if check.outcome == "failed"), "")


def _id_offered(sentence: Sentence, offered: dict[str, Evidence]) -> Finding:
    if not sentence.citations:
        return "failed", "no passage is cited"
    unknown = [key for key in sentence.snippet_ids if key not in offered]
    if unknown:
        return "failed", f"not among the passages offered: {', '.join(unknown)[:200]}"
    return "passed", ""


def _quote_found(sentence: Sentence, spans: Spans) -> Finding:
    for citation, span in zip(sentence.citations, spans, strict=True):
        if span is None:
            return "failed", f"not in {citation.snippet_id}: '{citation.quote[:200]}'"
        if not is_telling(citation.quote):
            return "failed", f"says nothing: '{citation.quote[:200]}'"
    return "passed", ""


def _not_retracted(sentence: Sentence, offered: dict[str, Evidence]) -> Finding:
    for key in sentence.snippet_ids:
        if offered[key].is_retracted:
            return "failed", f"{offered[key].doc_id} is retracted"
    return "passed", ""


def _no_instruction(sentence: Sentence, offered: dict[str, Evidence]) -> Finding:
    found = intrusion(sentence.text, tuple(offered))
    if found:
        return "failed", f"the sentence has {found}"
    if any(is_hostile(quote) for quote in sentence.quotes):
        return "failed", "the quote addresses a model or hides something"
    # Who plants an order may also plant a falsehood beside it.
    for key in sentence.snippet_ids:
        if is_hostile(offered[key].text):
            return "failed", f"the passage {key} addresses a model or hides something"
    return "passed", ""


def _label_hidden(sentence: Sentence, request: Request) -> Finding:
    if not request.mask_label:
        return "not_applicable", ""
    subject = request.subject
    found = sorted(
        {*find_names(sentence.text, _own_names(subject)), *given_away(sentence.text, subject)}
    )
    return ("failed", f"names the type: {', '.join(found)}") if found else ("passed", "")


def _own_names(subject: Subject) -> list[str]:
    """Return what gives a cell type away: its names, also without "cell", and their initials."""
    names = {subject.label("identity"), *ontology.names(subject.term_id("identity"))} - {""}
    for name in list(names):
        words = name.split()
        stem = words[:-1] if words[-1].lower() in {"cell", "cells"} else words
        if len(stem) > 1:
            names.add(" ".join(stem))
            if all(word.isalpha() for word in stem):
                names.add("".join(word[0].upper() for word in stem))
    return sorted(names)


def _finish(
    sentence: Sentence,
    request: Request,
    checks: tuple[Check, ...],
    spans: Spans,
    scores: dict[Support, float],
    scorer: SupportScorer,
    threshold: float,
) -> Claim:
    """Make the remaining checks and give the verdict."""
    made, score = list(checks), None
    if not _failed(made):
        pair = support_of(sentence, request)
        score = scores[pair]
        made.append(_supported(pair, score, scorer, threshold))
    if not _failed(made):
        disagrees, detail = disagreement(sentence.text, request)
        outcome: Outcome = "not_applicable" if disagrees is None else "passed"
        made.append(Check("expression_agrees", "failed" if disagrees else outcome, detail))
    if not _failed(made):
        pair = support_of(sentence, request)
        found = contradiction(pair.sentence, pair.quotes, pair.context, pair.subject)
        made.append(Check("no_contradiction", "failed" if found else "passed", found))
    done = {check.check: check for check in made}
    all_checks = tuple(done.get(name, Check(name, "not_run")) for name in CHECKS)
    failed = _failed(made)
    return Claim(sentence, CHECKS[failed] if failed else SUPPORTED, score, all_checks, spans)


def _supported(pair: Support, score: float, scorer: SupportScorer, threshold: float) -> Check:
    detail = f"{scorer.name}: {score:.2f}"
    if isinstance(scorer, OfflineScorer) and (why := scorer.explain(pair)):
        detail = f"{detail}; {why}"
    return Check("supported", "passed" if score >= threshold else "failed", detail)


# --- the whole ---------------------------------------------------------------------------------


def judge(claims: Sequence[Claim], keep_fraction: float, mask_label: bool = False) -> Judgement:
    """Return status, text and reason of a description.

    It is rejected unless a supported sentence says what the cell type is, and at least
    ``keep_fraction`` of all sentences are supported; what fails in an accepted one is dropped from
    the text and counted in the reason.

    Parameters
    ----------
    mask_label
        Without its name, what a type is may also be said by its markers and function.
    """
    told: tuple[Facet, ...] = ("identity", "markers_function") if mask_label else ("identity",)
    marked = tuple(
        claim
        if claim.state == "repaired"
        else replace(claim, state="kept" if claim.verdict == SUPPORTED else "dropped")
        for claim in claims
    )
    standing = [claim for claim in marked if claim.state != "repaired"]
    kept = [claim for claim in standing if claim.state == "kept"]
    failed = [claim.verdict for claim in standing if claim.state == "dropped"]
    support = len(kept) / len(standing) if standing else 0.0
    counts = ", ".join(f"{failed.count(kind)} {kind}" for kind in sorted(set(failed)))
    if not any(claim.sentence.facet in told for claim in kept):
        reason = "no supported sentence says what the cell type is"
        reason = f"{reason} ({counts})" if counts else reason
        return Judgement("rejected", "", reason, support, marked)
    if support < keep_fraction:
        reason = f"{len(failed)} of {len(standing)} sentences fail ({counts})"
        return Judgement("rejected", "", reason, support, marked)
    reason = f"dropped {len(failed)} of {len(standing)} sentences ({counts})" if failed else ""
    text = " ".join(" ".join(claim.sentence.text.split()) for claim in kept)
    return Judgement("accepted", text, reason, support, marked)
