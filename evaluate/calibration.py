"""How far a zero-shot answer can be trusted: calibration, and the option to say "unknown".

Confidence is the largest softmax of scores / T. T is the temperature of the least negative
log likelihood on the validation cells (Guo et al. 2017), with targets smoothed by the weight of one
cell of any type: else T is 0 where no validation cell is wrong. The threshold below which the answer
is "unknown" is chosen on the validation cells too; no test cell has a say in either.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.intervals import Bootstrap, Metric, weighted_mean
from okrcell.evaluate.methods import Vectors
from okrcell.evaluate.rows import Row, TaskResult

__all__ = [
    "MIN_VALIDATION",
    "N_BINS",
    "TARGET_ACCURACY",
    "add_auroc_of_unseen",
    "add_calibration",
    "auroc_of",
    "confidence_bins",
    "ece_of",
    "fit_temperature",
    "log_odds",
    "pick_threshold",
]

MIN_VALIDATION = 20
"""Fewer validation cells are no basis for a temperature or a threshold."""

N_BINS = 15
"""Bins of the expected calibration error; of equal mass, so that none is empty."""

TARGET_ACCURACY = 0.9
"""What the answered validation cells should reach."""

_MIN_ANSWERED = 10
_CURVE_POINTS = 20
_T_RANGE = (1e-4, 1e3)

Floats = NDArray[np.float64]


def add_calibration(
    result: TaskResult,
    name: str,
    scores: Vectors,
    tuning: Vectors | None,
    data: EvalData,
    config: EvaluateConfig,
) -> float:
    """Add calibration error, selective answers and their details; return the temperature.

    Parameters
    ----------
    scores, tuning
        Test cells and validation cells by types of the data, [n, T]; ``tuning`` is None where there
        are too few validation cells. Then T is 1 and nothing is calibrated.
    """
    types = np.asarray(data.types)
    right = scores.argmax(axis=1) == np.searchsorted(types, data.labels[data.test])
    boot = Bootstrap.over(data.donors[data.test], config.bootstrap, config.seed)
    temperature = 1.0
    sure = log_odds(scores, 1.0)
    _put_ece(result, name, "ece (all)", expit(sure), right, boot)
    if tuning is None:
        result.notes.append(
            f"{len(data.validation)} validation cells, fewer than {MIN_VALIDATION}: confidence is "
            "not calibrated and no threshold for an unknown type is set."
        )
    else:
        truth = np.searchsorted(types, data.labels[data.validation])
        temperature = fit_temperature(tuning, truth)
        sure = log_odds(scores, temperature)
        value = _put_ece(result, name, "ece (all, calibrated)", expit(sure), right, boot)
        result.details["calibration"] = {
            "temperature": temperature,
            "ece": value,
            "bins": _bin_table(expit(sure), right),
        }
        tuned = log_odds(tuning, temperature), tuning.argmax(axis=1) == truth
        threshold, reached = pick_threshold(*tuned, TARGET_ACCURACY)
        if not reached:
            result.notes.append(
                f"No threshold reaches an accuracy of {TARGET_ACCURACY:g} on the validation cells; "
                "the best reachable one is used."
            )
        _add_selective(result, name, sure, right, threshold, boot)
    if 0 < right.sum() < len(right):
        of = auroc_of(sure, right)
        result.measure("zero_shot", name, "auroc (right against wrong)", of, boot)
    return temperature


def add_auroc_of_unseen(
    result: TaskResult,
    name: str,
    scores: Vectors,
    temperature: float,
    data: EvalData,
    config: EvaluateConfig,
) -> None:
    """Add how well low confidence tells cells of unseen types from cells of seen ones.

    The candidates of ``scores``, [n, seen types], are the seen types alone: for a cell of another
    type every answer is wrong, and "unknown" would be right. Cells of types that are in the
    validation split and not in the train split are left out.
    """
    labels = data.labels[data.test]
    is_seen = np.isin(labels, sorted(data.seen))
    asked = np.flatnonzero(is_seen | np.isin(labels, sorted(data.unseen)))
    if scores.shape[1] < 2 or not 0 < is_seen[asked].sum() < len(asked):
        return
    of = auroc_of(log_odds(scores[asked], temperature), is_seen[asked])
    boot = Bootstrap.over(data.donors[data.test][asked], config.bootstrap, config.seed)
    result.measure("zero_shot", name, "auroc (unseen types as unknown)", of, boot)


def log_odds(scores: Vectors, temperature: float) -> Floats:
    """Return the log odds of the largest softmax of scores / temperature, float64 [n].

    ``expit`` of them is the confidence. Confidences near 1 are equal in floating point numbers, and
    their log odds are not. Infinite where there is one candidate.
    """
    exact = scores.astype(np.float64) / temperature
    rows, best = np.arange(len(exact)), exact.argmax(axis=1)
    top = exact[rows, best]
    exact[rows, best] = -np.inf
    odds: Floats = top - logsumexp(exact, axis=1)
    return odds


def fit_temperature(scores: Vectors, truth: NDArray[np.intp]) -> float:
    """Return the temperature of the least negative log likelihood, between 1e-4 and 1e3.

    Of each cell's target one part in n + 1 is spread over all types.
    """
    from scipy.optimize import minimize_scalar

    exact = scores.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    spread = 1 / (len(truth) + 1)
    own = (1 - spread) * exact[np.arange(len(truth)), truth] + spread * exact.mean(axis=1)

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((logsumexp(exact * scale, axis=1) - own * scale).mean())

    low, high = np.log(_T_RANGE)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def confidence_bins(confidence: Floats, n_bins: int = N_BINS) -> NDArray[np.intp]:
    """Return the bin of each cell, int [n]: equal mass, equal confidences in one bin."""
    edges = np.unique(np.quantile(confidence, np.arange(1, n_bins) / n_bins))
    return np.searchsorted(edges, confidence, side="right")


def ece_of(confidence: Floats, right: NDArray[np.bool_]) -> Metric:
    """Return the metric "expected calibration error": mean |accuracy - confidence| over the bins."""
    from scipy import sparse

    bins = confidence_bins(confidence)
    n = len(bins)
    gap = right - confidence
    table = sparse.csr_matrix((gap, (np.arange(n), bins)), (n, int(bins.max()) + 1))

    def metric(weights: Floats) -> Floats:
        error: Floats = np.abs(weights @ table).sum(axis=1) / weights.sum(axis=1)
        return error

    return metric


def auroc_of(score: Floats, positive: NDArray[np.bool_]) -> Metric:
    """Return the metric "area under the ROC curve"; equal scores count one half."""
    hits, misses = np.flatnonzero(positive), np.flatnonzero(~positive)
    misses = misses[np.argsort(score[misses], kind="stable")]
    first, last = (np.searchsorted(score[misses], score[hits], side) for side in ("left", "right"))

    def area(weights: Floats) -> float:
        below = np.concatenate([[0.0], np.cumsum(weights[misses])])
        drawn = weights[hits]
        pairs = drawn.sum() * below[-1]
        return float(drawn @ (below[first] + below[last]) / 2 / pairs) if pairs else float("nan")

    # Row by row: a row fits the cache of a core, a block does not.
    return lambda weights: np.asarray([area(row) for row in weights])


def pick_threshold(
    confidence: Floats, right: NDArray[np.bool_], target: float
) -> tuple[float, bool]:
    """Return the lowest confidence from which on the answers are right often enough.

    At least ten cells must be answered. Where no threshold reaches the target, the one of the
    highest accuracy is returned (of equals the one that answers most), and False.
    """
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.diff(confidence[order], append=-np.inf) < 0)
    ends = ends[ends + 1 >= min(_MIN_ANSWERED, len(order))]
    accuracy = np.cumsum(right[order])[ends] / (ends + 1)
    enough = np.flatnonzero(accuracy >= target)
    best = enough[-1] if len(enough) else np.flatnonzero(accuracy == accuracy.max())[-1]
    return float(confidence[order][ends[best]]), bool(len(enough))


def _put_ece(
    result: TaskResult,
    name: str,
    metric: str,
    confidence: Floats,
    right: NDArray[np.bool_],
    boot: Bootstrap,
) -> float:
    """Add a calibration error and return it.

    Noise adds to it, so resamples lie above the value: they are moved to have it as their mean.
    """
    of = ece_of(confidence, right)
    value = float(of(np.ones((1, boot.n)))[0])
    draws = boot.apply(of)
    draws = np.maximum(draws + (value - draws.mean()), 0.0)
    ends = boot.interval(value, draws)
    row = Row("zero_shot", name, metric, value, *ends, boot.n, str(boot.seed))
    result.put(row, draws, boot.n_units)
    return value


def _add_selective(
    result: TaskResult,
    name: str,
    sure: Floats,
    right: NDArray[np.bool_],
    threshold: float,
    boot: Bootstrap,
) -> None:
    answered = sure >= threshold
    of = weighted_mean(answered.astype(float))
    result.measure("zero_shot", name, "coverage (all)", of, boot)
    n_answered = int(answered.sum())
    if n_answered:
        result.measure("zero_shot", name, "accuracy (answered)", _share(answered, right), boot)
        result.rows[-1] = replace(result.rows[-1], n=n_answered)
    else:
        result.notes.append("No test cell is answered at the threshold for an unknown type.")
    result.details["unknown"] = {
        "threshold": float(expit(threshold)),
        "coverage": n_answered / len(right),
        "accuracy": float(right[answered].mean()) if n_answered else None,
        "curve": _curve(sure, right),
    }


def _share(answered: NDArray[np.bool_], right: NDArray[np.bool_]) -> Metric:
    both, asked = (answered & right).astype(float), answered.astype(float)

    def metric(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            share: Floats = (weights @ both) / (weights @ asked)
        return share

    return metric


def _curve(sure: Floats, right: NDArray[np.bool_]) -> list[list[float]]:
    """Return coverage and accuracy as the threshold falls; equal confidences come together."""
    order = np.argsort(-sure, kind="stable")
    ends = np.flatnonzero(np.diff(sure[order], append=-np.inf) < 0) + 1
    running = np.cumsum(right[order])
    wanted = np.ceil(np.arange(1, _CURVE_POINTS + 1) / _CURVE_POINTS * len(order))
    points = np.unique(ends[np.searchsorted(ends, wanted)])
    return [
        [round(float(end / len(order)), 6), round(float(running[end - 1] / end), 6)]
        for end in points
    ]


def _bin_table(confidence: Floats, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    bins = confidence_bins(confidence)
    return [
        {
            "confidence": round(float(confidence[bins == i].mean()), 6),
            "accuracy": round(float(right[bins == i].mean()), 6),
            "n": int((bins == i).sum()),
        }
        for i in np.unique(bins)
    ]
