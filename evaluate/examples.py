"""Descriptions with their evidence, for the reader of a report to check with their own eyes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from okrcell.schemas import read_table

if TYPE_CHECKING:
    from okrcell.evaluate.data import EvalData

__all__ = ["choose_profiles", "claim_with_evidence", "collect_examples", "offered_passages"]

N_EXAMPLES = 3


def choose_profiles(data: EvalData, n: int = N_EXAMPLES) -> list[str]:
    """Return the profiles to show: the unseen type with most test cells, then the commonest types."""
    names, counts = np.unique(data.labels[data.test], return_counts=True)
    by_size = [str(name) for name in names[np.argsort(-counts, kind="stable")]]
    unseen = [name for name in by_size if name in data.unseen][:1]
    chosen = unseen + [name for name in by_size if name not in unseen]
    test = set(data.profile_ids[data.test].tolist())
    return [
        next(profile for profile in data.profiles_of(name) if profile in test)
        for name in chosen[:n]
    ]


def collect_examples(job: Path, profiles: Sequence[str], data: EvalData) -> list[dict[str, Any]]:
    """Return one entry per profile: its sentences, each with verdict, quotes and cited passages."""
    rows: Mapping[str, Any] = {
        row["profile_id"]: row
        for row in read_table(job / "descriptions.parquet", "descriptions").to_pylist()
    }
    offered = offered_passages(job, profiles)
    found = []
    for profile in profiles:
        row = rows[profile]
        label = str(data.labels[data.profile_ids == profile][0])
        told = [claim for claim in row["claims"] or () if claim["state"] != "repaired"]
        found.append(
            {
                "profile_id": profile,
                "label": label,
                "is_unseen": label in data.unseen,
                "status": row["status"],
                "writer": row["writer"],
                "reliability": row["reliability"],
                "screen_cosine": row["screen_cosine"],
                "leaked_names": list(row["leaked_names"] or ()),
                "text": row["text"] or "",
                "claims": [claim_with_evidence(claim, offered[profile]) for claim in told],
            }
        )
    return found


def offered_passages(job: Path, profiles: Sequence[str]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Return per profile the passages that were offered for it, by snippet id."""
    evidence = {
        row["evidence_id"]: row
        for row in read_table(job / "evidence.parquet", "evidence").to_pylist()
    }
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in read_table(job / "requests.parquet", "requests").to_pylist():
        if row["profile_id"] in profiles:
            ids = [name for group in row["groups"] for name in group["evidence_ids"]]
            found[row["profile_id"]] = {evidence[i]["snippet_id"]: evidence[i] for i in ids}
    return found


def claim_with_evidence(
    claim: Mapping[str, Any], offered: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return a claim with its verdict and, for each citation, the passage, its source and the quote.

    Parameters
    ----------
    offered
        Passages of the claim's profile, from :func:`offered_passages`.
    """
    evidence = []
    for citation in claim["citations"]:
        passage = offered.get(citation["snippet_id"], {})
        text = str(passage.get("text", ""))
        start, end = citation["start"], citation["end"]
        parts = (text, "", "") if start is None else (text[:start], text[start:end], text[end:])
        evidence.append(
            {
                "snippet_id": citation["snippet_id"],
                "source": passage.get("source", ""),
                "doc_id": passage.get("doc_id", ""),
                "section": passage.get("section", ""),
                "quote": citation["quote"],
                "parts": parts,
            }
        )
    return {
        "sentence": claim["sentence"],
        "facet": claim["facet"],
        "verdict": claim["verdict"],
        "score": claim["score"],
        "evidence": evidence,
    }
