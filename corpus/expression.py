"""Expression values: checked as they stream by, on a known scale, named by cell and gene where wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell.errors import ExpressionValueError, FileFormatError

__all__ = ["MAX_LOGNORM", "ValueKind", "ValueScan", "check_values", "recover_counts"]

ValueKind = Literal["counts", "lognorm"]
MAX_LOGNORM = 30.0  # log1p of 1e13: no normalised value gets there
_NEITHER = "neither counts nor log-normalised"


@dataclass
class ValueScan:
    """Checks and tidies a matrix block by block, and sums its columns on the way where asked to.

    Attributes
    ----------
    where
        What errors name; ``cell_names`` and ``gene_names`` where they are known.
    has_raw
        The file has another matrix, under ``raw``, that errors can point to.
    sum_columns
        Whether to keep ``totals``; it costs a third of the time.
    totals
        float64 [G]: the column sums so far.
    """

    where: Path
    n_genes: int
    has_raw: bool = False
    sum_columns: bool = False
    cell_names: Any = None
    gene_names: Any = None
    totals: npt.NDArray[np.float64] = field(init=False)
    rows: int = 0
    largest: float = 0.0
    whole: bool = True

    def __post_init__(self) -> None:
        self.totals = np.zeros(self.n_genes)

    def check(self, block: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the block with sorted, distinct columns and no stored zeros.

        Raises
        ------
        ExpressionValueError
            A value is negative or not finite, or fractions go beyond any logarithm.
        FileFormatError
            A column index lies outside the matrix.
        """
        block = _tidy(block, self.n_genes, self.where)
        values = block.data
        if values.size:
            # NaN passes through both, so that one look at the ends finds every bad value.
            if not (values.min() >= 0 and values.max() < np.inf):
                self._refuse(block)
            self.largest = max(self.largest, float(values.max()))
            self.whole = self.whole and np.array_equal(values, np.rint(values))
            if not self.whole and self.largest > MAX_LOGNORM:
                raise _neither(self.where, self.largest)
            if self.sum_columns:
                self.totals += np.bincount(block.indices, weights=values, minlength=self.n_genes)
            if not values.all():
                block.eliminate_zeros()
        self.rows += block.shape[0]
        return block

    def kind(self, declared: ValueKind | None) -> ValueKind:
        """Return the scale of all that was checked.

        Raises
        ------
        ExpressionValueError
            Nothing is above zero, or the scale is another than the declared one.
        """
        if not self.largest:
            raise ExpressionValueError(
                self.where,
                found="no value above zero",
                expected="expression of at least one gene",
                fix="Check the matrix, or choose another with --layer.",
            )
        found: ValueKind = "counts" if self.whole else "lognorm"
        if declared is not None and declared != found:
            looks = {
                "counts": "whole numbers, as counts are",
                "lognorm": "fractions, as log-normalised values are",
            }
            raise ExpressionValueError(
                self.where,
                found=looks[found],
                expected=f"the declared '{declared}'",
                fix=f"Say --values {found}, or choose the right matrix with --layer.",
            )
        return found

    def _refuse(self, block: sparse.csr_matrix) -> None:
        row, column, value = _first_bad(block)
        cell, gene = f"{self.rows + row}", f"column {column}"
        if self.cell_names is not None:
            cell += f" '{self.cell_names[self.rows + row]}'"
        if self.gene_names is not None:
            gene += f" '{self.gene_names[column]}'"
        raise _bad_value(f"{self.where} cell {cell}, {gene}", value, self.has_raw)


def check_values(
    block: sparse.csr_matrix, path: Path, first_row: int, has_raw: bool = False
) -> ValueKind:
    """Say on which scale a block is; negative or non-finite values are refused.

    Whole numbers are ``counts``; anything else up to 30 is ``lognorm``.
    """
    values = block.data
    if values.size and not (values.min() >= 0 and values.max() < np.inf):
        row, column, value = _first_bad(block)
        raise _bad_value(f"{path} cell {first_row + row}, column {column}", value, has_raw)
    if np.array_equal(values, np.rint(values)):
        return "counts"
    if values.max() > MAX_LOGNORM:
        raise _neither(path, float(values.max()))
    return "lognorm"


def recover_counts(lognorm: sparse.csr_matrix) -> sparse.csr_matrix:
    """Undo log1p and depth normalisation: expm1 over each cell's smallest non-zero value, rounded.

    Exact where the smallest non-zero value of a cell stands for one molecule; "near-counts" otherwise.
    """
    counts = lognorm.tocsr(copy=True).astype(np.float64)
    counts.data = np.expm1(counts.data)
    for row in range(counts.shape[0]):
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        if counts.data[part].size:
            counts.data[part] = np.rint(counts.data[part] / counts.data[part].min())
    return counts.astype(np.float32)


def kept_columns(
    blocks: Iterator[sparse.csr_matrix], new_column: npt.NDArray[np.int32]
) -> Iterator[sparse.csr_matrix]:
    """Yield the blocks with columns renumbered; those whose new number is -1 are left out.

    Parameters
    ----------
    new_column
        int32 [G], ascending where it is not -1, so that sorted columns stay sorted.
    """
    n_kept = int(new_column.max(initial=-1)) + 1
    if n_kept == len(new_column):
        yield from blocks
        return
    for block in blocks:
        columns = new_column[block.indices]
        kept = columns >= 0
        ends = np.concatenate([[0], np.cumsum(kept)])[block.indptr]
        yield sparse.csr_matrix(
            (block.data[kept], columns[kept], ends), shape=(block.shape[0], n_kept)
        )


def _tidy(block: sparse.csr_matrix, n_genes: int, where: Path) -> sparse.csr_matrix:
    columns = block.indices
    if columns.size and (columns.min() < 0 or columns.max() >= n_genes):
        raise FileFormatError(
            where,
            found=f"the column {int(columns.max())} in a matrix of {n_genes} genes",
            expected="a whole file",
            fix="Copy or download the file again.",
        )
    steps = columns[1:] > columns[:-1]
    # Columns ascend within a row; from one row to the next they may fall back.
    begins = block.indptr[1:-1]
    steps[begins[(begins > 0) & (begins < columns.size)] - 1] = True
    if not steps.all():
        block.has_sorted_indices = block.has_canonical_format = False
        block.sum_duplicates()
    return block


def _first_bad(block: sparse.csr_matrix) -> tuple[int, int, float]:
    values = block.data
    at = int(np.flatnonzero(~np.isfinite(values) | (values < 0))[0])
    row = int(np.searchsorted(block.indptr, at, side="right")) - 1
    return row, int(block.indices[at]), float(values[at])


def _bad_value(where: str, value: float, has_raw: bool) -> ExpressionValueError:
    fix = "Use the matrix before scaling: counts, or log1p of normalised counts."
    if has_raw:
        fix = "The file has a '.raw' matrix: try --layer raw."
    return ExpressionValueError(
        where, found=f"the value {value:g}", expected="finite values, zero or more", fix=fix
    )


def _neither(path: Path, largest: float) -> ExpressionValueError:
    return ExpressionValueError(
        path,
        found=f"fractions and values up to {largest:g}: {_NEITHER}",
        expected="whole-number counts, or log1p of normalised counts",
        fix="Apply scanpy.pp.log1p, or store the counts before any correction.",
    )
