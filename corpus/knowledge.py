"""Search over the snippets of a store: dense, lexical, or both fused, exactly re-ranked, stable."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from okrcell.artifacts import read_manifest
from okrcell.corpus.embedder import Embedder
from okrcell.corpus.store import VectorIndex, index_identity
from okrcell.errors import ConfigError, EmbedderError
from okrcell.schemas import read_table

__all__ = ["Knowledge", "Mode", "Snippet", "open_knowledge", "parse_mode"]

Mode = Literal["hybrid", "dense", "lexical"]
_OVERFETCH = 4
_RRF_K = 60  # reciprocal rank fusion, Cormack et al. 2009


@dataclass(frozen=True)
class Snippet:
    """A piece of a document that a sentence can cite.

    ``doc_id`` is a term id for ontology terms and ``NOTE:<stem>`` for notes; ``source`` is the short
    name of the ontology, or ``notes``.
    """

    snippet_id: str
    doc_id: str
    source: str
    section: str
    text: str
    score: float = 0.0
    is_retracted: bool = False


class Knowledge:
    """The finished snippets of a store. Open it with :func:`open_knowledge`."""

    def __init__(
        self,
        snippets: list[Snippet],
        vectors: npt.NDArray[np.float32],
        index: VectorIndex,
        embedder: Embedder,
        fingerprint: str,
    ) -> None:
        self.fingerprint = fingerprint
        self._snippets, self._vectors = snippets, vectors
        self._index, self._embedder = index, embedder
        self._row = {snippet.snippet_id: row for row, snippet in enumerate(snippets)}
        self._by_document: dict[str, list[Snippet]] = {}
        for snippet in snippets:
            self._by_document.setdefault(snippet.doc_id, []).append(snippet)

    def __len__(self) -> int:
        return len(self._snippets)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that have snippets."""
        return self._index.sources

    def get(self, snippet_id: str) -> Snippet | None:
        """Return a snippet by id."""
        row = self._row.get(snippet_id)
        return None if row is None else self._snippets[row]

    def of_document(self, doc_id: str) -> list[Snippet]:
        """Return a document's snippets in reading order."""
        return list(self._by_document.get(doc_id, ()))

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        sources: Sequence[str] | None = None,
        mode: Mode = "hybrid",
    ) -> list[Snippet]:
        """Return the ``k`` best snippets, best first; equal scores are ordered by id.

        Parameters
        ----------
        sources
            Restrict to these sources; None means all.
        mode
            ``dense`` (cosine), ``lexical`` (BM25), or ``hybrid``: reciprocal rank fusion of both.
        """
        wanted = self.sources if sources is None else tuple(sources)
        unknown = sorted(set(wanted) - set(self.sources))
        if unknown:
            raise ConfigError(
                f"source '{unknown[0]}'",
                found="no snippets of that source",
                expected=f"one of {', '.join(self.sources)}",
                fix="Correct the name, or add the source and build the store again.",
            )
        depth = k if mode != "hybrid" else k * _OVERFETCH
        rankings = []
        if mode in {"hybrid", "dense"}:
            rankings.append(self._dense(query, depth, wanted))
        if mode in {"hybrid", "lexical"}:
            rankings.append(self._lexical(query, depth, wanted))
        if len(rankings) == 1:
            return rankings[0]
        fused: dict[str, float] = {}
        for ranking in rankings:
            for rank, snippet in enumerate(ranking):
                fused[snippet.snippet_id] = fused.get(snippet.snippet_id, 0.0) + 1 / (
                    _RRF_K + rank + 1
                )
        return self._top(fused, k)

    def _top(self, scores: dict[str, float], k: int) -> list[Snippet]:
        best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]
        return [
            replace(self._snippets[self._row[key]], score=round(score, 6)) for key, score in best
        ]

    def _dense(self, query: str, k: int, sources: Sequence[str]) -> list[Snippet]:
        vector = self._embedder.encode([query])[0]
        ids = sorted(set(self._index.candidates(vector, k * _OVERFETCH, sources)))
        if not ids:
            return []
        exact = self._vectors[[self._row[key] for key in ids]] @ vector
        return self._top(dict(zip(ids, map(float, exact), strict=True)), k)

    def _lexical(self, query: str, k: int, sources: Sequence[str]) -> list[Snippet]:
        bm25s = _bm25s_module()

        tokens = bm25s.tokenize([query], stopwords="en", show_progress=False, return_ids=False)[0]
        known = [token for token in tokens if token in self._bm25.vocab_dict]
        if not known:
            return []
        allowed = set(sources)
        scores = self._bm25.get_scores(known)
        best = {
            snippet.snippet_id: float(score)
            for snippet, score in zip(self._snippets, scores, strict=True)
            if score > 0 and snippet.source in allowed
        }
        return self._top(best, k)

    @cached_property
    def _bm25(self) -> Any:
        bm25s = _bm25s_module()

        texts = [snippet.text for snippet in self._snippets]
        retriever = bm25s.BM25()
        retriever.index(
            bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False
        )
        return retriever

    def close(self) -> None:
        """Release the index."""
        self._index.close()


def _bm25s_module() -> Any:
    """Import bm25s without jax, which it would load where installed: seconds for nothing we use."""
    absent = "jax" not in sys.modules
    if absent:
        sys.modules["jax"] = None  # type: ignore[assignment]
    try:
        import bm25s
    finally:
        if absent:
            del sys.modules["jax"]
    return bm25s


def parse_mode(text: str) -> Mode:
    """Return a search mode, or raise ``ConfigError``."""
    for mode in get_args(Mode):
        if text == mode:
            found: Mode = mode
            return found
    raise ConfigError(
        "--mode",
        found=f"'{text}'",
        expected=f"one of {', '.join(get_args(Mode))}",
        fix="Correct the flag.",
    )


def open_knowledge(store: Path, embedder: Embedder) -> Knowledge:
    """Open the built knowledge of a store.

    Close it before the store is built again in the same process: chromadb shares one connection per
    path, which would go on reading the old index.

    Raises
    ------
    ManifestError
        The store has not been built, or its files were altered.
    EmbedderError
        The vectors were made by another embedder.
    """
    folder = Path(store) / "knowledge"
    manifest = read_manifest(folder, "knowledge")
    made_by = str(manifest.facts.get("embedder"))
    if made_by != embedder.id:
        raise EmbedderError(
            folder,
            found=f"vectors made by {made_by}",
            expected=f"vectors made by {embedder.id}",
            fix="Use the same --embedder, or run 'okrcell corpus build' with this one.",
        )
    rows = read_table(folder / "snippets.parquet", "snippets").to_pylist()
    vectors = read_table(folder / "snippet_vectors.parquet", "snippet_vectors", ["vector"])
    snippets = [
        Snippet(
            row["snippet_id"],
            row["doc_id"],
            row["source"],
            row["section"],
            row["text"],
            is_retracted="retracted" in row["flags"],
        )
        for row in rows
    ]
    flat = vectors["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matrix = flat.astype(np.float32).reshape(len(snippets), embedder.dim)
    index = VectorIndex(folder / "chroma", index_identity(manifest.fingerprint))
    return Knowledge(snippets, matrix, index, embedder, manifest.fingerprint)
