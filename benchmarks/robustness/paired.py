"""Differences between arms on the same test cells: means over seeds, intervals by resampling cells.

A seed's runs share its planted noise, so arms are compared seed by seed; a resample draws the same cells
(or donors) for every arm and seed. Intervals say what other test cells would give, not other seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from results import Kept
from sources import TestCells

from okrcell.evaluate.intervals import (
    Bootstrap,
    f1_of_counts,
    of_tables,
    type_counts,
    weighted_mean,
)

__all__ = ["Estimate", "accuracy", "difference", "macro_f1", "mean_of"]

DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A value in points with its 95 % interval, and its draws, for means of several."""

    value: float
    low: float
    high: float
    seeds: int
    draws: np.ndarray

    def as_json(self) -> dict[str, float]:
        """Return what the page needs."""
        return {"value": self.value, "low": self.low, "high": self.high, "seeds": self.seeds}


def accuracy(runs: Sequence[Kept], checkpoint: str, asked: TestCells) -> Estimate:
    """Return the mean accuracy over seeds."""
    right = np.mean([kept.answers[checkpoint] == asked.truth for kept in runs], axis=0)
    return _estimate(weighted_mean(right), asked, len(runs), (0.0, 1.0))


def macro_f1(runs: Sequence[Kept], checkpoint: str, asked: TestCells) -> Estimate:
    """Return the mean macro-F1 over seeds, over the types that occur among the cells drawn."""
    each = [
        of_tables(
            type_counts(asked.truth, kept.answers[checkpoint], len(asked.types)), f1_of_counts
        )
        for kept in runs
    ]
    return _estimate(
        lambda w: np.mean([of(w) for of in each], axis=0), asked, len(runs), (0.0, 1.0)
    )


def difference(
    ours: Sequence[Kept], theirs: Sequence[Kept], checkpoint: str, asked: TestCells
) -> Estimate | None:
    """Return how much more accurate the first are, over the seeds that both have; None without any."""
    other = {kept.run.seed: kept for kept in theirs}
    pairs = [(kept, other[kept.run.seed]) for kept in ours if kept.run.seed in other]
    if not pairs:
        return None
    gains = [
        (a.answers[checkpoint] == asked.truth).astype(float)
        - (b.answers[checkpoint] == asked.truth)
        for a, b in pairs
    ]
    return _estimate(weighted_mean(np.mean(gains, axis=0)), asked, len(pairs), (-1.0, 1.0))


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean over data sets, whose cells are drawn independently."""
    draws = np.mean([one.draws for one in estimates], axis=0)
    low, high = np.percentile(draws, [2.5, 97.5])
    value = float(np.mean([one.value for one in estimates]))
    return Estimate(value, float(low), float(high), min(one.seeds for one in estimates), draws)


def _estimate(
    metric: Callable[[np.ndarray], np.ndarray],
    asked: TestCells,
    seeds: int,
    limits: tuple[float, float],
) -> Estimate:
    boot = Bootstrap.over(asked.donors, DRAWS, 0)
    value = float(metric(np.ones((1, boot.n)))[0])
    draws = boot.apply(metric)
    low, high = boot.interval(value, draws, limits)
    return Estimate(100 * value, 100 * low, 100 * high, seeds, 100 * draws)
