"""What must hold of terms, documents and snippets, checked in one pass over each, in little memory.

Each check yields what must hold and the problem; an empty problem means that it holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from okrcell.artifacts import MANIFEST, read_manifest
from okrcell.console import progress
from okrcell.schemas import read_table

__all__ = ["Outcome", "Tally", "batches", "check_documents", "check_knowledge", "check_terms"]

Outcome = tuple[str, str]
Hashes = npt.NDArray[np.uint64]
_ROWS = 2048
_UNIT = 1e-2  # half-precision arithmetic leaves vectors a little off unit length


def batches(path: Path, name: str, columns: list[str]) -> Iterator[dict[str, list[Any]]]:
    """Yield a table's columns as lists, a few thousand rows at a time; refuses another version."""
    read_table(path, name, columns[:0])
    for batch in pq.ParquetFile(path).iter_batches(_ROWS, columns=columns):
        yield {column: batch[column].to_pylist() for column in columns}


def _hash(*parts: object) -> int:
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class Tally:
    """Counts problems and keeps the first few; as a text, it is empty if there were none."""

    def __init__(self) -> None:
        self.n, self.first = 0, list[str]()

    def add(self, problem: str) -> None:
        """Take one problem."""
        self.n += 1
        if len(self.first) < 3:
            self.first.append(problem)

    def __str__(self) -> str:
        return f"{self.n:,}: {'; '.join(self.first)}" if self.n else ""


def _duplicates(hashes: Hashes) -> int:
    numbers = np.sort(hashes)
    return int((numbers[1:] == numbers[:-1]).sum())


# --- terms and documents -----------------------------------------------------------------------


def check_terms(store: Path, part: str) -> Iterator[Outcome]:
    """Ids occur once; every parent is a term of the store or of its ontology."""
    known: set[str] = set()
    twice = Tally()
    for folder in sorted(path.parent for path in (store / "terms").glob(f"*/{MANIFEST}")):
        here = f"terms/{folder.name}" == part
        try:
            for rows in batches(folder / "terms.parquet", "terms", ["term_id"]):
                for term_id in rows["term_id"]:
                    if here and term_id in known:
                        twice.add(term_id)
                    known.add(term_id)
        except Exception:  # another damaged part is reported as its own
            if here:
                raise
    yield "every term id occurs once", str(twice)
    orphans = Tally()
    elsewhere: Any = None
    path = store / part / "terms.parquet"
    for rows in batches(path, "terms", ["term_id", "parents"]):
        for term_id, parents in zip(rows["term_id"], rows["parents"], strict=True):
            for parent in parents:
                if parent in known:
                    continue
                if elsewhere is None:
                    elsewhere = _ontology(store, part)
                if elsewhere.get(parent) is None:
                    orphans.add(f"{term_id} has the parent {parent}")
    yield "every parent is known", str(orphans)


def _ontology(store: Path, part: str) -> Any:
    from okrcell.corpus.ontology import of_store

    return of_store(store, part.partition("/")[2])


def check_documents(store: Path, part: str) -> Iterator[Outcome]:
    """Texts are those that were hashed; sections lie within them, in order."""
    changed, loose = Tally(), Tally()
    columns = ["doc_id", "text", "text_sha256", "sections"]
    for rows in batches(store / part / "documents.parquet", "documents", columns):
        for doc_id, text, sha256, sections in zip(*(rows[c] for c in columns), strict=True):
            if hashlib.sha256(text.encode()).hexdigest() != sha256:
                changed.add(doc_id)
            end = 0
            for section in sections:
                if not end <= section["start"] <= section["end"] <= len(text):
                    loose.add(f"{doc_id} section '{section['name']}'")
                end = section["end"]
    yield "every text has the sha256 of its row", str(changed)
    yield "sections lie within their text, in order", str(loose)


# --- knowledge ---------------------------------------------------------------------------------


def check_knowledge(
    folder: Path, documents: Iterable[pa.Table] | None, n_documents: int
) -> Iterator[Outcome]:
    """Snippets are pieces of their documents, have one unit vector each, and are in the index.

    Parameters
    ----------
    folder
        The knowledge folder.
    documents
        Tables with at least ``doc_id`` and ``text``: everything that was cut into snippets. None
        where it cannot be had: snippets are not compared with it then.
    """
    columns = ["snippet_id", "doc_id", "start", "end", "text"]
    parts: list[npt.NDArray[np.void]] = []
    kind = np.dtype([("doc", "<u8"), ("start", "<i8"), ("end", "<i8"), ("text", "<u8")])
    ids: list[Hashes] = []
    for rows in batches(folder / "snippets.parquet", "snippets", columns):
        ids.append(np.fromiter(map(_hash, rows["snippet_id"]), np.uint64))
        places = [
            (_hash(doc_id), start, end, _hash(text))
            for _, doc_id, start, end, text in zip(*(rows[c] for c in columns), strict=True)
        ]
        parts.append(np.array(places, dtype=kind))
    snippets = np.concatenate([np.empty(0, kind), *parts])
    snippets = snippets[np.argsort(snippets["doc"], kind="stable")]
    if documents is not None:
        yield from _check_pieces(snippets, documents, n_documents)
    numbers = np.concatenate([np.empty(0, np.uint64), *ids])
    repeated = _duplicates(numbers)
    yield "every snippet id occurs once", f"{repeated:,} repeated" if repeated else ""
    yield from _check_vectors(folder, numbers)
    yield from _check_index(folder, numbers)


def _check_pieces(
    snippets: npt.NDArray[Any], documents: Iterable[pa.Table], n_documents: int
) -> Iterator[Outcome]:
    """Compare snippets (sorted by document) with the texts, one document at a time."""
    seen, right = np.zeros(len(snippets), dtype=bool), np.zeros(len(snippets), dtype=bool)
    named: dict[int, str] = {}
    with progress("Checking snippets", n_documents, "documents") as advance:
        for table in documents:
            texts = zip(table["doc_id"].to_pylist(), table["text"].to_pylist(), strict=True)
            for doc_id, text in texts:
                doc = np.uint64(_hash(doc_id))
                low = int(np.searchsorted(snippets["doc"], doc, "left"))
                high = int(np.searchsorted(snippets["doc"], doc, "right"))
                for row in range(low, high):
                    _, start, end, digest = snippets[row].tolist()
                    seen[row] = True
                    # Two ontologies may have a term of one id: its snippet is of either.
                    right[row] |= 0 <= start < end <= len(text) and _hash(text[start:end]) == digest
                    if not right[row] and len(named) < 100:
                        named[row] = f"{doc_id} from {start} to {end}"
            advance(table.num_rows)
    wrong = Tally()
    for row in np.flatnonzero(seen & ~right).tolist():
        wrong.add(named.get(row, f"snippet {row}"))
    yield "every snippet is text[start:end] of its document", str(wrong)
    absent = int((~seen).sum())
    yield "every snippet has a document", f"{absent:,} snippets without one" if absent else ""


def _check_vectors(folder: Path, snippets: Hashes) -> Iterator[Outcome]:
    embedders: set[str] = set()
    lengths: set[int] = set()
    off, ids = Tally(), []
    path = folder / "snippet_vectors.parquet"
    read_table(path, "snippet_vectors", [])
    for batch in pq.ParquetFile(path).iter_batches(_ROWS):
        names = batch["snippet_id"].to_pylist()
        ids.append(np.fromiter(map(_hash, names), np.uint64))
        embedders |= set(batch["embedder"].unique().to_pylist())
        sizes = batch["vector"].value_lengths().to_numpy(zero_copy_only=False)
        lengths |= set(sizes.tolist())
        if len(set(sizes.tolist())) == 1:
            flat = batch["vector"].flatten().to_numpy(zero_copy_only=False)
            norms = np.linalg.norm(flat.reshape(len(names), -1), axis=1)
            for row in np.flatnonzero(~(np.abs(norms - 1) <= _UNIT)):
                off.add(f"{names[row]} of length {norms[row]:.3f}")
    numbers = np.concatenate([np.empty(0, np.uint64), *ids])
    same = len(numbers) == len(snippets) and bool((np.sort(numbers) == np.sort(snippets)).all())
    missing = len(np.setdiff1d(snippets, numbers))
    extra = len(np.setdiff1d(numbers, snippets))
    problem = f"{missing:,} snippets without a vector, {extra:,} vectors without a snippet, "
    problem += f"{_duplicates(numbers):,} vectors twice"
    yield "snippets and vectors are one to one", "" if same else problem
    yield "every vector has unit length", str(off)
    made_by = read_manifest(folder, "knowledge", verify=False).facts.get("embedder")
    if made_by:
        embedders.add(str(made_by))
    one = len(embedders) <= 1 and len(lengths) <= 1
    problem = f"embedders {', '.join(sorted(embedders))}; lengths {sorted(lengths)}"
    yield "all vectors are of one embedder", "" if one else problem


def _check_index(folder: Path, snippets: Hashes) -> Iterator[Outcome]:
    from okrcell.corpus.index import index_state

    problem = index_state(folder, read_manifest(folder, "knowledge", verify=False))
    strange = silent = Tally()
    if not problem:
        try:
            strange, silent = _ask_index(folder, snippets)
        except Exception as error:  # noqa: BLE001  (chromadb raises what it likes on its files)
            problem = f"{type(error).__name__}: {error}"
    yield "the index is of these snippets", problem or str(strange)
    if not problem:
        yield "the approximate index answers for every source", str(silent)


def _ask_index(folder: Path, snippets: Hashes) -> tuple[Tally, Tally]:
    """Compare the ids of an index with the table; ask every source of the Chroma folder once."""
    from okrcell.corpus.index import open_index

    strange, silent = Tally(), Tally()
    index = open_index(folder, read_manifest(folder, "knowledge", verify=False))
    try:
        if len(index.rows) != len(snippets):
            strange.add(f"{len(index.rows):,} in it, {len(snippets):,} in the table")
            return strange, silent
        for begin in range(0, len(snippets), _ROWS):
            rows = np.arange(begin, min(begin + _ROWS, len(snippets)))
            for row, name in zip(rows.tolist(), index.rows.snippet_ids(rows), strict=True):
                if _hash(name) != int(snippets[row]):
                    strange.add(f"row {row} is {name}")
        for code, source in enumerate(index.sources):
            place = int(np.argmax(index.codes[index.order] == code))
            vector = index.dense.vectors(np.array([place]))[0]
            if not len(index.chroma.candidates(vector, 1, source)):
                silent.add(source)
    finally:
        index.chroma.close()
    return strange, silent
