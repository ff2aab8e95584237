"""Zero-shot scores smoothed over the neighbour graph of the test cells, after GRIT (arXiv 2508.04747).

Cells that lie close together in expression should be called alike. The scores F0 [n, T] of the cells
are replaced by F = (I + strength L)^-1 F0, where L = I - D^-1 W is the normalised Laplacian of the k
nearest neighbour graph of the cells' principal components. F minimises::

    sum_i d_i |F_i - F0_i|^2 + strength / 2 sum_ij w_ij |F_i - F_j|^2

with d_i the degree of cell i. This form of the Laplacian leaves constant scores as they are, and
smooths every cell equally, however many neighbours it has. No label is used, but all test cells are
seen together: the method is transductive, and is reported as such.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from okrcell.evaluate.baselines import log_normalised
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.methods import Vectors, as_float32

__all__ = ["STRENGTH", "graph_basis", "neighbor_graph", "refine_scores", "smoother", "smoother_on"]

Float = TypeVar("Float", np.float32, np.float64)

STRENGTH = 1.0
"""Default: a cell's own score weighs as much as the mean of its neighbours. Fixed, never tuned."""

_N_NEIGHBORS = 15
_N_COMPONENTS = 50
_COLUMNS = 128
_TOLERANCE = 1e-8
_MAX_STEPS = 500


def graph_basis(data: EvalData, split: str = "test") -> Vectors:
    """Return principal components of a split's cells, float32 [n, 50]; of the test cells by default.

    Fitted on the log-normalised expression of these cells themselves, without labels. There are
    fewer components where there are fewer cells or genes, and one column of zeros where there is
    nothing to fit.
    """
    from sklearn.decomposition import PCA

    test = log_normalised(data.matrix)[np.flatnonzero(data.splits == split)]
    n_components = min(_N_COMPONENTS, test.shape[0] - 1, test.shape[1] - 1)
    if n_components < 1:
        return np.zeros((test.shape[0], 1), dtype=np.float32)
    return as_float32(PCA(n_components, svd_solver="arpack", random_state=0).fit_transform(test))


def refine_scores(
    scores: NDArray[Float],
    cells: NDArray[np.floating],
    *,
    k: int = _N_NEIGHBORS,
    strength: float = STRENGTH,
) -> NDArray[Float]:
    """Smooth scores over the neighbour graph of the same cells.

    Parameters
    ----------
    scores
        Float [n, T]: one score per cell and candidate, of any scale.
    cells
        Float [n, P]: principal components of the same cells.
    k
        Neighbours per cell; all others where there are fewer.
    strength
        Weight of the neighbours; 0 gives the scores back.

    Returns
    -------
    numpy.ndarray
        [n, T] of the type of the scores, within the range of the scores of each candidate. Besides
        scores and result, memory grows with ``n * (k + 128)``.
    """
    return smoother(cells, k=k, strength=strength)(scores)


def smoother(
    cells: NDArray[np.floating], *, k: int = _N_NEIGHBORS, strength: float = STRENGTH
) -> Callable[[NDArray[Float]], NDArray[Float]]:
    """Return ``refine_scores`` for these cells: the graph is built once for many sets of scores.

    Candidates do not influence each other, so that blocks of columns may be refined apart.
    """
    if k < 1 or not np.isfinite(strength) or strength < 0:
        raise ValueError(f"k = {k} must be at least 1, strength = {strength} at least 0")
    n = len(cells)
    idle = strength == 0 or n < 2
    return smoother_on(None if idle else neighbor_graph(cells, k), n, strength=strength)


def smoother_on(
    graph: sparse.csr_array | None, n: int, *, strength: float = STRENGTH
) -> Callable[[NDArray[Float]], NDArray[Float]]:
    """Return ``refine_scores`` over a graph of n cells that somebody else has made.

    Parameters
    ----------
    graph
        Symmetric, float64 [n, n], every cell with an edge; None gives scores back as they are.
    """
    system, root = (None, None) if graph is None else _system(graph, strength)

    def smooth(scores: NDArray[Float]) -> NDArray[Float]:
        if len(scores) != n:
            raise ValueError(f"{len(scores)} rows of scores for {n} cells")
        refined = scores.copy()
        if system is None or root is None:
            return refined
        for start in range(0, refined.shape[1], _COLUMNS):
            block = slice(start, start + _COLUMNS)
            # Solved for the deviation from the mean: what is constant comes back exactly.
            centre = scores[:, block].mean(axis=0, dtype=np.float64)
            wanted = root * (scores[:, block] - centre)
            refined[:, block] = _conjugate_gradients(system, wanted) / root + centre
        return refined

    return smooth


def _system(
    graph: sparse.csr_array, strength: float
) -> tuple[sparse.csr_array, NDArray[np.float64]]:
    """Return a symmetric matrix [n, n], and D^1/2 [n, 1].

    (I + strength L) F = F0 with F = D^-1/2 G is symmetric in G.
    """
    root = np.sqrt(np.asarray(graph.sum(axis=1)).ravel())
    scale = sparse.diags_array(1.0 / root)
    identity = sparse.eye_array(len(root))
    system = (1.0 + strength) * identity - strength * (scale @ graph @ scale)
    return system.tocsr(), root[:, None]


def neighbor_graph(cells: NDArray[np.floating], k: int) -> sparse.csr_array:
    """Return the symmetric graph of the k nearest neighbours (Euclidean), float64 [n, n].

    An edge weighs 1 where each cell is a neighbour of the other, 1/2 where one is of the other. A
    cell is no neighbour of itself, also where others are equal to it.
    """
    from sklearn.neighbors import NearestNeighbors

    n = len(cells)
    k = min(k, n - 1)
    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(np.asarray(cells, np.float64))
    nearest = index.kneighbors(return_distance=False)
    directed = sparse.csr_array(
        (np.full(n * k, 0.5), nearest.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n)
    )
    return (directed + directed.T).tocsr()


def _conjugate_gradients(
    system: sparse.csr_array, wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Solve for all columns at once; the matrix is symmetric and positive definite."""
    solution = np.zeros_like(wanted)
    residual = wanted.copy()
    direction = residual.copy()
    left = np.einsum("ij,ij->j", residual, residual)
    goal = _TOLERANCE**2 * left
    for _ in range(_MAX_STEPS):
        open_ = left > goal
        if not open_.any():
            break
        image = system @ direction
        curvature = np.einsum("ij,ij->j", direction, image)
        step = np.divide(left, curvature, out=np.zeros_like(left), where=open_ & (curvature > 0))
        solution += step * direction
        residual -= step * image
        now = np.einsum("ij,ij->j", residual, residual)
        ratio = np.divide(now, left, out=np.zeros_like(left), where=open_ & (left > 0))
        direction = residual + ratio * direction
        left = np.where(open_, now, left)
    return solution
