"""The offline writer: whole sentences of the offered passages, each with its quote.

Deterministic and free. Every facet with evidence is named, so that texts of different subjects
differ; what room is left goes to definition, markers and context, the most useful first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from okrcell.corpus import ontology
from okrcell.enrich.draft import FACETS, Draft, Facet, Sentence
from okrcell.enrich.evidence import Evidence, Request
from okrcell.enrich.names import is_about, key_of, says, tokenise
from okrcell.enrich.profile_text import NORMAL, Subject
from okrcell.enrich.sentences import definition_sentences, is_whole, n_words, split_sentences

__all__ = ["EXTRACTIVE_VERSION", "write_extractive"]

EXTRACTIVE_VERSION = "extractive-1"

_FRAMES: dict[Facet, str] = {
    "identity": "The cell type is",
    "tissue": "The tissue of origin is",
    "disease": "The disease is",
    "development_stage": "The development stage is",
    "sex": "The sex is",
}
_NORMAL_FRAME = "The condition is"
_CONTEXT: tuple[Facet, ...] = ("tissue", "disease", "development_stage")
_REPEATED = 0.75  # share of words in common from which a sentence says nothing new
_PARENT, _PASSAGE = 50, 80  # places after a facet's own definition
_CITATION = re.compile(r"\s*\[[^\]]{1,80}\](?=[.,;]?(?:\s|$))")  # "hormones[GO]." is "hormones."


def write_extractive(request: Request, words: int) -> Draft:
    """Compose a description from a request's evidence.

    Parameters
    ----------
    words
        Upper bound of the text's length.
    """
    text = _Composition(words)
    for facet in FACETS:
        for sentence in _names(facet, request):
            text.put(facet, 0, sentence)
    for facet, place, sentence in _wishes(request):
        text.put(facet, place, sentence)
    return Draft(sentences=text.sentences())


class _Composition:
    """Sentences by facet and place, within a number of words; a longer form replaces a shorter."""

    def __init__(self, words: int) -> None:
        self._room = words
        self._chosen: dict[tuple[int, int], Sentence] = {}

    def put(self, facet: Facet, place: int, sentence: Sentence) -> None:
        key = FACETS.index(facet), place
        others = [s for k, s in self._chosen.items() if k != key]
        replaced = n_words(self._chosen[key].text) if key in self._chosen else 0
        needed = n_words(sentence.text) - replaced
        if needed <= self._room and not any(_repeats(sentence.text, s.text) for s in others):
            self._chosen[key] = sentence
            self._room -= needed

    def sentences(self) -> tuple[Sentence, ...]:
        return tuple(self._chosen[key] for key in sorted(self._chosen))


def _repeats(one: str, other: str) -> bool:
    a, b = set(tokenise(one)), set(tokenise(other))
    return len(a & b) >= _REPEATED * len(a | b)


def _wishes(request: Request) -> Iterator[tuple[Facet, int, Sentence]]:
    """Yield what to say if there is room, most useful first."""
    markers = list(_passages("markers_function", request))
    rest = list(_own_definition("identity", request))
    for sentence in rest[:1]:
        yield "identity", 0, sentence
    for place, sentence in enumerate(markers[:3]):
        yield "markers_function", place, sentence
    for facet in ("disease", "tissue"):
        for sentence in list(_own_definition(facet, request))[:1]:
            yield facet, 0, sentence
    for place, sentence in enumerate(rest[1:], start=1):
        yield "identity", place, sentence
    for facet in _CONTEXT:
        for place, sentence in enumerate(list(_passages(facet, request))[:1], start=_PASSAGE):
            yield facet, place, sentence
    for place, sentence in enumerate(list(_parents(request))[:1], start=_PARENT):
        yield "identity", place, sentence
    for place, sentence in enumerate(_passages("identity", request), start=_PASSAGE):
        # Where no ontology defines the type, the first passage about it says what it is.
        yield "identity", place if rest or place > _PASSAGE else 0, sentence
    for place, sentence in enumerate(markers[3:], start=3):
        yield "markers_function", place, sentence


def _names(facet: Facet, request: Request) -> list[Sentence]:
    """Return the sentence that names a facet's term, with the name as its quote."""
    subject = request.subject
    frame = _NORMAL_FRAME if subject.term_id(facet) == NORMAL else _FRAMES.get(facet, "")
    for item in _evidence(facet, request):
        label, _ = _own(item, facet, subject)
        if frame and label:
            return [_sentence(f"{frame} {label}.", facet, item, label)]
    return []


def _own_definition(facet: Facet, request: Request) -> Iterator[Sentence]:
    """Yield the definition of a facet's own term, its first sentence led by the name."""
    subject = request.subject
    if subject.term_id(facet) == NORMAL:
        return
    for item in _evidence(facet, request):
        label, sentences = _own(item, facet, subject)
        for number, sentence in enumerate(sentences):
            if label and number == 0:
                lead = _capital(label) if facet == "identity" else f"{_FRAMES[facet]} {label}"
                told = f"{lead}: {_small_article(sentence)}"
                yield _sentence(told, facet, item, f"{label}: {sentence}")
            elif is_whole(sentence):
                yield _sentence(sentence, facet, item, sentence)


def _parents(request: Request) -> Iterator[Sentence]:
    """Yield what the cell type is a kind of, with the first sentence of that definition."""
    for item in _evidence("identity", request):
        if item.source not in ontology.ONTOLOGIES or _is_own(item, "identity", request.subject):
            continue
        label, sentences = definition_sentences(item.text, item.doc_id)
        if label and sentences:
            told = f"It is a kind of {label}: {_small_article(sentences[0])}"
            yield _sentence(told, "identity", item, f"{label}: {sentences[0]}")


def _passages(facet: Facet, request: Request) -> Iterator[Sentence]:
    """Yield sentences about the cell type from notes and literature, in turn from each passage.

    Sentences that name the type itself come before those that name a near ancestor.
    """
    subject = request.subject
    label, term_id = subject.label("identity"), subject.term_id("identity")
    topic: tuple[str, ...] = ()
    if facet not in {"identity", "markers_function"}:
        topic = (subject.label(facet), *ontology.names(subject.term_id(facet)))
    for near in (False, True) if facet == "markers_function" else (False,):
        columns = [
            [(item, s) for s in split_sentences(item.text) if is_whole(s)]
            for item in _evidence(facet, request)
            if item.source not in ontology.ONTOLOGIES
        ]
        for item, sentence in _in_turn(columns):
            about = is_about(sentence, label, term_id, near=near)
            seen = near and is_about(sentence, label, term_id, near=False)
            if about and not seen and (not topic or says(sentence, topic)):
                yield _sentence(sentence, facet, item, sentence)


def _in_turn(
    columns: Sequence[Sequence[tuple[Evidence, str]]],
) -> Iterator[tuple[Evidence, str]]:
    for row in range(max((len(column) for column in columns), default=0)):
        yield from (column[row] for column in columns if row < len(column))


def _evidence(facet: Facet, request: Request) -> tuple[Evidence, ...]:
    return dict(request.facets).get(facet, ())


def _is_own(item: Evidence, facet: Facet, subject: Subject) -> bool:
    if subject.term_id(facet):
        return item.doc_id == subject.term_id(facet)
    return key_of(subject.label(facet)) in {key_of(name) for name in ontology.names(item.doc_id)}


def _own(item: Evidence, facet: Facet, subject: Subject) -> tuple[str, tuple[str, ...]]:
    """Return label and definition of a facet's own term, nothing for other evidence."""
    if item.source not in ontology.ONTOLOGIES or not _is_own(item, facet, subject):
        return "", ()
    return definition_sentences(item.text, item.doc_id)


def _sentence(text: str, facet: Facet, item: Evidence, quote: str) -> Sentence:
    plain = " ".join(_CITATION.sub("", text).split())
    closed = plain if plain.endswith((".", "!", "?")) else f"{plain.rstrip(',;:')}."
    return Sentence(text=closed, facet=facet, snippet_ids=(item.snippet_id,), quote=quote)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _small_article(text: str) -> str:
    """Return a definition as it continues a sentence: "A lymphocyte" becomes "a lymphocyte"."""
    first, _, rest = text.partition(" ")
    return f"{first.lower()} {rest}" if first in {"A", "An", "The", "Any", "One", "Human"} else text
