"""Labels of fields other than cell type: compared with an ontology's names by their words.

The same string scores 1, the same words 1 (a synonym 0.98); otherwise the score is the share of words
in common (Dice), rare words weighing more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from okrcell.corpus.label_fields import allowed_terms, spelled_out
from okrcell.corpus.label_index import Floats, LabelIndex, build_index
from okrcell.corpus.label_text import folded, words_of
from okrcell.corpus.ontology import Ontology

__all__ = ["PlainMatcher", "Ranking"]

SYNONYM_WEIGHT = 0.98  # of two equally good names a label beats a synonym
N_ALTERNATIVES = 10


@dataclass(frozen=True)
class Ranking:
    """Term ids with scores, best first; why the first is first; whether it has the label as name."""

    ranked: tuple[tuple[str, float], ...]
    reason: str
    exact: bool


class PlainMatcher:
    """Matches labels against the names of one field's ontologies.

    Names that are the label itself are found at once; the word index is built when a label needs it.
    """

    def __init__(self, field: str, ontologies: tuple[Ontology, ...]) -> None:
        self._field, self._ontologies = field, ontologies
        self._index: LabelIndex | None = None
        self._exact: dict[str, dict[str, tuple[float, str]]] | None = None

    def find(self, label: str) -> Ranking:
        """Return up to ten terms for a label; none where no word is shared."""
        label = spelled_out(self._field, label)
        exact = self._same_string(label)
        if exact:
            ranked = sorted(exact.items(), key=lambda item: (-item[1][0], item[0]))
            best = tuple((term_id, score) for term_id, (score, _) in ranked[:N_ALTERNATIVES])
            return Ranking(best, f"the name '{ranked[0][1][1]}'", True)
        return self._by_words(label)

    def _same_string(self, label: str) -> dict[str, tuple[float, str]]:
        if self._exact is None:
            table: dict[str, dict[str, tuple[float, str]]] = {}
            for term in allowed_terms(self._field, self._ontologies):
                for name in (term.label, *term.synonyms):
                    score = 1.0 if name == term.label else SYNONYM_WEIGHT
                    entry = table.setdefault(folded(name), {})
                    if score > entry.get(term.term_id, (0.0, ""))[0]:
                        entry[term.term_id] = (score, name)
            self._exact = table
        return self._exact.get(folded(label), {})

    def _by_words(self, label: str) -> Ranking:
        if self._index is None:
            terms = allowed_terms(self._field, self._ontologies)
            self._index = build_index(terms, with_text=False)
        index = self._index
        words = words_of(label)
        scores = self._dice(index, words)
        if not scores.any():
            return Ranking((), "", False)
        top = np.maximum.reduceat(scores, index.first_name)
        at = np.argsort(-top, kind="stable")[: 4 * N_ALTERNATIVES]
        entries = []
        for row in at:
            if top[row] <= 0:
                continue
            begin = index.first_name[row]
            end = index.first_name[row + 1] if row + 1 < len(index.terms) else len(scores)
            name = index.names[int(begin + np.argmax(scores[begin:end]))]
            entries.append((-round(float(top[row]), 4), len(name), index.terms[row].term_id, name))
        entries.sort()
        ranked = tuple((term_id, -score) for score, _, term_id, _ in entries[:N_ALTERNATIVES])
        how = "same words as" if ranked[0][1] >= SYNONYM_WEIGHT else "words shared with"
        return Ranking(ranked, f"{how} '{entries[0][3]}'", False)

    @staticmethod
    def _dice(index: LabelIndex, words: tuple[str, ...]) -> Floats:
        shared = np.zeros(len(index.names), dtype=np.float32)
        mine = 0.0
        for word in words:
            row = index.words.get(word)
            mine += index.unseen_idf if row is None else float(index.idf[row])
            if row is not None:
                begin, end = index.word_names.indptr[row], index.word_names.indptr[row + 1]
                shared[index.word_names.indices[begin:end]] += index.idf[row]
        factor = np.where(index.is_label, 1.0, SYNONYM_WEIGHT).astype(np.float32)
        dice: Floats = factor * 2 * shared / np.maximum(mine + index.name_weight, 1e-6)
        return dice
