"""What a job consists of: distinct requests, the profiles behind each, and what they will take."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from okrcell.console import progress
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.draft import Draft, answer_schema
from okrcell.enrich.evidence import EXPRESSION, Evidence, GeneStat, Group, Request, make_request
from okrcell.enrich.expression import Expression, expression_evidence
from okrcell.enrich.ledger import ProfileRow
from okrcell.enrich.masking import mask_evidence
from okrcell.enrich.mentions import read
from okrcell.enrich.profile_text import Subject, original_text, subject_of
from okrcell.enrich.prompts import estimate_tokens, render
from okrcell.enrich.retrieve import Retriever
from okrcell.enrich.writer import writer_version

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder
    from okrcell.corpus.knowledge import Knowledge

__all__ = ["Plan", "estimate", "make_plan"]

_SECONDS_PER_CALL = 15.0  # of a hosted model that writes a few hundred tokens
_SECONDS_PER_EXTRACT = 0.02
_SCHEMA_TOKENS = len(str(answer_schema(Draft))) // 4
_CANARY_CALLS = 2


@dataclass(frozen=True)
class Plan:
    """A job before anything is written or paid.

    Attributes
    ----------
    profiles
        In order of id.
    requests
        The distinct requests by key.
    cell_uids
        The training cells that feed expression evidence, sorted.
    left_out
        Passages that were found and not offered, by reason.
    """

    profiles: tuple[ProfileRow, ...]
    requests: Mapping[str, Request]
    cell_uids: tuple[str, ...]
    left_out: Mapping[str, int]


def make_plan(
    profiles: list[dict[str, Any]],
    knowledge: Knowledge,
    config: EnrichConfig,
    embedder: Embedder,
    store: Path | None,
) -> Plan:
    """Gather evidence for every profile, and equal requests.

    Profiles that differ in no facet share a request. A profile without any evidence of what its cell type is
    gets none: a writer could only guess.

    Parameters
    ----------
    store
        Where the cells are that feed expression evidence; None for none.
    """
    profiles = sorted(profiles, key=lambda row: str(row["profile_id"]))
    subjects = {str(row["profile_id"]): subject_of(row) for row in profiles}
    members: dict[Subject, list[str]] = {}
    for profile_id, subject in subjects.items():
        members.setdefault(subject, []).append(profile_id)
    retriever = Retriever(knowledge, config, embedder)
    offered: dict[Subject, dict[Group, tuple[Evidence, ...]]] = {}
    with progress("Retrieving evidence", len(members), "profiles") as advance:
        for subject in members:
            offered[subject] = dict(retriever.groups(subject))
            advance()
    expression = _expression(store, offered, members, config)
    keys: dict[Subject, str] = {}
    requests: dict[str, Request] = {}
    for subject, groups in offered.items():
        if "identity" in groups or "passages" in groups:
            request = _request(subject, groups, expression.get(_name(subject)), config)
            keys[subject] = request.key
            requests[request.key] = request
    rows = tuple(
        ProfileRow(
            str(profile["profile_id"]),
            keys.get(subjects[str(profile["profile_id"])]),
            original_text(profile),
            int(profile["n_cells"] or 0),
            ""
            if subjects[str(profile["profile_id"])] in keys
            else _why_not(subjects[str(profile["profile_id"])].label("identity")),
        )
        for profile in profiles
    )
    return Plan(
        rows,
        {key: requests[key] for key in sorted(requests)},
        tuple(sorted({uid for found in expression.values() for uid in found.cell_uids})),
        dict(sorted(retriever.left_out.items())),
    )


def _name(subject: Subject) -> str:
    return "|".join(f"{field}={label}={term_id}" for field, label, term_id in subject.fields)


def _expression(
    store: Path | None,
    offered: Mapping[Subject, Mapping[Group, tuple[Evidence, ...]]],
    members: Mapping[Subject, list[str]],
    config: EnrichConfig,
) -> dict[str, Expression]:
    """Return what the training cells express, with figures of the genes that the passages name."""
    if store is None or not config.expression:
        return {}
    return expression_evidence(
        store,
        {_name(subject): ids for subject, ids in members.items()},
        seed=config.seed,
        symbols={_name(subject): _named(groups) for subject, groups in offered.items()},
    )


def _named(groups: Mapping[Group, tuple[Evidence, ...]]) -> frozenset[str]:
    """Return the genes that the evidence names: a sentence can claim no other."""
    items = (item for group in groups.values() for item in group)
    mentions = (mention for item in items for mention in read(item.text).of("gene"))
    return frozenset(symbol for mention in mentions for symbol in mention.ids)


def _request(
    subject: Subject,
    groups: dict[Group, tuple[Evidence, ...]],
    expression: Expression | None,
    config: EnrichConfig,
) -> Request:
    genes: tuple[GeneStat, ...] = ()
    if expression is not None:
        genes = tuple(_rounded(gene) for gene in expression.genes)
        if expression.evidence is not None:
            group: Group = "passages" if "passages" in groups else "markers_function"
            groups = groups | {group: (*groups.get(group, ()), expression.evidence)}
    if config.mask_label:
        groups = {
            group: tuple(mask_evidence(item, subject) for item in items)
            for group, items in groups.items()
        }
    return make_request(config, subject, groups, writer_version(config), genes)


def _rounded(gene: GeneStat) -> GeneStat:
    shares = ("fraction", "fraction_others", "highest")
    return replace(gene, **{name: round(getattr(gene, name), 4) for name in shares})


def _why_not(label: str) -> str:
    if not label:
        return "no evidence: the cell type is unknown"
    return f"no evidence: no definition and no passage says what '{label}' is"


def estimate(plan: Plan, config: EnrichConfig, settled: Set[str]) -> dict[str, Any]:
    """Return what a plan will take, before anything is paid.

    ``cost_usd`` is what the writing should cost; ``cost_most_usd`` what it costs if every answer is as long as
    allowed and every description is repaired. The judge's calls are in both.

    Parameters
    ----------
    settled
        Keys of requests that need not be asked: their answers were paid for.
    """
    todo = [request for key, request in plan.requests.items() if key not in settled]
    cells = sum(profile.n_cells for profile in plan.profiles)
    calls = tokens_in = tokens_out = 0
    cost: float | None = 0.0
    most: float | None = 0.0
    if not config.is_extractive:
        counts = [estimate_tokens(render(request, config.words), config.words) for request in todo]
        tokens_in = sum(n + _SCHEMA_TOKENS for n, _ in counts)
        tokens_out = sum(n for _, n in counts)
        calls = len(todo)
        cost = config.cost(tokens_in, tokens_out)
        longest = calls * config.most_tokens_out
        repairs = config.cost(2 * tokens_in + longest, longest) if config.repair else 0.0
        most = _sum(config.cost(tokens_in, longest), repairs)
    if config.judge is not None:
        # A judge reads the sentences and their quotes and answers with a word for each.
        judged_in, judged_out = 4 * config.words * len(todo), config.words * len(todo)
        judged = config.for_judge().cost(judged_in, judged_out)
        cost, most = _sum(cost, judged), _sum(most, judged and 2 * judged)
        calls, tokens_in, tokens_out = (
            calls + len(todo),
            tokens_in + judged_in,
            tokens_out + judged_out,
        )
    return {
        "writer": config.writer,
        "profiles": len(plan.profiles),
        "cells": cells,
        "without_evidence": sum(profile.key is None for profile in plan.profiles),
        "with_expression": sum(
            any(e.source == EXPRESSION for e in request.offered.values())
            for request in plan.requests.values()
        ),
        "passages_left_out": dict(plan.left_out),
        "requests": len(plan.requests),
        "requests_answered": len(plan.requests) - len(todo),
        "calls": calls if calls else len(todo) if config.is_extractive else 0,
        "test_calls": _CANARY_CALLS if config.canary and not config.is_extractive and todo else 0,
        "calls_saved": max(0, cells - len(plan.requests)),
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "cost_usd": cost,
        "cost_most_usd": most,
        "seconds": round(_seconds(calls, len(todo), tokens_in + tokens_out, config), 1),
    }


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else round(one + other, 8)


def _seconds(calls: int, n: int, tokens: int, config: EnrichConfig) -> float:
    """Return how long a job should take: at its concurrency, or at its limits where they are slower."""
    waits = [calls * _SECONDS_PER_CALL / config.concurrency]
    if config.rpm:
        waits.append(60 * calls / config.rpm)
    if config.tpm:
        waits.append(60 * tokens / config.tpm)
    return max(waits) if calls else n * _SECONDS_PER_EXTRACT
