"""Marker genes of the labels of a file, from its own matrix, in one pass over blocks of cells."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell import console
from okrcell.corpus.expression import check_values
from okrcell.corpus.formats import CellSource, reading
from okrcell.corpus.gene_columns import best_columns, resolve_columns
from okrcell.corpus.genes import gene_symbols

__all__ = ["N_MARKERS", "marker_genes"]

N_MARKERS = 10
_DEPTH = 1e4
_LEAST_FRACTION = 0.15
"""A gene that fewer of a label's cells show is no marker of it, however rare elsewhere."""

_HOUSEKEEPING = re.compile(r"MT-|MTRNR|RP[LS]\d|RP[LS]A|MALAT1$|NEAT1$|HSP[AB]|ACTB$|B2M$|EEF1A1$")


def marker_genes(
    source: CellSource, codes: npt.NDArray[np.int32], n_labels: int
) -> list[tuple[str, ...]]:
    """Return up to ten gene symbols per label, the best first.

    Values are log1p of counts per 10,000 (log-normalised values are taken as they are). A gene's score
    is the difference of its mean in the label's cells and its mean in all others, times the share of
    the label's cells that show it.

    Parameters
    ----------
    codes
        int32 [N]: the label of each cell.

    Raises
    ------
    FileFormatError, ExpressionValueError, GeneCoverageError
        The matrix cannot be read, holds no expression values, or names no human genes.
    """
    layer = "X" if "X" in source.layers else next(iter(source.layers), "X")
    var = source.var(layer)
    names, _ = best_columns(var, source.path, 0.0)
    sums = np.zeros((n_labels, len(names)))
    shown = np.zeros((n_labels, len(names)))
    totals = np.zeros(len(names))
    at, kind = 0, ""
    with (
        tempfile.TemporaryDirectory(prefix="okrcell-") as scratch,
        console.progress("markers", len(codes), "cells") as advance,
        reading(source.path, f"values of '{layer}'"),
    ):
        for raw in source.blocks(layer, Path(scratch)):
            block = sparse.csr_matrix(raw, dtype=np.float32)
            block.sum_duplicates()
            found = check_values(block, source.path, at, has_raw="raw" in source.layers)
            # Whole numbers alone may be a block of zeros and ones of a scaled file: the first counts.
            kind = kind or found
            totals += np.asarray(block.sum(axis=0), dtype=np.float64).ravel()
            if kind == "counts":
                block = _log_normalised(block)
            mine = codes[at : at + block.shape[0]]
            members = sparse.csr_matrix(
                (np.ones(len(mine), dtype=np.float32), (mine, np.arange(len(mine)))),
                shape=(n_labels, len(mine)),
            )
            sums += (members @ block).toarray()
            block.data = (block.data > 0).astype(np.float32)
            shown += (members @ block).toarray()
            at += block.shape[0]
            advance(block.shape[0])
    genes = resolve_columns(var, names, totals)
    columns = np.flatnonzero(genes.kept >= 0)
    symbols = np.array(gene_symbols(genes.gene_ids), dtype=object)
    return _best(
        sums[:, columns], shown[:, columns], np.bincount(codes, minlength=n_labels), symbols
    )


def _log_normalised(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    scale = _DEPTH / np.maximum(depth, 1.0)
    out = counts.astype(np.float64)
    out.data = np.log1p(out.data * np.repeat(scale, np.diff(out.indptr)))
    return out


def _best(
    sums: npt.NDArray[np.float64],
    shown: npt.NDArray[np.float64],
    n_cells: npt.NDArray[np.int64],
    symbols: npt.NDArray[np.object_],
) -> list[tuple[str, ...]]:
    usual = np.array([bool(_HOUSEKEEPING.match(str(s))) for s in symbols], dtype=bool)
    found = []
    for label, n in enumerate(n_cells):
        others = max(int(n_cells.sum() - n), 1)
        fraction = shown[label] / max(int(n), 1)
        difference = sums[label] / max(int(n), 1) - (sums.sum(axis=0) - sums[label]) / others
        score = np.where((fraction >= _LEAST_FRACTION) & ~usual, difference * fraction, 0.0)
        # Rounded: the order of additions differs between machines in the last digits.
        ranked = sorted(
            (-round(float(score[g]), 6), str(symbols[g])) for g in np.flatnonzero(score > 1e-6)
        )
        found.append(tuple(symbol for _, symbol in ranked[:N_MARKERS]))
    return found
