"""Neighbours of cells by expression, in the whole file or within each batch, and scores smoothed over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from okrcell.corpus.shards import CellMatrix
from okrcell.evaluate.apply.cells import Sample
from okrcell.evaluate.refine import smoother_on
from okrcell.train.data import Pairs
from okrcell.train.graph import components, nearest

__all__ = ["LEAST_CELLS", "expression_basis", "graph_of", "groups_of", "smooth_within"]

Vectors = npt.NDArray[np.float32]
_Ints = npt.NDArray[np.int64]
Smooth = Callable[[Vectors], Vectors]

N_NEIGHBOURS = 15
LEAST_CELLS = 50
"""A batch of fewer cells has no neighbours worth the name: such batches are taken together."""

_N_GENES = 2000
_N_COMPONENTS = 30
_SEED = 0
_COLUMNS = 128


def groups_of(sample: Sample, by_batch: bool) -> list[_Ints]:
    """Return the rows, ascending, within which cells are compared with each other: int64, several.

    Cells without any value belong to no group.
    """
    filled = np.flatnonzero(~sample.empty)
    if not by_batch or sample.batches is None:
        return [filled]
    names, code = np.unique(sample.batches[filled], return_inverse=True)
    sizes = np.bincount(code, minlength=len(names))
    small = np.isin(code, np.flatnonzero(sizes < LEAST_CELLS))
    groups = [filled[code == at] for at in np.flatnonzero(sizes >= LEAST_CELLS)]
    return [*groups, *([filled[small]] if small.any() else [])]


def expression_basis(cells: CellMatrix, rows: _Ints) -> Vectors:
    """Return float32 [n, P]: principal components of log-normalised variable genes, rows of length 1."""
    n = len(rows)
    zeros = np.zeros(n, dtype=np.int64)
    pairs = Pairs(
        cell_uids=pa.chunked_array([pa.nulls(n, pa.string())]),
        dataset=zeros,
        row=rows,
        text=zeros,
        texts=(),
        prior=np.ones(n, dtype=np.float32),
        cell_type=zeros,
        cell_types=(),
        donor=zeros,
        donors=(),
        clean=np.ones(n, dtype=np.bool_),
        n_without_text=0,
        matrices=(cells,),
        columns=(np.arange(len(cells.gene_ids)),),
        vocabulary=cells.gene_ids,
    )
    return components(pairs, _N_GENES, min(_N_COMPONENTS, max(n - 1, 1)), seed=_SEED)


def graph_of(basis: Vectors) -> sparse.csr_array | None:
    """Return the symmetric graph of the 15 nearest neighbours by cosine, float64 [n, n].

    An edge weighs 1 where each cell is a neighbour of the other, else 1/2. None for fewer than three
    cells.
    """
    n = len(basis)
    if n < 3:
        return None
    found, _ = nearest(basis, min(N_NEIGHBOURS, n - 1), seed=_SEED)
    rows, places = np.nonzero(found >= 0)
    columns = found[rows, places].astype(np.int64)
    directed = sparse.csr_array((np.full(len(rows), 0.5), (rows, columns)), shape=(n, n))
    return (directed + directed.T).tocsr()


def smooth_within(groups: Sequence[_Ints], graphs: Sequence[sparse.csr_array | None]) -> Smooth:
    """Return a function of scores [N, T] that smooths them in place, within each group of rows (GRIT)."""
    each = [
        (rows, smoother_on(graph, len(rows))) for rows, graph in zip(groups, graphs, strict=True)
    ]

    def smooth(scores: Vectors) -> Vectors:
        for rows, smoother in each:
            for begin in range(0, scores.shape[1], _COLUMNS):  # they may stand in a file
                block = slice(begin, begin + _COLUMNS)
                scores[rows, block] = smoother(np.asarray(scores[rows, block], dtype=np.float32))
        return scores

    return smooth
