"""The offline writer: a short entry on a cell type, each sentence carried by what it quotes.

Deterministic and free. It opens with what the cell type is, goes on with markers and function, and ends
with tissue and donors. What distinguishes one profile from another is told wherever there is evidence;
what room is left goes to the rest, the most useful first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from okrcell.corpus import ontology
from okrcell.enrich.circumstances import donor_sentences, tissue_sentences
from okrcell.enrich.draft import FACETS, Draft, Facet, Sentence
from okrcell.enrich.evidence import Request
from okrcell.enrich.identity import (
    finer_points,
    kind_sentences,
    lead_sentences,
    synonym_sentence,
)
from okrcell.enrich.masking import MASKED
from okrcell.enrich.names import tokenise
from okrcell.enrich.own_terms import Term, distinct, own_terms
from okrcell.enrich.passages import expression_sentence, passage_sentences
from okrcell.enrich.sentences import n_words
from okrcell.enrich.wording import plural
from okrcell.errors import ProviderError

__all__ = ["EXTRACTIVE_VERSION", "write_extractive"]

EXTRACTIVE_VERSION = "extractive-2"

_REPEATED = 0.7  # share of a sentence's telling words that another has, from which it repeats it
_ALIKE = 0.6  # or of the telling words of both
# A text of up to this many words stays under the 256 word pieces that the default embedder reads whole;
# as they are only estimated here, fewer are allowed.
_SHORT, _PIECES = 150, 225
_FEW = 5  # genes of the expression evidence, where there is no room for their numbers
_EARLY = 3  # sentences on markers and function that come before the finer points of the definition
_PARENT, _PASSAGE, _SYNONYMS, _EXPRESSION = 50, 80, 99, 0  # places within a facet
_STOP = frozenset(
    "a an and are as at by cell come donor for from has have in is it its kind of on or that the these they "
    "this to type which with".split()
)

_Place = tuple[Facet, int]


def write_extractive(request: Request, words: int) -> Draft:
    """Compose a description from a request's evidence.

    Parameters
    ----------
    words
        Upper bound of the text's length.

    Raises
    ------
    ProviderError
        The evidence holds nothing that can be told.
    """
    terms = own_terms(request)
    named = terms["identity"].label if "identity" in terms else request.subject.label("identity")
    name = MASKED if request.mask_label else named
    entry = _Entry(words, name)
    for place, sentence in _needed(request, terms, name):
        entry.put(place, sentence, needed=True)
    for place, sentence, after in _wishes(request, terms, name):
        if after is None or entry.has(after):
            entry.put(place, sentence)
    sentences = entry.sentences()
    if not sentences:
        raise ProviderError(
            f"description of {request.subject.label('identity') or 'an unknown cell type'}",
            found="no sentence in the evidence that can be told by itself",
            expected="a definition, or a passage about the cell type",
            fix="Add an ontology or literature that covers it to the store.",
        )
    return Draft(sentences=sentences)


class _Entry:
    """Sentences by place, within a number of words; a longer form replaces a shorter."""

    def __init__(self, words: int, name: str) -> None:
        self._words, self._pieces = words, _PIECES if words <= _SHORT else math.inf
        self._common = _STOP | frozenset(tokenise(name))
        self._chosen: dict[_Place, Sentence] = {}

    def put(self, place: _Place, sentence: Sentence, *, needed: bool = False) -> None:
        others = [s for p, s in self._chosen.items() if p != place]
        texts = [sentence.text, *(s.text for s in others)]
        fits = sum(map(n_words, texts)) <= self._words
        fits = fits and sum(map(_n_pieces, texts)) <= self._pieces
        if fits and (needed or not any(self._repeats(sentence.text, s.text) for s in others)):
            self._chosen[place] = sentence

    def has(self, place: _Place) -> bool:
        return place in self._chosen

    def sentences(self) -> tuple[Sentence, ...]:
        order = {facet: number for number, facet in enumerate(FACETS)}
        places = sorted(self._chosen, key=lambda place: (order[place[0]], place[1]))
        return tuple(self._chosen[place] for place in places)

    def _repeats(self, new: str, other: str) -> bool:
        a, b = (set(tokenise(text)) - self._common for text in (new, other))
        return not a or len(a & b) >= min(_REPEATED * len(a), _ALIKE * len(a | b))


def _n_pieces(text: str) -> int:
    """Return about how many word pieces a text has, rather too many than too few."""
    return sum(
        (1 if len(word) < 8 else -(-len(word) // 5))
        if word.isalpha() and word[1:].islower()
        else -(-len(word) // 2)
        for word in re.findall(r"\w+|[^\w\s]", text)
    )


# --- what must be said -------------------------------------------------------------------------


def _needed(
    request: Request, terms: dict[Facet, Term], name: str
) -> Iterator[tuple[_Place, Sentence]]:
    """Yield the shortest forms of what every text says: identity, tissue, donors."""
    own = terms.get("identity")
    lead = lead_sentences(own, name)
    identity = lead[:1] or list(kind_sentences(request, own, name))[:1]
    if not identity and own and not request.mask_label:
        text = f"The cells are {plural(own.label)}."
        identity = [Sentence(text=text, facet="identity", citations=(own.name(),))]
    for sentence in identity:
        yield ("identity", 0), sentence
    if "tissue" in terms:
        yield ("tissue", 0), tissue_sentences(terms["tissue"])[0]
    for sentence in donor_sentences(terms)[:1]:
        yield (sentence.facet, 0), sentence


# --- what is said if there is room -------------------------------------------------------------


def _wishes(
    request: Request, terms: dict[Facet, Term], name: str
) -> Iterator[tuple[_Place, Sentence, _Place | None]]:
    """Yield what else to say, most useful first, and after what it must stand."""
    own = terms.get("identity")
    lead = lead_sentences(own, name)
    for sentence in lead[1:]:
        yield ("identity", 0), sentence, None
    spoken = list(_passages("identity", request, name))
    if not lead:
        # Where no ontology defines the type, the first passage about it says what it is.
        for sentence in spoken[:1]:
            yield ("identity", 1), sentence, None
    markers = list(enumerate(_passages("markers_function", request, name), start=_EXPRESSION + 1))
    measured = request.evidence("markers_function")
    for place, sentence in markers[:1]:
        yield ("markers_function", place), sentence, None
    if few := expression_sentence(measured, _FEW):
        yield ("markers_function", _EXPRESSION), few, None
    finer: list[tuple[_Place, Sentence, _Place | None]] = [
        (("identity", place), sentence, ("identity", place - 1) if leans_back else None)
        for place, (sentence, leans_back) in enumerate(finer_points(own) if lead else (), start=1)
    ]
    yield from finer[:1]
    for place, sentence in markers[1:_EARLY]:
        yield ("markers_function", place), sentence, None
    for sentence in donor_sentences(terms)[1:]:
        yield (sentence.facet, 0), sentence, None
    if "tissue" in terms:
        for sentence in tissue_sentences(terms["tissue"])[1:]:
            yield ("tissue", 0), sentence, None
    yield from finer[1:]
    for sentence in list(kind_sentences(request, own, name))[:1]:
        yield ("identity", _PARENT), sentence, None
    for facet in ("tissue", "disease", "development_stage"):
        for sentence in list(_passages(facet, request, name))[:1]:
            yield (facet, _PASSAGE), sentence, None
    for place, sentence in enumerate(spoken, start=_PASSAGE):
        yield ("identity", place), sentence, None
    for place, sentence in markers[_EARLY:]:
        yield ("markers_function", place), sentence, None
    if whole := expression_sentence(measured):
        yield ("markers_function", _EXPRESSION), whole, None
    if synonyms := synonym_sentence(request, own, name):
        yield ("identity", _SYNONYMS), synonyms, None


def _passages(facet: Facet, request: Request, name: str) -> Iterator[Sentence]:
    subject = request.subject
    topic: tuple[str, ...] = ()
    if facet not in {"identity", "markers_function"}:
        topic = (subject.label(facet), *ontology.names(subject.term_id(facet)))
    return passage_sentences(
        distinct(request.evidence(facet)),
        facet,
        name,
        subject.term_id("identity"),
        topic=topic,
        # What is true of a near ancestor names that ancestor, which a masked text would do better without.
        near=facet == "markers_function" and not request.mask_label,
    )
