"""What a cell type is: its definition, what it is a kind of, and its other names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from okrcell.corpus import ontology
from okrcell.enrich.definitions import appositive, is_about_the_term, shortest, spoken, tell
from okrcell.enrich.draft import Citation, Sentence
from okrcell.enrich.evidence import Request
from okrcell.enrich.masking import MASKED
from okrcell.enrich.names import tokenise
from okrcell.enrich.own_terms import Term, distinct, label_and_definition
from okrcell.enrich.passages import is_plain, leans
from okrcell.enrich.wording import capital, closed, joined, tidy, with_article

__all__ = ["finer_points", "kind_sentences", "lead_sentences", "synonym_sentence"]

# A cell type is a kind of these, as is almost every other.
_TOO_BROAD = frozenset(
    "CL:0000000 CL:0000003 CL:0000255 CL:0000548 CL:0002371 CL:0002242 CL:0000226 CL:0000219 CL:0000988 "
    "CL:0002320 CL:0002319 CL:0000325 CL:0000630 CL:0000211 CL:0000063 CL:0000064 CL:0000677".split()
)
_STOP = frozenset({"cell", "of", "the"})
_NAME = re.compile(r"[A-Za-z](?:[\w ,/+()'-](?!_)){1,60}")  # "5281 NFOL NN_2" is a code and no name


def lead_sentences(term: Term | None, name: str) -> list[Sentence]:
    """Return the first sentence of the definition, short and whole."""
    told = tell(name, term.definition[0]) if term and term.definition else ""
    if not term or not told:
        return []
    texts = dict.fromkeys(text for text in (shortest(told), told) if text)
    return [Sentence(text=t, facet="identity", citations=(term.defined(),)) for t in texts]


def finer_points(term: Term | None) -> Iterator[tuple[Sentence, bool]]:
    """Yield the later sentences of the definition, and whether one leans on the sentence before it."""
    if term is None:
        return
    is_gap = False
    for quote in term.definition[1:]:
        text = closed(capital(tidy(quote)))
        if not is_plain(text) or (is_gap and leans(text)):
            is_gap = True
            continue
        cited = (Citation(snippet_id=term.snippet_id, quote=quote),)
        yield Sentence(text=text, facet="identity", citations=cited), leans(text)
        is_gap = False


def kind_sentences(request: Request, own: Term | None, name: str) -> Iterator[Sentence]:
    """Yield what the cell type is a kind of, with that kind's definition where it fits in."""
    term_id = request.subject.term_id("identity")
    above = set(ontology.ancestors(term_id)) - _TOO_BROAD
    for item in distinct(request.evidence("identity")):
        if item.source not in ontology.ONTOLOGIES or item.doc_id not in above or own is None:
            continue
        label, sentences = label_and_definition(item, request)
        if not label:
            continue
        whole = f"{label}: {sentences[0]}" if sentences else label
        if own.definition and is_about_the_term(own.definition[0], label):
            # The definition has already said so: what remains is what the parent is.
            told = tell(label, sentences[0]) if sentences else ""
            if told:
                cited = (Citation(snippet_id=item.snippet_id, quote=whole),)
                yield Sentence(text=told, facet="identity", citations=cited)
            continue
        what = appositive(label, sentences[0]) if sentences else ""
        parent = Citation(snippet_id=item.snippet_id, quote=whole if what else label)
        text = f"{_the(name)} is a kind of {label}{f', {what}' if what else ''}"
        yield Sentence(text=closed(capital(text)), facet="identity", citations=(own.name(), parent))


def _the(name: str) -> str:
    return with_article(name) if name == MASKED else f"the {spoken(name)}"


def synonym_sentence(request: Request, own: Term | None, name: str) -> Sentence | None:
    """Return what else the cell type is called."""
    term = ontology.get_term(request.subject.term_id("identity"))
    if request.mask_label or own is None or term is None:
        return None
    item = request.offered[own.snippet_id]
    start = item.text.rfind("Synonyms: ")
    if start < 0:
        return None
    # Of "T lymphocyte" and "T-lymphocyte" one is enough, and "cell of lung" says no more than "lung cell".
    other: dict[frozenset[str], str] = {}
    for synonym in term.synonyms:
        if _NAME.fullmatch(synonym) and re.search(rf" {re.escape(synonym)}[,.]", item.text[start:]):
            other.setdefault(frozenset(tokenise(synonym)) - _STOP, synonym)
    other.pop(frozenset(tokenise(term.label)) - _STOP, None)
    shown = list(other.values())[:2]
    if not shown:
        return None
    end = max(item.text.index(s, start) + len(s) for s in shown)
    text = capital(f"{_the(name)} is also called {joined(shown).replace(' and ', ' or ')}")
    quote = item.text[start:end]
    cited = (own.name(), Citation(snippet_id=item.snippet_id, quote=quote))
    return Sentence(text=closed(text), facet="identity", citations=cited)
