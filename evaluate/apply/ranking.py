"""How well each cell fits a sentence: learnt similarity against that of usual types, and markers.

The bare cosine of a cell and a text says as much of the cell as of the text: some cells are near to every
text. So the mean cosine with usual cell types is taken away. Types that the sentence names, and genes that it
says are expressed, bring their markers: these vote on the cells' expression, as in annotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from okrcell.corpus.label_text import words_of
from okrcell.corpus.ontology import ancestors, names
from okrcell.corpus.type_texts import TypeForm, type_text
from okrcell.evaluate.apply.cells import Sample
from okrcell.evaluate.apply.labels import Candidates
from okrcell.evaluate.apply.scores import logits, votes_of
from okrcell.evaluate.apply.support import support_of
from okrcell.evaluate.apply.tissue import general_types

if TYPE_CHECKING:
    from okrcell.corpus.marker_table import Marker
    from okrcell.train.model import CellTextModel

__all__ = ["Query", "fit_of", "named_types", "query_of", "strangers", "support_doubts"]

Vectors = npt.NDArray[np.float32]
_WEAK_SUPPORT = 3


@dataclass(frozen=True)
class Query:
    """A sentence made ready.

    Attributes
    ----------
    text, vector
        The sentence, and float32 [E].
    types
        Cell Ontology ids of usual types that it names.
    markers
        Of these types, and of the genes that it names.
    background
        float32 [U, E]: vectors of usual types.
    is_known
        It names types, and the run was trained on all of them or on near ones.
    """

    text: str
    vector: Vectors
    types: tuple[str, ...]
    markers: tuple[Marker, ...]
    background: Vectors
    is_known: bool


def query_of(text: str, model: CellTextModel, own: Mapping[str, str], *, markers: bool) -> Query:
    """Return a sentence made ready for a run.

    Parameters
    ----------
    own
        Types of the run: label to Cell Ontology id.
    markers
        Whether they have a say.
    """
    from okrcell.corpus.marker_mentions import named_markers
    from okrcell.corpus.marker_table import joined, markers_of_term

    types = named_types(text, tuple(sorted(filter(None, own.values()))))
    found: tuple[Marker, ...] = ()
    if markers:
        said = named_markers(text, "your text")
        found = joined(said, *(markers_of_term(term) for term in types))
    is_known = bool(types) and not _odd(types, own)
    return Query(text, model.encode_text([text])[0], types, found, _usual(model), is_known)


def fit_of(query: Query, vectors: Vectors, sample: Sample) -> Vectors:
    """Return float32 [N]: how well each cell fits, in standard deviations of similarity and nats of vote.

    Beside a vote the similarity counts for half where the sentence names no type that the run knows.
    """
    contrast = vectors @ query.vector - vectors @ query.background.mean(axis=0)
    filled = ~sample.empty
    spread = float(np.std(contrast[filled])) or 1.0
    centred: Vectors = ((contrast - contrast[filled].mean()) / spread).astype(np.float32)
    if not query.markers:
        return centred
    alone = Candidates("", (query.text,), ("",), (query.text,), (query.markers,))
    rows = np.flatnonzero(filled)
    votes = votes_of(sample.cells, alone, [rows])
    assert votes is not None
    # A vector of length one along its own text: the similarity is the centred contrast itself.
    if not query.is_known:
        centred = (centred / 2).astype(np.float32)
    joined = logits(centred[:, None], np.ones((1, 1), dtype=np.float32), votes, 1.0)
    found: Vectors = joined[:, 0]
    return found


def support_doubts(query: Query, sample: Sample, rows: npt.NDArray[np.int64]) -> list[str]:
    """Say if none of the markers of what the sentence names is higher in the cells that were found."""
    if not query.markers:
        return []
    answer = np.full(len(sample), -1, dtype=np.int64)
    answer[rows] = 0
    held = support_of(sample.cells, answer, [query.markers])[0]
    what = " and ".join(names(term)[0] for term in query.types) or "the genes that the text names"
    if not held.usable:
        return [f"The file has no marker of {what}."]
    if held.usable >= _WEAK_SUPPORT and not held.higher:
        return [
            f"None of {held.usable} markers of {what} is higher in these cells than in the others: they are "
            "probably something else, and the file may hold no such cell."
        ]
    return []


def strangers(query: Query, own: Mapping[str, str]) -> list[str]:
    """Say which named types the run knows nothing of: neither they nor anything above or below them."""
    odd = [names(term)[0] for term in _odd(query.types, own)]
    if not odd:
        return []
    return [
        f"The run was not trained on {' or '.join(odd)}, nor on anything near: what it learnt says little of "
        "them" + (", their markers decide." if query.markers else ".")
    ]


def _odd(types: Iterable[str], own: Mapping[str, str]) -> list[str]:
    """Return the types that are neither above nor below any type of the run, nor one of them."""
    known = set(filter(None, own.values()))
    near = known.union(*(ancestors(term) for term in known))
    return [term for term in types if term not in near and not known & ancestors(term).keys()]


_kept: dict[str, Vectors] = {}


def _usual(model: CellTextModel) -> Vectors:
    """Return the vectors of usual types by a run, worded as its own; encoded once per process."""
    if model.fingerprint not in _kept:
        form: TypeForm = "label" if model.config.text_source == "label" else "named"
        texts = [type_text(names(term)[0], term, form) for term in general_types()]
        _kept[model.fingerprint] = model.encode_text(texts)
    return _kept[model.fingerprint]


@cache
def named_types(text: str, own: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the usual types, and those of a run, whose names stand in a text, the fullest names only."""
    said = set(words_of(text))
    found: dict[str, frozenset[str]] = {}
    for term in sorted({*general_types(), *own}):
        best: frozenset[str] = frozenset()
        for name in names(term):
            words = frozenset(words_of(name))
            if words and words <= said and len(words) > len(best):
                best = words
        if best:
            found[term] = best
    return tuple(
        term for term, words in found.items() if not any(words < other for other in found.values())
    )
