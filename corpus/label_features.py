"""What speaks for each term as the meaning of a label: words, graph, organ, markers, generality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from okrcell.corpus.label_index import Floats, LabelIndex
from okrcell.corpus.label_priors import Prior
from okrcell.corpus.label_readings import KINDS, organs_of, read_label
from okrcell.corpus.label_scoring import (
    BANK_FEATURES,
    Best,
    beyond_names,
    grams_score,
    score_reading,
)
from okrcell.corpus.label_text import words_of

__all__ = ["FEATURES", "Evidence", "evidence"]

FEATURES = (
    *(f"{kind}_{name}" for kind in KINDS for name in BANK_FEATURES),
    "best_dice", "best_same", "raw_label_same", "grams", "text_covered", "lineage",
    "parent_best", "child_best", "mass_below", "mass_self", "rank_dice", "rank_grams",
    "organ_named", "organ_told", "organ_other", "organ_known", "context_words",
    "marker_self", "marker_above", "marker_gap", "markers_given",
    "sign_conflict", "name_rest", "n_genes", "n_words_given", "reading_weight",
    "depth", "n_below", "n_synonyms", "n_words", "id_block", "for_human", "for_mouse",
    "not_vertebrate", "common", "common_below", "has_text",
)  # fmt: skip
"""Columns of the features, in the order that the fitted weights expect."""

_CANDIDATES = 64
_PARENTS_OF = 8
_BY_SPELLING = 6
_BY_MARKERS = 5


@dataclass(frozen=True)
class Evidence:
    """Candidates of one label.

    Attributes
    ----------
    rows
        int64 [C]: rows of the index, by falling first score.
    values
        float32 [C, F] for the features in ``FEATURES``, rounded so that no machine's last digits
        reach the ranker.
    name
        For each candidate the name that fits best.
    """

    rows: npt.NDArray[np.int64]
    values: Floats
    name: tuple[str, ...]


def evidence(
    index: LabelIndex, prior: Prior, label: str, tissue: str = "", markers: Sequence[str] = ()
) -> Evidence | None:
    """Weigh all terms for one label and return the best candidates with their features.

    Parameters
    ----------
    tissue
        Free text; its organ words are what counts.
    markers
        Gene symbols.

    Returns
    -------
    Evidence or None
        None where nothing of the label or the markers speaks for any term.
    """
    context, given = words_of(tissue), words_of(label)
    told = organs_of(context)
    organs = told or organs_of(given)
    readings, genes = read_label(label, organs, prior.words)
    n = len(index.terms)
    columns = {f: np.zeros(n, dtype=np.float32) for f in FEATURES}
    columns |= prior.table
    best = Best(np.zeros(n, dtype=np.float32), np.full(n, -1, dtype=np.int64))
    for reading in readings:
        bank = {name: columns[f"{reading.kind}_{name}"] for name in BANK_FEATURES}
        score_reading(index, reading, bank, best)
        if reading.kind in {"whole", "clean"}:
            covered, line = beyond_names(index, reading, bank["contained"])
            for name, values in (("text_covered", covered), ("lineage", line)):
                np.maximum(columns[name], values * reading.weight, out=columns[name])
    columns["best_dice"] = best.score
    columns["grams"] = grams_score(index, label)
    _marker_scores(index, prior, markers, genes, columns)
    _organ_scores(prior, organs, columns)
    if not any(columns[name].max(initial=0) > 0 for name in ("best_dice", "grams", "marker_self")):
        return None
    first = _first_score(columns, bool(organs))
    _graph_scores(index, first, columns)
    columns["best_same"] = np.maximum.reduce([columns[f"{kind}_same"] for kind in KINDS])
    by_label = (columns["raw_same"] > 0) & (best.name >= 0) & index.is_label[best.name]
    columns["raw_label_same"] = by_label.astype(np.float32)
    columns["context_words"] = _context(index, context)
    for name, value in {
        "organ_known": bool(told),
        "markers_given": len(markers) > 0,
        "n_genes": len(genes),
        "n_words_given": len(given),
        "reading_weight": max((reading.weight for reading in readings), default=0.0),
    }.items():
        columns[name] = np.full(n, value, dtype=np.float32)
    rows = _candidates(index, first, columns)
    query = frozenset(word for reading in readings for word in reading.words)
    values = np.stack([columns[name][rows] for name in FEATURES], axis=1)
    values[:, FEATURES.index("sign_conflict")] = _sign_conflicts(prior, rows, query)
    values[:, FEATURES.index("name_rest")] = _unsaid(index, rows, best, query)
    names = tuple(
        index.names[best.name[row]] if best.name[row] >= 0 else index.terms[row].label
        for row in rows
    )
    return Evidence(rows, np.round(values, 5).astype(np.float32), names)


def _first_score(columns: dict[str, Floats], organ_known: bool) -> Floats:
    """Return a score by hand [T], which picks the candidates that the ranker then weighs."""
    score: Floats = (
        columns["best_dice"]
        + 0.35 * columns["whole_same"]
        + 0.15 * columns["clean_same"]
        + 0.25 * columns["grams"]
        + 0.25 * columns["lineage"]
        + 0.2 * columns["text_covered"]
        + 0.25 * columns["marker_self"]
        + 0.1 * columns["marker_above"]
        + 0.05 * columns["common"].clip(0, 2)
        - 0.2 * columns["not_vertebrate"]
        - 0.1 * columns["for_mouse"]
        + 0.1 * columns["organ_named"]
        + 0.03 * columns["organ_told"]
        - (0.1 if organ_known else 0.05) * columns["organ_other"]
    )
    return score


def _marker_scores(
    index: LabelIndex,
    prior: Prior,
    markers: Sequence[str],
    genes: Sequence[str],
    columns: dict[str, Floats],
) -> None:
    """Support of each term by marker genes, given ones and those in the label: own and inherited."""
    weights = np.zeros(prior.markers.shape[1], dtype=np.float32)
    for gene, weight in [*((g, 1.0) for g in markers), *((g, 0.5) for g in genes)]:
        known = prior.marker_idf.get(gene.strip().upper())
        if known:
            weights[known[0]] = max(weights[known[0]], weight * known[1])
    own = np.asarray(prior.markers @ weights, dtype=np.float32)
    own = own / (4.0 + own)
    above = np.zeros(len(own), dtype=np.float32)
    for row in np.flatnonzero(own):
        begin, end = index.descent.indptr[row], index.descent.indptr[row + 1]
        below = index.descent.indices[begin:end]
        above[below] = np.maximum(above[below], own[row])
    columns["marker_self"], columns["marker_above"] = own, above
    columns["marker_gap"] = own - own.max(initial=0)


def _organ_scores(prior: Prior, organs: frozenset[str], columns: dict[str, Floats]) -> None:
    """Say which terms name the organ, tell of it in their definition, or name another one."""
    any_organ = prior.organs_named.max(axis=1) > 0
    if organs:
        at = [prior.organ_names.index(organ) for organ in sorted(organs)]
        columns["organ_named"] = prior.organs_named[:, at].max(axis=1)
        columns["organ_told"] = prior.organs_told[:, at].max(axis=1)
    columns["organ_other"] = (any_organ & (columns["organ_named"] == 0)).astype(np.float32)


def _graph_scores(index: LabelIndex, first: Floats, columns: dict[str, Floats]) -> None:
    """Score a term by its neighbours: a label that fits two siblings belongs to their parent."""
    mass = np.exp((first - first.max()) * 8)
    mass /= mass.sum()
    columns["mass_self"] = mass.astype(np.float32)
    columns["mass_below"] = np.asarray(index.descent @ mass, dtype=np.float32)
    child = np.repeat(np.arange(len(first)), np.diff(index.parents.indptr))
    parent = index.parents.indices
    np.maximum.at(columns["parent_best"], child, first[parent])
    np.maximum.at(columns["child_best"], parent, first[child])
    for name, by in (("rank_dice", columns["best_dice"]), ("rank_grams", columns["grams"])):
        columns[name][np.argsort(-by, kind="stable")] = np.log1p(np.arange(len(by)))


def _candidates(
    index: LabelIndex, first: Floats, columns: dict[str, Floats]
) -> npt.NDArray[np.int64]:
    """Return the best by the first score, the parents of the very best, and what markers name."""
    # Rounded, so that sums in another order on another machine make the same choice.
    order = np.argsort(-np.round(first, 5), kind="stable")
    chosen = dict.fromkeys(int(row) for row in order[:_CANDIDATES])
    for row in order[:_PARENTS_OF]:
        begin, end = index.parents.indptr[row], index.parents.indptr[row + 1]
        chosen.update(dict.fromkeys(int(p) for p in index.parents.indices[begin:end]))
    near = np.argsort(-columns["grams"], kind="stable")[:_BY_SPELLING]
    chosen.update(dict.fromkeys(int(row) for row in near))
    if columns["marker_self"].max() > 0:
        named = np.argsort(-columns["marker_self"], kind="stable")[:_BY_MARKERS]
        chosen.update(dict.fromkeys(int(row) for row in named))
    return np.array(list(chosen), dtype=np.int64)


def _context(index: LabelIndex, words: Sequence[str]) -> Floats:
    """Return the number of the context's words in each term's names [T]."""
    out = np.zeros(len(index.names), dtype=np.float32)
    matrix = index.word_names
    for word in words:
        at = index.words.get(word)
        if at is not None:
            out[matrix.indices[matrix.indptr[at] : matrix.indptr[at + 1]]] += 1.0
    best: Floats = np.maximum.reduceat(out, index.first_name)
    return best


def _sign_conflicts(prior: Prior, rows: npt.NDArray[np.int64], query: frozenset[str]) -> Floats:
    """Return how many markers a candidate has with the opposite sign."""
    opposite = {word[:-1] for word in query if word.endswith("~")}
    opposite |= {f"{word}~" for word in query if not word.endswith(("~", "<", ">"))}
    return np.array([len(opposite & prior.name_words[row]) for row in rows], dtype=np.float32)


def _unsaid(
    index: LabelIndex, rows: npt.NDArray[np.int64], best: Best, query: frozenset[str]
) -> Floats:
    """Return how many words of a candidate's best name the label lacks; 9 where it has no such name."""
    counts = [
        len([w for w in index.name_words[best.name[row]] if w not in query])
        if best.name[row] >= 0
        else 9
        for row in rows
    ]
    return np.array(counts, dtype=np.float32)
