"""The search index of a store: everything in one folder, derived from the two snippet tables.

The folder is built aside and swapped in, and says of itself what it was made from. It is never
repaired: where anything differs it is built again.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from okrcell.artifacts import Manifest, as_storage_error, atomic_write, move, read_note
from okrcell.console import progress
from okrcell.corpus.dense import EXACT_ROWS, Dense, build_dense
from okrcell.corpus.lexical import LEXICAL_VERSION, Lexical, LexicalWriter
from okrcell.corpus.snippet_rows import RowsWriter, SnippetRows
from okrcell.corpus.store import ChromaIndex, build_chroma, chroma_identity
from okrcell.errors import ManifestError

__all__ = ["INDEX", "Index", "build_index", "index_state", "open_index"]

INDEX, INDEX_VERSION = "index", 1
_STAMP = "okrcell-index.json"
_ROWS = 1024


@dataclass(frozen=True)
class Index:
    """The parts of an open index.

    Attributes
    ----------
    order
        int32 [n], the snippet row of each position of ``dense``.
    place
        int64 [n], the position of each snippet row.
    codes
        int16 [n], per snippet row, the place of its source in ``sources``.
    """

    rows: SnippetRows
    dense: Dense
    lexical: Lexical
    chroma: ChromaIndex
    sources: tuple[str, ...]
    order: npt.NDArray[np.int32]
    place: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int16]


def _identity(manifest: Manifest) -> dict[str, Any]:
    return {
        "content": manifest.fingerprint,
        "version": INDEX_VERSION,
        "lexical": LEXICAL_VERSION,
        **chroma_identity(),
    }


def build_index(folder: Path, manifest: Manifest) -> None:
    """Build the index of a finished knowledge folder beside the present one, and swap it in."""
    target, aside = folder / INDEX, folder / f"{INDEX}.building"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        bounds = _fill(aside, folder, int(manifest.facts["dim"]))
        stamp = {**_identity(manifest), "sources": bounds, "sizes": _sizes(aside)}
        atomic_write(aside / _STAMP, json.dumps(stamp, sort_keys=True, indent=1) + "\n")
    except Exception as error:  # noqa: BLE001  (chromadb has no type of its own for a full disk)
        raise as_storage_error(error, aside) or error from None
    shutil.rmtree(target, ignore_errors=True)
    move(aside, target)


def _fill(aside: Path, folder: Path, dim: int) -> dict[str, tuple[int, int]]:
    sources: list[str] = []
    snippets = pq.ParquetFile(folder / "snippets.parquet")
    with progress("Indexing snippets", 2 * snippets.metadata.num_rows, "steps") as advance:
        with RowsWriter(aside) as rows, LexicalWriter(aside / "lexical") as lexical:
            for batch in snippets.iter_batches(_ROWS):
                rows.add(batch)
                lexical.add(batch["text"].to_pylist())
                sources.extend(batch["source"].to_pylist())
                advance(batch.num_rows)
        names, codes = np.unique(np.array(sources, dtype=np.str_), return_inverse=True)
        order = np.argsort(codes, kind="stable").astype(np.int32)
        edges = np.searchsorted(codes[order], np.arange(len(names) + 1)).tolist()
        bounds = {str(name): (edges[i], edges[i + 1]) for i, name in enumerate(names)}
        order.tofile(aside / "order")
        codes.astype(np.int16).tofile(aside / "codes")
        vectors = build_dense(aside, folder / "snippet_vectors.parquet", order, dim)
        ids = SnippetRows(aside).snippet_ids(order.astype(np.int64))
        build_chroma(aside / "chroma", bounds, ids, vectors, advance)
    return bounds


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size of every file of ours; Chroma changes its files when it opens them."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in {"chroma", _STAMP}
    }


def index_state(folder: Path, manifest: Manifest) -> str:
    """Return "" where the index of a knowledge folder can be used, else what is wrong with it."""
    stamp = read_note(folder / INDEX / _STAMP)
    if not stamp:
        return "no index"
    for name, expected in _identity(manifest).items():
        if stamp.get(name) != expected:
            if name == "content":
                return "an index that was made from other tables"
            return f"an index made with {name} {stamp.get(name)}, where {expected} is in use"
    if stamp.get("sizes") != _sizes(folder / INDEX) or not (folder / INDEX / "chroma").is_dir():
        return "an index that lacks files, or whose files have another size"
    return ""


def open_index(folder: Path, manifest: Manifest, *, exact_rows: int = EXACT_ROWS) -> Index:
    """Open the index of a knowledge folder; files are mapped, and read when a search needs them.

    Raises
    ------
    ManifestError
        There is no index, or one of other tables, of another version, or damaged.
    """
    found = index_state(folder, manifest)
    if found:
        raise ManifestError(
            folder / INDEX,
            found=found,
            expected="an index that matches the snippet tables and this installation",
            fix="Run 'okrcell corpus build' on the store: it makes the index again from the tables.",
        )
    path = folder / INDEX
    sources = read_note(path / _STAMP)["sources"]
    bounds = {name: (int(a), int(b)) for name, (a, b) in sources.items()}
    try:
        rows = SnippetRows(path)
        order = np.fromfile(path / "order", np.int32)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        chroma = ChromaIndex(path / "chroma", lambda ids: place[rows.rows_of(ids)])
        dense = Dense(path, int(manifest.facts["dim"]), bounds, chroma, exact_rows)
        lexical = Lexical(path / "lexical")
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise ManifestError(
            path,
            found=f"an index that cannot be read ({error})",
            expected="the files as okrcell wrote them",
            fix="Run 'okrcell corpus rebuild' on the store.",
        ) from None
    codes = np.fromfile(path / "codes", np.int16)
    return Index(rows, dense, lexical, chroma, tuple(bounds), order, place, codes)
