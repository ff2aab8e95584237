"""From the ledger to the table ``descriptions``: verify, judge, screen; the same bytes every time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.draft import Draft, parse_draft
from okrcell.enrich.evidence import Request
from okrcell.enrich.ledger import Entry, Ledger
from okrcell.enrich.screen import leaked_names, reliability, screen_cosines
from okrcell.enrich.verify import Claim, Judgement, judge, verify
from okrcell.enrich.writer import writer_version
from okrcell.errors import InternalError
from okrcell.schemas import TABLES

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder

__all__ = ["count_verdicts", "describe"]


@dataclass(frozen=True)
class _Work:
    request: Request
    entry: Entry
    draft: Draft | None


def describe(ledger: Ledger, config: EnrichConfig, embedder: Embedder) -> pa.Table:
    """Return the table ``descriptions``, one row per profile in order of id.

    ``text`` holds only what passed: it is empty unless ``status`` is ``accepted``, and a reader falls
    back to ``original_text``. All sentences with their verdicts stay in ``claims``. Profiles that share
    a request share its text; tokens and cost stand with the first of them, so that columns add up.
    """
    profiles = ledger.profiles()
    keys = sorted({key for _, key, _, _ in profiles if key is not None})
    work = {key: _load(ledger, key) for key in keys}
    drafted = [key for key in keys if work[key].draft is not None]
    checked = verify(
        [(d, work[key].request.offered) for key in drafted if (d := work[key].draft)],
        embedder,
        config.support_threshold,
    )
    claims = dict(zip(drafted, checked, strict=True))
    judgements = {key: judge(found) for key, found in claims.items()}
    screened = [
        (profile_id, original, judgements[key].text)
        for profile_id, key, original, _ in profiles
        if key in judgements and judgements[key].text
    ]
    values = screen_cosines([o for _, o, _ in screened], [t for _, _, t in screened], embedder)
    cosines = {profile_id: v for (profile_id, _, _), v in zip(screened, values, strict=True)}
    rows, billed = [], set()
    for profile_id, key, original, reason in profiles:
        row: dict[str, Any] = {
            "profile_id": profile_id,
            "original_text": original,
            "writer": config.writer,
            "prompt_version": writer_version(config),
        }
        if key is None:
            rows.append(row | _empty("rejected", reason) | _bill(None))
            continue
        item = work[key]
        row |= _bill(item.entry if key not in billed else None)
        billed.add(key)
        if key not in claims:
            kind = item.entry.error_kind or "failed"
            rows.append(row | _empty("failed", f"{kind}: {item.entry.error}"))
            continue
        row["claims"] = [_claim_row(claim) for claim in claims[key]]
        rows.append(row | _outcome(judgements[key], cosines.get(profile_id), item, config))
    return pa.Table.from_pylist(rows, schema=TABLES["descriptions"].schema)


def _load(ledger: Ledger, key: str) -> _Work:
    entry = ledger.entry(key)
    if entry is None or entry.state not in {"answered", "failed"}:
        raise InternalError(
            f"request {key[:12]}",
            found=f"state '{entry.state if entry else 'absent'}'",
            expected="'answered' or 'failed'",
            fix="Please report this.",
        )
    answered = entry.state == "answered" and entry.answer is not None
    draft = parse_draft(entry.answer or "", f"request {key[:12]}") if answered else None
    return _Work(ledger.request(key), entry, draft)


def _outcome(
    judgement: Judgement, cosine: float | None, item: _Work, config: EnrichConfig
) -> dict[str, Any]:
    status, text, reason, value = judgement.status, judgement.text, judgement.reason, 0.0
    if cosine is not None:
        value = reliability(judgement.support, cosine, config)
        if cosine < config.screen_alpha:
            status, text = "rejected", ""
            reason = f"screened out: cosine {cosine:g} with the original text is below {config.screen_alpha:g}"
    return {
        "status": status,
        "text": text,
        "reason": reason,
        "screen_cosine": cosine,
        "reliability": value,
        "leaked_names": leaked_names(text, item.request.subject),
    }


def _empty(status: str, reason: str) -> dict[str, Any]:
    return {
        "status": status,
        "text": "",
        "reason": reason,
        "claims": [],
        "screen_cosine": None,
        "reliability": 0.0,
        "leaked_names": [],
    }


def _bill(entry: Entry | None) -> dict[str, Any]:
    if entry is None:
        return {"tokens_in": 0, "tokens_out": 0, "cost_usd": 0.0}
    return {
        "tokens_in": entry.tokens_in,
        "tokens_out": entry.tokens_out,
        "cost_usd": entry.cost_usd,
    }


def _claim_row(claim: Claim) -> dict[str, Any]:
    return {
        "sentence": claim.sentence.text,
        "facet": claim.sentence.facet,
        "snippet_ids": list(claim.sentence.snippet_ids),
        "quote": claim.sentence.quote,
        "verdict": claim.verdict,
        "score": claim.score,
    }


def count_verdicts(table: pa.Table) -> dict[str, dict[str, int]]:
    """Return how many descriptions have each status and how many sentences each verdict."""
    rows = table.select(["status", "claims"]).to_pylist()
    statuses = Counter(row["status"] for row in rows)
    verdicts = Counter(claim["verdict"] for row in rows for claim in row["claims"])
    return {
        "descriptions": dict(sorted(statuses.items())),
        "sentences": dict(sorted(verdicts.items())),
    }
