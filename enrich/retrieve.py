"""Evidence per facet: the subject's own terms first, then their parents, then passages about it.

Nothing off topic is offered: a definition is used only if it is the subject's own or a parent's, and
a passage of literature or notes only where it is about this cell type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from okrcell.corpus import ontology
from okrcell.enrich.draft import FACETS, Facet
from okrcell.enrich.evidence import Evidence
from okrcell.enrich.names import is_about, key_of, says
from okrcell.enrich.profile_text import Subject, facet_queries
from okrcell.enrich.sentences import split_sentences

if TYPE_CHECKING:
    from okrcell.corpus.knowledge import Knowledge, Snippet

__all__ = ["Facets", "Retriever"]

Facets = dict[Facet, tuple[Evidence, ...]]

_OVERFETCH = 8  # most hits of a search are about neighbours of the cell type
_ADDRESSES_A_MODEL = re.compile(
    r"\b(ignore|disregard|forget)\b.{0,60}\b(instructions?|prompts?|rules|above|previous)\b"
    r"|\b(system|developer) (prompt|message)\b"
    r"|\byou are (now )?(an?|the) (ai|assistant|language model|chatbot)\b",
    re.IGNORECASE | re.DOTALL,
)


class Retriever:
    """Finds evidence; searches and documents are looked up once, however many profiles share them."""

    def __init__(self, knowledge: Knowledge, per_facet: int) -> None:
        self._knowledge, self._n = knowledge, per_facet
        self._passages = tuple(s for s in knowledge.sources if s not in ontology.ONTOLOGIES)
        self._definitions = tuple(s for s in knowledge.sources if s in ontology.ONTOLOGIES)
        self._found: dict[tuple[str, tuple[str, ...]], list[Snippet]] = {}

    def facets(self, subject: Subject) -> Facets:
        """Return the evidence of each known facet that has any, in the order of ``FACETS``."""
        queries = facet_queries(subject)
        chosen: dict[Facet, tuple[Evidence, ...]] = {}
        # Definitions serve identity alone, so markers choose among the passages first; a type
        # that no ontology defines needs a passage to say what it is before anything else.
        defined = bool(self._terms("identity", subject))
        order = sorted(
            queries, key=lambda f: (f != "markers_function" or not defined, FACETS.index(f))
        )
        for facet in order:
            taken = {item.snippet_id for items in chosen.values() for item in items}
            candidates = [
                *self._terms(facet, subject),
                *self._about(facet, subject, queries[facet]),
            ]
            items = self._pick(candidates, taken)
            if items:
                chosen[facet] = items
        return {facet: chosen[facet] for facet in FACETS if facet in chosen}

    def _pick(self, candidates: Iterable[Snippet], taken: set[str]) -> tuple[Evidence, ...]:
        seen, picked = set(taken), []
        for snippet in candidates:
            if snippet.snippet_id in seen or snippet.is_retracted or _is_hostile(snippet):
                continue
            seen.add(snippet.snippet_id)
            picked.append(Evidence.of(snippet))
        return tuple(picked[: self._n])

    def _terms(self, facet: Facet, subject: Subject) -> list[Snippet]:
        """Return definitions: the subject's own term, then those one step above a cell type."""
        if facet == "markers_function":
            return []
        label = subject.label(facet)
        term_id = subject.term_id(facet) or (self._term_named(label) if label else "")
        own = self._knowledge.of_document(term_id) if term_id else []
        # A parent says what kind of thing the type is, but alone it does not say which.
        return [*own, *self._parents(term_id)] if own and facet == "identity" else own

    def _parents(self, term_id: str) -> list[Snippet]:
        """Return the definitions of the nearest ancestors that have one."""
        steps: dict[int, list[str]] = {}
        for ancestor, distance in ontology.ancestors(term_id).items():
            if ancestor.partition(":")[0] == term_id.partition(":")[0]:
                steps.setdefault(distance, []).append(ancestor)
        for distance in sorted(steps):
            found = [
                snippet
                for ancestor in sorted(steps[distance])
                if (term := ontology.get_term(ancestor)) and term.definition
                for snippet in self._knowledge.of_document(ancestor)[:1]
            ]
            if found:
                return found
        return []

    def _term_named(self, label: str) -> str:
        """Return the id of the term that has exactly this name, for labels without a term."""
        for snippet in self._search(label, self._definitions):
            if key_of(label) in {key_of(name) for name in ontology.names(snippet.doc_id)}:
                return snippet.doc_id
        return ""

    def _about(self, facet: Facet, subject: Subject, queries: Sequence[str]) -> list[Snippet]:
        """Return passages about the subject's cell type, round robin over the queries."""
        ranked = [self._search(query, self._passages) for query in queries]
        depth = max((len(hits) for hits in ranked), default=0)
        hits = [row[rank] for rank in range(depth) for row in ranked if rank < len(row)]
        return [snippet for snippet in hits if _is_on_topic(snippet, facet, subject)]

    def _search(self, query: str, sources: tuple[str, ...]) -> list[Snippet]:
        if not sources:
            return []
        key = (query, sources)
        if key not in self._found:
            k = self._n * _OVERFETCH
            self._found[key] = self._knowledge.search(query, k=k, sources=sources, mode="hybrid")
        return self._found[key]


def _is_hostile(snippet: Snippet) -> bool:
    return _ADDRESSES_A_MODEL.search(snippet.text) is not None


def _is_on_topic(snippet: Snippet, facet: Facet, subject: Subject) -> bool:
    """Whether some sentence is about the cell type (and, in other facets, names the facet's label)."""
    label, term_id = subject.label("identity"), subject.term_id("identity")
    near = facet == "markers_function"
    topic = () if facet in {"identity", "markers_function"} else _names_of(facet, subject)
    return any(
        is_about(sentence, label, term_id, near=near) and (not topic or says(sentence, topic))
        for sentence in split_sentences(snippet.text)
    )


def _names_of(facet: Facet, subject: Subject) -> tuple[str, ...]:
    return (subject.label(facet), *ontology.names(subject.term_id(facet)))
