"""One label and its context in, a ranking of cell types out."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from okrcell.corpus.label_features import FEATURES, Evidence, evidence
from okrcell.corpus.label_index import LabelIndex, build_index
from okrcell.corpus.label_plain import Ranking
from okrcell.corpus.label_priors import Prior, term_priors
from okrcell.corpus.label_rank import calibrate, load_ranker, probabilities
from okrcell.corpus.label_text import folded
from okrcell.corpus.ontology import Ontology

__all__ = ["CellTypeMatcher", "Context"]

N_ALTERNATIVES = 10
_SAME_LABEL = 0.95
"""Least probability of a term whose label is the given string, measured on the mapping tables."""

_NAMELESS = re.compile(
    r"(?:c|cl|clust|cluster|subcluster|leiden|louvain|seurat[_ ]clusters?|group|type|population)?"
    r"[-_ .#]*\d*",
    re.IGNORECASE,
)
_BY_MARKERS = {
    "marker_self": 1.0, "marker_above": 0.3, "organ_named": 0.1, "organ_other": -0.1, "common": 0.02,
}  # fmt: skip
_MARKER_CURVE = ((0.5, 0.7, 0.9, 1.0), (0.05, 0.2, 0.33, 0.41))
"""Score of the best term by markers alone, and how often it was right in the tables that list them."""

_COLUMN = {name: at for at, name in enumerate(FEATURES)}


@dataclass(frozen=True)
class Context:
    """What is known beside a label.

    Attributes
    ----------
    tissue
        Free text: a tissue, an organ, or the name of a reference that holds one (``Lung_v2``).
    markers
        Gene symbols that mark the cells.
    """

    tissue: str = ""
    markers: tuple[str, ...] = ()


class CellTypeMatcher:
    """Ranks the terms of an ontology of cell types; the index is built at the first label."""

    def __init__(self, ontologies: tuple[Ontology, ...]) -> None:
        self._ontologies = ontologies
        self._built: tuple[LabelIndex, Prior, dict[str, int]] | None = None

    def _index(self) -> tuple[LabelIndex, Prior, dict[str, int]]:
        if self._built is None:
            index = build_index(term for o in self._ontologies for term in o.terms())
            labels = {folded(t.label): row for row, t in reversed(list(enumerate(index.terms)))}
            self._built = (index, term_priors(index), labels)
        return self._built

    def find(self, label: str, context: Context | None = None) -> Ranking:
        """Return up to ten terms; none where nothing of the label is known."""
        context = context or Context()
        index, prior, labels = self._index()
        found = None
        if index.terms:
            found = evidence(index, prior, label, context.tissue, context.markers)
        if found is None:
            return Ranking((), "", False)
        if context.markers and _NAMELESS.fullmatch(label.strip()):
            by_markers = _rank_by_markers(index, found)
            if by_markers is not None:
                return by_markers
        ranker = load_ranker()
        raw = probabilities(np.round(ranker.scores(found.values), 6))
        ids = [index.terms[row].term_id for row in found.rows]
        order = sorted(range(len(ids)), key=lambda at: (-raw[at], ids[at]))
        same = labels.get(folded(label))
        if same is not None:
            # A name written as the ontology writes it is that term, whatever else is near.
            first = int(np.flatnonzero(found.rows == same)[0]) if same in found.rows else order[0]
            order.remove(first)
            order.insert(0, first)
        scores = calibrate(ranker, raw[order])
        if same is not None:
            scores[0] = max(scores[0], _SAME_LABEL)
            scores[1:] = np.round(np.minimum(scores[1:], 1 - scores[0]), 4)
        ranked = tuple(
            (ids[at], float(score))
            for at, score in zip(order[:N_ALTERNATIVES], scores[:N_ALTERNATIVES], strict=True)
        )
        return Ranking(ranked, _reason(found, order[0], same is not None), same is not None)


def _rank_by_markers(index: LabelIndex, found: Evidence) -> Ranking | None:
    """Rank for a label that is only a number; None where no marker speaks for any term.

    The ranker weighs names first, which here are noise.
    """
    total = np.round(sum(w * found.values[:, _COLUMN[f]] for f, w in _BY_MARKERS.items()), 5)
    if found.values[:, _COLUMN["marker_self"]].max() <= 0:
        return None
    depth = found.values[:, _COLUMN["depth"]]
    order = sorted(
        range(len(total)),
        key=lambda at: (-total[at], depth[at], index.terms[found.rows[at]].term_id),
    )[:N_ALTERNATIVES]
    first = float(np.interp(total[order[0]], *_MARKER_CURVE))
    others = np.maximum(total[order[1:]], 1e-3)
    rest = np.minimum(others / others.sum() * (1 - first), first)
    ids = [index.terms[found.rows[at]].term_id for at in order]
    scores = [round(first, 4), *(round(float(score), 4) for score in rest)]
    label = index.terms[found.rows[order[0]]].label
    return Ranking(
        tuple(zip(ids, scores, strict=True)), f"marker genes of '{label}', and no name", False
    )


def _reason(found: Evidence, at: int, same: bool) -> str:
    values, name = found.values[at], found.name[at]
    if same:
        why = f"the name '{name}'"
    elif values[_COLUMN["raw_same"]] > 0:
        why = f"same words as '{name}'"
    elif values[_COLUMN["whole_same"]] > 0:
        why = f"abbreviations read as '{name}'"
    elif values[_COLUMN["clean_same"]] > 0:
        why = f"'{name}' beside numbers, genes or states"
    elif values[_COLUMN["part_same"]] > 0:
        why = f"'{name}' is a part of it"
    else:
        why = f"nearest name '{name}'"
    if values[_COLUMN["organ_known"]] > 0 and values[_COLUMN["organ_named"]] > 0:
        why += ", of this tissue"
    if values[_COLUMN["markers_given"]] > 0 and values[_COLUMN["marker_self"]] > 0:
        why += ", markers agree"
    return why
