"""Vectors of a build: each distinct text embedded once, journaled by batch, assembled on disk.

What is to be embedded is cut into batches by a rule that depends on the snippet table and on the
vectors known before, and on nothing else. A batch is computed as a whole and its file appears as a
whole, so a build that was killed repeats one batch at most and ends with the same bytes, although
half-precision vectors depend on which texts share a batch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from okrcell.artifacts import (
    atomic_path,
    atomic_write,
    file_sha256,
    move,
    read_note,
    storage_guard,
)
from okrcell.console import progress
from okrcell.corpus.allocated import allocated
from okrcell.corpus.embedder import Embedder
from okrcell.errors import EmbedderError
from okrcell.schemas import TABLES

__all__ = ["EmbeddingRun", "embed_snippets", "vector_tables"]

_BATCH = 256
_WINDOW = 1 << 15  # texts that are sorted by length together, and held in memory
_ROWS = 4096
_PLAN, _JOURNAL, _CARRIED, _SCRATCH = "plan.json", "journal", "carried", "distinct.f32"

Keys = npt.NDArray[np.bytes_]
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingRun:
    """Vectors of a snippet table, on disk.

    Attributes
    ----------
    vectors
        float32 [distinct texts, D], a memory map.
    row
        int64 [n snippets], the row of ``vectors`` for each snippet.
    embedded, kept
        Distinct texts that this build embeds, and those whose vector was known before.
    """

    vectors: Matrix
    row: npt.NDArray[np.int64]
    embedded: int
    kept: int


def embed_snippets(
    work: Path, snippets: Path, known: Path | None, embedder: Embedder
) -> EmbeddingRun:
    """Embed the distinct texts of a snippet table that no earlier build has embedded.

    Parameters
    ----------
    work
        Folder for the journal; keep it until the build is committed.
    snippets
        Table ``snippets``, finished.
    known
        Folder of an earlier build (its two tables), or None.

    Raises
    ------
    EmbedderError
        The embedder gave vectors that are not finite, or of another shape.
    """
    keys, lengths = _keys(snippets)
    distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    _settle(work, snippets, known, embedder)
    with storage_guard(work):
        vectors = allocated(work / _SCRATCH, np.float32, (len(distinct), embedder.dim))
    missing = np.ones(len(distinct), bool)
    for found_keys, found in _known(work, known, embedder):
        at = np.searchsorted(distinct, found_keys)
        at[at == len(distinct)] = 0
        hit = (distinct[at] == found_keys) & missing[at]
        vectors[at[hit]] = found[hit]
        missing[at[hit]] = False
    todo = np.sort(first[missing])
    with progress("Embedding snippets", len(todo), "texts") as advance:
        batches = _batches(snippets, todo, lengths)
        for number, (rows, texts) in enumerate(batches):
            part = work / _JOURNAL / f"{number:08d}.npy"
            if not part.exists():
                found = _encode(embedder, texts)
                _write_part(part, keys[rows], found)
            vectors[inverse[rows]] = _read_part(part, embedder.dim)[1]
            advance(len(rows))
    return EmbeddingRun(vectors, inverse, len(todo), len(distinct) - len(todo))


def vector_tables(snippets: Path, run: EmbeddingRun, embedder_id: str) -> Iterator[pa.Table]:
    """Yield the table ``snippet_vectors`` in pieces, in the order of the snippets."""
    begin = 0
    schema = TABLES["snippet_vectors"].schema
    for batch in pq.ParquetFile(snippets).iter_batches(_ROWS, columns=["snippet_id"]):
        part = run.vectors[run.row[begin : begin + batch.num_rows]]
        offsets = np.arange(0, part.size + 1, part.shape[1], dtype=np.int32)
        yield pa.table(
            {
                "snippet_id": batch["snippet_id"],
                "vector": pa.ListArray.from_arrays(offsets, part.reshape(-1)),
                "embedder": pa.repeat(embedder_id, batch.num_rows),
            },
            schema=schema,
        )
        begin += batch.num_rows


def _keys(snippets: Path) -> tuple[Keys, npt.NDArray[np.int32]]:
    """Return the 16-byte hash of each snippet's text, and its number of word pieces."""
    file = pq.ParquetFile(snippets)
    keys = np.empty(file.metadata.num_rows, "V16")
    lengths = np.empty(file.metadata.num_rows, np.int32)
    row = 0
    for batch in file.iter_batches(_ROWS, columns=["text", "n_tokens"]):
        for text in batch["text"]:
            content = hashlib.blake2b(text.as_py().encode(), digest_size=16).digest()
            keys[row] = np.void(content)
            row += 1
        lengths[row - batch.num_rows : row] = batch["n_tokens"].to_numpy()
    return _sortable(keys), lengths


def _sortable(keys: npt.NDArray[np.void]) -> Keys:
    """View 16 raw bytes as a type that sorts; equal length makes padding harmless."""
    return keys.view("S16")


def _settle(work: Path, snippets: Path, known: Path | None, embedder: Embedder) -> None:
    """Decide which of the files in ``work`` belong to this build.

    Batches of a killed build with the same plan are its own. After a change of what is to be
    embedded they are carried over as known vectors; those of another embedder are dropped.
    """
    plan = {"embedder": embedder.id, "batch": _BATCH, "window": _WINDOW}
    plan["snippets"] = file_sha256(snippets)
    plan["known"] = file_sha256(known / "snippet_vectors.parquet") if known else ""
    with storage_guard(work):
        for name in (_JOURNAL, _CARRIED):
            (work / name).mkdir(parents=True, exist_ok=True)
        before = read_note(work / _PLAN)
        if before == plan:
            return
        if before.get("embedder") != embedder.id:
            for name in (_JOURNAL, _CARRIED):
                shutil.rmtree(work / name)
                (work / name).mkdir()
        for part in sorted((work / _JOURNAL).glob("[0-9]*.npy")):
            move(part, work / _CARRIED / f"{file_sha256(part)[:16]}.npy")
        atomic_write(work / _PLAN, json.dumps(plan, sort_keys=True) + "\n")


def _known(work: Path, known: Path | None, embedder: Embedder) -> Iterator[tuple[Keys, Matrix]]:
    """Yield keys and vectors of this embedder from the earlier build and from carried batches."""
    if known is not None:
        keys, _ = _keys(known / "snippets.parquet")
        begin = 0
        file = pq.ParquetFile(known / "snippet_vectors.parquet")
        for batch in file.iter_batches(_ROWS, columns=["vector", "embedder"]):
            part = keys[begin : begin + batch.num_rows]
            begin += batch.num_rows
            mine = np.array([name == embedder.id for name in batch["embedder"].to_pylist()], bool)
            if mine.all():
                values = batch["vector"].flatten().to_numpy(zero_copy_only=False)
                yield part, values.reshape(len(part), -1).astype(np.float32, copy=False)
    for path in sorted((work / _CARRIED).glob("*.npy")):
        yield _read_part(path, embedder.dim)


def _batches(
    snippets: Path, todo: npt.NDArray[np.int64], lengths: npt.NDArray[np.int32]
) -> Iterator[tuple[npt.NDArray[np.int64], list[str]]]:
    """Yield rows and texts of each batch: of similar length, so that little is spent on padding."""
    texts = _texts(snippets, todo)
    for begin in range(0, len(todo), _WINDOW):
        rows = todo[begin : begin + _WINDOW]
        held = [next(texts) for _ in rows]
        order = np.lexsort((rows, lengths[rows]))[::-1]  # longest first: memory peaks at once
        for at in range(0, len(order), _BATCH):
            chosen = order[at : at + _BATCH]
            yield rows[chosen], [held[index] for index in chosen]


def _texts(snippets: Path, rows: npt.NDArray[np.int64]) -> Iterator[str]:
    """Yield the texts of ascending rows, reading the table once."""
    begin = 0
    for batch in pq.ParquetFile(snippets).iter_batches(_ROWS, columns=["text"]):
        low, high = np.searchsorted(rows, [begin, begin + batch.num_rows])
        if high > low:
            yield from batch["text"].take(pa.array(rows[low:high] - begin)).to_pylist()
        begin += batch.num_rows


def _encode(embedder: Embedder, texts: list[str]) -> Matrix:
    found = np.asarray(embedder.encode(texts), dtype=np.float32)
    if found.shape != (len(texts), embedder.dim) or not np.isfinite(found).all():
        raise EmbedderError(
            embedder.id,
            found=f"vectors of shape {found.shape}"
            + ("" if np.isfinite(found).all() else " that are not finite"),
            expected=f"finite vectors of shape {(len(texts), embedder.dim)}",
            fix="Use another embedder, or repair this one.",
        )
    return found


def _write_part(path: Path, keys: Keys, vectors: Matrix) -> None:
    part = np.empty(len(keys), [("key", "S16"), ("vector", np.float32, (vectors.shape[1],))])
    part["key"], part["vector"] = keys, vectors
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, part)


def _read_part(path: Path, dim: int) -> tuple[Keys, Matrix]:
    part = np.load(path)
    if part["vector"].shape[1:] != (dim,):
        raise EmbedderError(
            path,
            found=f"vectors of {part['vector'].shape[1]} dimensions",
            expected=f"{dim} dimensions",
            fix=f"Remove {path.parent.parent} and build again.",
        )
    return part["key"], part["vector"]
