"""Agreement of two groupings of the same cells, from their contingency tables.

Tables are [b, T, K], one per resample of the cells, so that a thousand resamples cost one product of
matrices. Values equal scikit-learn's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.intervals import Floats, Metric

__all__ = ["ami_of", "ari_of", "chance_information", "contingency", "nmi_of"]


def contingency(truth: NDArray[np.intp], found: NDArray[np.intp]) -> Metric:
    """Return the metric "contingency table" [b, T, K] of two groupings [n], counted from 0."""
    from scipy import sparse

    shape = int(truth.max()) + 1, int(found.max()) + 1
    n = len(truth)
    codes = truth * shape[1] + found
    one_hot = sparse.csr_matrix((np.ones(n), (np.arange(n), codes)), (n, shape[0] * shape[1]))

    def tables(weights: Floats) -> Floats:
        return np.asarray(weights @ one_hot).reshape(len(weights), *shape)

    return tables


def ari_of(tables: Floats) -> Floats:
    """Return the adjusted Rand index [b]."""

    def pairs(counts: Floats) -> Floats:
        chosen: Floats = counts * (counts - 1) / 2
        return chosen

    rows, columns = tables.sum(axis=2), tables.sum(axis=1)
    both = pairs(tables).sum(axis=(1, 2))
    a, b = pairs(rows).sum(axis=1), pairs(columns).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = a * b / pairs(tables.sum(axis=(1, 2)))
        score: Floats = (both - expected) / ((a + b) / 2 - expected)
    return np.where(np.isfinite(score), score, 1.0)  # one group on both sides: they agree


def nmi_of(tables: Floats) -> Floats:
    """Return the normalised mutual information [b] (arithmetic mean of the entropies)."""
    mutual, mean = _information(tables)
    with np.errstate(invalid="ignore", divide="ignore"):
        score: Floats = np.where(mean > 1e-12, np.maximum(mutual, 0.0) / mean, 1.0)
    return score


def ami_of(tables: Floats, chance: float) -> Floats:
    """Return the adjusted mutual information [b], given the mutual information of chance.

    ``chance`` depends on the sizes of the groups, which resampling hardly moves; computing it once,
    for the cells as they are, makes a thousand draws affordable. It is exact for one table with its
    own ``chance_information``.
    """
    mutual, mean = _information(tables)
    room = mean - chance
    with np.errstate(invalid="ignore", divide="ignore"):
        score: Floats = np.where(np.abs(room) > 1e-12, (mutual - chance) / room, 1.0)
    return score


def chance_information(table: Floats) -> float:
    """Return the mutual information expected by chance, in nats, of one table [T, K]."""
    from scipy import sparse
    from sklearn.metrics.cluster import expected_mutual_information

    counts = sparse.csr_matrix(table.astype(np.int64))
    return float(expected_mutual_information(counts, int(table.sum())))


def _information(tables: Floats) -> tuple[Floats, Floats]:
    """Return the mutual information and the mean entropy of both groupings, in nats, [b] each."""

    def entropy(p: Floats) -> Floats:
        logs = np.log(np.where(p > 0, p, 1.0))
        total: Floats = -(p * logs).reshape(len(p), -1).sum(axis=1)
        return total

    joint = tables / tables.sum(axis=(1, 2), keepdims=True)
    h_rows, h_columns = entropy(joint.sum(axis=2)), entropy(joint.sum(axis=1))
    return h_rows + h_columns - entropy(joint), (h_rows + h_columns) / 2
