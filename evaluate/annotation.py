"""Task 2, annotation: how well do classifiers that learnt from train cells name the test cells?

A linear probe and k nearest neighbours read the frozen embedding; beside them stand the method's own
classifier and its network fine-tuned on the labels, where it has them. All are scored on the test
cells of types that occur in train; the others cannot be named by any classifier and belong to
zero-shot.

The linear probe's C is chosen from 0.01, 0.1, 1 and 10 by the accuracy on the validation cells, if
these hold every type of the train cells; otherwise C = 1. Test cells choose nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.intervals import Bootstrap, accuracy_of, confusions, macro_f1_of, of_tables
from okrcell.evaluate.rows import TaskResult

if TYPE_CHECKING:
    from okrcell.evaluate.methods import MethodOutput

__all__ = [
    "annotation",
    "choose_penalty",
    "fit_linear",
    "majority",
    "probe_linear",
    "probe_neighbors",
    "seen_test",
]

Strings = NDArray[np.str_]
Floats = NDArray[np.float32]

_PENALTIES = (0.01, 0.1, 1.0, 10.0)
MIN_TUNING = 20
_DEFAULT_C = 1.0
_MAX_ITERATIONS = 500


def annotation(method: MethodOutput, data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Score all heads of one method on the test cells of seen types.

    The details show the confusion of the linear probe, or of the own classifier of a method without
    an embedding.
    """
    test = seen_test(data)
    if not len(test):
        none = TaskResult()
        none.notes.append("Annotation was skipped: no test cell is of a type that occurs in train.")
        return none
    predictions: dict[str, Strings] = {}
    details: dict[str, Any] = {}
    notes = []
    penalty = _DEFAULT_C
    if method.cells is not None:
        x_train, truth = method.cells[data.train], data.labels[data.train]
        penalty = choose_penalty(method.cells, data, config.seed)
        details["c"] = penalty
        predictions["linear"] = probe_linear(
            x_train, truth, method.cells[test], config.seed, penalty=penalty
        )
        predictions["knn"] = probe_neighbors(x_train, truth, method.cells[test], config.n_neighbors)
    if method.predicted is not None:
        predictions["own"] = np.asarray(method.predicted[test])
    if method.finetune is not None:
        tuned = np.asarray(method.finetune(data, config.seed))
        predictions["fine-tuned"] = tuned[np.searchsorted(data.test, test)]
    chosen = _best_head(method, data, predictions, penalty, config)
    if chosen:
        predictions["chosen"] = predictions[chosen]
        details["chosen"] = chosen
    if not predictions:
        notes.append(f"Annotation was skipped for {method.name}: no embedding and no classifier.")
    result = _score(method.name, predictions, data, test, config)
    result.notes += notes
    if predictions:
        head, best = next(iter(predictions.items()))
        result.details = {"head": head, **_confusion(best, data, test), **details}
    return result


def majority(data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Score the guess that every cell is of the most frequent type of the train cells."""
    names, counts = np.unique(data.labels[data.train], return_counts=True)
    test = seen_test(data)
    if not len(test):
        return TaskResult()
    guess = np.full(len(test), names[counts.argmax()])
    heads = dict.fromkeys(("linear", "knn", "own", "fine-tuned", "chosen"), guess)
    return _score("majority", heads, data, test, config)


def seen_test(data: EvalData) -> NDArray[np.intp]:
    """Return the rows of the test cells whose type occurs in train."""
    return data.test[np.isin(data.labels[data.test], sorted(data.seen))]


def _best_head(
    method: MethodOutput,
    data: EvalData,
    heads: Collection[str],
    penalty: float,
    config: EvaluateConfig,
) -> str:
    """Return the head that names most validation cells right: how a method would be used.

    Fine-tuning is not asked again: it stands aside where there is another head. Without enough
    validation cells the method's own classifier is taken, else the linear probe.
    """
    rows = tuning_cells(data)
    usable = [head for head in ("own", "linear", "knn") if head in heads]
    if not usable or len(rows) < MIN_TUNING:
        return usable[0] if usable else next(iter(heads), "")
    truth, right = data.labels[rows], {}
    for head in usable:
        if head == "own":
            assert method.predicted is not None
            right[head] = float((method.predicted[rows] == truth).mean())
            continue
        assert method.cells is not None
        x_train, labels = method.cells[data.train], data.labels[data.train]
        guess = (
            probe_linear(x_train, labels, method.cells[rows], config.seed, penalty=penalty)
            if head == "linear"
            else probe_neighbors(x_train, labels, method.cells[rows], config.n_neighbors)
        )
        right[head] = float((guess == truth).mean())
    return max(usable, key=lambda head: right[head])


def tuning_cells(data: EvalData) -> NDArray[np.intp]:
    """Return the rows of the validation cells whose type occurs in train."""
    return data.validation[np.isin(data.labels[data.validation], sorted(data.seen))]


def choose_penalty(cells: Floats, data: EvalData, seed: int) -> float:
    """Return the linear probe's C: by accuracy on validation cells of seen types, else 1.

    At least 20 such cells are needed. Of equally good ones the strongest penalty is taken (the
    smallest C).
    """
    tuned_on = tuning_cells(data)
    if len(tuned_on) < MIN_TUNING:
        return _DEFAULT_C
    x_train, labels = cells[data.train], data.labels[data.train]
    asked, truth = cells[tuned_on], data.labels[tuned_on]
    right = [
        (probe_linear(x_train, labels, asked, seed, penalty=c) == truth).mean() for c in _PENALTIES
    ]
    return _PENALTIES[int(np.argmax(right))]


def fit_linear(
    x_train: Floats, labels: Strings, seed: int, *, penalty: float = _DEFAULT_C
) -> Callable[[Floats], Strings]:
    """Fit logistic regression, ``penalty`` being scikit-learn's C; return its prediction of cells.

    The embedding is centred and divided by one overall standard deviation, so that neither its
    rotation nor its scale matters; standardising each dimension would let a few support cells blow
    up those that hold only noise. At most 500 steps of L-BFGS.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) == 1:  # nothing to fit, and nothing else to say
        return lambda cells: np.full(len(cells), labels[0])
    centre = x_train.mean(axis=0, dtype=np.float64)
    fitted = x_train - centre
    scale = max(float(fitted.std()), 1e-12)
    fitted = fitted / scale
    span: NDArray[np.float64] | None = None
    if len(fitted) < fitted.shape[1]:
        # The penalised solution lies in the span of the cells: the same answer in fewer dimensions.
        span = np.linalg.svd(fitted, full_matrices=False)[2].T
        fitted = fitted @ span
    head = LogisticRegression(C=penalty, max_iter=_MAX_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bounded number of steps is meant
        head.fit(fitted, labels)

    def predict(cells: Floats) -> Strings:
        asked = (cells - centre) / scale
        return np.asarray(head.predict(asked if span is None else asked @ span))

    return predict


def probe_linear(
    x_train: Floats,
    labels: Strings,
    x_test: Floats,
    seed: int,
    *,
    penalty: float = _DEFAULT_C,
) -> Strings:
    """Predict [n_test] with :func:`fit_linear`."""
    return fit_linear(x_train, labels, seed, penalty=penalty)(x_test)


def probe_neighbors(x_train: Floats, labels: Strings, x_test: Floats, k: int) -> Strings:
    """Predict [n_test] by the vote of the ``k`` nearest train cells (Euclidean)."""
    from sklearn.neighbors import KNeighborsClassifier

    probe = KNeighborsClassifier(n_neighbors=min(k, len(x_train)))
    return np.asarray(probe.fit(x_train, labels).predict(x_test))


def _score(
    name: str,
    predictions: dict[str, Strings],
    data: EvalData,
    test: NDArray[np.intp],
    config: EvaluateConfig,
) -> TaskResult:
    boot = Bootstrap.over(data.donors[test], config.bootstrap, config.seed)
    result = TaskResult()
    for head, predicted in predictions.items():
        # A classifier may say what no cell of these data is: wrong, but no reason to fail.
        types = np.unique(np.concatenate([np.asarray(data.types), predicted]))
        truth, guess = np.searchsorted(types, data.labels[test]), np.searchsorted(types, predicted)
        table = confusions(truth, guess, len(types))
        for metric, score in (("accuracy", accuracy_of), ("macro_f1", macro_f1_of)):
            named = f"{metric} ({head})"
            result.measure("annotation", name, named, of_tables(table, score), boot)
    return result


def _confusion(predicted: Strings, data: EvalData, test: NDArray[np.intp]) -> dict[str, Any]:
    """Return the confusion matrix and the scores of each type, as JSON values."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    truth = data.labels[test]
    labels = sorted(data.seen | {str(name) for name in predicted})
    table = confusion_matrix(truth, predicted, labels=labels)
    scores = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    return {
        "confusion": {"labels": labels, "matrix": [[int(count) for count in row] for row in table]},
        "per_class": [
            {
                "type": label,
                "n": int(n),
                "precision": float(precision),
                "recall": float(recall),
                "f1": float(f1),
            }
            for label, precision, recall, f1, n in zip(labels, *scores, strict=True)
        ],
    }
