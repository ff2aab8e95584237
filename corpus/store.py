"""The vector index: a Chroma folder derived from two tables, rebuilt whenever it does not match them.

Chroma is the index and never the record. One collection per source keeps filtered search as fast as
unfiltered search. This is the only module that imports chromadb.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from okrcell.artifacts import as_storage_error, atomic_write
from okrcell.errors import ManifestError

__all__ = ["VectorIndex", "build_index", "index_identity"]

_STAMP = "okrcell-index.json"
_SOURCE_PREFIX = "snippets-"


def index_identity(content: str) -> dict[str, str]:
    """Return what an index must say of itself to be used for tables with this fingerprint."""
    import chromadb

    return {"content": content, "chromadb": chromadb.__version__}


def _client(folder: Path) -> Any:
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(
        str(folder), settings=Settings(anonymized_telemetry=False, allow_reset=False)
    )


def build_index(
    folder: Path,
    identity: dict[str, str],
    ids: Sequence[str],
    sources: Sequence[str],
    vectors: npt.NDArray[np.float32],
) -> None:
    """Build the index beside ``folder`` and swap it in.

    Parameters
    ----------
    vectors
        float32 [n, D], unit rows, in the order of ``ids`` and ``sources``.
    """
    aside = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        client = _client(aside)
        try:
            step = client.get_max_batch_size()
            for source in sorted(set(sources)):
                collection = client.create_collection(
                    f"{_SOURCE_PREFIX}{source}",
                    embedding_function=None,
                    configuration={"hnsw": {"space": "cosine"}},
                )
                rows = [row for row, name in enumerate(sources) if name == source]
                for begin in range(0, len(rows), step):
                    part = rows[begin : begin + step]
                    collection.add(ids=[ids[row] for row in part], embeddings=vectors[part])
        finally:
            client.close()
        atomic_write(aside / _STAMP, json.dumps(identity, sort_keys=True) + "\n")
    except Exception as error:  # noqa: BLE001  (chromadb has no type of its own for a full disk)
        raise as_storage_error(error, aside) or error from None
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def index_matches(folder: Path, identity: dict[str, str]) -> bool:
    """Say whether a finished index of exactly this identity is there."""
    try:
        found: object = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return found == identity


class VectorIndex:
    """Approximate search in a finished index."""

    def __init__(self, folder: Path, identity: dict[str, str]) -> None:
        if not index_matches(folder, identity):
            raise ManifestError(
                folder,
                found="no index, or one made from other tables or by another version of chromadb",
                expected="an index that matches the snippet tables",
                fix="Run 'okrcell corpus build' on the store: it rebuilds the index.",
            )
        self._client = _client(folder)
        self._collections = {
            found.name.removeprefix(_SOURCE_PREFIX): self._client.get_collection(
                found.name, embedding_function=None
            )
            for found in self._client.list_collections()
        }

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that have snippets."""
        return tuple(sorted(self._collections))

    def candidates(
        self, vector: npt.NDArray[np.float32], n: int, sources: Sequence[str]
    ) -> list[str]:
        """Return about ``n`` snippet ids per source near a vector (float32 [D]), in no useful order."""
        found: list[str] = []
        for source in sources:
            collection = self._collections.get(source)
            if collection is not None:
                answer = collection.query(
                    query_embeddings=vector[None, :],
                    n_results=min(n, collection.count()),
                    include=[],
                )
                found += answer["ids"][0]
        return found

    def close(self) -> None:
        """Release the folder."""
        self._client.close()
