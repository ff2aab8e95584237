"""All batches of documents as one: newest revision, deletions, retractions and errata across ids.

Texts stay on disk; what is held is ids, revisions and flags, as Arrow columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from okrcell.artifacts import MANIFEST, Manifest, read_manifest
from okrcell.schemas import TABLES, read_table

__all__ = ["DELETED", "FILE", "DocumentSet", "batches", "open_documents"]

DELETED = "deleted"
"""Flag of a row that is no document: it removes what earlier rows of its id say."""

FILE = "documents.parquet"
_KEYS = ["doc_id", "source", "revision", "ids", "retracts", "is_retracted", "flags"]
# Prefix of a notice's flag, and the flag of the work that it is about.
_NOTICES = (("corrects:", "corrected"), ("doubts:", "concern"))


def batches(store: Path, *, verify: bool = True) -> dict[str, Manifest]:
    """Return the finished batches of a store in the order in which they were added."""
    folder = store / "documents"
    finished = sorted(
        (path.parent for path in folder.glob(f"*/{MANIFEST}")),
        key=lambda path: (path.name.partition("-")[0].zfill(12), path.name),
    )
    return {path.name: read_manifest(path, "documents", verify=verify) for path in finished}


@dataclass(frozen=True, eq=False)
class DocumentSet:
    """The documents of a store, duplicates merged.

    Attributes
    ----------
    inputs
        Batch to fingerprint of its files.
    counts
        ``documents``, by ``sources``; ``records`` read; ``duplicates`` left out (another record of
        the same id is newer), ``deleted``; ``retracted``, ``corrected`` and ``concern`` documents.
    """

    store: Path
    inputs: dict[str, str]
    counts: dict[str, Any]
    _first: dict[str, int] = field(repr=False)
    _chosen: npt.NDArray[np.int64] = field(repr=False)
    _marks: dict[str, npt.NDArray[np.bool_]] = field(repr=False)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the table ``documents`` in pieces of at most 2,000 rows, always in the same order.

        Retraction and erratum notices of any record are applied to the works that they name.
        """
        for batch, start in self._first.items():
            file = pq.ParquetFile(self.store / "documents" / batch / FILE)
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                low, high = np.searchsorted(self._chosen, [start, stop])
                if high > low:
                    rows = pa.array(self._chosen[low:high] - start)
                    table = file.read_row_group(group, use_threads=False).take(rows)
                    yield self._marked(table, slice(int(low), int(high)))
                start = stop

    def _marked(self, table: pa.Table, rows: slice) -> pa.Table:
        schema = TABLES["documents"].schema
        columns = {name: table[name] for name in schema.names}
        columns["is_retracted"] = pa.array(self._marks["is_retracted"][rows])
        extra = {flag: self._marks[flag][rows] for _, flag in _NOTICES}
        if any(mask.any() for mask in extra.values()):
            columns["flags"] = pa.array(
                [
                    [*own, *(f for f, mask in extra.items() if mask[i] and f not in own)]
                    for i, own in enumerate(table["flags"].to_pylist())
                ],
                type=schema.field("flags").type,
            )
        return pa.table(columns, schema=schema)


def open_documents(store: Path) -> DocumentSet:
    """Open the documents of a store; a store without any gives an empty set.

    Raises
    ------
    ManifestError
        A batch is damaged.
    SchemaVersionError
        A batch was written by another version.
    """
    finished = batches(store)
    first: dict[str, int] = {}
    pieces, rows = [], 0
    for name in finished:
        first[name] = rows
        pieces.append(read_table(store / "documents" / name / FILE, "documents", _KEYS))
        rows += pieces[-1].num_rows
    schema = TABLES["documents"].schema
    keys = pa.schema([schema.field(name) for name in _KEYS])
    table = pa.concat_tables([piece.cast(keys) for piece in pieces] or [keys.empty_table()])
    chosen, merged = _choose(table)
    kept = table.take(pa.array(chosen)).combine_chunks()
    marks = _marks(kept)
    sources = pc.value_counts(kept["source"]).to_pylist()
    counts: dict[str, Any] = {
        "documents": len(chosen),
        "sources": {entry["values"]: entry["counts"] for entry in sources},
        **merged,
        "retracted": int(marks["is_retracted"].sum()),
        **{flag: int(marks[flag].sum()) for _, flag in _NOTICES},
    }
    inputs = {name: manifest.fingerprint for name, manifest in finished.items()}
    return DocumentSet(store, inputs, counts, first, chosen, marks)


def _choose(table: pa.Table) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """Return the row to keep of each id, ascending: newest revision, then latest row."""
    n = table.num_rows
    if not n:
        return np.empty(0, np.int64), {"records": 0, "duplicates": 0, "deleted": 0}
    code, ids = _codes(table["doc_id"])
    revision, names = _codes(table["revision"])
    rank = np.empty(len(names), np.int64)
    rank[np.argsort(names.to_numpy(zero_copy_only=False), kind="stable")] = np.arange(len(names))
    row = np.arange(n)
    removal = _has_flag(table["flags"], DELETED)
    gone = np.full(len(ids), -1)
    np.maximum.at(gone, code[removal], row[removal])
    live = row > gone[code]
    order = np.lexsort((row, rank[revision], code))
    order = order[live[order]]
    last = np.ones(len(order), bool)
    last[:-1] = code[order][1:] != code[order][:-1]
    chosen = np.sort(order[last]).astype(np.int64)
    records = n - int(removal.sum())
    deleted = int((~live & ~removal).sum())
    return chosen, {
        "records": records,
        "duplicates": records - deleted - len(chosen),
        "deleted": deleted,
    }


def _marks(kept: pa.Table) -> dict[str, npt.NDArray[np.bool_]]:
    """Return, for each document, whether any record says that it is retracted, corrected, doubted."""
    code, names = _codes(pc.list_flatten(kept["ids"]))
    owner = pc.list_parent_indices(kept["ids"]).to_numpy()

    def spread(rows: npt.NDArray[np.bool_], named: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Add to ``rows`` the works with a named id, or with an id of a work that is in it."""
        about = np.zeros(len(names), bool)
        found = pc.drop_null(pc.index_in(named, value_set=names))
        about[found.to_numpy()] = True
        while True:
            about[code[rows[owner]]] = True
            wider = rows.copy()
            wider[owner[about[code]]] = True
            if (wider == rows).all():
                return rows
            rows = wider

    flags = pc.list_flatten(kept["flags"])
    marks = {
        "is_retracted": spread(
            kept["is_retracted"].to_numpy().astype(bool), pc.list_flatten(kept["retracts"])
        )
    }
    for prefix, flag in _NOTICES:
        named = flags.filter(pc.starts_with(flags, prefix))
        marks[flag] = spread(
            _has_flag(kept["flags"], flag), pc.utf8_slice_codeunits(named, len(prefix))
        )
    return marks


def _codes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """Return a number for each value, and the values."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    encoded = column.dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary


def _has_flag(flags: pa.ChunkedArray, flag: str) -> npt.NDArray[np.bool_]:
    rows = np.zeros(len(flags), bool)
    hit = pc.equal(pc.list_flatten(flags), flag).to_numpy().astype(bool)
    rows[pc.list_parent_indices(flags).to_numpy()[hit]] = True
    return rows
