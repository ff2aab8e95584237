"""Bootstrap intervals: resample donors where there are enough of them, else cells.

Every metric is written as a function of integer weights [b, n] (how often a unit was drawn), so one
resampling serves all metrics and, with the same seed, all methods see the same resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MIN_DONORS",
    "Bootstrap",
    "Metric",
    "accuracy_of",
    "confusions",
    "interval",
    "macro_f1_of",
    "of_tables",
    "weighted_mean",
    "weighted_median",
]

Floats = NDArray[np.float64]
Metric = Callable[[Floats], Floats]

MIN_DONORS = 5
"""With fewer donors a bootstrap over them has too few distinct outcomes: cells are resampled."""

_CHUNK = 64


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

    def apply(self, metric: Metric) -> Floats:
        """Return ``metric`` of every resample, float64 [draws, ...].

        ``metric`` takes weights [b, n] and returns [b, ...].
        """
        key = None if self.donors is None else self.donors.tobytes()
        parts = []
        for start in range(0, self.draws, _CHUNK):
            size = min(_CHUNK, self.draws - start)
            weights = _weights(self.n, size, self.seed, start, key).astype(np.float64)
            parts.append(metric(weights))
        return np.concatenate(parts)


@lru_cache(maxsize=64)
def _weights(n: int, size: int, seed: int, start: int, donors: bytes | None) -> NDArray[np.int32]:
    """Return how often each of ``n`` cells is drawn, int [size, n]; kept, since all metrics ask."""
    codes = np.arange(n) if donors is None else np.frombuffer(donors, dtype=np.intp)
    n_units = int(codes.max()) + 1
    rng = np.random.default_rng([seed, start])
    drawn = rng.integers(n_units, size=(size, n_units)) + n_units * np.arange(size)[:, None]
    units = np.bincount(drawn.ravel(), minlength=size * n_units).reshape(size, n_units)
    return np.asarray(units[:, codes], dtype=np.int32)


def interval(draws: Floats) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % percentiles of the draws that are defined."""
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


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
