"""Descriptions with their evidence, for the reader of a report to check with their own eyes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from okrcell.schemas import read_table

if TYPE_CHECKING:
    from okrcell.evaluate.data import EvalData

__all__ = ["SnippetSource", "choose_profiles", "collect_examples"]

N_EXAMPLES = 3


class SnippetSource(Protocol):
    """The part of ``Knowledge`` that is used here."""

    def get(self, snippet_id: str) -> Any:
        """Return the snippet (with source, doc_id, section, text), or None."""
        ...


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


def collect_examples(
    job: Path, profiles: Sequence[str], data: EvalData, knowledge: SnippetSource | None
) -> list[dict[str, Any]]:
    """Return one entry per profile: its sentences, each with verdict, quote and cited snippets."""
    rows: Mapping[str, Any] = {
        row["profile_id"]: row
        for row in read_table(job / "descriptions.parquet", "descriptions").to_pylist()
    }
    found = []
    for profile in profiles:
        row = rows[profile]
        label = str(data.labels[data.profile_ids == profile][0])
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
                "claims": [_claim(claim, knowledge) for claim in row["claims"] or ()],
            }
        )
    return found


def _claim(claim: Mapping[str, Any], knowledge: SnippetSource | None) -> dict[str, Any]:
    evidence = []
    for snippet_id in claim["snippet_ids"] or ():
        snippet = knowledge.get(snippet_id) if knowledge is not None else None
        evidence.append(
            {
                "snippet_id": snippet_id,
                "source": getattr(snippet, "source", ""),
                "doc_id": getattr(snippet, "doc_id", ""),
                "section": getattr(snippet, "section", ""),
                "text": getattr(snippet, "text", ""),
            }
        )
    return {
        "sentence": claim["sentence"],
        "facet": claim["facet"],
        "quote": claim["quote"] or "",
        "verdict": claim["verdict"],
        "score": claim["score"],
        "evidence": evidence,
    }
