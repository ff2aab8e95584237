"""What a job consists of: distinct requests, the profiles behind each, and what they will take."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from okrcell.console import progress
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.evidence import Request, make_request
from okrcell.enrich.profile_text import original_text, subject_of
from okrcell.enrich.prompts import estimate_tokens
from okrcell.enrich.retrieve import Facets, Retriever
from okrcell.enrich.writer import writer_version

if TYPE_CHECKING:
    from okrcell.corpus.knowledge import Knowledge

__all__ = ["Plan", "PlannedProfile", "estimate", "make_plan"]

_SECONDS_PER_CALL = 15.0  # of a hosted model that writes a few hundred tokens
_SECONDS_PER_EXTRACT = 0.02


@dataclass(frozen=True)
class PlannedProfile:
    """A profile with its evidence; ``key`` is None where there is nothing to write from."""

    profile_id: str
    key: str | None
    original_text: str
    facets: Facets
    n_cells: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """The profiles in order of id, and the distinct requests by key."""

    profiles: tuple[PlannedProfile, ...]
    requests: Mapping[str, Request]

    def profile_rows(self) -> list[tuple[str, str | None, str, str]]:
        """Return the profiles as the ledger keeps them."""
        return [(p.profile_id, p.key, p.original_text, p.reason) for p in self.profiles]


def make_plan(profiles: list[dict[str, Any]], knowledge: Knowledge, config: EnrichConfig) -> Plan:
    """Retrieve evidence for every profile and gather equal requests.

    A profile without any evidence of what its cell type is gets no request: a writer could only
    guess.
    """
    retriever = Retriever(knowledge, config.snippets_per_facet)
    version = writer_version(config)
    planned, requests = [], {}
    with progress("Retrieving evidence", len(profiles), "profiles") as advance:
        for profile in sorted(profiles, key=lambda row: str(row["profile_id"])):
            subject = subject_of(profile)
            facets = retriever.facets(subject)
            key = None
            if "identity" in facets:
                request = make_request(config, subject, facets, version)
                key = request.key
                requests[key] = request
            planned.append(
                PlannedProfile(
                    str(profile["profile_id"]),
                    key,
                    original_text(profile),
                    facets,
                    int(profile["n_cells"] or 0),
                    "" if key else _why_not(subject.label("identity")),
                )
            )
            advance()
    return Plan(tuple(planned), {key: requests[key] for key in sorted(requests)})


def _why_not(label: str) -> str:
    if not label:
        return "no evidence: the cell type is unknown"
    return f"no evidence: no definition and no passage says what '{label}' is"


def estimate(plan: Plan, config: EnrichConfig, settled: Set[str]) -> dict[str, Any]:
    """Return what a plan will take, before anything is paid.

    Parameters
    ----------
    settled
        Keys of requests that the job's ledger has answers to already.
    """
    todo = [request for key, request in plan.requests.items() if key not in settled]
    cells = sum(profile.n_cells for profile in plan.profiles)
    tokens_in = tokens_out = 0
    if not config.is_extractive:
        counts = [estimate_tokens(request, config.words) for request in todo]
        tokens_in, tokens_out = sum(n for n, _ in counts), sum(n for _, n in counts)
        seconds = len(todo) * _SECONDS_PER_CALL / config.concurrency
    else:
        seconds = len(todo) * _SECONDS_PER_EXTRACT
    return {
        "writer": config.writer,
        "profiles": len(plan.profiles),
        "cells": cells,
        "without_evidence": sum(profile.key is None for profile in plan.profiles),
        "requests": len(plan.requests),
        "calls": len(todo),
        "calls_saved": max(0, cells - len(plan.requests)),
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "cost_usd": config.cost(tokens_in, tokens_out),
        "seconds": round(seconds, 1),
    }
