"""Task 5, zero-shot: name the type of a cell by the text nearest to it, with no labelled cell.

The candidates are the texts of all types in the data. Test cells are read in four scopes: all;
seen types (cells of the type were trained on); unseen types among all candidates ("generalised",
the honest question); and unseen types among unseen candidates only (easier, as often reported).
Further rows read the same candidates by other texts, and the open question: which term of the
Cell Ontology, among those of the tissue or among all.

Scores against thousands of terms are never held at once: cells are taken in chunks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.answers import Answers, Rows, add_answers, nearest, read
from okrcell.evaluate.calibration import MIN_VALIDATION, add_auroc_of_unseen, add_calibration
from okrcell.evaluate.candidates import (
    WORDINGS,
    OpenSet,
    candidate_vectors,
    merge_types,
    open_sets,
    open_vectors,
    type_texts,
    type_vectors,
)
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.intervals import (
    Bootstrap,
    f1_of_counts,
    of_tables,
    type_counts,
    weighted_mean,
)
from okrcell.evaluate.marker_method import open_scores, voted_scores, voting_details
from okrcell.evaluate.methods import MethodOutput, Vectors, as_float32, unit
from okrcell.evaluate.ontology_credit import credit_between, credit_matrix, live_term
from okrcell.evaluate.rows import TaskResult

__all__ = ["SCOPES", "credit_matrix", "majority_zero_shot", "zero_shot"]

SCOPES = ("all", "seen", "unseen", "unseen_only")

_TOP = (3,)
_TOP_OPEN = (3, 5)
_TOP_WRONG = 10


def zero_shot(method: MethodOutput, data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Score one method; every error is counted, none is set aside as "unknown" but where said.

    Scores of a ``refined`` method are smoothed over the test cells before they are read. Where
    markers vote, the votes are joined with the scores of all candidates, or stand in for them.
    """
    assert method.votes == "alone" or (method.cells is not None and method.encode_text is not None)
    result = TaskResult()
    n_types = len(data.types)
    data = merge_types(data)
    if len(data.types) < n_types:
        result.notes.append(
            f"{data.dataset}: {n_types} types are {len(data.types)} in zero-shot annotation: those of one "
            "Cell Ontology term count as one."
        )
    cells = _cells(method, data, "test")
    vectors = _vectors(method, data, cells)
    scores = _scores(method, data, "test", cells, vectors)
    if method.votes:
        result.details["markers"], notes = voting_details(data)
        result.notes += notes
    _add_scopes(result, method.name, scores, data, config)
    if method.known_texts is None:  # else it has no vectors for other words
        if method.votes != "alone":
            _add_wordings(result, method, cells, data, config)
        for chosen in _open_sets(result, data, config):
            _add_open(result, method, chosen, cells, data, config)
    tuning = None
    if len(data.validation) >= MIN_VALIDATION:
        tuning = _scores(method, data, "validation", _cells(method, data, "validation"), vectors)
    temperature = add_calibration(result, method.name, scores, tuning, data, config)
    if data.unseen:
        seen = np.flatnonzero(np.isin(data.types, sorted(data.seen)))
        known = scores[:, seen] if method.votes else cells @ vectors[seen].T
        add_auroc_of_unseen(result, method.name, known, temperature, data, config)
    return result


def majority_zero_shot(data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Score the guess of the most frequent train type; it has no guess among unseen types only."""
    data = merge_types(data)
    types = np.asarray(data.types)
    counts = np.asarray([(data.labels[data.train] == name).sum() for name in types])
    scores = np.broadcast_to(counts.astype(np.float32), (len(data.test), len(types)))
    result = TaskResult()
    _add_scopes(result, "majority", scores, data, config)
    result.rows = [row for row in result.rows if "unseen_only" not in row.metric]
    result.draws = {name: draws for name, draws in result.draws.items() if "_only" not in name}
    return result


def _cells(method: MethodOutput, data: EvalData, split: str) -> Vectors:
    """Return the unit vectors of a split's cells, float32 [n, D].

    Those of a refined method are smoothed over the graph of these cells. Smoothing is linear, so that
    of the vectors is that of all scores, and is done once.
    """
    if method.cells is None:
        return np.zeros((int((data.splits == split).sum()), 1), dtype=np.float32)
    cells = unit(method.cells[data.splits == split])
    if not method.refined:
        return cells
    from okrcell.evaluate.refine import graph_basis, refine_scores

    return as_float32(refine_scores(cells, graph_basis(data, split)))


def _vectors(method: MethodOutput, data: EvalData, cells: Vectors) -> Vectors:
    """Return one row per type [T, D]; of zeros for what knows no texts."""
    if method.encode_text is None:
        return np.zeros((len(data.types), cells.shape[1]), dtype=np.float32)
    return candidate_vectors(method, data)


def _scores(
    method: MethodOutput, data: EvalData, split: str, cells: Vectors, vectors: Vectors
) -> Vectors:
    """Return scores [n, T] of a split's cells for the types."""
    scores: Vectors = cells @ vectors.T
    return voted_scores(method, data, split, scores) if method.votes else scores


def _add_scopes(
    result: TaskResult, name: str, scores: Vectors, data: EvalData, config: EvaluateConfig
) -> None:
    types, labels = np.asarray(data.types), data.labels[data.test]
    truth = np.searchsorted(types, labels)
    credit = credit_matrix(data.types, data.term_ids)
    is_unseen = np.isin(labels, sorted(data.unseen))
    rows = {
        "all": np.arange(len(labels)),
        "seen": np.flatnonzero(np.isin(labels, sorted(data.seen))),
        "unseen": np.flatnonzero(is_unseen),
        "unseen_only": np.flatnonzero(is_unseen),
    }
    everyone = np.arange(len(types))
    for scope in SCOPES:
        index, candidates = rows[scope], everyone
        if scope == "unseen_only":
            candidates = np.flatnonzero(np.isin(types, sorted(data.unseen)))
        if not len(index) or len(candidates) < 2:
            continue
        right = truth[index]
        found = read(scores[np.ix_(index, candidates)], np.searchsorted(candidates, right))
        said = candidates[found.best]
        boot = Bootstrap.over(data.donors[data.test][index], config.bootstrap, config.seed)
        # With three candidates or fewer every answer is among the first three.
        top = [k for k in _TOP if len(candidates) > k]
        add_answers(result, name, scope, found, said, right, credit[right, said], top, boot)
    best = scores.argmax(axis=1)
    table = np.bincount(truth * len(types) + best, minlength=len(types) ** 2)
    result.details |= {
        "labels": list(data.types),
        "unseen": sorted(data.unseen),
        "matrix": table.reshape(len(types), len(types)).tolist(),
    }


def _add_wordings(
    result: TaskResult,
    method: MethodOutput,
    cells: Vectors,
    data: EvalData,
    config: EvaluateConfig,
) -> None:
    """Add accuracy and macro-F1 of the same candidates read by other texts."""
    assert method.encode_text is not None
    main = type_texts(data, method.texts)
    truth = np.searchsorted(data.types, data.labels[data.test])
    boot = Bootstrap.over(data.donors[data.test], config.bootstrap, config.seed)
    for wording in WORDINGS:
        texts = type_texts(data, wording)
        if texts == main or (wording == "description" and data.text_kind == "label"):
            continue
        scores = _scores(method, data, "test", cells, type_vectors(method.encode_text, texts))
        found = read(scores, truth)
        counts = type_counts(truth, found.best, len(data.types))
        for metric, of in (
            ("accuracy", weighted_mean((found.place == 0).astype(float))),
            ("macro_f1", of_tables(counts, f1_of_counts)),
        ):
            result.measure("zero_shot", method.name, f"{metric} (all, {wording})", of, boot)


def _open_sets(result: TaskResult, data: EvalData, config: EvaluateConfig) -> list[OpenSet]:
    found, notes = open_sets(data, config.open_candidates)
    result.notes += notes
    named = [name for name in data.types if live_term(data.term_ids.get(name, ""))]
    n, n_asked = len(data.test), int(np.isin(data.labels[data.test], named).sum())
    if not n_asked:
        return []
    if n_asked < n:
        result.notes.append(
            f"Open candidates: {n_asked:,} of {n:,} test cells have a type with a Cell Ontology "
            "term; the others are left out."
        )
    return found


def _add_open(
    result: TaskResult,
    method: MethodOutput,
    chosen: OpenSet,
    cells: Vectors,
    data: EvalData,
    config: EvaluateConfig,
) -> None:
    """Add the rows of an open candidate set, for test cells whose type has a term."""
    labels = data.labels[data.test]
    term = {name: live_term(data.term_ids.get(name, "")) for name in data.types}
    term_of_cell = np.asarray([term[str(name)] for name in labels])
    asked = np.flatnonzero(term_of_cell != "")
    true_terms, truth = np.unique(term_of_cell[asked], return_inverse=True)
    position = {name: column for column, name in enumerate(chosen.terms)}
    columns = np.asarray([position[str(name)] for name in true_terms])
    vectors = cells[:0]
    if method.encode_text is not None:
        vectors = open_vectors(method.encode_text, chosen.terms, method.texts)
    right = columns[truth]
    if method.votes:
        found = read(open_scores(method, data, cells, vectors, chosen.terms)[asked], right)
    else:
        found = nearest(cells[asked], vectors, right)
    # Number the answers as the true terms are; any other candidate is of no true type.
    number = np.full(len(chosen.terms), -1, dtype=np.intp)
    number[columns] = np.arange(len(columns))
    said = number[found.best]
    worth = credit_between([str(name) for name in true_terms], chosen.terms)[truth, found.best]
    is_unseen = np.isin(labels[asked], sorted(data.unseen))
    top = [k for k in _TOP_OPEN if len(chosen.terms) > k]
    for scope, rows in (("all", np.arange(len(asked))), ("unseen", np.flatnonzero(is_unseen))):
        if not len(rows):
            continue
        boot = Bootstrap.over(data.donors[data.test][asked][rows], config.bootstrap, config.seed)
        some = Answers(found.best[rows], found.place[rows])
        variant = f"{scope}, {chosen.name}"
        add_answers(
            result, method.name, variant, some, said[rows], truth[rows], worth[rows], top, boot
        )
    result.details.setdefault("open", {})[chosen.name] = {
        "n_candidates": len(chosen.terms),
        "top_wrong": _top_wrong(true_terms, truth, chosen, found),
    }


def _top_wrong(
    true_terms: NDArray[np.str_], truth: Rows, chosen: OpenSet, found: Answers
) -> list[list[str | int]]:
    """Return the most frequent errors: label of the true term, label said, cells."""
    from okrcell.corpus.ontology import names

    wrong = found.place > 0
    pairs, counts = np.unique(
        np.column_stack([truth[wrong], found.best[wrong]]), axis=0, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")[:_TOP_WRONG]
    return [
        [
            names(str(true_terms[pairs[i, 0]]))[0],
            names(chosen.terms[pairs[i, 1]])[0],
            int(counts[i]),
        ]
        for i in order
    ]
