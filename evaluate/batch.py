"""Task 3, batch correction: is technical origin gone while cell types stay apart?

The paper's eight indicators: isolated labels, KMeans NMI, KMeans ARI, silhouette by label and cLISI
keep biology (their mean: AvgBIO-B); silhouette by batch, graph connectivity and principal component
regression measure mixing (their mean: AvgBATCH). iLISI and kBET stand beside them.

Definitions are those of scib-metrics, and LISI and graph connectivity are its functions. The others
would compile anew for every size of embedding and cell type, which takes minutes on a laptop; they
are the same formulas on scikit-learn and NumPy, and the tests hold them against scib-metrics.
Two differ on purpose: KMeans takes the best of five starts instead of one, and kBET uses exact
diffusion neighbours without the stationary component, so that it can be repeated.

A batch is whatever the data say it is. Values are not comparable with the original scIB package.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.libraries import scib_metrics
from okrcell.evaluate.rows import Row, TaskResult

__all__ = [
    "BATCH_METRICS",
    "batch_correction",
    "indicators",
    "isolated_labels",
    "kbet_by_label",
    "pcr_comparison",
    "silhouette_by_batch",
]

Floats = NDArray[np.float32]
Strings = NDArray[np.str_]

BATCH_METRICS = {
    "isolated_labels": "bio",
    "kmeans_nmi": "bio",
    "kmeans_ari": "bio",
    "silhouette_label": "bio",
    "clisi": "bio",
    "silhouette_batch": "batch",
    "graph_connectivity": "batch",
    "pcr_comparison": "batch",
    "ilisi": "beside",
    "kbet": "beside",
}

_SUBSAMPLE = 0.8
_NEIGHBORS = {"graph": 15, "kbet": 50, "lisi": 90}
_KMEANS_STARTS = 5
_DIFFUSION = 100


def batch_correction(
    name: str,
    cells: Floats,
    before: Floats,
    labels: Strings,
    batches: Strings,
    config: EvaluateConfig,
) -> TaskResult:
    """Score one embedding [N, D]; ``before`` [N, P] is the uncorrected PCA of the same cells.

    Intervals: everything is computed again on ``config.seeds`` subsamples of 80 % of each type and
    batch; their spread, scaled to the full size (delete-d jackknife) and widened by Student's t,
    is put around the value.
    """
    result = TaskResult()
    if len(np.unique(batches)) < 2:
        result.notes.append("Batch correction was skipped: the test cells come from one batch.")
        return result
    if len(np.unique(labels)) < 2:
        result.notes.append("Batch correction was skipped: the test cells are of one type.")
        return result
    values = indicators(cells, before, labels, batches, config.seed)
    seeds = list(range(config.seed, config.seed + config.seeds))
    parts = []
    for seed in seeds:
        rows = _subsample(labels, batches, seed)
        parts.append(
            indicators(cells[rows], before[rows], labels[rows], batches[rows], config.seed)
        )
    listed = ",".join(map(str, seeds))
    for metric, value in values.items():
        half = _half_width([part[metric] for part in parts])
        low, high = np.clip([value - half, value + half], 0.0, 1.0).tolist()
        result.rows.append(Row("batch", name, metric, value, low, high, len(cells), listed))
    counts = np.unique(batches, return_counts=True)
    result.details = {"batches": {str(k): int(v) for k, v in zip(*counts, strict=True)}}
    return result


def indicators(
    cells: Floats, before: Floats, labels: Strings, batches: Strings, seed: int
) -> dict[str, float]:
    """Return all indicators and the means of the paper, each in [0, 1], higher is better."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import (
        adjusted_rand_score,
        normalized_mutual_info_score,
        silhouette_samples,
    )

    scib = scib_metrics()
    near = _neighbors(cells)
    k_types = len(np.unique(labels))
    clusters = KMeans(k_types, n_init=_KMEANS_STARTS, random_state=seed).fit_predict(cells)
    widths = (silhouette_samples(cells, labels) + 1) / 2
    values = {
        "isolated_labels": isolated_labels(widths, labels, batches),
        "kmeans_nmi": normalized_mutual_info_score(labels, clusters),
        "kmeans_ari": max(0.0, adjusted_rand_score(labels, clusters)),
        "silhouette_label": widths.mean(),
        "clisi": scib.clisi_knn(near["lisi"], labels),
        "silhouette_batch": silhouette_by_batch(cells, labels, batches),
        "graph_connectivity": scib.graph_connectivity(near["graph"], labels),
        "pcr_comparison": pcr_comparison(before, cells, batches),
        "ilisi": scib.ilisi_knn(near["lisi"], batches),
        "kbet": kbet_by_label(near["kbet"].knn_graph_connectivities.tocsr(), batches, labels),
    }
    exact = {name: float(value) for name, value in values.items()}
    for mean, kind in (("avg_bio_b", "bio"), ("avg_batch", "batch")):
        parts = [exact[metric] for metric, group in BATCH_METRICS.items() if group == kind]
        exact[mean] = float(np.mean(parts))
    return exact


def isolated_labels(widths: NDArray[np.float64], labels: Strings, batches: Strings) -> float:
    """Return the mean scaled silhouette [N] of the types that occur in the fewest batches."""
    names = np.unique(labels)
    spread = np.asarray([len(np.unique(batches[labels == name])) for name in names])
    isolated = names[spread == spread.min()]
    return float(np.mean([widths[labels == name].mean() for name in isolated]))


def pcr_comparison(before: Floats, after: Floats, batches: Strings) -> float:
    """Return how much of the variance explained by batch is gone, 0 if it grew.

    Over all components, principal component regression on a category is the share of the variance
    that lies between its groups, which needs no components.
    """
    was, now = _between_share(before, batches), _between_share(after, batches)
    return max(0.0, (was - now) / was) if was > 0 else 0.0


def _between_share(values: Floats, batches: Strings) -> float:
    centred = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    between = sum(
        (batches == name).sum() * (centred[batches == name].mean(axis=0) ** 2).sum()
        for name in np.unique(batches)
    )
    return float(between / (centred**2).sum())


def silhouette_by_batch(cells: Floats, labels: Strings, batches: Strings) -> float:
    """Return 1 - |silhouette of the batches|, averaged within and then over cell types.

    Types with one batch, or with as many batches as cells, say nothing and are left out; NaN if no
    type is left.
    """
    from sklearn.metrics import silhouette_samples

    scores = []
    for name in np.unique(labels):
        mask = labels == name
        if 1 < len(np.unique(batches[mask])) < mask.sum():
            widths = silhouette_samples(cells[mask], batches[mask])
            scores.append(float((1 - np.abs(widths)).mean()))
    return float(np.mean(scores)) if scores else float("nan")


def kbet_by_label(graph: Any, batches: Strings, labels: Strings, alpha: float = 0.05) -> float:
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
        scores.append(_kbet(_diffusion_neighbors(part, k), inside, alpha))
    return float(np.mean(scores)) if scores else float("nan")


def _kbet(neighbors: NDArray[np.intp], batches: Strings, alpha: float) -> float:
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


def _neighbors(cells: Floats) -> dict[str, Any]:
    """Return scib-metrics' neighbour results, exact, self first."""
    from sklearn.neighbors import NearestNeighbors

    results = scib_metrics().nearest_neighbors.NeighborsResults
    k = min(max(_NEIGHBORS.values()), len(cells))
    distances, indices = NearestNeighbors(n_neighbors=k).fit(cells).kneighbors(cells)
    every = results(indices=indices.astype(np.int32), distances=distances.astype(np.float32))
    return {use: every.subset_neighbors(min(n, k)) for use, n in _NEIGHBORS.items()}


def _subsample(labels: Strings, batches: Strings, seed: int) -> NDArray[np.intp]:
    """Return 80 % of the rows of every type and batch (at least one each), sorted."""
    rng = np.random.default_rng(seed)
    groups = np.unique(np.stack([labels, batches]), axis=1, return_inverse=True)[1].ravel()
    kept = []
    for group in np.unique(groups):
        rows = rng.permutation(np.flatnonzero(groups == group))
        kept.append(rows[: math.ceil(_SUBSAMPLE * len(rows))])
    return np.sort(np.concatenate(kept))


def _half_width(parts: list[float]) -> float:
    from scipy.stats import t

    defined = [part for part in parts if math.isfinite(part)]
    if len(defined) < 2:
        return float("nan")
    spread = float(np.std(defined, ddof=1)) * math.sqrt(_SUBSAMPLE / (1 - _SUBSAMPLE))
    return float(t.ppf(0.975, len(defined) - 1)) * spread
