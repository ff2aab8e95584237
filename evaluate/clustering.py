"""Task 1, clustering: do groups found in the embedding agree with the cell types?

Leiden over a range of resolutions, as in the paper, is read twice: at the resolution that agrees
best with the labels (the paper's way; it looks at the answer, so it flatters every method), and at
the one that maximises the silhouette of the clusters in the embedding, which needs no label.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.intervals import Bootstrap, Floats, Metric, interval, of_tables
from okrcell.evaluate.libraries import scanpy
from okrcell.evaluate.rows import Row, TaskResult

__all__ = ["ari_of", "clustering", "leiden", "nmi_of"]

_SILHOUETTE_CELLS = 2000
_AMI_DRAWS = 100


def clustering(
    name: str,
    cells: NDArray[np.float32],
    labels: NDArray[np.str_],
    boot: Bootstrap,
    config: EvaluateConfig,
) -> TaskResult:
    """Score one embedding [N, D] of cells with ``labels`` [N].

    Values are means over the Leiden seeds. Intervals resample cells (or donors) with the clusters
    held fixed, going round the seeds, so they hold both kinds of chance; the draws are centred on the
    value, because cells drawn twice inflate the agreement.
    """
    from sklearn.metrics import silhouette_samples

    result = TaskResult()
    types, truth = np.unique(labels, return_inverse=True)
    seeds = list(range(config.seed, config.seed + config.seeds))
    found = leiden(cells, config.resolutions, seeds, config.n_neighbors)  # [S, R, N]
    widths = (
        silhouette_samples(cells, truth)
        if 1 < len(types) < len(truth)
        else np.full(len(truth), np.nan)
    )
    chosen: dict[str, list[int]] = {
        "best": [_most_like_labels(by_resolution, truth) for by_resolution in found],
        "label-free": [_best_silhouette(by_resolution, cells) for by_resolution in found],
    }
    for how, picks in chosen.items():
        clusters = [found[s, pick] for s, pick in enumerate(picks)]
        result.rows += _score(name, how, truth, clusters, widths, boot, seeds)
    resolutions = np.asarray(config.resolutions)
    result.details = {
        how: {
            "resolution": [float(resolutions[pick]) for pick in picks],
            "n_clusters": [int(found[s, pick].max()) + 1 for s, pick in enumerate(picks)],
        }
        for how, picks in chosen.items()
    }
    result.details["n_types"] = len(types)
    return result


def leiden(
    cells: NDArray[np.float32], resolutions: tuple[float, ...], seeds: list[int], n_neighbors: int
) -> NDArray[np.intp]:
    """Return Leiden clusters int [seeds, resolutions, N] of one neighbour graph.

    The algorithm, graph and objective of ``scanpy.tl.leiden(flavor="igraph", n_iterations=2,
    directed=False)``, without building the graph anew for every resolution and seed.
    """
    import igraph

    graph = _graph(cells, n_neighbors, seeds[0])
    found = np.empty((len(seeds), len(resolutions), len(cells)), dtype=np.intp)
    for s, seed in enumerate(seeds):
        for r, resolution in enumerate(resolutions):
            igraph.set_random_number_generator(random.Random(seed))  # noqa: S311  (no secret)
            groups = graph.community_leiden(
                objective_function="modularity",
                weights="weight",
                resolution=resolution,
                n_iterations=2,
            )
            found[s, r] = groups.membership
    igraph.set_random_number_generator(random)
    return found


def _graph(cells: NDArray[np.float32], n_neighbors: int, seed: int) -> Any:
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


def _most_like_labels(by_resolution: NDArray[np.intp], truth: NDArray[np.intp]) -> int:
    from sklearn.metrics import adjusted_rand_score

    return int(np.argmax([adjusted_rand_score(truth, clusters) for clusters in by_resolution]))


def _best_silhouette(by_resolution: NDArray[np.intp], cells: NDArray[np.float32]) -> int:
    from sklearn.metrics import silhouette_score

    rows = np.arange(len(cells))
    if len(rows) > _SILHOUETTE_CELLS:  # silhouettes cost the square of the number of cells
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:_SILHOUETTE_CELLS])
    scores = [
        silhouette_score(cells[rows], clusters[rows])
        if 1 < len(np.unique(clusters[rows])) < len(rows)
        else -1.0
        for clusters in by_resolution
    ]
    return int(np.argmax(scores))


def _score(
    name: str,
    how: str,
    truth: NDArray[np.intp],
    clusters: list[NDArray[np.intp]],
    widths: NDArray[np.float64],
    boot: Bootstrap,
    seeds: list[int],
) -> list[Row]:
    from sklearn.metrics import adjusted_mutual_info_score

    whole = np.ones((1, boot.n))
    tables = [_contingency(truth, found) for found in clusters]

    def asw(weights: Floats) -> Floats:
        width: Floats = ((weights @ widths) / weights.sum(axis=1) + 1) / 2
        return width

    def turn(of: Metric) -> Floats:
        """Draw by draw, go round the seeds."""
        draws = np.stack([boot.apply(of_tables(table, of)) for table in tables])
        every: Floats = draws[np.arange(boot.draws) % len(tables), np.arange(boot.draws)]
        return every

    def over_seeds(of: Metric) -> float:
        return float(np.mean([of(table(whole))[0] for table in tables]))

    ami = float(np.mean([adjusted_mutual_info_score(truth, found) for found in clusters]))
    few = Bootstrap(boot.n, min(boot.draws, _AMI_DRAWS), boot.seed, boot.donors)
    values = {
        "ari": (over_seeds(ari_of), turn(ari_of)),
        "ami": (ami, few.apply(lambda weights: _ami(weights, truth, clusters))),
        "nmi": (over_seeds(nmi_of), turn(nmi_of)),
        "asw_cell": (float(asw(whole)[0]), boot.apply(asw)),
    }
    parts = ("ari", "nmi", "asw_cell")
    values["avg_bio"] = (
        float(np.mean([values[part][0] for part in parts])),
        np.mean([values[part][1] for part in parts], axis=0),
    )
    listed = ",".join(map(str, seeds))
    # Drawing a cell twice makes agreement by chance: centre the draws on the value.
    return [
        Row(
            "clustering",
            name,
            f"{metric} ({how})",
            value,
            *interval(draws - np.mean(draws) + value),
            boot.n,
            listed,
        )
        for metric, (value, draws) in values.items()
    ]


def _ami(weights: Floats, truth: NDArray[np.intp], clusters: list[NDArray[np.intp]]) -> Floats:
    from sklearn.metrics import adjusted_mutual_info_score

    scores = []
    for draw, counts in enumerate(weights.astype(np.intp)):
        found = clusters[draw % len(clusters)]
        again = np.repeat(truth, counts), np.repeat(found, counts)
        scores.append(adjusted_mutual_info_score(*again))
    return np.asarray(scores)


def _contingency(truth: NDArray[np.intp], found: NDArray[np.intp]) -> Metric:
    from scipy import sparse

    shape = int(truth.max()) + 1, int(found.max()) + 1
    n = len(truth)
    codes = truth * shape[1] + found
    one_hot = sparse.csr_matrix((np.ones(n), (np.arange(n), codes)), (n, shape[0] * shape[1]))

    def tables(weights: Floats) -> Floats:
        return np.asarray(weights @ one_hot).reshape(len(weights), *shape)

    return tables


def ari_of(tables: Floats) -> Floats:
    """Return the adjusted Rand index [b] of contingency tables [b, T, K]."""

    def pairs(counts: Floats) -> Floats:
        chosen: Floats = counts * (counts - 1) / 2
        return chosen

    rows, columns = tables.sum(axis=2), tables.sum(axis=1)
    both = pairs(tables).sum(axis=(1, 2))
    a, b = pairs(rows).sum(axis=1), pairs(columns).sum(axis=1)
    expected = a * b / pairs(tables.sum(axis=(1, 2)))
    with np.errstate(invalid="ignore", divide="ignore"):
        score: Floats = (both - expected) / ((a + b) / 2 - expected)
    return np.where(np.isfinite(score), score, 1.0)  # one group on both sides: they agree


def nmi_of(tables: Floats) -> Floats:
    """Return the normalised mutual information [b] (arithmetic mean) of tables [b, T, K]."""

    def entropy(p: Floats) -> Floats:
        logs = np.log(np.where(p > 0, p, 1.0))
        total: Floats = -(p * logs).reshape(len(p), -1).sum(axis=1)
        return total

    joint = tables / tables.sum(axis=(1, 2), keepdims=True)
    h_rows, h_columns = entropy(joint.sum(axis=2)), entropy(joint.sum(axis=1))
    mutual = h_rows + h_columns - entropy(joint)
    mean = (h_rows + h_columns) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        score: Floats = np.where(mean > 1e-12, np.maximum(mutual, 0.0) / mean, 1.0)
    return score
