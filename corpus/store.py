"""The Chroma folder: derived from the snippet tables, rebuilt whenever it does not match them.

Chroma is the index and never the record. One collection per source keeps filtered search as fast as
unfiltered search. This is the only module that imports chromadb.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ChromaIndex", "build_chroma", "chroma_identity"]

# Measured in benchmarks/corpus/index.py: recall of the candidates against build time. Chroma moves
# vectors from its log into the graph at every sync_threshold; the default of 1,000 costs time.
_HNSW = {"space": "cosine", "ef_construction": 100, "max_neighbors": 16, "ef_search": 200}
_SYNC = 50_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}[A-Za-z0-9]")


def chroma_identity() -> dict[str, Any]:
    """Return what a Chroma folder depends on beside its vectors: version and graph settings."""
    return {"chromadb": version("chromadb"), "hnsw": {**_HNSW, "sync_threshold": _SYNC}}


def _client(folder: Path) -> Any:
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(
        str(folder), settings=Settings(anonymized_telemetry=False, allow_reset=False)
    )


def _collection_name(source: str) -> str:
    if not _NAME.fullmatch(source):
        source = hashlib.sha256(source.encode()).hexdigest()[:16]
    return f"snippets-{source}"


def build_chroma(
    folder: Path,
    bounds: Mapping[str, tuple[int, int]],
    ids: Sequence[str],
    vectors: npt.NDArray[np.float32],
    advance: Callable[[int], object] = lambda n: None,
) -> None:
    """Make a collection per source.

    Parameters
    ----------
    bounds
        Source to its first position and the one after its last.
    ids, vectors
        Snippet ids and unit rows (float32 [n, D]) by position.
    """
    client = _client(folder)
    try:
        step = client.get_max_batch_size()
        for source, (start, stop) in bounds.items():
            collection = client.create_collection(
                _collection_name(source),
                embedding_function=None,
                configuration={"hnsw": {**_HNSW, "sync_threshold": _SYNC}},
            )
            for begin in range(start, stop, step):
                part = slice(begin, min(begin + step, stop))
                collection.add(ids=list(ids[part]), embeddings=np.asarray(vectors[part]))
                advance(part.stop - part.start)
    finally:
        client.close()


class ChromaIndex:
    """Approximate search in a finished folder, opened at the first search.

    Parameters
    ----------
    positions
        Turns snippet ids into positions (int64).
    """

    def __init__(
        self, folder: Path, positions: Callable[[Sequence[str]], npt.NDArray[np.int64]]
    ) -> None:
        self._folder, self._positions = folder, positions
        self._client: Any = None
        self._collections: dict[str, Any] = {}

    def candidates(
        self, vector: npt.NDArray[np.float32], n: int, source: str
    ) -> npt.NDArray[np.int64]:
        """Return about ``n`` positions of a source near a vector (float32 [D]), in no useful order."""
        if self._client is None:
            self._client = _client(self._folder)
        if source not in self._collections:
            self._collections[source] = self._client.get_collection(
                _collection_name(source), embedding_function=None
            )
        collection = self._collections[source]
        answer = collection.query(
            query_embeddings=vector[None, :], n_results=min(n, collection.count()), include=[]
        )
        return self._positions(answer["ids"][0])

    def close(self) -> None:
        """Release the folder."""
        if self._client is not None:
            self._client.close()
            self._client, self._collections = None, {}
