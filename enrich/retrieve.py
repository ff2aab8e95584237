"""Evidence: per facet what a subject's terms and passages about it say, or the paper's single query.

Per facet, nothing off topic is offered: a definition is used only if it is the subject's own or a
parent's, and a passage of literature or notes only where it is about this cell type. What is
offered fits a budget of tokens and does not say the same twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from okrcell.corpus import ontology
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.diversity import SAME_WORDS, Content, Pool, overlap
from okrcell.enrich.draft import FACETS, Facet
from okrcell.enrich.evidence import Evidence, Group
from okrcell.enrich.hostile import is_hostile
from okrcell.enrich.names import is_about, key_of, says, tokenise
from okrcell.enrich.profile_text import Subject, facet_queries, paper_query
from okrcell.enrich.sentences import split_sentences

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder
    from okrcell.corpus.knowledge import Knowledge, Snippet

__all__ = ["Groups", "Retriever"]

Groups = dict[Group, tuple[Evidence, ...]]

_OVERFETCH = 8  # most hits of a search are about neighbours of the cell type
_CONSIDERED = 3  # passages compared for each one that can be offered: vectors take time
_MOST_NAMES = 8  # of a cell type; each costs a search by words
_REMEMBERED_SEARCHES, _REMEMBERED_TEXTS = 4096, 20_000


class Retriever:
    """Finds evidence; searches and vectors are made once, however many subjects share them.

    Attributes
    ----------
    left_out
        Passages that were found for a subject and not offered, summed over subjects, by reason:
        ``retracted``, ``hostile`` (see :mod:`okrcell.enrich.hostile`), ``near_duplicate``, and
        ``over_budget``.
    """

    def __init__(self, knowledge: Knowledge, config: EnrichConfig, embedder: Embedder) -> None:
        self.left_out: Counter[str] = Counter()
        self._knowledge, self._config, self._embedder = knowledge, config, embedder
        self._passages = tuple(s for s in knowledge.sources if s not in ontology.ONTOLOGIES)
        self._definitions = tuple(s for s in knowledge.sources if s in ontology.ONTOLOGIES)
        self._about = lru_cache(_REMEMBERED_SEARCHES)(self._search_about)
        self._term_named = lru_cache(_REMEMBERED_SEARCHES)(self._search_term)
        self._parents = lru_cache(_REMEMBERED_SEARCHES)(self._nearest_defined)
        self._content = lru_cache(_REMEMBERED_TEXTS)(self._read)
        self._n_tokens = lru_cache(_REMEMBERED_TEXTS)(self._count)

    def groups(self, subject: Subject) -> Groups:
        """Return the evidence for a subject: per facet that has any, or as one group of passages."""
        if self._config.retrieval == "paper":
            return self._paper(subject)
        facets = tuple(facet_queries(subject))
        own = {facet: self._clean(self._own(facet, subject)) for facet in facets}
        chosen = {facet: items[: self._config.snippets_per_facet] for facet, items in own.items()}
        if own.get("identity"):
            # A parent says what kind of thing the type is, but alone it does not say which.
            self._add_parents(chosen["identity"])
        self._add_passages(subject, chosen)
        own_ids = {snippet.snippet_id for items in own.values() for snippet in items}
        return {facet: _offered(items) for facet, items in self._fit(chosen, own_ids).items()}

    def _paper(self, subject: Subject) -> Groups:
        """Return the nearest passages of all sources by meaning alone, as the paper does."""
        query, k = paper_query(subject), self._config.top_k
        found = self._knowledge.search(query, k=2 * k, mode="dense") if query else []
        items = self._clean(found)[:k]
        room = self._config.context_tokens - np.cumsum([self._n_tokens(s.text) for s in items])
        n = max(1, int((room >= 0).sum()))
        self.left_out["over_budget"] += len(items[n:])
        return {"passages": _offered(items[:n])} if items else {}

    def _add_parents(self, items: list[Snippet]) -> None:
        for parent in self._clean(self._parents(items[0].doc_id)):
            words = frozenset(tokenise(parent.text))
            if any(overlap(words, frozenset(tokenise(s.text))) >= SAME_WORDS for s in items):
                self.left_out["near_duplicate"] += 1
            elif len(items) < self._config.snippets_per_facet:
                items.append(parent)

    def _add_passages(self, subject: Subject, chosen: dict[Facet, list[Snippet]]) -> None:
        """Fill the facets in turn, so that none takes all that suits another better.

        Definitions serve identity alone, so it picks last; only a type that no ontology defines
        needs a passage to say what it is before anything else.
        """
        n = self._config.snippets_per_facet
        turns: list[Facet] = [] if chosen.get("identity") else ["identity"]
        turns += [facet for facet in chosen if facet != "identity"] * n
        turns += ["identity"] * n
        found: dict[str, Snippet] = {}
        pools: dict[Facet, Pool] = {}
        for facet in chosen:
            relevance = dict(self._about(facet, subject.narrowed(facet)))
            candidates = self._clean(relevance)[: _CONSIDERED * n]
            if candidates and len(chosen[facet]) < n:
                found |= {snippet.snippet_id: snippet for snippet in candidates}
                contents = {s.snippet_id: (self._content(s.text), relevance[s]) for s in candidates}
                pools[facet] = Pool(contents, self._config.diversity)
        taken = [snippet for items in chosen.values() for snippet in items] if pools else []
        for pool in pools.values():
            for snippet in taken:
                pool.take(snippet.snippet_id, self._content(snippet.text))
        for facet in turns:
            best = pools[facet].best() if facet in pools and len(chosen[facet]) < n else None
            if best is not None:
                chosen[facet].append(found[best])
                for pool in pools.values():
                    pool.take(best, self._content(found[best].text))
        self.left_out["near_duplicate"] += sum(pool.repeated for pool in pools.values())

    def _clean(self, snippets: Iterable[Snippet]) -> list[Snippet]:
        """Return what may be offered."""
        kept = []
        for snippet in snippets:
            if snippet.is_retracted:
                self.left_out["retracted"] += 1
            elif snippet.has_hidden_text or is_hostile(snippet.text):
                self.left_out["hostile"] += 1
            else:
                kept.append(snippet)
        return kept

    def _fit(self, ranked: dict[Facet, list[Snippet]], own: set[str]) -> dict[Facet, list[Snippet]]:
        """Leave out the least useful passages until the rest fits the budget.

        The last of a facet go first, and of equal rank those of later facets; own terms go after
        all others, and what says what the cell type is stays.
        """
        entries = [
            (facet, rank, snippet)
            for facet, items in ranked.items()
            for rank, snippet in enumerate(items)
        ]
        excess = sum(self._n_tokens(s.text) for _, _, s in entries) - self._config.context_tokens
        dropped = set()
        for facet, rank, snippet in sorted(
            entries, key=lambda e: (e[2].snippet_id in own, -e[1], -FACETS.index(e[0]))
        ):
            needed = facet == "identity" and (snippet.snippet_id in own or rank == 0)
            if excess > 0 and not needed:
                dropped.add(snippet.snippet_id)
                excess -= self._n_tokens(snippet.text)
        self.left_out["over_budget"] += len(dropped)
        kept = {f: [s for s in items if s.snippet_id not in dropped] for f, items in ranked.items()}
        return {facet: items for facet, items in kept.items() if items}

    def _own(self, facet: Facet, subject: Subject) -> list[Snippet]:
        """Return the snippets of the facet's own term."""
        label = subject.label(facet)
        if facet == "markers_function" or not label:
            return []
        term_id = subject.term_id(facet) or self._term_named(label)
        return self._knowledge.of_document(term_id) if term_id else []

    def _nearest_defined(self, term_id: str) -> tuple[Snippet, ...]:
        """Return the definitions of the nearest ancestors that have one."""
        steps: dict[int, list[str]] = {}
        for ancestor, distance in ontology.ancestors(term_id).items():
            if ancestor.partition(":")[0] == term_id.partition(":")[0]:
                steps.setdefault(distance, []).append(ancestor)
        for distance in sorted(steps):
            found = tuple(
                snippet
                for ancestor in sorted(steps[distance])
                if (term := ontology.get_term(ancestor)) and term.definition
                for snippet in self._knowledge.of_document(ancestor)[:1]
            )
            if found:
                return found
        return ()

    def _search_term(self, label: str) -> str:
        """Return the id of the term that has exactly this name, for labels without a term."""
        for snippet in self._search(label, self._definitions):
            if key_of(label) in {key_of(name) for name in ontology.names(snippet.doc_id)}:
                return snippet.doc_id
        return ""

    def _search_about(self, facet: Facet, subject: Subject) -> tuple[tuple[Snippet, float], ...]:
        """Return passages about the cell type, the most relevant first.

        Relevance is the score over the best of the same query, so that no query outranks another.
        """
        label = subject.label("identity")
        names = [n for n in ontology.names(subject.term_id("identity")) if n != label]
        found: dict[str, tuple[Snippet, float]] = {}
        for query in facet_queries(subject).get(facet, ()):
            others = [query.replace(label, name, 1) for name in names[:_MOST_NAMES]]
            hits = self._search(query, self._passages, others)
            best = max((hit.score for hit in hits), default=0.0)
            for hit in hits:
                value = max(hit.score, 0.0) / best if best > 0 else 0.0
                known = found.get(hit.snippet_id)
                if not known or value > known[1]:
                    found[hit.snippet_id] = hit, value
        pairs = sorted(found.values(), key=lambda pair: -pair[1])
        return tuple(pair for pair in pairs if _is_on_topic(pair[0], facet, subject))

    def _search(
        self, query: str, sources: tuple[str, ...], names: Sequence[str] = ()
    ) -> list[Snippet]:
        if not sources:
            return []
        k = self._config.snippets_per_facet * _OVERFETCH
        return self._knowledge.search(query, k=k, sources=sources, names=names)

    def _read(self, text: str) -> Content:
        # One at a time: the other texts of a batch leave traces in the last digits, and what is
        # offered to one subject must not depend on which were planned before.
        return Content(frozenset(tokenise(text)), self._embedder.encode([text])[0])

    def _count(self, text: str) -> int:
        return self._embedder.count_tokens([text])[0]


def _offered(snippets: Sequence[Snippet]) -> tuple[Evidence, ...]:
    return tuple(Evidence.of(snippet) for snippet in snippets)


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
