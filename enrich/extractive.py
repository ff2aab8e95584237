"""The offline writer: a short entry on a cell type, each sentence carried by what it quotes.

Deterministic and free. It opens with what the cell type is, goes on with markers and function, and ends
with tissue and donors. What distinguishes one profile from another is told wherever there is evidence;
what room is left goes to the rest, the most useful first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from okrcell.corpus import ontology
from okrcell.enrich.circumstances import Term, donor_sentences, tissue_sentences
from okrcell.enrich.definitions import appositive, is_about_the_term, shortest, tell
from okrcell.enrich.draft import FACETS, Citation, Draft, Facet, Sentence
from okrcell.enrich.evidence import Evidence, Request
from okrcell.enrich.masking import MASKED, mask_text
from okrcell.enrich.names import key_of, tokenise
from okrcell.enrich.passages import expression_sentence, is_plain, leans, passage_sentences
from okrcell.enrich.profile_text import NORMAL
from okrcell.enrich.sentences import definition_sentences, n_words
from okrcell.enrich.wording import capital, closed, joined, plural, tidy, with_article
from okrcell.errors import ProviderError

__all__ = ["EXTRACTIVE_VERSION", "write_extractive"]

EXTRACTIVE_VERSION = "extractive-2"

_REPEATED = 0.7  # share of a sentence's telling words that another has, from which it repeats it
_PIECES_PER_WORD = 1.65  # 150 words stay under the 256 word pieces that the default embedder reads
_FEW, _MANY = 3, 8  # genes of the expression evidence
_EARLY = 3  # sentences on markers and function that come before the finer points of the definition
_PARENT, _PASSAGE, _SYNONYMS, _EXPRESSION = 50, 80, 99, 0  # places within a facet
# A cell type is a kind of these, as is almost every other.
_TOO_BROAD = frozenset(
    "CL:0000000 CL:0000003 CL:0000255 CL:0000548 CL:0002371 CL:0002242 CL:0000226 CL:0000219 CL:0000988 "
    "CL:0002320 CL:0002319 CL:0000325 CL:0000630 CL:0000211 CL:0000063 CL:0000064 CL:0000677".split()
)
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
    terms = {facet: term for facet in FACETS if (term := _term(facet, request))}
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
        self._words, self._pieces = words, int(words * _PIECES_PER_WORD)
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

    def _repeats(self, one: str, other: str) -> bool:
        a, b = (set(tokenise(text)) - self._common for text in (one, other))
        return len(a & b) >= _REPEATED * max(1, min(len(a), len(b)))


def _n_pieces(text: str) -> int:
    """Return about how many word pieces a text has, rather too many than too few."""
    return sum(
        -(-len(word) // 7) if word.isalpha() and word[1:].islower() else -(-len(word) // 2)
        for word in re.findall(r"\w+|[^\w\s]", text)
    )


# --- what must be said -------------------------------------------------------------------------


def _needed(
    request: Request, terms: dict[Facet, Term], name: str
) -> Iterator[tuple[_Place, Sentence]]:
    """Yield the shortest forms of what every text says: identity, tissue, donors."""
    lead = _lead(terms, name)
    for sentence in lead[:1] or list(_kind_of(request, terms, name))[:1]:
        yield ("identity", 0), sentence
    if not lead and "identity" in terms and not request.mask_label:
        text = f"The cells are {plural(terms['identity'].label)}."
        plain = Sentence(text=text, facet="identity", citations=(terms["identity"].name(),))
        if not any(True for _ in _kind_of(request, terms, name)):
            yield ("identity", 0), plain
    if "tissue" in terms:
        yield ("tissue", 0), tissue_sentences(terms["tissue"])[0]
    for sentence in donor_sentences(terms)[:1]:
        yield (sentence.facet, 0), sentence


def _lead(terms: dict[Facet, Term], name: str) -> list[Sentence]:
    """Return the first sentence of the definition, short and whole."""
    term = terms.get("identity")
    told = tell(name, term.definition[0]) if term and term.definition else ""
    if not term or not told:
        return []
    texts = dict.fromkeys(text for text in (shortest(told), told) if text)
    return [Sentence(text=t, facet="identity", citations=(term.defined(),)) for t in texts]


# --- what is said if there is room -------------------------------------------------------------


def _wishes(
    request: Request, terms: dict[Facet, Term], name: str
) -> Iterator[tuple[_Place, Sentence, _Place | None]]:
    """Yield what else to say, most useful first, and after what it must stand."""
    lead = _lead(terms, name)
    for sentence in lead[1:]:
        yield ("identity", 0), sentence, None
    spoken = list(_passages("identity", request, name))
    if not lead:
        # Where no ontology defines the type, the first passage about it says what it is.
        for sentence in spoken[:1]:
            yield ("identity", 1), sentence, None
    markers = list(enumerate(_passages("markers_function", request, name), start=1))
    measured = request.evidence("markers_function")
    for place, sentence in markers[:1]:
        yield ("markers_function", place), sentence, None
    if few := expression_sentence(measured, _FEW):
        yield ("markers_function", _EXPRESSION), few, None
    finer = list(_finer_points(terms)) if lead else []
    for place, sentence, after in finer[:1]:
        yield ("identity", place), sentence, after
    for place, sentence in markers[1:_EARLY]:
        yield ("markers_function", place), sentence, None
    for sentence in donor_sentences(terms)[1:]:
        yield (sentence.facet, 0), sentence, None
    if "tissue" in terms:
        for sentence in tissue_sentences(terms["tissue"])[1:]:
            yield ("tissue", 0), sentence, None
    for place, sentence, after in finer[1:]:
        yield ("identity", place), sentence, after
    for sentence in list(_kind_of(request, terms, name))[:1]:
        yield ("identity", _PARENT), sentence, None
    for facet in ("tissue", "disease", "development_stage"):
        for sentence in list(_passages(facet, request, name))[:1]:
            yield (facet, _PASSAGE), sentence, None
    for place, sentence in enumerate(spoken, start=_PASSAGE):
        yield ("identity", place), sentence, None
    if many := expression_sentence(measured, _MANY):
        yield ("markers_function", _EXPRESSION), many, None
    for place, sentence in markers[_EARLY:]:
        yield ("markers_function", place), sentence, None
    if synonyms := _synonyms(request, terms, name):
        yield ("identity", _SYNONYMS), synonyms, None


def _finer_points(terms: dict[Facet, Term]) -> Iterator[tuple[int, Sentence, _Place | None]]:
    """Yield the later sentences of the definition; one that leans on another comes only after it."""
    term = terms.get("identity")
    place, is_gap = 0, False
    for quote in term.definition[1:] if term else ():
        text = closed(capital(tidy(quote)))
        if not is_plain(text) or (is_gap and leans(text)):
            is_gap = True
            continue
        assert term is not None
        place += 1
        cited = (Citation(snippet_id=term.snippet_id, quote=quote),)
        after: _Place | None = ("identity", place - 1) if leans(text) else None
        yield place, Sentence(text=text, facet="identity", citations=cited), after
        is_gap = False


def _kind_of(request: Request, terms: dict[Facet, Term], name: str) -> Iterator[Sentence]:
    """Yield what the cell type is a kind of, with that kind's definition where it fits in."""
    own = terms.get("identity")
    term_id = request.subject.term_id("identity")
    above = set(ontology.ancestors(term_id)) - _TOO_BROAD
    for item in _distinct(request.evidence("identity")):
        if item.source not in ontology.ONTOLOGIES or item.doc_id not in above or own is None:
            continue
        label, sentences = _parts(item, request)
        if not label:
            continue
        what = appositive(label, sentences[0]) if sentences else ""
        quote = f"{label}: {sentences[0]}" if what else label
        parent = Citation(snippet_id=item.snippet_id, quote=quote)
        if own.definition and is_about_the_term(own.definition[0], label):
            # The definition has already said so: what remains is what the parent is.
            told = tell(label, sentences[0]) if sentences else ""
            if told:
                yield Sentence(text=told, facet="identity", citations=(parent,))
            continue
        text = f"{with_article(name)} is a kind of {label}{f', {what}' if what else ''}"
        yield Sentence(text=closed(capital(text)), facet="identity", citations=(own.name(), parent))


def _synonyms(request: Request, terms: dict[Facet, Term], name: str) -> Sentence | None:
    """Return what else the cell type is called."""
    own, term = terms.get("identity"), ontology.get_term(request.subject.term_id("identity"))
    if request.mask_label or own is None or term is None:
        return None
    item = request.offered[own.snippet_id]
    start = item.text.rfind("Synonyms: ")
    other = [s for s in term.synonyms if key_of(s) != key_of(term.label) and len(s) < 60]
    shown = [s for s in other if f" {s}," in item.text[start:] or f" {s}." in item.text[start:]][:2]
    if start < 0 or not shown:
        return None
    end = max(item.text.index(s, start) + len(s) for s in shown)
    text = capital(f"{with_article(name)} is also called {joined(shown).replace(' and ', ' or ')}")
    quote = item.text[start:end]
    cited = (own.name(), Citation(snippet_id=item.snippet_id, quote=quote))
    return Sentence(text=closed(text), facet="identity", citations=cited)


def _passages(facet: Facet, request: Request, name: str) -> Iterator[Sentence]:
    subject = request.subject
    topic: tuple[str, ...] = ()
    if facet not in {"identity", "markers_function"}:
        topic = (subject.label(facet), *ontology.names(subject.term_id(facet)))
    return passage_sentences(
        _distinct(request.evidence(facet)),
        facet,
        name,
        subject.term_id("identity"),
        topic=topic,
        near=facet == "markers_function",
    )


# --- evidence ----------------------------------------------------------------------------------


def _distinct(items: tuple[Evidence, ...]) -> list[Evidence]:
    return list({item.snippet_id: item for item in items}.values())


def _term(facet: Facet, request: Request) -> Term | None:
    """Return a facet's own term as its first passage has it."""
    subject = request.subject
    for item in _distinct(request.evidence(facet)):
        if item.source not in ontology.ONTOLOGIES or not _is_own(item, facet, request):
            continue
        label, sentences = _parts(item, request)
        if label:
            is_normal = facet == "disease" and subject.term_id(facet) == NORMAL
            return Term(item.snippet_id, label, sentences, is_normal)
    return None


def _is_own(item: Evidence, facet: Facet, request: Request) -> bool:
    subject = request.subject
    if subject.term_id(facet):
        return item.doc_id == subject.term_id(facet)
    return key_of(subject.label(facet)) in {key_of(name) for name in ontology.names(item.doc_id)}


def _parts(item: Evidence, request: Request) -> tuple[str, tuple[str, ...]]:
    """Return label and definition of an ontology document as they stand in its text."""
    term = ontology.get_term(item.doc_id)
    label = term.label if term else ""
    if item.is_masked:
        label = mask_text(f"{label}:", request.subject).removesuffix(":")
    return definition_sentences(item.text, item.doc_id, label)
