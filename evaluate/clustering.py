"""Task 1, clustering: do groups found in the embedding agree with the cell types?

Leiden and Louvain over a range of resolutions, as in the paper, are each read twice: at the
resolution that agrees best with the labels (the paper's way; it looks at the answer, so it flatters
every method), and at the one that maximises the silhouette of the clusters in the embedding, which
needs no label.
"""

from __future__ import annotations

import random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.agreement import ami_of, ari_of, chance_information, contingency, nmi_of
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.intervals import Bootstrap, Floats, Metric, of_tables
from okrcell.evaluate.libraries import scanpy
from okrcell.evaluate.methods import MethodOutput
from okrcell.evaluate.rows import Row, TaskResult
from okrcell.evaluate.sampling import neighbour_sample

__all__ = ["clustering", "communities", "neighbour_graph", "silhouettes"]

Algorithm = Literal["leiden", "louvain"]

_SILHOUETTE_CELLS = 2000
_AGREEMENT = ("ari", "ami", "nmi")


def clustering(method: MethodOutput, data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Score the embedding of ``data.integrated``, or of a stated sample of these cells.

    Values are means over the seeds of the algorithm. Intervals resample cells (or donors) and seeds,
    with the clusters held fixed. The draws are centred on the value, because cells that are drawn
    twice inflate the agreement.
    """
    result = TaskResult()
    if method.cells is None:
        result.notes.append(f"Clustering was skipped for {method.name}: it has no embedding.")
        return result
    rows = neighbour_sample(data, config)
    if len(rows) < 3:
        result.notes.append("Clustering was skipped: fewer than three cells.")
        return result
    cells = np.ascontiguousarray(method.cells[rows], dtype=np.float32)
    types, truth = np.unique(data.labels[rows], return_inverse=True)
    boot = Bootstrap.over(data.donors[rows], config.bootstrap, config.seed)
    seeds = list(range(config.seed, config.seed + config.seeds))
    graph = neighbour_graph(cells, config.n_neighbors, config.seed)
    widths = _widths(cells, truth)
    algorithms: tuple[tuple[Algorithm, str], ...] = (("leiden", ""), ("louvain", ", Louvain"))
    for algorithm, suffix in algorithms:
        found = communities(graph, algorithm, config.resolutions, seeds)  # [S, R, N]
        chosen = {
            f"best{suffix}": [_most_like_labels(by_resolution, truth) for by_resolution in found],
            f"label-free{suffix}": _best_silhouettes(found, cells),
        }
        for how, picks in chosen.items():
            clusters = [found[s, pick] for s, pick in enumerate(picks)]
            _score(result, method.name, how, truth, clusters, widths, boot, seeds)
            result.details[how] = {
                "resolution": [float(config.resolutions[pick]) for pick in picks],
                "n_clusters": [int(groups.max()) + 1 for groups in clusters],
            }
    result.details["n_types"] = len(types)
    return result


def neighbour_graph(cells: NDArray[np.float32], n_neighbors: int, seed: int) -> Any:
    """Return scanpy's neighbour graph as igraph's; built once, which is most of the work."""
    import igraph
    from anndata import AnnData
    from scipy import sparse

    sc = scanpy()
    data = AnnData(obsm={"embedding": cells})
    k = min(n_neighbors, len(cells) - 1)
    sc.pp.neighbors(data, n_neighbors=k, use_rep="embedding", random_state=seed)
    upper = sparse.triu(data.obsp["connectivities"], k=1).tocoo()
    edges = list(zip(upper.row.tolist(), upper.col.tolist(), strict=True))
    return igraph.Graph(n=len(cells), edges=edges, edge_attrs={"weight": upper.data.tolist()})


def communities(
    graph: Any, algorithm: Algorithm, resolutions: tuple[float, ...], seeds: list[int]
) -> NDArray[np.intp]:
    """Return clusters int [seeds, resolutions, N] of one neighbour graph.

    Leiden is that of ``scanpy.tl.leiden(flavor="igraph", n_iterations=2, directed=False)``, without
    building the graph anew for every resolution and seed; Louvain is igraph's, on the same graph with
    the same objective (modularity).
    """
    import igraph

    found = np.empty((len(seeds), len(resolutions), graph.vcount()), dtype=np.intp)
    try:
        for s, seed in enumerate(seeds):
            for r, resolution in enumerate(resolutions):
                igraph.set_random_number_generator(random.Random(seed))  # noqa: S311  (no secret)
                if algorithm == "louvain":
                    groups = graph.community_multilevel(weights="weight", resolution=resolution)
                else:
                    groups = graph.community_leiden(
                        objective_function="modularity",
                        weights="weight",
                        resolution=resolution,
                        n_iterations=2,
                    )
                found[s, r] = groups.membership
    finally:
        igraph.set_random_number_generator(random)
    return found


def silhouettes(distances: Floats, groupings: NDArray[np.intp]) -> Floats:
    """Return the mean silhouette of many groupings of the same cells, float64 [P].

    One product of matrices for all of them. NaN where a grouping has one group, or every cell its
    own.

    Parameters
    ----------
    distances
        Float64 [n, n], zero on the diagonal.
    groupings
        Int [P, n].
    """
    n = len(distances)
    scores = np.full(len(groupings), np.nan)
    for at, grouping in enumerate(groupings):
        names, member, sizes = np.unique(grouping, return_inverse=True, return_counts=True)
        if not 1 < len(names) < n:
            continue
        inside = np.zeros((n, len(names)))
        inside[np.arange(n), member] = 1
        sums = distances @ inside
        own = sizes[member]
        a = sums[np.arange(n), member] / np.maximum(own - 1, 1)
        others = sums / sizes
        others[np.arange(n), member] = np.inf
        b = others.min(axis=1)
        larger = np.maximum(a, b)
        widths = np.where((own > 1) & (larger > 0), (b - a) / np.where(larger > 0, larger, 1), 0.0)
        scores[at] = widths.mean()
    return scores


def _widths(cells: NDArray[np.float32], truth: NDArray[np.intp]) -> Floats:
    """Return the silhouette of every cell by its type, float64 [N]; NaN where there is none."""
    from sklearn.metrics import silhouette_samples

    if not 1 < len(np.unique(truth)) < len(truth):
        return np.full(len(truth), np.nan)
    return np.asarray(silhouette_samples(cells, truth), dtype=np.float64)


def _most_like_labels(by_resolution: NDArray[np.intp], truth: NDArray[np.intp]) -> int:
    whole = np.ones((1, len(truth)))
    return int(
        np.argmax([ari_of(contingency(truth, groups)(whole))[0] for groups in by_resolution])
    )


def _best_silhouettes(found: NDArray[np.intp], cells: NDArray[np.float32]) -> list[int]:
    """Return the resolution with the widest silhouette, for every seed of ``found`` [S, R, N]."""
    from sklearn.metrics import pairwise_distances

    rows = np.arange(len(cells))
    if len(rows) > _SILHOUETTE_CELLS:  # silhouettes cost the square of the number of cells
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:_SILHOUETTE_CELLS])
    distances = pairwise_distances(cells[rows].astype(np.float64))
    np.fill_diagonal(distances, 0.0)
    scores = [silhouettes(distances, by_resolution[:, rows]) for by_resolution in found]
    return [int(np.argmax(np.where(np.isnan(score), -1.0, score))) for score in scores]


def _score(
    result: TaskResult,
    name: str,
    how: str,
    truth: NDArray[np.intp],
    clusters: list[NDArray[np.intp]],
    widths: Floats,
    boot: Bootstrap,
    seeds: list[int],
) -> None:
    whole = np.ones((1, boot.n))
    single, draws = [], []
    for groups in clusters:
        tables = contingency(truth, groups)
        of = _agreement(chance_information(tables(whole)[0]))
        single.append(of(tables(whole))[0])
        draws.append(boot.apply(of_tables(tables, of)))
    # A draw is a resample of the cells and one of the seeds: the value is a mean over both.
    rng = np.random.default_rng([boot.seed, len(seeds)])
    drawn = rng.integers(len(seeds), size=(boot.draws, len(seeds)))
    value = np.mean(single, axis=0)
    resampled = np.stack(draws)[drawn, np.arange(boot.draws)[:, None]].mean(axis=1)
    values = {metric: (float(value[at]), resampled[:, at]) for at, metric in enumerate(_AGREEMENT)}

    def asw(weights: Floats) -> Floats:
        width: Floats = ((weights @ widths) / weights.sum(axis=1) + 1) / 2
        return width

    values["asw_cell"] = float(asw(whole)[0]), boot.apply(asw)
    parts = ("ari", "nmi", "asw_cell")
    values["avg_bio"] = (
        float(np.mean([values[part][0] for part in parts])),
        np.mean([values[part][1] for part in parts], axis=0),
    )
    listed = ",".join(map(str, seeds))
    # Drawing a cell twice makes agreement by chance: centre the draws on the value.
    for metric, (value_of, draws_of) in values.items():
        centred = draws_of - np.mean(draws_of) + value_of
        named = f"{metric} ({how})"
        ends = boot.interval(value_of, centred, (-1.0, 1.0))
        row = Row("clustering", name, named, value_of, *ends, boot.n, listed)
        result.put(row, centred, boot.n_units)


def _agreement(chance: float) -> Metric:
    """Return ARI, AMI and NMI of tables, [b, 3]."""
    return lambda tables: np.stack([ari_of(tables), ami_of(tables, chance), nmi_of(tables)], axis=1)
