"""Cells as a shallower run, or one of fewer genes, would have measured them: anew every epoch.

Files differ in depth, chemistry and gene panel more than cells of one file do. A model that has seen
each cell at many depths and through many panels leans less on either.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell.corpus.shards import CellMatrix
from okrcell.train.config import TrainConfig
from okrcell.train.hashing import cell_seeds, hashes

__all__ = ["augmented"]

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]
_SHARES, _GENES, _MOLECULES = 11, 12, 13
_ONE_BY_ONE = 32
"""Counts above it are thinned by the normal approximation of the binomial."""


def augmented(
    cells: CellMatrix, rows: _Ints, ids: _Ints, key: int, config: TrainConfig
) -> tuple[CellMatrix, _Ints]:
    """Return some rows of a matrix, harmed on purpose, and where they stand in what is returned.

    ``gene_dropout``
        Of each cell a share of all genes, drawn evenly from 0 to this one, is set to 0.
    ``thinning``
        Of each cell a share of the molecules is kept, drawn log-evenly from this one to 1; every
        molecule has the same chance. The part of a count beyond its whole number is a molecule of that
        weight. Log-normalised values are left as they are: they have no molecules.

    What is drawn is a hash of (key, pair, gene): the same in any batch and on any process. Without
    either key the cells are returned as they came.

    Parameters
    ----------
    rows
        int64 [B].
    ids
        int64 [B], number of each cell's pair.
    key
        Of the epoch.
    """
    thin = config.thinning < 1 and cells.values == "counts"
    if not len(rows) or not (thin or config.gene_dropout):
        return cells, rows
    part = sparse.csr_matrix(cells.matrix[rows])
    counts = np.diff(part.indptr).astype(np.int64)
    genes = part.indices.astype(np.int32)
    drawn = _shares(key, ids)
    values = part.data.astype(np.float64)
    if config.gene_dropout:
        lost = np.repeat(config.gene_dropout * drawn[0], counts)
        values[_uniform(key, _GENES, ids, genes, counts) < lost] = 0
    if thin:
        kept = np.repeat(config.thinning ** drawn[1], counts)
        values = _thinned(values, kept, _uniform(key, _MOLECULES, ids, genes, counts))
    made = sparse.csr_matrix(
        (values.astype(np.float32), part.indices, part.indptr), shape=part.shape
    )
    return CellMatrix(made, cells.gene_ids, cells.values), np.arange(len(rows))


def _shares(key: int, ids: _Ints) -> _Floats:
    """Return float64 [2, B], in [0, 1): two draws per cell."""
    seeds = cell_seeds(key, _SHARES, ids)
    halves = np.stack([seeds >> np.uint64(32), seeds & np.uint64(0xFFFFFFFF)])
    return np.asarray(halves / 2.0**32)


def _uniform(
    key: int, purpose: int, ids: _Ints, genes: npt.NDArray[np.int32], counts: _Ints
) -> _Floats:
    """Return float64 [M], in [0, 1): a draw per entry."""
    return np.asarray(hashes(genes, counts, cell_seeds(key, purpose, ids)) / 2.0**32)


def _thinned(values: _Floats, kept: _Floats, drawn: _Floats) -> _Floats:
    """Return float64 [M]: what is left of each value, every molecule being kept with a chance.

    One draw per entry picks from the binomial's distribution function, walked from below; a count
    above 32 is drawn from the normal distribution of the same mean and variance.
    """
    whole = np.floor(values)
    left = np.zeros_like(values)
    many = whole > _ONE_BY_ONE
    if many.any():
        from scipy.special import ndtri

        mean = whole[many] * kept[many]
        spread = np.sqrt(mean * (1 - kept[many]))
        found = np.rint(mean + spread * ndtri(np.clip(drawn[many], 1e-9, 1 - 1e-9)))
        left[many] = np.clip(found, 0, whole[many])
    few = np.flatnonzero(~many & (whole > 0))
    n, p, u = whole[few], kept[few], drawn[few]
    chance = (1 - p) ** n  # of none left
    below = np.zeros_like(chance)
    for k in range(_ONE_BY_ONE + 1):
        below += chance
        more = u >= below
        if not more.any():
            break
        few = few[more]
        n, p, u, chance, below = (x[more] for x in (n, p, u, chance, below))
        left[few] = np.minimum(k + 1, n)
        with np.errstate(divide="ignore", invalid="ignore"):
            chance = np.where(p < 1, chance * (n - k) / (k + 1) * p / (1 - p), 0.0)
    rest = values - whole
    at = rest > 0
    # The last part of a molecule stays or goes as one; the draw's fine digits are fresh enough.
    left[at] += np.where((drawn[at] * 65_537.0) % 1.0 < kept[at], rest[at], 0.0)
    return left
