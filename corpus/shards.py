"""Cells on disk for random reads: one CSR matrix per dataset in flat files, read through mmap."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from okrcell.artifacts import atomic_path, atomic_write, read_manifest
from okrcell.corpus.expression import ValueKind
from okrcell.schemas import read_table

__all__ = ["CellMatrix", "load_matrix", "write_matrix"]

_INDPTR, _INDICES, _VALUES = "indptr.i64", "indices.i32", "values.f32"


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


def write_matrix(folder: Path, blocks: Iterable[sparse.csr_matrix]) -> dict[str, None]:
    """Stream CSR blocks into the three files of a shard; return their names for the manifest."""
    row_ends = [np.zeros(1, dtype=np.int64)]
    with atomic_path(folder / _INDICES) as index_path, atomic_path(folder / _VALUES) as value_path:
        with index_path.open("wb") as indices, value_path.open("wb") as values:
            for block in blocks:
                block.sort_indices()
                indices.write(block.indices.astype("<i4").tobytes())
                values.write(block.data.astype("<f4").tobytes())
                row_ends.append(block.indptr[1:].astype(np.int64) + row_ends[-1][-1])
    atomic_write(folder / _INDPTR, np.concatenate(row_ends).astype("<i8").tobytes())
    return {_INDPTR: None, _INDICES: None, _VALUES: None}


def load_matrix(store: Path, dataset_id: str) -> CellMatrix:
    """Map a dataset's cells into memory; values are read from disk as they are touched."""
    folder = Path(store) / "datasets" / dataset_id
    manifest = read_manifest(folder, "dataset", verify=False)
    genes = read_table(folder / "genes.parquet", "genes")
    kept = [row for row in genes.to_pylist() if row["status"] in {"id", "symbol", "preferred"}]
    indptr = np.fromfile(folder / _INDPTR, dtype="<i8")
    n_values = int(indptr[-1])
    shape = (len(indptr) - 1, len(kept))
    parts = [
        np.memmap(folder / name, dtype=kind, mode="r", shape=(n_values,))
        if n_values
        else np.zeros(0, dtype=kind)
        for name, kind in ((_VALUES, "<f4"), (_INDICES, "<i4"))
    ]
    matrix = sparse.csr_matrix((parts[0], parts[1], indptr), shape=shape)
    return CellMatrix(matrix, tuple(row["gene_id"] for row in kept), manifest.facts["values"])
