"""The vote of marker genes in the zero-shot task: beside a method's own scores (``+markers``), or alone.

The markers of a candidate are those of its Cell Ontology term (the shipped table and the ontology's own
words) and those that its description names, with the snippets that the description cites for them.
What is voted on is the expression of the cells that are asked, without labels: the markers know the
candidates, as every text does, and not which cell is which. Where a method is refined (GRIT), its votes
are smoothed over the same graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from okrcell.config import fingerprint
from okrcell.corpus.marker_mentions import named_markers
from okrcell.corpus.marker_table import Marker, bundled_markers, joined, markers_of_term
from okrcell.corpus.marker_vote import SHARPNESS, combined, usable, vote
from okrcell.evaluate.methods import MethodOutput, Vectors
from okrcell.evaluate.ontology_credit import live_term

if TYPE_CHECKING:
    from okrcell.evaluate.data import EvalData

__all__ = ["alone", "open_scores", "rules", "type_markers", "voted_scores", "voting_details"]

_VERSION = 1
"""Raised by hand whenever votes change for another reason than the table."""
_SPREAD_CELLS = 2048
_OWN_LINE = 1e-3
"""Head start of terms with a line of their own in the table over terms that inherit it: breaks ties."""


@cache
def rules() -> str:
    """Return a fingerprint of the table and of how it is used."""
    table = {
        term: [(marker.gene_id, marker.sign) for marker in some]
        for term, some in bundled_markers().items()
    }
    return fingerprint({"version": _VERSION, "table": table})


def alone(data: EvalData, seed: int) -> MethodOutput:
    """Return the method that has nothing but the vote: no training, no text vectors, no seed."""
    return MethodOutput("markers", None, "the vote of marker genes alone", votes="alone")


def type_markers(data: EvalData) -> list[tuple[Marker, ...]]:
    """Return the markers of each of ``data.types``, by its term and by what its descriptions name."""
    found = []
    for name in data.types:
        term = live_term(data.term_ids.get(name, ""))
        texts = [
            data.cited[profile]
            if profile in data.cited
            else named_markers(data.descriptions.get(profile, ""), f"description of {profile}")
            for profile in data.profiles_of(name)
        ]
        found.append(joined(markers_of_term(term) if term else (), *texts))
    return found


def voted_scores(method: MethodOutput, data: EvalData, split: str, scores: Vectors) -> Vectors:
    """Return scores [n, T] of a split's cells for ``data.types``, joined with the vote.

    A method that votes alone is told apart by the vote alone, whatever the scores.
    """
    votes = _votes(method, data, split, type_markers(data))
    return votes if method.votes == "alone" else combined(scores, votes)


def open_scores(
    method: MethodOutput, data: EvalData, cells: Vectors, vectors: Vectors, terms: Sequence[str]
) -> Vectors:
    """Return scores float32 [n_test, C] of the test cells for terms of the Cell Ontology.

    Parameters
    ----------
    cells, vectors
        Unit rows of test cells and terms; not read where the method votes alone.
    """
    scores = _votes(method, data, "test", [markers_of_term(term) for term in terms])
    table = bundled_markers()
    scores += np.asarray([_OWN_LINE * (term in table) for term in terms], dtype=np.float32)
    if method.votes == "alone":
        return scores
    some = cells[:: max(1, -(-len(cells) // _SPREAD_CELLS))] @ vectors.T
    spread = float(np.std(some - some.mean(axis=1, keepdims=True), dtype=np.float64)) or 1.0
    for start in range(0, len(cells), _SPREAD_CELLS):
        rows = slice(start, start + _SPREAD_CELLS)
        scores[rows] = combined(
            cells[rows] @ vectors.T, scores[rows], temperature=spread / SHARPNESS
        )
    return scores


def voting_details(data: EvalData) -> tuple[dict[str, Any], list[str]]:
    """Return what voted, for the report: type to gene, sign and source; and types without a marker."""
    markers = type_markers(data)
    known = frozenset(data.matrix.gene_ids)
    told = {
        name: [[m.symbol, m.sign, m.source] for m in some if m.gene_id in known]
        for name, some in zip(data.types, markers, strict=True)
    }
    counts = usable(data.matrix.gene_ids, markers)
    bare = [name for name, n in zip(data.types, counts, strict=True) if not n]
    notes = []
    if bare:
        notes.append(
            f"{data.dataset}: no marker of {', '.join(bare)} is among the genes; the vote is 0 there."
        )
    return told, notes


def _votes(
    method: MethodOutput, data: EvalData, split: str, markers: Sequence[Sequence[Marker]]
) -> Vectors:
    rows = np.flatnonzero(data.splits == split)
    votes = vote(data.matrix, markers, rows)
    if not method.refined:
        return votes
    from okrcell.evaluate.refine import graph_basis, refine_scores

    return refine_scores(votes, graph_basis(data, split))
