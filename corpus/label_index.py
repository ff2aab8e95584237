"""The names of an ontology as a word index, with its graph: what labels are compared with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell.corpus.label_text import plain_tokens, words_of
from okrcell.corpus.ontology import Term

__all__ = ["Floats", "LabelIndex", "build_index", "grams"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LabelIndex:
    """Names (N), terms (T), words (W) and character grams (G) of one or more ontologies.

    Attributes
    ----------
    name_term
        int64 [N]: the term of each name, non-decreasing. ``first_name`` [T] is where each begins.
    is_label
        bool [N]: the name is the term's label.
    word_names, gram_names, doc_words
        CSR [W, N], [G, N], [W, T]: names (or the texts of terms) that hold a word or gram.
    ancestry
        CSR [T, T]: row ``t`` marks the ancestors of ``t``, and ``t``; ``descent`` is its transpose.
    guesses
        Filled as labels come: unknown words, and the known one that each is taken for.
    """

    terms: tuple[Term, ...]
    names: tuple[str, ...]
    name_words: tuple[tuple[str, ...], ...]
    name_term: npt.NDArray[np.int64]
    first_name: npt.NDArray[np.int64]
    is_label: npt.NDArray[np.bool_]
    words: dict[str, int]
    idf: Floats
    unseen_idf: float
    name_weight: Floats
    word_names: sparse.csr_matrix
    doc_words: sparse.csr_matrix
    grams: dict[str, int]
    gram_idf: Floats
    gram_names: sparse.csr_matrix
    ancestry: sparse.csr_matrix
    descent: sparse.csr_matrix
    parents: sparse.csr_matrix
    guesses: dict[str, tuple[int, float] | None]


def grams(text: str) -> list[str]:
    """Return the character trigrams of a text's tokens, each token padded with spaces."""
    return [
        padded[i : i + 3]
        for token in plain_tokens(text)
        if token not in {"cell", "cells"}
        for padded in (f" {token} ",)
        for i in range(len(padded) - 2)
    ]


def build_index(terms: Iterable[Term], *, with_text: bool = True) -> LabelIndex:
    """Index the names of terms.

    Parameters
    ----------
    with_text
        Also index definitions, ancestors' names and character grams, which the ranker of cell
        types reads; the plain matcher of the other fields does not.
    """
    kept = tuple(terms)
    rows = {term.term_id: row for row, term in enumerate(kept)}
    names: list[str] = []
    name_words: list[tuple[str, ...]] = []
    name_term: list[int] = []
    is_label: list[bool] = []
    for row, term in enumerate(kept):
        for k, name in enumerate(dict.fromkeys((term.label, *term.synonyms))):
            names.append(name)
            name_words.append(words_of(name))
            name_term.append(row)
            is_label.append(k == 0)
    words = {w: i for i, w in enumerate(sorted({w for ws in name_words for w in ws}))}
    frequency = Counter(w for ws in name_words for w in ws)
    idf = np.array([1 + math.log(len(names) / frequency[w]) for w in words], dtype=np.float32)
    weight = np.array(
        [math.fsum(float(idf[words[w]]) for w in ws) for ws in name_words], dtype=np.float32
    )
    parents = _graph(kept, rows)
    ancestry = _closure(parents)
    empty = sparse.csr_matrix((0, len(names)), dtype=np.float32)
    doc_words, gram_names = empty, empty
    gram_ids: dict[str, int] = {}
    gram_idf = np.zeros(0, dtype=np.float32)
    if with_text:
        doc_words = _documents(kept, words, ancestry)
        gram_ids, gram_idf, gram_names = _grams(names)
    terms_of_names = np.array(name_term, dtype=np.int64)
    return LabelIndex(
        terms=kept,
        names=tuple(names),
        name_words=tuple(name_words),
        name_term=terms_of_names,
        first_name=np.searchsorted(terms_of_names, np.arange(len(kept))),
        is_label=np.array(is_label, dtype=np.bool_),
        words=words,
        idf=idf,
        unseen_idf=1 + math.log(max(len(names), 1)),
        name_weight=weight,
        word_names=_incidence([[words[w] for w in ws] for ws in name_words], len(words)),
        doc_words=doc_words,
        grams=gram_ids,
        gram_idf=gram_idf,
        gram_names=gram_names,
        ancestry=ancestry,
        descent=ancestry.T.tocsr(),
        parents=parents,
        guesses={},
    )


def _incidence(lists: Sequence[Sequence[int]], n_rows: int) -> sparse.csr_matrix:
    """Return CSR [n_rows, len(lists)] with 1 where column j's list holds the row."""
    columns = np.repeat(np.arange(len(lists)), [len(entry) for entry in lists])
    rows = np.array([i for entry in lists for i in entry], dtype=np.int64)
    ones = np.ones(len(rows), dtype=np.float32)
    return sparse.csr_matrix((ones, (rows, columns)), shape=(n_rows, len(lists)))


def _graph(terms: Sequence[Term], rows: dict[str, int]) -> sparse.csr_matrix:
    pairs = [
        (row, rows[parent])
        for row, term in enumerate(terms)
        for parent in term.parents
        if parent in rows
    ]
    child = np.array([pair[0] for pair in pairs], dtype=np.int64)
    parent = np.array([pair[1] for pair in pairs], dtype=np.int64)
    ones = np.ones(len(pairs), dtype=np.float32)
    return sparse.csr_matrix((ones, (child, parent)), shape=(len(terms), len(terms)))


def _closure(parents: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the reflexive transitive closure; a cycle ends it like any other graph."""
    reach: Any = sparse.identity(parents.shape[0], dtype=np.float32, format="csr")
    while True:
        more = reach + reach @ parents
        more.data[:] = 1
        if more.nnz == reach.nnz:
            return reach
        reach = more


def _documents(
    terms: Sequence[Term], words: dict[str, int], ancestry: sparse.csr_matrix
) -> sparse.csr_matrix:
    """Return CSR [W, T]: words of a term's names and definition, or of its ancestors' labels."""
    own = [
        sorted(
            {
                words[w]
                for text in (term.label, *term.synonyms, term.definition)
                for w in words_of(text)
                if w in words
            }
        )
        for term in terms
    ]
    labels = [[words[w] for w in words_of(term.label)] for term in terms]
    inherited = _incidence(labels, len(words)) @ ancestry.T
    both = (_incidence(own, len(words)) + inherited).tocsr()
    both.data[:] = 1
    return both


def _grams(names: Sequence[str]) -> tuple[dict[str, int], Floats, sparse.csr_matrix]:
    """Return the grams, their idf, and CSR [G, N] of tf-idf with columns of unit length."""
    counts = [Counter(grams(name)) for name in names]
    ids = {g: i for i, g in enumerate(sorted({g for c in counts for g in c}))}
    frequency = Counter(g for c in counts for g in c)
    idf = {g: 1 + math.log(len(names) / frequency[g]) for g in ids}
    rows, columns, values = [], [], []
    for column, count in enumerate(counts):
        norm = math.sqrt(math.fsum((n * idf[g]) ** 2 for g, n in sorted(count.items()))) or 1.0
        for g, n in sorted(count.items()):
            rows.append(ids[g])
            columns.append(column)
            values.append(n * idf[g] / norm)
    matrix = sparse.csr_matrix(
        (np.array(values, dtype=np.float32), (rows, columns)), shape=(len(ids), len(names))
    )
    return ids, np.array([idf[g] for g in ids], dtype=np.float32), matrix
