"""kBET: does the mixture of batches around a cell look like the mixture of all?

The test and its settings are those of scib-metrics; neighbours are exact, by diffusion distance
without the stationary component, so that the same cells give the same bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["acceptance", "kbet_by_label"]

_DIFFUSION = 100


def kbet_by_label(
    graph: Any, batches: NDArray[np.str_], labels: NDArray[np.str_], alpha: float = 0.05
) -> float:
    """Return the mean share of neighbourhoods whose batch mixture passes the kBET test.

    Parameters
    ----------
    graph
        Symmetric neighbour graph, CSR [N, N].
    """
    from scipy import sparse

    scores = []
    for name in np.unique(labels):
        rows = np.flatnonzero(labels == name)
        inside = batches[rows]
        if len(rows) < 10 or len(np.unique(inside)) < 2:
            continue
        k = min(70, max(10, len(rows) // len(np.unique(inside)) // 4))
        part = graph[rows][:, rows]
        n_parts, member = sparse.csgraph.connected_components(part, connection="strong")
        if n_parts > 1:
            large = np.flatnonzero(np.bincount(member) >= 3 * k)
            kept = np.flatnonzero(np.isin(member, large))
            if len(kept) / len(rows) < 0.75:
                scores.append(0.0)
                continue
            part, inside = part[kept][:, kept], inside[kept]
            if len(np.unique(inside)) < 2:
                continue
        scores.append(acceptance(_diffusion_neighbors(part, k), inside, alpha))
    return float(np.mean(scores)) if scores else float("nan")


def acceptance(neighbors: NDArray[np.intp], batches: NDArray[np.str_], alpha: float) -> float:
    """Return the share of neighbourhoods int [n, k] that a chi-squared test does not reject."""
    from scipy.stats import chi2

    names, codes = np.unique(batches, return_inverse=True)
    expected = np.bincount(codes) / len(codes) * neighbors.shape[1]
    observed = np.stack([(codes[neighbors] == b).sum(axis=1) for b in range(len(names))], axis=1)
    statistic = ((observed - expected) ** 2 / expected).sum(axis=1)
    return float((chi2.sf(statistic, len(names) - 1) >= alpha).mean())


def _diffusion_neighbors(graph: Any, k: int) -> NDArray[np.intp]:
    """Return each cell and its ``k`` nearest by diffusion distance, int [n, k + 1]."""
    from scipy import sparse
    from sklearn.neighbors import NearestNeighbors

    n = graph.shape[0]
    density = sparse.diags(1 / np.maximum(np.asarray(graph.sum(axis=0)).ravel(), 1e-12))
    kernel = density @ graph @ density
    scale = sparse.diags(1 / np.sqrt(np.maximum(np.asarray(kernel.sum(axis=0)).ravel(), 1e-12)))
    transitions = (scale @ kernel @ scale).astype(np.float64)
    n_maps = min(_DIFFUSION, n - 1)
    if n <= 2000:
        values, maps = np.linalg.eigh(transitions.toarray())
        order = np.argsort(-np.abs(values))[:n_maps]
    else:
        start = np.ones(n) / math.sqrt(n)  # a fixed start: the same cells give the same bits
        values, maps = sparse.linalg.eigsh(transitions, k=n_maps, v0=start)
        order = np.argsort(-np.abs(values))
    values, maps = values[order] + 1e-8, maps[:, order]
    # Diffusion distance over all path lengths. The first component is stationary, says nothing, and
    # with its eigenvalue of 1 would drown the others.
    stretch = values[1:] / (1 - np.minimum(values[1:], 1 - 1e-8))
    space = maps[:, 1:] * stretch
    found = NearestNeighbors(n_neighbors=min(k + 1, n)).fit(space)
    return np.asarray(found.kneighbors(space, return_distance=False), dtype=np.intp)
