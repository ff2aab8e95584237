"""Expression values of an h5ad: opened with care, checked block by block, on a known scale."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import sparse

from okrcell.errors import (
    DuplicateNamesError,
    ExpressionValueError,
    FileFormatError,
    MissingColumnError,
)

__all__ = ["ValueKind", "check_values", "matrix_of", "open_h5ad", "recover_counts", "row_blocks"]

ValueKind = Literal["counts", "lognorm"]
BLOCK_ROWS = 4096
_MAX_LOGNORM = 30.0  # log1p of 1e13: no normalised value gets there


def open_h5ad(path: Path) -> Any:
    """Open an h5ad without loading its matrix.

    Raises
    ------
    FileFormatError
        No such file, not an h5ad, or truncated.
    DuplicateNamesError
        Two cells share a name.
    """
    import anndata

    path = Path(path)
    if not path.is_file():
        raise FileFormatError(
            path, found="no such file", expected="an h5ad file", fix="Check the path."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = anndata.read_h5ad(path, backed="r")
    except Exception as error:  # noqa: BLE001  (every reader error means the same to the user)
        raise FileFormatError(
            path,
            found=f"a file that cannot be read as h5ad ({_first_line(error)})",
            expected="an AnnData file in HDF5 format (.h5ad), whole",
            fix="Check that the download or copy finished, or write it again with adata.write_h5ad().",
        ) from None
    names = data.obs_names
    if not names.is_unique:
        twice = names[names.duplicated()][0]
        raise DuplicateNamesError(
            f"{path} obs_names",
            found=f"'{twice}' more than once ({names.duplicated().sum()} repeats in all)",
            expected="one name per cell",
            fix="Call adata.obs_names_make_unique(), or prefix the names with the sample.",
        )
    return data


def matrix_of(data: Any, layer: str, path: Path) -> tuple[Any, Any]:
    """Return the backed matrix and the var table of ``X``, ``raw`` or a named layer."""
    if layer == "X" and _has_x(data):
        return data.X, data.var
    if layer == "raw" and data.raw is not None:
        return data.raw.X, data.raw.var
    if layer in data.layers:
        return data.layers[layer], data.var
    known = [
        *(["X"] if _has_x(data) else []),
        *(["raw"] if data.raw is not None else []),
        *data.layers,
    ]
    raise MissingColumnError(
        path,
        found=f"no layer '{layer}'",
        expected=f"one of {', '.join(known) or 'X (the file has no matrix at all)'}",
        fix="Choose one of these with --layer.",
    )


def _has_x(data: Any) -> bool:
    try:
        return data.X is not None
    except KeyError:  # a backed file without X
        return False


def row_blocks(matrix: Any, path: Path) -> Iterator[sparse.csr_matrix]:
    """Yield CSR float32 blocks of up to 4,096 cells; only one is in memory at a time."""
    for begin in range(0, matrix.shape[0], BLOCK_ROWS):
        try:
            block = matrix[begin : begin + BLOCK_ROWS]
        except (OSError, RuntimeError, ValueError) as error:
            raise FileFormatError(
                path,
                found=f"values that cannot be read from cell {begin} on ({_first_line(error)})",
                expected="a whole file",
                fix="Copy or download the file again.",
            ) from None
        rows = sparse.csr_matrix(block, dtype=np.float32)
        rows.sum_duplicates()
        rows.eliminate_zeros()
        yield rows


def check_values(
    block: sparse.csr_matrix, path: Path, first_row: int, has_raw: bool = False
) -> ValueKind:
    """Say on which scale a block is; negative or non-finite values are refused.

    Whole numbers are ``counts``; anything else up to 30 is ``lognorm``.
    """
    values = block.data
    bad = ~np.isfinite(values) | (values < 0)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        row = int(np.searchsorted(block.indptr, at, side="right")) - 1
        fix = "Use the matrix before scaling: counts, or log1p of normalised counts."
        if has_raw:
            fix = "The file has a '.raw' matrix: try --layer raw."
        raise ExpressionValueError(
            f"{path} cell {first_row + row}, column {int(block.indices[at])}",
            found=f"the value {values[at]:g}",
            expected="finite values, zero or more",
            fix=fix,
        )
    if np.array_equal(values, np.rint(values)):
        return "counts"
    if values.max() > _MAX_LOGNORM:
        raise ExpressionValueError(
            path,
            found=f"fractions and values up to {values.max():g}: neither counts nor log-normalised",
            expected="whole-number counts, or log1p of normalised counts",
            fix="Apply scanpy.pp.log1p, or store the counts; then say --values if it is not detected.",
        )
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
