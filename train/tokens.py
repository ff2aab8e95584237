"""Cells to packed tokens: non-zero genes and their binned values, some of them hidden.

There is no loop over cells: the tokens of some tens of cells, few enough to stay in a core's cache,
are handled as one line of numbers. Every cell has a slot for its ``<cls>`` from the start, so that no
cell is empty. All that is random is a hash of (key, pair, token): neither the batch a cell is in,
nor the process that reads it, nor the order of its genes matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from okrcell.corpus.shards import CellMatrix
from okrcell.errors import GeneCoverageError
from okrcell.train.batch import PackedCells
from okrcell.train.hashing import cell_seeds, hashes

__all__ = ["CLS", "N_SPECIAL", "PAD", "column_tokens", "concatenate", "gather", "tokenise"]

PAD, CLS, N_SPECIAL = 0, 1, 2

_Ints = npt.NDArray[np.int64]
_U64 = npt.NDArray[np.uint64]
_CHOICE, _HIDING = 1, 2
_PIECE = 1 << 16


def column_tokens(gene_ids: Sequence[str], vocabulary: Mapping[str, int], where: str) -> _Ints:
    """Return int64 [G]: the index of each column in the vocabulary, or -1 for genes outside it.

    Raises
    ------
    GeneCoverageError
        No gene of the data is known to the model.
    """
    tokens = np.array([vocabulary.get(gene_id, -1) for gene_id in gene_ids], dtype=np.int64)
    if not (tokens >= 0).any():
        raise GeneCoverageError(
            where,
            found=f"none of its {len(gene_ids)} genes in the model's vocabulary",
            expected=f"some of the {len(vocabulary)} genes the model was trained on",
            fix="Use data of the same species with Ensembl ids or symbols.",
        )
    return tokens


def tokenise(
    cells: CellMatrix,
    rows: _Ints,
    columns: _Ints,
    *,
    n_bins: int,
    max_genes: int,
    key: int | None,
    ids: _Ints | None = None,
    mask_ratio: float = 0.0,
) -> PackedCells:
    """Tokenise some rows of a matrix; a cell's genes keep the order of their columns.

    Values are log1p-transformed where they are counts and cut into ``n_bins`` intervals of equal
    width between the smallest and the largest value among the cell's tokens (paper, cell encoder);
    equal values are in bin 1.

    Parameters
    ----------
    rows
        int64 [B].
    columns
        int64 [G], result of :func:`column_tokens`.
    max_genes
        Of a cell with more known non-zero genes, a random choice of so many is taken.
    key
        What the random choices depend on, beside ``ids`` and the genes. None (inference) hides
        nothing, and chooses by the genes alone.
    ids
        int64 [B], number of each cell's pair; the row where None.
    mask_ratio
        Chance of each chosen gene to be hidden, in [0, 1].

    Returns
    -------
    PackedCells
        On the CPU. A cell without a known gene is a lone ``CLS``, and so is one of which all genes
        are hidden.
    """
    token_of = (columns + N_SPECIAL).astype(np.int32)
    token_of[columns < 0] = PAD
    ids = rows if ids is None else ids
    choice = cell_seeds(key, _CHOICE, ids if key is not None else np.zeros_like(rows))
    hiding = cell_seeds(key, _HIDING, ids) if key is not None and mask_ratio > 0 else None
    parts = []
    for piece in _pieces(cells, rows):
        genes, values, counts = gather(cells, rows[piece], token_of)
        genes, values, counts = _choose(genes, values, counts, max_genes, choice[piece])
        bins = _bins(values, counts, n_bins, logged=cells.values != "counts")
        hidden = None if hiding is None else _below(mask_ratio, genes, counts, hiding[piece])
        parts.append(_packed(genes, bins, counts, hidden))
    return _joined(parts)


def gather(
    cells: CellMatrix, rows: _Ints, token_of: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], _Ints]:
    """Return the known non-zero entries of some rows, each row behind one slot for ``CLS``.

    Parameters
    ----------
    token_of
        int32 [G]: token of each column; entries of columns with ``PAD`` are left out.

    Returns
    -------
    tokens
        int32 [M]: ``CLS``, then the row's tokens.
    values
        float32 [M], of no meaning at ``CLS``.
    counts
        int64 [B]: entries per row, with ``CLS``.
    """
    matrix = cells.matrix
    starts = matrix.indptr[rows].astype(np.int64)
    counts = matrix.indptr[rows + 1] - starts + 1
    begins = np.cumsum(counts) - counts
    if not len(matrix.data):
        return np.full(len(rows), CLS, dtype=np.int32), np.zeros(len(rows), np.float32), counts
    # The slot of CLS borrows the entry before the row. Clipping is for row 0, which has none before
    # it, and it spares numpy a check of each place.
    at = np.repeat(starts - 1 - begins, counts)
    at += np.arange(len(at))
    tokens = token_of.take(matrix.indices.take(at, mode="clip"), mode="clip")
    values = matrix.data.take(at, mode="clip")
    values[begins] = 1
    tokens[begins] = CLS
    kept = tokens != PAD
    if not values.all():  # zeros that are stored
        kept &= values != 0
    if kept.all():
        return tokens, values, counts
    index, counts = _kept(kept, begins)
    return tokens.take(index), values.take(index), counts


def concatenate(parts: Sequence[PackedCells]) -> PackedCells:
    """Return the cells of all parts, one after the other; on the CPU."""
    return _joined([tuple(field.numpy() for field in part) for part in parts])


def _joined(parts: Sequence[tuple[npt.NDArray[Any], ...]]) -> PackedCells:
    """Join fields of ``PackedCells``. By numpy: torch would start threads of its own for it."""
    if not parts:
        ints, longs = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64)
        parts = [(ints, ints, longs, ints, ints, longs)]
    fields = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
    return PackedCells(*map(torch.from_numpy, fields))


def _pieces(cells: CellMatrix, rows: _Ints) -> Iterator[slice]:
    """Cut rows where their entries would outgrow the cache; at least one row each."""
    ends = np.cumsum(cells.matrix.indptr[rows + 1].astype(np.int64) - cells.matrix.indptr[rows] + 1)
    begin, done = 0, 0
    while begin < len(rows):
        stop = max(begin + 1, int(np.searchsorted(ends, done + _PIECE, side="right")))
        yield slice(begin, stop)
        begin, done = stop, int(ends[stop - 1])


def _kept(kept: npt.NDArray[np.bool_], begins: _Ints) -> tuple[_Ints, _Ints]:
    """Return the places of what is kept, and how many there are per cell."""
    index = np.flatnonzero(kept)
    ends = np.append(np.searchsorted(index, begins), len(index))
    return index, ends[1:] - ends[:-1]


def _choose(
    genes: npt.NDArray[np.int32],
    values: npt.NDArray[np.float32],
    counts: _Ints,
    max_genes: int,
    seeds: _U64,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], _Ints]:
    """Keep the ``max_genes`` genes of smallest hash of every cell that has more."""
    long = counts > max_genes + 1
    if not long.any():
        return genes, values, counts
    begins = np.cumsum(counts) - counts
    of_long = np.repeat(long, counts)
    sizes = counts[long]
    drawn = hashes(genes[of_long], sizes, seeds[long])
    drawn[np.cumsum(sizes) - sizes] = 0  # CLS is always kept
    table = np.full((len(sizes), int(sizes.max())), np.iinfo(np.uint32).max, dtype=np.uint32)
    table[np.arange(table.shape[1]) < sizes[:, None]] = drawn
    # Within a cell no two hashes are equal: they are a bijection of the token.
    most = np.partition(table, max_genes, axis=1)[:, max_genes]
    kept = np.ones(len(genes), dtype=bool)
    kept[of_long] = drawn <= np.repeat(most, sizes)
    index, counts = _kept(kept, begins)
    return genes.take(index), values.take(index), counts


def _bins(
    values: npt.NDArray[np.float32], counts: _Ints, n_bins: int, *, logged: bool
) -> npt.NDArray[np.int32]:
    """Return int32 [M]: 1 to n_bins, 0 at ``CLS``. In float64, so that edges do not move."""
    begins = np.cumsum(counts) - counts
    scaled = values.astype(np.float64) if logged else np.log1p(values, dtype=np.float64)
    # The slot of CLS must be neither the smallest nor the largest: it takes its neighbour's value.
    scaled[begins] = scaled[np.minimum(begins + (counts > 1), len(scaled) - 1)]
    low = np.minimum.reduceat(scaled, begins)
    span = np.maximum.reduceat(scaled, begins) - low
    span[span == 0] = 1  # all values are equal: all are 0 above the smallest
    scaled -= np.repeat(low, counts)
    scaled /= np.repeat(span, counts)
    scaled *= n_bins
    bins = scaled.astype(np.int32)
    np.minimum(bins, n_bins - 1, out=bins)
    bins += 1
    bins[begins] = 0
    return bins


def _below(
    ratio: float, genes: npt.NDArray[np.int32], counts: _Ints, seeds: _U64
) -> npt.NDArray[np.bool_]:
    """Return bool [M]: which genes are hidden, never ``CLS``."""
    if ratio >= 1:
        hidden = np.ones(len(genes), dtype=bool)
    else:
        hidden = hashes(genes, counts, seeds) < np.uint32(ratio * 2.0**32)
    hidden[np.cumsum(counts) - counts] = False
    return hidden


def _packed(
    genes: npt.NDArray[np.int32],
    bins: npt.NDArray[np.int32],
    counts: _Ints,
    hidden: npt.NDArray[np.bool_] | None,
) -> tuple[npt.NDArray[Any], ...]:
    """Return the fields of ``PackedCells``."""
    if hidden is None:
        none = np.zeros(0, dtype=np.int32)
        return genes, bins, counts, none, none, np.zeros_like(counts)
    begins = np.cumsum(counts) - counts
    index, n_hidden = _kept(hidden, begins)
    known = np.flatnonzero(~hidden)
    return (
        *(genes.take(known), bins.take(known), counts - n_hidden),
        *(genes.take(index), bins.take(index), n_hidden),
    )
