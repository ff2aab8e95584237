"""Bootstrap intervals: resample donors where there are enough of them, else cells.

Every metric is written as a function of integer weights [b, n] (how often a unit was drawn), so one
resampling serves all metrics and, with the same seed, all methods see the same resamples. Memory is
bounded: kept resamples take one byte a unit where they can, and at most ``_KEPT_BYTES`` together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MIN_DONORS",
    "Bootstrap",
    "Metric",
    "accuracy_of",
    "confusions",
    "f1_of_counts",
    "interval",
    "macro_f1_of",
    "of_tables",
    "standard_error",
    "type_counts",
    "weighted_mean",
    "weighted_median",
    "with_exact_bound",
]

Floats = NDArray[np.float64]
Metric = Callable[[Floats], Floats]

MIN_DONORS = 5
"""With fewer donors a bootstrap over them has too few distinct outcomes: cells are resampled."""

_CHUNK = 64
_KEPT_BYTES = 1 << 28
_BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class Bootstrap:
    """A seeded resampling of ``n`` cells.

    Attributes
    ----------
    donors
        Donor of each cell, int [n], or None to resample cells.
    """

    n: int
    draws: int
    seed: int
    donors: NDArray[np.intp] | None = None

    @classmethod
    def over(cls, donors: NDArray[np.str_], draws: int, seed: int) -> Bootstrap:
        """Resample donors if at least ``MIN_DONORS`` are named, else cells."""
        names, codes = np.unique(donors, return_inverse=True)
        known = len([name for name in names if name])
        use = known >= MIN_DONORS and known == len(names)
        return cls(len(donors), draws, seed, codes if use else None)

    @property
    def unit(self) -> str:
        """What is resampled: ``donors`` or ``cells``."""
        return "cells" if self.donors is None else "donors"

    @property
    def n_units(self) -> int:
        """How many cells or donors are resampled."""
        return self.n if self.donors is None else len(np.unique(self.donors))

    def interval(
        self, value: float, draws: Floats, limits: tuple[float, float] = (0.0, 1.0)
    ) -> tuple[float, float]:
        """Return the 95 % interval of a value from its draws.

        Percentiles where cells are resampled. Of few donors percentiles are too narrow: there it is
        value plus and minus Student's t times :func:`standard_error`, cut to ``limits``.
        """
        if self.donors is None:
            return interval(draws)
        from scipy.stats import t

        error = standard_error(draws, self.n_units)
        if not np.isfinite(error):
            return float("nan"), float("nan")
        half = float(t.ppf(0.975, self.n_units - 1)) * error
        return max(value - half, limits[0]), min(value + half, limits[1])

    def apply(self, metric: Metric) -> Floats:
        """Return ``metric`` of every resample, float64 [draws, ...].

        ``metric`` takes weights [b, n] and returns [b, ...].
        """
        n_units = self.n if self.donors is None else int(self.donors.max()) + 1
        step = max(1, min(_CHUNK, _BLOCK_BYTES // (8 * max(self.n, 1))))
        block = np.empty((step, self.n))
        parts = []
        for start in range(0, self.draws, _CHUNK):
            units = _units(n_units, min(_CHUNK, self.draws - start), self.seed, start)
            for first in range(0, len(units), step):
                some = units[first : first + step]
                weights = block[: len(some)]
                weights[:] = some if self.donors is None else some[:, self.donors]
                parts.append(metric(weights))
        return np.concatenate(parts)


_kept: OrderedDict[tuple[int, int, int, int], NDArray[np.integer]] = OrderedDict()


def _units(n_units: int, size: int, seed: int, start: int) -> NDArray[np.integer]:
    """Return how often each unit is drawn, [size, n_units]; kept, since all metrics ask."""
    key = (n_units, size, seed, start)
    if key in _kept:
        _kept.move_to_end(key)
        return _kept[key]
    rng = np.random.default_rng([seed, start])
    drawn: NDArray[np.integer] = np.empty((size, n_units), dtype=np.uint8)
    for row in range(size):
        counts = np.bincount(rng.integers(n_units, size=n_units), minlength=n_units)
        if counts.max() > np.iinfo(drawn.dtype).max:
            drawn = drawn.astype(np.int32)
        drawn[row] = counts
    _kept[key] = drawn
    while len(_kept) > 1 and sum(block.nbytes for block in _kept.values()) > _KEPT_BYTES:
        _kept.popitem(last=False)
    return drawn


def interval(draws: Floats) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % percentiles of the draws that are defined."""
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def with_exact_bound(value: float, ends: tuple[float, float], n_units: int) -> tuple[float, float]:
    """Return the ends of an interval, or the exact binomial bound where nothing varied at 0 or 1.

    Resampling cannot see what never happened.
    """
    if not (ends[0] == ends[1] == value and value in {0.0, 1.0}):
        return ends
    reach = 1 - 0.025 ** (1 / n_units)
    return (0.0, reach) if value == 0.0 else (1 - reach, 1.0)


def standard_error(draws: Floats, n_units: int) -> float:
    """Return the standard error that the draws of a bootstrap over ``n_units`` units tell.

    Their standard deviation is too small by sqrt((n - 1) / n), which matters for few units. NaN for
    fewer than two units or draws.
    """
    defined = draws[np.isfinite(draws)]
    if n_units < 2 or len(defined) < 2:
        return float("nan")
    return float(defined.std(ddof=1)) * float(np.sqrt(n_units / (n_units - 1)))


def weighted_mean(values: Floats) -> Metric:
    """Return the metric "mean of ``values``", [n]."""

    def metric(weights: Floats) -> Floats:
        total = weights.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean: Floats = (weights @ values) / total
        return mean

    return metric


def weighted_median(values: Floats) -> Metric:
    """Return the metric "median of ``values``", [n]; the lower one where two are in the middle."""
    order = np.argsort(values, kind="stable")

    def metric(weights: Floats) -> Floats:
        running = np.cumsum(weights[:, order], axis=1)
        middle = (running >= running[:, -1:] / 2).argmax(axis=1)
        median: Floats = values[order][middle]
        return median

    return metric


def confusions(truth: NDArray[np.intp], predicted: NDArray[np.intp], n_types: int) -> Metric:
    """Return the metric "confusion matrix" [b, T, T], rows true, columns predicted."""
    from scipy import sparse

    codes = truth * n_types + predicted
    n = len(codes)
    one_hot = sparse.csr_matrix((np.ones(n), (np.arange(n), codes)), (n, n_types * n_types))

    def metric(weights: Floats) -> Floats:
        tables = np.asarray(weights @ one_hot)
        return tables.reshape(len(weights), n_types, n_types)

    return metric


def type_counts(truth: NDArray[np.intp], predicted: NDArray[np.intp], n_types: int) -> Metric:
    """Return the metric "right, true and claimed cells by type", [b, 3, T].

    All that F1 needs of a confusion matrix. Predictions outside 0 to T - 1, such as a candidate that
    no cell is of, are claims of no type.
    """
    right, known = predicted == truth, (predicted >= 0) & (predicted < n_types)
    parts: list[tuple[NDArray[np.intp], NDArray[np.bool_] | slice]] = [
        (truth[right], right),
        (truth, slice(None)),
        (predicted[known], known),
    ]

    def metric(weights: Floats) -> Floats:
        counts = np.empty((len(weights), 3, n_types))
        for row, weight in enumerate(weights):
            for part, (codes, some) in enumerate(parts):
                counts[row, part] = np.bincount(codes, weight[some], n_types)
        return counts

    return metric


def f1_of_counts(counts: Floats) -> Floats:
    """Return the macro-F1 [b] of counts [b, 3, T], over the types that occur."""
    right, true, claimed = counts[:, 0], counts[:, 1], counts[:, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(true > 0, 2 * right / (true + claimed), 0.0)
        mean: Floats = f1.sum(axis=1) / (true > 0).sum(axis=1)
    return mean


def of_tables(tables: Metric, score: Callable[[Floats], Floats]) -> Metric:
    """Return the metric ``score`` of the tables that ``tables`` makes of weights."""
    return lambda weights: score(tables(weights))


def accuracy_of(tables: Floats) -> Floats:
    """Return the accuracy [b] of confusion matrices [b, T, T]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share: Floats = np.trace(tables, axis1=1, axis2=2) / tables.sum(axis=(1, 2))
    return share


def macro_f1_of(tables: Floats) -> Floats:
    """Return the macro-F1 [b] of confusion matrices [b, T, T], over the types that occur."""
    right = np.diagonal(tables, axis1=1, axis2=2)
    true, claimed = tables.sum(axis=2), tables.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(true > 0, 2 * right / (true + claimed), 0.0)
        mean: Floats = f1.sum(axis=1) / (true > 0).sum(axis=1)
    return mean
