"""Snippets by row, id or document, read from a memory-mapped copy of the table: nothing is loaded."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from okrcell.schemas import TABLES

__all__ = ["RowsWriter", "SnippetRows"]

_FILE = "snippets.arrow"
_ID = re.compile(r"[0-9a-f]{16}")

Ids = npt.NDArray[np.uint64]


class RowsWriter:
    """Copies a table ``snippets``, batch by batch, into a folder for :class:`SnippetRows`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids: list[Ids] = [np.empty(0, np.uint64)]
        self._documents: list[str] = []

    def __enter__(self) -> Self:
        schema = TABLES["snippets"].schema
        self._sink = pa.OSFile(str(self._folder / _FILE), "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)
        return self

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the next rows."""
        schema = TABLES["snippets"].schema
        self._writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
        self._ids.append(_numbers(batch["snippet_id"].to_pylist()))
        self._documents += batch["doc_id"].to_pylist()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        self._sink.close()
        if kind is None:
            numbers = np.concatenate(self._ids)
            order = np.argsort(numbers, kind="stable")
            numbers[order].tofile(self._folder / "ids")
            order.astype(np.int32).tofile(self._folder / "ids.rows")
            _write_documents(self._folder, self._documents)


def _write_documents(folder: Path, documents: list[str]) -> None:
    """Write the runs of rows of each document, sorted by the hash of its id."""
    starts = [i for i, name in enumerate(documents) if not i or documents[i - 1] != name]
    names = np.array([_hash(documents[start]) for start in starts], np.uint64)
    order = np.argsort(names, kind="stable")
    begin = np.array(starts, np.int32)
    end = np.array([*starts[1:], len(documents)][: len(starts)], np.int32)
    names[order].tofile(folder / "documents")
    np.stack([begin[order], end[order]], axis=1).tofile(folder / "documents.rows")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _numbers(ids: Sequence[str]) -> Ids:
    return np.array([int(name, 16) for name in ids], np.uint64)


class SnippetRows:
    """Random access to the snippets of a finished index."""

    def __init__(self, folder: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(folder / _FILE)))
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)]).tolist()
        self._ids = np.fromfile(folder / "ids", np.uint64)
        self._id_rows = np.fromfile(folder / "ids.rows", np.int32)
        self._documents = np.fromfile(folder / "documents", np.uint64)
        self._document_rows = np.fromfile(folder / "documents.rows", np.int32).reshape(-1, 2)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def _by_row(self) -> Ids:
        numbers = np.empty(len(self._ids), np.uint64)
        numbers[self._id_rows] = self._ids
        return numbers

    def row(self, row: int) -> dict[str, Any]:
        """Return one row of the table ``snippets``."""
        batch, at = self._place(row)
        found: dict[str, Any] = batch.slice(at, 1).to_pylist()[0]
        return found

    def _place(self, row: int) -> tuple[pa.RecordBatch, int]:
        number = bisect_right(self._starts, row) - 1
        return self._batches[number], row - self._starts[number]

    def snippet_ids(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Return the ids of some rows."""
        return [f"{number:016x}" for number in self._by_row[rows].tolist()]

    def rows_of(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the rows of ids that are known to be there."""
        return self._id_rows[np.searchsorted(self._ids, _numbers(ids))].astype(np.int64)

    def row_of(self, snippet_id: str) -> int | None:
        """Return the row of an id, or None."""
        if not _ID.fullmatch(snippet_id):
            return None
        number = np.uint64(int(snippet_id, 16))
        at = int(np.searchsorted(self._ids, number))
        return int(self._id_rows[at]) if at < len(self) and self._ids[at] == number else None

    def of_document(self, doc_id: str) -> list[int]:
        """Return the rows of a document, ascending; empty for an unknown id."""
        name = np.uint64(_hash(doc_id))
        low = int(np.searchsorted(self._documents, name, "left"))
        high = int(np.searchsorted(self._documents, name, "right"))
        return sorted(
            row
            for begin, end in self._document_rows[low:high].tolist()
            if self.row(begin)["doc_id"] == doc_id
            for row in range(begin, end)
        )
