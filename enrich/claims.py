"""A sentence and what became of it: the checks it went through, in order, and its verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from okrcell.enrich.draft import Sentence

__all__ = ["CHECKS", "SUPPORTED", "Check", "Claim", "Outcome", "State", "claim_row"]

SUPPORTED = "supported"

CHECKS = {
    "id_offered": "unknown_snippet",
    "quote_found": "quote_not_found",
    "not_retracted": "retracted",
    "no_instruction": "instruction",
    "label_hidden": "names_label",
    "supported": "unsupported",
    "expression_agrees": "expression_disagrees",
    "no_contradiction": "contradicted",
}
"""Checks in the order in which they are made, each with the verdict of a sentence that fails it."""

Outcome = Literal["passed", "failed", "not_applicable", "not_run"]
State = Literal["kept", "repaired", "dropped"]


@dataclass(frozen=True)
class Check:
    """One check of one sentence; ``detail`` says in words what was found."""

    check: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True)
class Claim:
    """A sentence with its verdict.

    Attributes
    ----------
    verdict
        ``supported``, or that of the first check that failed.
    score
        In [0, 1], how well the quotes support the sentence; None where an earlier check failed.
    checks
        One for each of ``CHECKS``, in order; those after the first failure are ``not_run``.
    spans
        For each citation where its quote stands in the offered text (start, end), None if nowhere.
    state
        ``kept`` in the text, ``dropped`` from it, or ``repaired``: another sentence stands in for it.
    origin
        ``draft``, or ``repair`` for a sentence that stands in for a failing one.
    """

    sentence: Sentence
    verdict: str
    score: float | None
    checks: tuple[Check, ...]
    spans: tuple[tuple[int, int] | None, ...]
    state: State = "kept"
    origin: Literal["draft", "repair"] = "draft"


def claim_row(claim: Claim) -> dict[str, Any]:
    """Return a claim as the table ``descriptions`` holds it."""
    return {
        "sentence": claim.sentence.text,
        "facet": claim.sentence.facet,
        "citations": [
            {
                "snippet_id": citation.snippet_id,
                "quote": citation.quote,
                "start": span[0] if span else None,
                "end": span[1] if span else None,
            }
            for citation, span in zip(claim.sentence.citations, claim.spans, strict=True)
        ],
        "verdict": claim.verdict,
        "score": claim.score,
        "state": claim.state,
        "origin": claim.origin,
        "checks": [
            {"check": check.check, "outcome": check.outcome, "detail": check.detail}
            for check in claim.checks
        ],
    }
