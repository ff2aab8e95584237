"""From checked claims to the table ``descriptions``: judge, screen, rate; the same bytes every time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from okrcell.enrich.checking import Checked
from okrcell.enrich.claims import claim_row
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.evidence import Request
from okrcell.enrich.leak import LeakReport, leak_reports
from okrcell.enrich.ledger import Entry, Ledger, ProfileRow
from okrcell.enrich.masking import mask_text
from okrcell.enrich.screen import facet_coverage, reliability, screen_cosines
from okrcell.enrich.verify import Judgement, judge
from okrcell.enrich.writer import writer_version
from okrcell.schemas import TABLES

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder

__all__ = ["count_verdicts", "describe"]


class _Remembering:
    """An embedder that encodes each distinct text once: the screen and the leak report ask for the same."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= zip(new, self._embedder.encode(new), strict=True)
        return np.stack([self._known[text] for text in texts])


def describe(
    ledger: Ledger, checked: Mapping[str, Checked], config: EnrichConfig, embedder: Embedder
) -> pa.Table:
    """Return the table ``descriptions``, one row per profile in order of id.

    ``text`` holds only what passed: it is empty unless ``status`` is ``accepted``, and a reader falls
    back to ``original_text``. All sentences with their verdicts stay in ``claims``. Profiles that share
    a request share its text; tokens and cost stand with the first of them, so that columns add up.
    """
    profiles, embedder = ledger.profiles(), cast("Embedder", _Remembering(embedder))
    judgements = {
        key: judge(found.claims, config.keep_fraction, config.mask_label)
        for key, found in checked.items()
        if found.claims
    }
    # What was rejected for its claims is screened all the same: its reliability is wanted too.
    drafted = {key: _text_of(checked[key], judgements[key]) for key in judgements}
    screened = [
        (p.profile_id, p.original_text, drafted[p.key]) for p in profiles if p.key in drafted
    ]
    values = screen_cosines([o for _, o, _ in screened], [t for _, _, t in screened], embedder)
    cosines = {profile_id: v for (profile_id, _, _), v in zip(screened, values, strict=True)}
    leaks = _leaks(ledger, judgements, embedder)
    rows, billed = [], set()
    for profile in profiles:
        row: dict[str, Any] = {
            "profile_id": profile.profile_id,
            "original_text": profile.original_text,
            "writer": config.writer,
            "prompt_version": writer_version(config),
        }
        key = profile.key
        if key is None:
            rows.append(row | _empty("rejected", profile.reason) | _bill([]))
            continue
        row |= _bill([] if key in billed else ledger.entries(key))
        billed.add(key)
        found = checked[key]
        if not found.claims:
            rows.append(row | _empty("failed", found.failure))
            continue
        row["claims"] = [claim_row(claim) for claim in found.claims]
        outcome = _outcome(
            judgements[key], found, cosines[profile.profile_id], ledger.request(key), config
        )
        rows.append(row | outcome | _leak(leaks[key] if outcome["text"] else None))
    return pa.Table.from_pylist(rows, schema=TABLES["descriptions"].schema)


def _screened(ledger: Ledger, profile: ProfileRow, config: EnrichConfig) -> str:
    """Return the original text that a text is screened against: for masked ones, without the name too."""
    if not config.mask_label or profile.key is None:
        return profile.original_text
    return mask_text(profile.original_text, ledger.request(profile.key).subject)


def _text_of(found: Checked, judgement: Judgement) -> str:
    if judgement.text:
        return judgement.text
    return " ".join(claim.sentence.text for claim in found.claims if claim.state != "repaired")


def _outcome(
    judgement: Judgement, found: Checked, cosine: float, request: Request, config: EnrichConfig
) -> dict[str, Any]:
    status, text, reason = judgement.status, judgement.text, judgement.reason
    if status == "accepted" and cosine < config.screen_alpha:
        status, text = "rejected", ""
        reason = f"screened out: cosine {cosine:g} with the original text is below {config.screen_alpha:g}"
    coverage = round(facet_coverage(found.claims, request), 4)
    return {
        "status": status,
        "text": text,
        "reason": reason,
        "screen_cosine": cosine,
        "coverage": coverage,
        "reliability": round(reliability(found.claims, cosine, coverage, config), 4),
    }


def _leaks(
    ledger: Ledger, judgements: Mapping[str, Judgement], embedder: Embedder
) -> dict[str, LeakReport]:
    keys = sorted(judgements)
    texts = [judgements[key].text for key in keys]
    subjects = [ledger.request(key).subject for key in keys]
    return dict(zip(keys, leak_reports(texts, subjects, embedder), strict=True))


def _leak(report: LeakReport | None) -> dict[str, Any]:
    if report is None:
        return {"leaked_names": [], "leak": None}
    row = asdict(report) | {"names": list(report.names)}
    return {"leaked_names": list(report.names), "leak": row}


def _empty(status: str, reason: str) -> dict[str, Any]:
    return {
        "status": status,
        "text": "",
        "reason": reason,
        "claims": [],
        "screen_cosine": None,
        "coverage": 0.0,
        "reliability": 0.0,
        **_leak(None),
    }


def _bill(entries: list[Entry]) -> dict[str, Any]:
    """Return what a request's units cost together; None where a part of it is unknown."""
    paid = [entry for entry in entries if entry.answer is not None]
    bill: dict[str, Any] = {}
    for name in ("tokens_in", "tokens_out", "cost_usd"):
        values = [getattr(entry, name) for entry in paid]
        bill[name] = None if None in values else sum(values)
    if bill["cost_usd"] is not None:
        bill["cost_usd"] = round(float(bill["cost_usd"]), 8)
    return bill


def count_verdicts(table: pa.Table) -> dict[str, dict[str, int]]:
    """Return how many descriptions have each status and how many sentences each verdict and state."""
    rows = table.select(["status", "claims"]).to_pylist()
    claims = [claim for row in rows for claim in row["claims"]]
    return {
        "descriptions": dict(sorted(Counter(row["status"] for row in rows).items())),
        "sentences": dict(sorted(Counter(claim["verdict"] for claim in claims).items())),
        "sentence_states": dict(sorted(Counter(claim["state"] for claim in claims).items())),
    }
