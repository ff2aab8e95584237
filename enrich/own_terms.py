"""The terms that a request is about, as the offered ontology documents have them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from okrcell.corpus import ontology
from okrcell.enrich.draft import FACETS, Citation, Facet
from okrcell.enrich.evidence import Evidence, Request
from okrcell.enrich.masking import mask_text
from okrcell.enrich.names import key_of
from okrcell.enrich.profile_text import NORMAL
from okrcell.enrich.sentences import definition_sentences

__all__ = ["Term", "distinct", "label_and_definition", "own_terms"]


@dataclass(frozen=True)
class Term:
    """A facet's own term as an offered passage has it: label and definition, verbatim."""

    snippet_id: str
    label: str
    definition: tuple[str, ...]
    is_normal: bool = False

    def name(self) -> Citation:
        """Return the citation of the label."""
        return Citation(snippet_id=self.snippet_id, quote=self.label)

    def defined(self) -> Citation:
        """Return the citation of the label and the definition's first sentence."""
        quote = f"{self.label}: {self.definition[0]}" if self.definition else self.label
        return Citation(snippet_id=self.snippet_id, quote=quote)


def own_terms(request: Request) -> dict[Facet, Term]:
    """Return the term of each facet that has evidence of it."""
    return {facet: term for facet in FACETS if (term := _term(facet, request))}


def distinct(items: Iterable[Evidence]) -> list[Evidence]:
    """Return passages, each once: one may be offered for several facets."""
    return list({item.snippet_id: item for item in items}.values())


def _term(facet: Facet, request: Request) -> Term | None:
    """Return a facet's own term as its first passage has it."""
    subject = request.subject
    for item in distinct(request.evidence(facet)):
        if item.source not in ontology.ONTOLOGIES or not _is_own(item, facet, request):
            continue
        label, sentences = label_and_definition(item, request)
        if label:
            is_normal = facet == "disease" and subject.term_id(facet) == NORMAL
            return Term(item.snippet_id, label, sentences, is_normal)
    return None


def _is_own(item: Evidence, facet: Facet, request: Request) -> bool:
    subject = request.subject
    if subject.term_id(facet):
        return item.doc_id == subject.term_id(facet)
    return key_of(subject.label(facet)) in {key_of(name) for name in ontology.names(item.doc_id)}


def label_and_definition(item: Evidence, request: Request) -> tuple[str, tuple[str, ...]]:
    """Return label and definition of an ontology document as they stand in its text."""
    term = ontology.get_term(item.doc_id)
    label = term.label if term else ""
    if item.is_masked:
        label = mask_text(f"{label}:", request.subject).removesuffix(":")
    return definition_sentences(item.text, item.doc_id, label)
