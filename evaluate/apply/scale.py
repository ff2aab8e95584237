"""On which scale each cell of a file is: counts or log-normalised values, and never a mixture.

Files that were joined from several sources can hold counts in one batch and log-normalised values in
another. Reading either as the other would move every cell of a batch, so a mixture is refused, with
the batches by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell.corpus.expression import MAX_LOGNORM, ValueKind, check_values
from okrcell.errors import ExpressionValueError, FileFormatError

__all__ = ["CellScale"]

_NAMED = 4
_TINY = 5


class CellScale:
    """Checks a matrix block by block, and remembers of each cell what tells its scale.

    Parameters
    ----------
    where
        The file; errors name it.
    names
        Names of the N cells.
    has_raw
        The file has another matrix, under ``raw``, that errors can point to.

    Attributes
    ----------
    rows
        Cells that were checked.
    n_genes
        int32 [N]: genes above zero, of all columns of the file.
    whole
        bool [N]: every value is a whole number.
    largest
        float32 [N].
    has_fractions
        After :meth:`kind`: counts of which some are no whole numbers.
    """

    def __init__(self, where: Path, names: Any, n_columns: int, *, has_raw: bool) -> None:
        self.where, self.names, self.n_columns, self.has_raw = where, names, n_columns, has_raw
        self.rows, self.has_fractions = 0, False
        self.n_genes = np.zeros(len(names), dtype=np.int32)
        self.whole = np.ones(len(names), dtype=bool)
        self.largest = np.zeros(len(names), dtype=np.float32)
        self.totals = np.zeros(n_columns)

    def check(self, block: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the block with sorted, distinct columns and no stored zeros.

        Raises
        ------
        ExpressionValueError
            A value is negative or not finite.
        FileFormatError
            A column outside the matrix, or more rows than cells.
        """
        stop = self.rows + block.shape[0]
        columns = block.indices
        if stop > len(self.names) or (
            columns.size and (columns.min() < 0 or columns.max() >= self.n_columns)
        ):
            raise FileFormatError(
                self.where,
                found="a matrix that does not fit its tables of cells and genes",
                expected="one row per cell and one column per gene",
                fix="Write the file again; its parts do not fit together.",
            )
        block.has_sorted_indices = block.has_canonical_format = False
        block.sum_duplicates()
        values = block.data
        if values.size and not (values.min() >= 0 and values.max() < np.inf):
            self._refuse(block)
        if not values.all():
            block.eliminate_zeros()
            values = block.data
        counts = np.diff(block.indptr)
        self.n_genes[self.rows : stop] = counts
        filled = np.flatnonzero(counts)
        if len(filled):
            begins = block.indptr[:-1][filled]
            self.largest[self.rows + filled] = np.maximum.reduceat(values, begins)
            broken = (values != np.rint(values)).astype(np.int8)
            self.whole[self.rows + filled] = np.maximum.reduceat(broken, begins) == 0
            self.totals += np.bincount(columns_of(block), weights=values, minlength=self.n_columns)
        self.rows = stop
        return block

    def kind(self, batches: npt.NDArray[np.str_] | None, column: str) -> ValueKind:
        """Return the scale of all cells.

        Whole numbers are counts, and so are fractions of a batch (of the file, where no batch is
        known) whose largest value no logarithm reaches: counts that were corrected or estimated.

        Parameters
        ----------
        batches
            The batch of each cell, where one is known, and the ``column`` that says it.

        Raises
        ------
        ExpressionValueError
            No value above zero; counts in some cells and log values in others.
        """
        filled = self.n_genes > 0
        if not filled.any():
            raise ExpressionValueError(
                self.where,
                found="no value above zero in any cell",
                expected="expression of at least one gene",
                fix="Check the matrix, or choose another with --layer.",
            )
        linear = self._is_linear(filled, batches)
        tiny = self.whole & (self.n_genes < _TINY)  # a few ones tell neither scale
        logs, counts = filled & ~linear & ~tiny, filled & linear & ~tiny
        if not logs.any():
            self.has_fractions = bool((filled & ~self.whole).any())
            return "counts"
        if counts.any():
            raise self._mixed(counts, logs, batches, column)
        return "lognorm"

    def _is_linear(
        self, filled: npt.NDArray[np.bool_], batches: npt.NDArray[np.str_] | None
    ) -> npt.NDArray[np.bool_]:
        """Return bool [N]: whole numbers, and fractions of batches that go beyond any logarithm."""
        linear = self.whole.copy()
        broken = np.flatnonzero(filled & ~self.whole)
        if not len(broken):
            return linear
        code = np.zeros(len(broken), dtype=np.int64)
        if batches is not None:
            code = np.unique(batches[broken], return_inverse=True)[1]
        largest = np.zeros(int(code.max()) + 1)
        np.maximum.at(largest, code, self.largest[broken])
        linear[broken] = largest[code] > MAX_LOGNORM
        return linear

    def _mixed(
        self,
        counts: npt.NDArray[np.bool_],
        logs: npt.NDArray[np.bool_],
        batches: npt.NDArray[np.str_] | None,
        column: str,
    ) -> ExpressionValueError:
        told = []
        for some, what in ((counts, "counts"), (logs, "log values")):
            n = int(some.sum())
            if batches is None:
                told.append(f"{what} in {n:,} cells (the first: '{self.names[some.argmax()]}')")
                continue
            named = sorted(set(batches[some].tolist()))
            more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
            quoted = ", ".join(f"'{name}'" for name in named[:_NAMED])
            told.append(f"{what} in {quoted}{more} ({n:,} cells)")
        by = f", by {column}" if batches is not None else ""
        return ExpressionValueError(
            self.where,
            found=f"two scales{by}: {'; '.join(told)}",
            expected="one scale in the whole file: counts, or log1p of normalised counts",
            fix="Choose a layer that holds counts for all cells with --layer, or normalise the counts "
            "as the others were, or annotate the parts apart.",
        )

    def _refuse(self, block: sparse.csr_matrix) -> None:
        """Name the cell and column of the first value that is negative or not finite."""
        at = int(np.flatnonzero(~np.isfinite(block.data) | (block.data < 0))[0])
        row = int(np.searchsorted(block.indptr, at, side="right")) - 1
        where = Path(f"{self.where} cell '{self.names[self.rows + row]}',")
        check_values(block[row], where, self.rows + row, self.has_raw)


def columns_of(block: sparse.csr_matrix) -> npt.NDArray[np.int64]:
    """Return the column of each value, as ``bincount`` wants it."""
    return np.asarray(block.indices, dtype=np.int64)
