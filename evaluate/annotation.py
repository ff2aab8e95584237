"""Task 2, annotation: how well do simple classifiers read cell types off the frozen embedding?

A linear probe and k nearest neighbours are fitted on the train cells and scored on the test cells
of types that occur in train; the others cannot be named by any classifier and belong to zero-shot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.intervals import Bootstrap, accuracy_of, confusions, macro_f1_of, of_tables
from okrcell.evaluate.rows import TaskResult, measured

if TYPE_CHECKING:
    from okrcell.evaluate.methods import MethodOutput

__all__ = ["annotation", "majority", "probe_linear", "probe_neighbors"]

_PENALTY_C = 1.0


def annotation(method: MethodOutput, data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Score the two probes of one method on the test cells of seen types."""
    test = seen_test(data)
    truth = data.labels[data.train]
    x_train, x_test = method.cells[data.train], method.cells[test]
    predictions = {
        "linear": probe_linear(x_train, truth, x_test, config.seed),
        "knn": probe_neighbors(x_train, truth, x_test, config.n_neighbors),
    }
    result = _score(method.name, predictions, data, test, config)
    result.details = {"confusion": _confusion(predictions["linear"], data, test)}
    return result


def majority(data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Score the guess that every cell is of the most frequent type of the train cells."""
    names, counts = np.unique(data.labels[data.train], return_counts=True)
    test = seen_test(data)
    guess = np.full(len(test), names[counts.argmax()])
    return _score("majority", {"linear": guess, "knn": guess}, data, test, config)


def seen_test(data: EvalData) -> NDArray[np.intp]:
    """Return the rows of the test cells whose type occurs in train."""
    return data.test[np.isin(data.labels[data.test], sorted(data.seen))]


def probe_linear(
    x_train: NDArray[np.float32], labels: NDArray[np.str_], x_test: NDArray[np.float32], seed: int
) -> NDArray[np.str_]:
    """Predict [n_test] with logistic regression (C = 1).

    The embedding is centred and divided by one overall standard deviation, so that neither its
    rotation nor its scale matters; standardising each dimension would let a few support cells blow
    up those that hold only noise.
    """
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) == 1:  # nothing to fit, and nothing else to say
        return np.full(len(x_test), labels[0])
    centre = x_train.mean(axis=0, dtype=np.float64)
    fitted, asked = x_train - centre, x_test - centre
    scale = max(float(fitted.std()), 1e-12)
    fitted, asked = fitted / scale, asked / scale
    if len(fitted) < fitted.shape[1]:
        # The penalised solution lies in the span of the cells: the same answer in fewer dimensions.
        span = np.linalg.svd(fitted, full_matrices=False)[2]
        fitted, asked = fitted @ span.T, asked @ span.T
    head = LogisticRegression(C=_PENALTY_C, max_iter=2000, random_state=seed)
    return np.asarray(head.fit(fitted, labels).predict(asked))


def probe_neighbors(
    x_train: NDArray[np.float32], labels: NDArray[np.str_], x_test: NDArray[np.float32], k: int
) -> NDArray[np.str_]:
    """Predict [n_test] by the vote of the ``k`` nearest train cells (Euclidean)."""
    from sklearn.neighbors import KNeighborsClassifier

    probe = KNeighborsClassifier(n_neighbors=min(k, len(x_train)))
    return np.asarray(probe.fit(x_train, labels).predict(x_test))


def _score(
    name: str,
    predictions: dict[str, NDArray[np.str_]],
    data: EvalData,
    test: NDArray[np.intp],
    config: EvaluateConfig,
) -> TaskResult:
    types = np.asarray(data.types)
    truth = np.searchsorted(types, data.labels[test])
    boot = Bootstrap.over(data.donors[test], config.bootstrap, config.seed)
    result = TaskResult()
    for probe, predicted in predictions.items():
        table = confusions(truth, np.searchsorted(types, predicted), len(types))
        for metric, score in (("accuracy", accuracy_of), ("macro_f1", macro_f1_of)):
            named = f"{metric} ({probe})"
            row = measured("annotation", name, named, of_tables(table, score), boot)
            result.rows.append(row)
    return result


def _confusion(
    predicted: NDArray[np.str_], data: EvalData, test: NDArray[np.intp]
) -> dict[str, list[str] | list[list[int]]]:
    from sklearn.metrics import confusion_matrix

    labels = sorted(data.seen)
    table = confusion_matrix(data.labels[test], predicted, labels=labels)
    return {"labels": labels, "matrix": [[int(count) for count in row] for row in table]}
