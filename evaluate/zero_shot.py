"""Task 5, zero-shot: name the type of a cell by the text nearest to it, with no labelled cell.

The candidates are the texts of all types in the data. Test cells are read in four scopes: all;
seen types (cells of the type were trained on); unseen types among all candidates ("generalised",
the honest question); and unseen types among unseen candidates only (easier, as often reported).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.intervals import (
    Bootstrap,
    accuracy_of,
    confusions,
    macro_f1_of,
    of_tables,
    weighted_mean,
)
from okrcell.evaluate.methods import MethodOutput, candidate_vectors, unit
from okrcell.evaluate.rows import TaskResult, measured

__all__ = ["SCOPES", "credit_matrix", "majority_zero_shot", "zero_shot"]

SCOPES = ("all", "seen", "unseen", "unseen_only")

_TOP = 3


def zero_shot(method: MethodOutput, data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Score one method; every error is counted, none is set aside as "unknown"."""
    vectors = candidate_vectors(method, data)
    scores = unit(method.cells[data.test]) @ vectors.T
    result = _score(method.name, scores.astype(np.float64), data, config)
    types = list(data.types)
    truth = np.searchsorted(np.asarray(types), data.labels[data.test])
    predicted = scores.argmax(axis=1)
    table = confusions(truth, predicted, len(types))(np.ones((1, len(truth))))[0]
    result.details = {
        "labels": types,
        "unseen": sorted(data.unseen),
        "matrix": [[int(count) for count in row] for row in table],
    }
    return result


def majority_zero_shot(data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Score the guess of the most frequent train type; it has no guess among unseen types only."""
    types = np.asarray(data.types)
    counts = np.asarray([(data.labels[data.train] == name).sum() for name in types], dtype=float)
    scores = np.tile(counts, (len(data.test), 1))
    result = _score("majority", scores, data, config)
    result.rows = [row for row in result.rows if "unseen_only" not in row.metric]
    return result


def _score(
    name: str, scores: NDArray[np.float64], data: EvalData, config: EvaluateConfig
) -> TaskResult:
    result = TaskResult()
    types = np.asarray(data.types)
    labels = data.labels[data.test]
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
        index = rows[scope]
        candidates = everyone
        if scope == "unseen_only":
            candidates = np.flatnonzero(np.isin(types, sorted(data.unseen)))
        if not len(index) or len(candidates) < 2:
            continue
        ranked = candidates[np.argsort(-scores[index][:, candidates], axis=1, kind="stable")]
        best, right = ranked[:, 0], truth[index]
        boot = Bootstrap.over(data.donors[data.test][index], config.bootstrap, config.seed)
        table = confusions(right, best, len(types))
        top = (ranked[:, :_TOP] == right[:, None]).any(axis=1).astype(float)
        metrics = {
            "accuracy": of_tables(table, accuracy_of),
            "macro_f1": of_tables(table, macro_f1_of),
            "ontology_credit": weighted_mean(credit[right, best]),
        }
        if len(candidates) > _TOP:  # else every answer is among the first three
            metrics["top3"] = weighted_mean(top)
        result.rows += [
            measured("zero_shot", name, f"{metric} ({scope})", of, boot)
            for metric, of in metrics.items()
        ]
    return result


def credit_matrix(types: Sequence[str], term_ids: Mapping[str, str]) -> NDArray[np.float64]:
    """Return what a prediction is worth, float64 [T, T], rows true, columns predicted.

    1 / (1 + d), where d is the number of is-a steps in the Cell Ontology from the true term up to a
    common ancestor and down to the predicted one, by the shortest such way; either term may itself
    be that ancestor. So the right type earns 1, its parent or child 1/2, a sibling 1/3. Types
    without a term earn 1 for themselves and 0 otherwise.
    """
    from okrcell.corpus.ontology import ancestors

    above = []
    for name in types:
        term = term_ids.get(name, "")
        above.append({**ancestors(term), term: 0} if term else {})
    credit = np.eye(len(types))
    for i, first in enumerate(above):
        for j, second in enumerate(above):
            ways = [first[term] + second[term] for term in first.keys() & second.keys()]
            if i != j and ways:
                credit[i, j] = 1 / (1 + min(ways))
    return credit
