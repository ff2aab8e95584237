"""Turn a matrix that is stored gene by gene into blocks of cells, with flat memory.

Values are dealt once into one scratch file per block of cells, then each file is read back and put
in order. The scratch space is 10 bytes per non-zero value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell.corpus.formats import BLOCK_ROWS

__all__ = ["Triplets", "csr_of_triplets"]

Triplets = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Cells, genes and values, each [n]."""

_ENTRY = np.dtype([("row", "<u2"), ("column", "<i4"), ("value", "<f4")])


def csr_of_triplets(
    chunks: Iterable[Triplets], shape: tuple[int, int], scratch: Path
) -> Iterator[sparse.csr_matrix]:
    """Yield CSR float32 blocks of up to ``BLOCK_ROWS`` cells from values in any order.

    Parameters
    ----------
    chunks
        Pieces of the matrix; each should fit comfortably into memory.
    shape
        Cells, genes. Indices outside raise ``ValueError``.
    scratch
        An empty folder.
    """
    n_cells, n_genes = shape
    scratch.mkdir(parents=True, exist_ok=True)
    for rows, columns, values in chunks:
        _check(rows, n_cells, "cell")
        _check(columns, n_genes, "gene")
        _deal(rows, columns, values, scratch)
    for begin in range(0, n_cells, BLOCK_ROWS):
        size = min(BLOCK_ROWS, n_cells - begin)
        path = scratch / str(begin // BLOCK_ROWS)
        entries = np.fromfile(path, dtype=_ENTRY) if path.exists() else np.zeros(0, _ENTRY)
        # Counting sort by cell: stable, so that genes keep the order in which they came.
        yield sparse.coo_matrix(
            (entries["value"], (entries["row"].astype(np.int32), entries["column"])),
            shape=(size, n_genes),
        ).tocsr()
        path.unlink(missing_ok=True)


def _check(index: npt.NDArray[np.int64], size: int, what: str) -> None:
    if index.size and (index.min() < 0 or index.max() >= size):
        wrong = int(index.max()) if index.max() >= size else int(index.min())
        raise ValueError(f"{what} {wrong} in a matrix of {size} {what}s")


def _deal(
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32],
    scratch: Path,
) -> None:
    bands = rows // BLOCK_ROWS
    few = bands.size and int(bands.max()) < 1 << 16
    # numpy sorts 16-bit integers by radix, in linear time.
    order = np.argsort(bands.astype(np.uint16) if few else bands, kind="stable")
    entries = np.empty(rows.size, dtype=_ENTRY)
    entries["row"] = (rows % BLOCK_ROWS)[order]
    entries["column"] = columns[order]
    entries["value"] = values[order]
    present, starts = np.unique(bands[order], return_index=True)
    ends = np.append(starts[1:], rows.size)
    for band, start, end in zip(present.tolist(), starts, ends, strict=True):
        with (scratch / str(band)).open("ab") as handle:
            entries[start:end].tofile(handle)
