"""Cells on disk for random reads: one CSR matrix per dataset in flat files, read through mmap."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from okrcell.artifacts import atomic_path, read_manifest
from okrcell.corpus.expression import ValueKind
from okrcell.corpus.genes import KEPT
from okrcell.schemas import read_table

__all__ = [
    "CellMatrix",
    "drop_columns",
    "kept_gene_ids",
    "load_matrix",
    "map_matrix",
    "seal",
    "write_matrix",
]

_INDPTR, _INDICES, _VALUES = "indptr.i64", "indices.i32", "values.f32"
_WIDE_INDICES = "indices.i64"
_MOST_NARROW = 2**31 - 1
_PIECE = 1 << 23


@dataclass(frozen=True)
class CellMatrix:
    """Cells by genes.

    Attributes
    ----------
    matrix
        CSR float32 [N, G]; column indices sorted within a row.
    gene_ids
        Unversioned Ensembl ids of the G columns, unique.
    values
        ``counts`` or ``lognorm``.
    """

    matrix: sparse.csr_matrix
    gene_ids: tuple[str, ...]
    values: ValueKind

    def take(self, rows: npt.NDArray[np.integer] | slice) -> CellMatrix:
        """Return some cells; a run of neighbouring rows is a view of the values, and costs nothing."""
        if isinstance(rows, slice) or not len(rows) or (np.diff(rows) != 1).any():
            return replace(self, matrix=self.matrix[rows])
        whole = self.matrix
        first, stop = int(rows[0]), int(rows[-1]) + 1
        begin, end = int(whole.indptr[first]), int(whole.indptr[stop])
        part = sparse.csr_matrix(
            (
                whole.data[begin:end],
                whole.indices[begin:end],
                whole.indptr[first : stop + 1] - whole.indptr[first],
            ),
            shape=(stop - first, whole.shape[1]),
        )
        return replace(self, matrix=part)


def write_matrix(folder: Path, blocks: Iterable[sparse.csr_matrix]) -> None:
    """Stream CSR blocks with sorted columns into the three files of a shard; then ``seal`` it."""
    end = 0
    with (
        atomic_path(folder / _INDPTR) as pointer_path,
        atomic_path(folder / _INDICES) as index_path,
        atomic_path(folder / _VALUES) as value_path,
        pointer_path.open("wb") as pointers,
        index_path.open("wb") as indices,
        value_path.open("wb") as values,
    ):
        pointers.write(np.zeros(1, dtype="<i8").tobytes())
        for block in blocks:
            indices.write(np.ascontiguousarray(block.indices, dtype="<i4").data)
            values.write(np.ascontiguousarray(block.data, dtype="<f4").data)
            pointers.write((block.indptr[1:].astype("<i8") + end).data)
            end += int(block.indptr[-1])


def drop_columns(folder: Path, new_column: npt.NDArray[np.int32]) -> None:
    """Take columns out of a matrix that is not committed yet, in place.

    What is kept of a piece is never longer than the piece, so the files are packed from the front
    and cut; a kill in between leaves a folder without a manifest, which counts as absent.

    Parameters
    ----------
    new_column
        int32 [G]: the new number of each column, ascending; -1 drops it.
    """
    pointers = np.fromfile(folder / _INDPTR, dtype="<i8")
    ends = np.zeros(len(pointers), dtype="<i8")
    written, row = 0, 0
    with (folder / _INDICES).open("r+b") as indices, (folder / _VALUES).open("r+b") as values:
        for begin in range(0, int(pointers[-1]), _PIECE):
            stop = min(begin + _PIECE, int(pointers[-1]))
            columns = new_column[_read(indices, begin, stop, "<i4")]
            kept = columns >= 0
            before = np.concatenate([[0], np.cumsum(kept)])
            last = int(np.searchsorted(pointers, stop, side="right"))
            ends[row:last] = written + before[pointers[row:last] - begin]
            row = last
            _write(indices, written, columns[kept].astype("<i4"))
            _write(values, written, _read(values, begin, stop, "<f4")[kept])
            written += int(before[-1])
        ends[row:] = written
        indices.truncate(4 * written)
        values.truncate(4 * written)
    ends.tofile(folder / _INDPTR)


def seal(folder: Path) -> dict[str, None]:
    """Give a written matrix its final form; return the names of its files, for the manifest.

    Column numbers are 32 bits wide as long as row pointers fit into 32 bits too: scipy wants both
    of one width, and would copy the whole file into memory to make them so.
    """
    n_values = (folder / _INDICES).stat().st_size // 4
    if n_values <= _MOST_NARROW:
        return dict.fromkeys((_INDPTR, _INDICES, _VALUES))
    with (
        atomic_path(folder / _WIDE_INDICES) as path,
        path.open("wb") as wide,
        (folder / _INDICES).open("rb") as narrow,
    ):
        for begin in range(0, n_values, _PIECE):
            piece = _read(narrow, begin, min(begin + _PIECE, n_values), "<i4")
            wide.write(piece.astype("<i8").data)
    (folder / _INDICES).unlink()
    return dict.fromkeys((_INDPTR, _WIDE_INDICES, _VALUES))


def _read(handle: BinaryIO, begin: int, stop: int, kind: str) -> npt.NDArray[Any]:
    handle.seek(4 * begin)
    return np.frombuffer(handle.read(4 * (stop - begin)), dtype=kind)


def _write(handle: BinaryIO, at: int, values: npt.NDArray[Any]) -> None:
    handle.seek(4 * at)
    handle.write(values.data)


def load_matrix(store: Path, dataset_id: str) -> CellMatrix:
    """Map a dataset's cells into memory; values are read from disk as they are touched."""
    folder = Path(store) / "datasets" / dataset_id
    manifest = read_manifest(folder, "dataset", verify=False)
    gene_ids = kept_gene_ids(read_table(folder / "genes.parquet", "genes"))
    matrix = map_matrix(folder, manifest.files, len(gene_ids))
    return CellMatrix(matrix, gene_ids, manifest.facts["values"])


def map_matrix(folder: Path, files: Collection[str], n_genes: int) -> sparse.csr_matrix:
    """Map the files of a sealed matrix into memory.

    Parameters
    ----------
    files
        Names of the files in the folder, which tell how wide the column numbers are.
    """
    indptr = np.fromfile(folder / _INDPTR, dtype="<i8")
    n_values = int(indptr[-1])
    index = (_WIDE_INDICES, "<i8") if _WIDE_INDICES in files else (_INDICES, "<i4")
    parts = [
        np.memmap(folder / name, dtype=kind, mode="r", shape=(n_values,))
        if n_values
        else np.zeros(0, dtype=kind)
        for name, kind in ((_VALUES, "<f4"), index)
    ]
    return sparse.csr_matrix((parts[0], parts[1], indptr), shape=(len(indptr) - 1, n_genes))


def kept_gene_ids(genes: pa.Table) -> tuple[str, ...]:
    """Return the ids of a table ``genes`` that have a column in the matrix, in its order."""
    rows = zip(genes["gene_id"].to_pylist(), genes["status"].to_pylist(), strict=True)
    return tuple(gene_id for gene_id, status in rows if status in KEPT)
