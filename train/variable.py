"""Variable genes of the training cells, and cells as rows of their log-normalised values.

Label-free: only counts are read. Cells are read block by block.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from okrcell.corpus.expression import ValueKind
from okrcell.corpus.marker_table import marker_genes
from okrcell.corpus.shards import CellMatrix
from okrcell.errors import TrainingError
from okrcell.train.tokens import N_SPECIAL, PAD, gather

if TYPE_CHECKING:
    from okrcell.train.data import Pairs

__all__ = ["PER_CELL", "choose_variable", "dense", "with_variable"]

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]

PER_CELL = 1e4
"""Counts that a cell is scaled to."""

_BLOCK = 2_048
_MOST_CELLS = 100_000
_MIN_CELLS = 3
_MEAN_BINS = 20


def with_variable(pairs: Pairs, n: int, *, markers: bool = False) -> Pairs:
    """Return the pairs with ``variable`` set, by :func:`choose_variable` where it is not.

    Parameters
    ----------
    markers
        Add the genes that the shipped table names as markers, where some training cell measured them.
        Genes that vary in one file only are seldom among the ``n``, and a type's markers often are such.
    """
    if pairs.variable is not None:
        return pairs
    chosen = choose_variable(pairs, n)
    if markers:
        known = [at for at, gene in enumerate(pairs.vocabulary) if gene in marker_genes()]
        chosen = np.union1d(chosen, np.array(known, dtype=np.int64))
    return replace(pairs, variable=chosen)


def choose_variable(pairs: Pairs, n: int) -> _Ints:
    """Return int64 [at most n], sorted indices into the vocabulary: the most variable genes.

    Per dataset, genes that at least three cells express are ranked by normalised dispersion: the
    logarithm of variance over mean of counts per 10,000, standardised among genes of similar mean
    (Satija et al. 2015; scanpy's flavour ``seurat``). Genes among the first ``n`` of more datasets
    come first, then those of better mean rank. Of a dataset with more than 100,000 cells so many,
    evenly spaced, are read.

    Raises
    ------
    TrainingError
        No gene is expressed.
    """
    n_genes = len(pairs.vocabulary)
    leads = np.zeros(n_genes, dtype=np.int64)
    ranks, n_ranked = np.zeros(n_genes), np.zeros(n_genes, dtype=np.int64)
    for number in range(len(pairs.matrices)):
        rows = pairs.row[pairs.dataset == number]
        rows = rows[:: -(-len(rows) // _MOST_CELLS) or 1]
        genes, score = _dispersion(pairs.matrices[number], rows, pairs.columns[number], n_genes)
        order = genes[np.lexsort((genes, -score))]
        leads[order[:n]] += 1
        ranks[order] += np.arange(len(order))
        n_ranked[order] += 1
    found = np.flatnonzero(n_ranked)
    if not len(found):
        raise TrainingError(
            "training cells",
            found="no expressed gene of the vocabulary",
            expected=f"genes that at least {_MIN_CELLS} cells express",
            fix="Import more cells, or check that the files hold expression.",
        )
    mean_rank = ranks[found] / n_ranked[found]
    best: _Ints = found[np.lexsort((found, mean_rank, -leads[found]))[:n]]
    return np.sort(best)


def dense(
    cells: CellMatrix,
    rows: _Ints,
    columns: _Ints,
    chosen: _Ints,
    values: ValueKind | None = None,
    *,
    missing: float = 0.0,
) -> npt.NDArray[np.float32]:
    """Return float32 [n, G]: log1p of counts per 10,000; log-normalised data as they are.

    Parameters
    ----------
    rows
        int64 [n].
    columns
        int64, vocabulary index of each column of the matrix, -1 for genes outside; a cell's total
        is over the genes inside.
    chosen
        int64 [G], vocabulary indices, as from :func:`choose_variable`.
    values
        Kind of the values, if not ``cells.values``.
    missing
        Stands for genes of ``chosen`` that no column holds: they were not measured, which is not the
        same as not expressed. The tower ``mlp`` is given NaN where it standardises.
    """
    out = np.zeros((len(rows), len(chosen)), dtype=np.float32)
    if missing != 0:
        out[:, ~np.isin(chosen, columns)] = missing
    slots = np.full(max(int(columns.max(initial=0)), int(chosen.max(initial=0))) + 1, -1)
    slots[chosen] = np.arange(len(chosen))
    slot_of_column = np.where(columns >= 0, slots[columns], -1)
    # Tokens here are columns of the matrix, so that genes outside the vocabulary can be left out.
    column_tokens = np.arange(N_SPECIAL, len(columns) + N_SPECIAL, dtype=np.int32)
    column_tokens[columns < 0] = PAD
    for begin in range(0, len(rows), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        tokens, found, counts = _normalised(cells, rows[block], column_tokens, values, log=True)
        slot = slot_of_column[tokens - N_SPECIAL]
        row = np.repeat(np.arange(begin, begin + len(counts)), counts)
        slot[np.cumsum(counts) - counts] = -1
        kept = np.flatnonzero(slot >= 0)
        out[row[kept], slot[kept]] = found[kept]
    return out


def _normalised(
    cells: CellMatrix,
    rows: _Ints,
    token_of: npt.NDArray[np.int32],
    kind: ValueKind | None = None,
    *,
    log: bool,
) -> tuple[npt.NDArray[np.int32], _Floats, _Ints]:
    """Return tokens, counts per 10,000 (their log1p with ``log``) and entries per cell.

    The first entry of each cell belongs to no gene, and is 0.
    """
    tokens, values, counts = gather(cells, rows, token_of)
    begins = np.cumsum(counts) - counts
    scaled = values.astype(np.float64)
    scaled[begins] = 0
    if (kind or cells.values) == "counts":
        totals = np.add.reduceat(scaled, begins) if len(begins) else scaled
        scaled *= np.repeat(PER_CELL / np.where(totals > 0, totals, 1), counts)
        return tokens, np.log1p(scaled, out=scaled) if log else scaled, counts
    return tokens, scaled if log else np.expm1(scaled, out=scaled), counts


def _dispersion(
    cells: CellMatrix, rows: _Ints, columns: _Ints, n_genes: int
) -> tuple[_Ints, _Floats]:
    """Return the expressed genes of a dataset and their normalised dispersion."""
    token_of = (columns + N_SPECIAL).astype(np.int32)
    token_of[columns < 0] = PAD
    total, squares = np.zeros(n_genes + N_SPECIAL), np.zeros(n_genes + N_SPECIAL)
    expressed = np.zeros(n_genes + N_SPECIAL, dtype=np.int64)
    for begin in range(0, len(rows), _BLOCK):
        tokens, values, _ = _normalised(cells, rows[begin : begin + _BLOCK], token_of, log=False)
        total += np.bincount(tokens, values, minlength=len(total))
        squares += np.bincount(tokens, values * values, minlength=len(total))
        expressed += np.bincount(tokens, minlength=len(total))
    genes = np.flatnonzero(expressed[N_SPECIAL:] >= max(1, min(_MIN_CELLS, len(rows))))
    if not len(genes):
        return genes, np.zeros(0)
    mean = total[N_SPECIAL:][genes] / len(rows)
    variance = squares[N_SPECIAL:][genes] / len(rows) - mean**2
    variance *= len(rows) / max(1, len(rows) - 1)
    dispersion = np.log(np.maximum(variance, 1e-12) / mean)
    return genes, _standardised(dispersion, np.log1p(mean))


def _standardised(dispersion: _Floats, mean: _Floats) -> _Floats:
    """Standardise within 20 intervals of the mean; a gene alone in its interval gets 1."""
    edges = np.linspace(mean.min(), mean.max(), _MEAN_BINS + 1)
    bin_of = np.clip(np.searchsorted(edges, mean, side="left") - 1, 0, _MEAN_BINS - 1)
    size = np.bincount(bin_of, minlength=_MEAN_BINS)
    centre = np.bincount(bin_of, dispersion, minlength=_MEAN_BINS) / np.maximum(size, 1)
    square = np.bincount(bin_of, (dispersion - centre[bin_of]) ** 2, minlength=_MEAN_BINS)
    spread = np.sqrt(square / np.maximum(size - 1, 1))
    scaled = (dispersion - centre[bin_of]) / np.where(spread > 0, spread, 1)[bin_of]
    return np.asarray(np.where(size[bin_of] > 1, scaled, 1.0))
