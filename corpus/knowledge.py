"""Search over the snippets of a store: dense, lexical, or both fused, exactly scored, stable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from okrcell.artifacts import read_manifest
from okrcell.corpus.clean import HIDDEN_TEXT
from okrcell.corpus.dense import EXACT_ROWS
from okrcell.corpus.embedder import Embedder
from okrcell.corpus.fusion import fuse
from okrcell.corpus.index import Index, open_index
from okrcell.errors import ConfigError, EmbedderError

__all__ = ["Knowledge", "Mode", "Snippet", "open_knowledge", "parse_mode"]

Mode = Literal["hybrid", "dense", "lexical"]
_POOL = 200  # candidates of either kind that are fused: no more found better passages
_NAME_WEIGHT = 0.9  # another name counts a little less than the one that was asked for
_DIGITS = 6

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Snippet:
    """A piece of a document that a sentence can cite.

    ``doc_id`` is a term id for ontology terms, else ``PMID:1``, ``PMC:1``, ``DOI:10.1/x``,
    ``NOTE:stem`` or ``JSONL:id``; ``source`` is the short name of the ontology, or the name under
    which the document was added.
    """

    snippet_id: str
    doc_id: str
    source: str
    section: str
    text: str
    score: float = 0.0
    is_retracted: bool = False
    has_hidden_text: bool = False


class Knowledge:
    """The finished snippets of a store. Open it with :func:`open_knowledge`."""

    def __init__(self, index: Index, embedder: Embedder, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._index, self._embedder = index, embedder

    def __len__(self) -> int:
        return len(self._index.rows)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that have snippets."""
        return self._index.sources

    def get(self, snippet_id: str) -> Snippet | None:
        """Return a snippet by id."""
        row = self._index.rows.row_of(snippet_id)
        return None if row is None else self._snippet(row)

    def of_document(self, doc_id: str) -> list[Snippet]:
        """Return a document's snippets in reading order."""
        return [self._snippet(row) for row in self._index.rows.of_document(doc_id)]

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        sources: Sequence[str] | None = None,
        mode: Mode = "hybrid",
        names: Sequence[str] = (),
    ) -> list[Snippet]:
        """Return the ``k`` best snippets, best first; equal scores are ordered by id.

        Parameters
        ----------
        sources
            Restrict to these sources; None means all.
        mode
            ``dense`` (cosine), ``lexical`` (BM25 over words and pairs of words), or ``hybrid``: both,
            see :func:`okrcell.corpus.fusion.fuse`.
        names
            Other names of what the query names, such as a term's synonyms: a text is scored by the
            words of the name that fits it best. ``dense`` does not use them.

        Raises
        ------
        ConfigError
            A source that the store does not have.
        """
        wanted = self.sources if sources is None else tuple(dict.fromkeys(sources))
        unknown = sorted(set(wanted) - set(self.sources))
        if unknown:
            raise ConfigError(
                f"source '{unknown[0]}'",
                found="no snippets of that source",
                expected=f"one of {', '.join(self.sources)}",
                fix="Correct the name, or add the source and build the store again.",
            )
        if not wanted or k < 1:
            return []
        if mode == "lexical":
            scores, _ = self._lexical(query, names, wanted)
            rows = _best(scores, k)
            return self._top(rows, scores[rows], k)
        vector = self._embedder.encode([query])[0]
        pool = k if mode == "dense" else max(_POOL, k)
        rows = self._index.order[self._index.dense.nearest(vector, pool, wanted)].astype(np.int64)
        if mode == "dense":
            return self._top(rows, self._vectors(rows) @ vector, k)
        scores, ideal = self._lexical(query, names, wanted)
        rows = np.union1d(rows, _best(scores, pool))
        fused = fuse(vector, self._vectors(rows), scores[rows], ideal)
        return self._top(rows, fused, k)

    def _vectors(self, rows: Rows) -> npt.NDArray[np.float32]:
        return self._index.dense.vectors(self._index.place[rows])

    def _lexical(
        self, query: str, names: Sequence[str], wanted: Sequence[str]
    ) -> tuple[Scores, float]:
        """Return BM25 by row, 0 outside the sources, and the ideal score of the query."""
        scores, ideal = self._index.lexical.scores(query)
        for name in names:
            other, best = self._index.lexical.scores(name)
            if best > 0:  # put on the scale of the query, or of the first name that is known
                ideal = ideal or best
                np.maximum(scores, other * (_NAME_WEIGHT * ideal / best), out=scores)
        if len(wanted) < len(self.sources):
            allowed = np.array([source in wanted for source in self.sources])
            scores[~allowed[self._index.codes]] = 0
        return scores, ideal

    def _top(self, rows: Rows, scores: Scores, k: int) -> list[Snippet]:
        """Return the best rows as snippets; scores are rounded first, so that noise is no order."""
        rounded = np.round(scores.astype(np.float64), _DIGITS)
        if len(rows) > k:
            edge = np.partition(rounded, len(rows) - k)[len(rows) - k]
            rows, rounded = rows[rounded >= edge], rounded[rounded >= edge]
        ids = self._index.rows.snippet_ids(rows)
        best = sorted(range(len(rows)), key=lambda i: (-rounded[i], ids[i]))[:k]
        return [self._snippet(int(rows[i]), float(rounded[i])) for i in best]

    def _snippet(self, row: int, score: float = 0.0) -> Snippet:
        found = self._index.rows.row(row)
        return Snippet(
            found["snippet_id"],
            found["doc_id"],
            found["source"],
            found["section"],
            found["text"],
            score,
            "retracted" in found["flags"],
            HIDDEN_TEXT in found["flags"],
        )

    def close(self) -> None:
        """Release the index."""
        self._index.chroma.close()


def _best(scores: Scores, k: int) -> Rows:
    """Return the rows of the ``k`` best scores above 0 and of all that equal the last of them."""
    found = np.flatnonzero(scores > 0)
    if len(found) > k:
        edge = np.partition(scores[found], len(found) - k)[len(found) - k]
        found = found[scores[found] >= edge]
    return found


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


def open_knowledge(store: Path, embedder: Embedder, *, exact_rows: int = EXACT_ROWS) -> Knowledge:
    """Open the built knowledge of a store.

    Parameters
    ----------
    exact_rows
        Snippets of the chosen sources up to which vectors are compared one by one; beyond, the
        Chroma index proposes candidates.

    Raises
    ------
    ManifestError
        The store has not been built, or its index is of other tables or another version.
    EmbedderError
        The vectors were made by another embedder.
    """
    folder = Path(store) / "knowledge"
    # Only what was derived from the tables is read here; 'status' and 'build' hash the tables.
    manifest = read_manifest(folder, "knowledge", verify=False)
    made_by = str(manifest.facts.get("embedder"))
    if made_by != embedder.id:
        raise EmbedderError(
            folder,
            found=f"vectors made by {made_by}",
            expected=f"vectors made by {embedder.id}",
            fix="Use the same --embedder, or run 'okrcell corpus build' with this one.",
        )
    index = open_index(folder, manifest, exact_rows=exact_rows)
    return Knowledge(index, embedder, manifest.fingerprint)
