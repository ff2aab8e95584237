"""Task 3, batch correction: is technical origin gone while cell types stay apart?

The paper's eight indicators: isolated labels, KMeans NMI, KMeans ARI, silhouette by label and cLISI
keep biology (their mean: AvgBIO-B); silhouette by batch, graph connectivity and principal component
regression measure mixing (their mean: AvgBATCH). iLISI and kBET stand beside them.

Definitions are those of scib-metrics, and LISI and graph connectivity are its functions. The others
would compile anew for every size of embedding and cell type, which takes minutes on a laptop; they
are the same formulas on scikit-learn and NumPy, and the tests hold them against scib-metrics.
Two differ on purpose: KMeans takes the best of five starts instead of one, and kBET uses exact
diffusion neighbours without the stationary component, so that it can be repeated.

A batch is whatever the data say it is. Beside the original scib package: silhouettes, isolated labels
(its ASW form) and PCR are equal; graph connectivity is stricter here (strong connection in the directed
neighbour graph), and LISI takes the nearest cells themselves instead of shortest paths in a graph of 15
neighbours. ``benchmarks/evaluate/metrics.py`` prints all of them side by side.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.kbet import kbet_by_label
from okrcell.evaluate.libraries import scib_metrics
from okrcell.evaluate.methods import MethodOutput
from okrcell.evaluate.rows import Row, TaskResult
from okrcell.evaluate.sampling import neighbour_sample

__all__ = [
    "BATCH_METRICS",
    "batch_correction",
    "indicators",
    "isolated_labels",
    "isolated_types",
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

_BLOCK = 5
_NEIGHBORS = {"graph": 15, "kbet": 50, "lisi": 90}
_KMEANS_STARTS = 5


def batch_correction(
    method: MethodOutput, before: Floats, data: EvalData, config: EvaluateConfig
) -> TaskResult:
    """Score the embedding of ``data.integrated``, or of a stated sample of these cells.

    Intervals: everything is computed again on ``config.seeds`` subsamples of 80 % of the cells, in
    which types and batches keep their shares; their spread, scaled to the full size (delete-d
    jackknife) and widened by Student's t, is put around the value. The draws are the subsamples'
    values, moved to the value and stretched so that their standard deviation is that standard error:
    as many as there are subsamples.

    Parameters
    ----------
    before
        Float32 [N, P], the uncorrected PCA of all cells of the data, fitted on those that are looked at.
    """
    result = TaskResult()
    if method.cells is None:
        result.notes.append(f"Batch correction was skipped for {method.name}: it has no embedding.")
        return result
    rows = neighbour_sample(data, config)
    labels, batches = data.labels[rows], data.batches[rows]
    reason = _reason_to_skip(labels, batches)
    if reason:
        result.notes.append(f"{data.dataset}: batch correction was skipped: {reason}.")
        return result
    cells, start = method.cells[rows], before[rows]
    isolated = isolated_types(labels, batches)  # of all cells: no subsample decides this anew

    def measured(some: NDArray[np.intp]) -> dict[str, float]:
        named = labels[some], batches[some]
        return indicators(cells[some], start[some], *named, config.seed, isolated)

    values = measured(np.arange(len(rows)))
    seeds = list(range(config.seed, config.seed + config.seeds))
    parts = [measured(_subsample(labels, batches, seed)) for seed in seeds]
    listed = ",".join(map(str, seeds))
    for metric, value in values.items():
        draws = _jackknife(value, np.asarray([part[metric] for part in parts]), len(rows))
        half = _half_width(draws)
        low, high = np.clip([value - half, value + half], 0.0, 1.0).tolist()
        row = Row("batch", method.name, metric, value, low, high, len(rows), listed)
        result.put(row, draws)
    counts = np.unique(batches, return_counts=True)
    result.details = {"batches": {str(k): int(v) for k, v in zip(*counts, strict=True)}}
    return result


def _reason_to_skip(labels: Strings, batches: Strings) -> str:
    if len(np.unique(batches)) < 2:
        return "the cells come from one batch"
    if len(np.unique(labels)) < 2:
        return "the cells are of one type"
    if len(np.unique(labels)) == len(labels):
        return "no two test cells share a type"
    return ""


def indicators(
    cells: Floats,
    before: Floats,
    labels: Strings,
    batches: Strings,
    seed: int,
    isolated: Strings | None = None,
) -> dict[str, float]:
    """Return all indicators and the means of the paper, each in [0, 1], higher is better.

    Parameters
    ----------
    isolated
        Which types count as isolated; by default those in the fewest batches.
    """
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
        "isolated_labels": isolated_labels(
            widths, labels, isolated_types(labels, batches) if isolated is None else isolated
        ),
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


def isolated_types(labels: Strings, batches: Strings) -> Strings:
    """Return the types that occur in the fewest batches."""
    names = np.unique(labels)
    spread = np.asarray([len(np.unique(batches[labels == name])) for name in names])
    return np.asarray(names[spread == spread.min()])


def isolated_labels(widths: NDArray[np.float64], labels: Strings, isolated: Strings) -> float:
    """Return the mean scaled silhouette [N] of the isolated types; NaN if none has cells."""
    means = [widths[labels == name].mean() for name in isolated if (labels == name).any()]
    return float(np.mean(means)) if means else float("nan")


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


def _neighbors(cells: Floats) -> dict[str, Any]:
    """Return scib-metrics' neighbour results, exact, self first."""
    from sklearn.neighbors import NearestNeighbors

    results = scib_metrics().nearest_neighbors.NeighborsResults
    k = min(max(_NEIGHBORS.values()), len(cells))
    distances, indices = NearestNeighbors(n_neighbors=k).fit(cells).kneighbors(cells)
    every = results(indices=indices.astype(np.int32), distances=distances.astype(np.float32))
    return {use: every.subset_neighbors(min(n, k)) for use, n in _NEIGHBORS.items()}


def _subsample(labels: Strings, batches: Strings, seed: int) -> NDArray[np.intp]:
    """Return rows, sorted, with one cell in five left out at random.

    The cells stand in line by type and batch, and every five neighbours lose one: types and batches
    keep their shares, and all subsamples are of one size (which spares recompiling).
    """
    rng = np.random.default_rng(seed)
    mixed = rng.permutation(len(labels))
    line = mixed[np.lexsort((batches[mixed], labels[mixed]))]
    starts = np.arange(0, len(line) - _BLOCK + 1, _BLOCK)
    return np.sort(np.delete(line, starts + rng.integers(_BLOCK, size=len(starts))))


def _jackknife(value: float, parts: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Stretch the subsamples' values so that they spread as the value itself does, [S]."""
    left_out = n // _BLOCK
    if not left_out:
        return np.full(len(parts), np.nan)
    scale = math.sqrt((n - left_out) / left_out)
    stretched: NDArray[np.float64] = value + scale * (parts - np.mean(parts))
    return stretched


def _half_width(draws: NDArray[np.float64]) -> float:
    from scipy.stats import t

    defined = draws[np.isfinite(draws)]
    if len(defined) < 2:
        return float("nan")
    return float(t.ppf(0.975, len(defined) - 1)) * float(np.std(defined, ddof=1))
