"""Which cells express alike: nearest neighbours in principal components of variable genes.

Label-free: no text, no label and no trained model is read. The index is an inverted file: cells are
cut into small clusters, and the cells of a cluster are compared with all cells of the clusters
nearest to it, as one matrix product.

Shape suffixes: N cells, G variable genes, P components, k neighbours, L clusters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from okrcell.train.data import Pairs
from okrcell.train.variable import choose_variable, dense

__all__ = ["components", "nearest"]

_Floats = npt.NDArray[np.float32]

EXACT_BELOW = 20_000
_FIT_CELLS = 50_000  # the components of more cells than that hardly differ
_BLOCK = 4096
_CLUSTER = 512  # cells per cluster, on average
_MOST_CLUSTERS = 16_384
_PROBES = 14  # clusters that a cluster's cells are compared with
_ROUNDS = 5
_AXES_ROUNDS = 25
_GROUP = 32


def components(pairs: Pairs, n_genes: int, n_components: int, *, seed: int) -> _Floats:
    """Return float32 [n, P]: principal components of log-normalised variable genes, rows of length 1.

    The components are fitted on at most 50,000 cells, drawn at random; then every cell is projected.
    No more than a block of cells stands dense in memory at once.
    """
    chosen = choose_variable(pairs, n_genes)
    n = len(pairs)
    rng = np.random.default_rng([seed, 0])
    fit_on = np.sort(rng.choice(n, min(n, _FIT_CELLS), replace=False))
    mean = np.zeros(len(chosen))
    gram = np.zeros((len(chosen), len(chosen)))
    for _, values in _blocks(pairs, fit_on, chosen):
        mean += values.sum(axis=0, dtype=np.float64)
        gram += values.T @ values
    mean /= max(len(fit_on), 1)
    covariance = gram / max(len(fit_on), 1) - np.outer(mean, mean)
    axes = leading_axes(covariance, n_components, seed=seed)
    scores = np.empty((n, axes.shape[1]), dtype=np.float32)
    centre = mean.astype(np.float32) @ axes
    for where, values in _blocks(pairs, np.arange(n), chosen):
        scores[where] = values @ axes - centre
    length = np.linalg.norm(scores, axis=1, keepdims=True)
    scores /= np.maximum(length, np.finfo(np.float32).tiny)
    return scores


def leading_axes(covariance: npt.NDArray[np.float64], n: int, *, seed: int) -> _Floats:
    """Return float32 [G, at most n]: the eigenvectors of the largest eigenvalues, by block iteration.

    A full decomposition of thousands of genes takes many times longer. Twenty more vectors than are
    asked for are iterated (Halko et al. 2011), so that the last axes asked for settle too.
    """
    size = len(covariance)
    basis = np.random.default_rng([seed, 1]).standard_normal((size, min(n + 20, size)))
    for _ in range(_AXES_ROUNDS):
        basis = np.linalg.qr(covariance @ basis)[0]
    within = np.linalg.eigh(basis.T @ covariance @ basis)[1][:, ::-1][:, :n]
    return np.asarray(basis @ within, dtype=np.float32)


def _blocks(
    pairs: Pairs, index: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], _Floats]]:
    """Yield blocks of the pairs asked for, and their values float32 [b, G]."""
    for number, (matrix, columns) in enumerate(zip(pairs.matrices, pairs.columns, strict=True)):
        members = index[pairs.dataset[index] == number]
        for start in range(0, len(members), _BLOCK):
            part = members[start : start + _BLOCK]
            yield part, dense(matrix, pairs.row[part], columns, chosen)


# --- neighbours --------------------------------------------------------------------------------


@torch.no_grad()
def nearest(
    vectors: _Floats,
    k: int,
    *,
    seed: int,
    exact: bool | None = None,
    device: str = "cpu",
) -> tuple[npt.NDArray[np.int32], _Floats]:
    """Return each row's nearest others by cosine: int32 [N, k] and their similarities, falling.

    Parameters
    ----------
    vectors
        float32 [N, P], rows of length 1.
    exact
        Compare all with all; by default below 20,000 rows.

    Returns
    -------
    tuple
        int32 [N, k], never the row itself, -1 where there are fewer; float32 [N, k], -inf there.
    """
    points = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32)).to(device)
    found = torch.full((len(points), k), -1, dtype=torch.int32, device=device)
    similar = torch.full((len(points), k), -math.inf, device=device)
    scratch = torch.empty(0, device=device)
    if exact if exact is not None else len(points) < EXACT_BELOW:
        keys = torch.arange(len(points), device=device)
        for start in range(0, len(points), 1024):
            _search(points, keys[start : start + 1024], keys, start, scratch, found, similar)
        return found.cpu().numpy(), similar.cpu().numpy()
    centres, cluster = _clusters(points, seed)
    order = torch.argsort(cluster, stable=True)
    ends = torch.bincount(cluster, minlength=len(centres)).cumsum(0).tolist()
    members = [order[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    probes = min(_PROBES, len(centres))
    near = (centres @ centres.T).topk(probes, dim=1).indices.tolist()
    for own, lists in enumerate(near):
        others = [members[other] for other in lists if other != own]
        keys = torch.cat([members[own], *others])
        _search(points, members[own], keys, 0, scratch, found, similar)
    return found.cpu().numpy(), similar.cpu().numpy()


def _clusters(points: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return centres [L, P] of spherical k-means on a sample, and int64 [N] each row's nearest."""
    n_clusters = min(max(len(points) // _CLUSTER, 1), _MOST_CLUSTERS)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(points), generator=generator).to(points.device)
    sample = points[order[: 24 * n_clusters]]
    centres = sample[:n_clusters].clone()
    for _ in range(_ROUNDS):
        cluster = _assign(sample, centres)
        total = torch.zeros_like(centres).index_add(0, cluster, sample)
        length = total.norm(dim=1, keepdim=True)
        centres = torch.where(length > 0, total / length.clamp_min(1e-12), centres)
    return centres, _assign(points, centres)


def _assign(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    starts = range(0, len(points), _BLOCK)
    return torch.cat([(points[at : at + _BLOCK] @ centres.T).argmax(1) for at in starts])


def _search(
    points: torch.Tensor,
    rows: torch.Tensor,
    keys: torch.Tensor,
    start: int,
    scratch: torch.Tensor,
    found: torch.Tensor,
    similar: torch.Tensor,
) -> None:
    """Find the best of some keys for some rows, and write them into the results, in place.

    The rows themselves stand among the keys in the same order, from ``start`` on.
    """
    k, n_keys = min(found.shape[1], len(keys)), len(keys)
    keys = torch.nn.functional.pad(keys, (0, -n_keys % _GROUP))
    shape = (len(rows), len(keys))
    if scratch.numel() < math.prod(shape):  # fresh memory for every product costs as much as it
        scratch.resize_(math.prod(shape))
    values = scratch[: math.prod(shape)].view(shape)
    torch.mm(points[rows], points[keys].T, out=values)
    values[:, n_keys:] = -math.inf
    values.diagonal(start).fill_(-math.inf)
    best, place = _top(values, k)
    found[rows, :k] = torch.where(best > -math.inf, keys[place], -1).int()
    similar[rows, :k] = best


def _top(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``values.topk(k)`` along rows, by way of the k groups of the largest maxima.

    The k largest values stand in at most k groups, and no group with a smaller maximum than theirs
    can hold one. The maxima are read in one pass; a selection over all values would take many.
    """
    group, (n, width) = _GROUP, values.shape
    if width < 2 * group * k:
        best, place = values.topk(k, dim=1)
        return best, place
    grouped = values.view(n, -1, group)
    chosen = grouped.amax(2).topk(k, dim=1).indices
    among = grouped.gather(1, chosen[:, :, None].expand(-1, -1, group)).reshape(n, -1)
    best, at = among.topk(k, dim=1)
    place = chosen.gather(1, at // group) * group + at % group
    return best, place
