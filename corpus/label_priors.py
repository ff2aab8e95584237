"""Facts about ontology terms that no label changes: generality, organs, markers, usual short names."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from okrcell.corpus.label_index import Floats, LabelIndex
from okrcell.corpus.label_readings import organs_of
from okrcell.corpus.label_text import read_columns, words_of

__all__ = ["Prior", "term_priors"]


@dataclass(frozen=True)
class Prior:
    """Facts of the terms of an index that do not depend on the label.

    Attributes
    ----------
    table
        Feature name to float32 [T].
    organs_named, organs_told
        float32 [T, O]: 1 where a name, or the definition, speaks of an organ of ``organ_names``.
    markers
        CSR float32 [T, M]: 1 where a gene marks a term; ``marker_idf`` has its column and weight.
    words
        All words of all names; ``name_words`` those of each term.
    """

    table: dict[str, Floats]
    organs_named: Floats
    organs_told: Floats
    organ_names: tuple[str, ...]
    markers: Any
    marker_idf: dict[str, tuple[int, float]]
    words: frozenset[str]
    name_words: tuple[frozenset[str], ...]


# Words of terms that no label of a vertebrate's cells means.
_FOREIGN = frozenset(
    "drosophila insect fungal fungus hypha plant bacteria bacterium nematode elegans arthropod "
    "protostomia metazoa invertebrate zebrafish xenopus prokaryotic sensu egg chorion hemocyte "
    "crystal plasmatocyte ascus conidium spore mycetozoa sporozoite".split()
)


def term_priors(index: LabelIndex) -> Prior:
    """Work out everything about the terms of an index that no label changes."""
    n = len(index.terms)
    below = np.asarray(index.ancestry.sum(axis=0), dtype=np.float32).ravel()
    above = np.asarray(index.ancestry.sum(axis=1), dtype=np.float32).ravel()
    labels = [term.label.lower() for term in index.terms]
    label_words = [words_of(label) for label in labels]
    common, below_common = _common(index)
    blocks = np.array([_block(term.term_id) for term in index.terms], dtype=np.float32)
    table = {
        "depth": above,
        "n_below": np.log1p(below),
        "n_synonyms": np.array([len(t.synonyms) for t in index.terms], dtype=np.float32),
        "n_words": np.array([len(w) for w in label_words], dtype=np.float32),
        "id_block": blocks,
        "for_human": _flag("human" in label for label in labels),
        "for_mouse": _flag("mouse" in label or "murine" in label for label in labels),
        "not_vertebrate": _flag(bool(_FOREIGN & set(words)) for words in label_words),
        "common": common,
        "common_below": below_common,
        "has_text": _flag(bool(t.definition) for t in index.terms),
    }
    organ_names = tuple(sorted({row[0] for row in read_columns("label_organs.tsv")}))
    named = np.zeros((n, len(organ_names)), dtype=np.float32)
    told = np.zeros((n, len(organ_names)), dtype=np.float32)
    for row, term in enumerate(index.terms):
        for organ in organs_of(w for name in (term.label, *term.synonyms) for w in words_of(name)):
            named[row, organ_names.index(organ)] = 1
        for organ in organs_of(words_of(term.definition)):
            told[row, organ_names.index(organ)] = 1
    markers, marker_idf = _markers(index)
    return Prior(
        table=table,
        organs_named=named,
        organs_told=told,
        organ_names=organ_names,
        markers=markers,
        marker_idf=marker_idf,
        words=frozenset(index.words),
        name_words=tuple(
            frozenset(w for name in (term.label, *term.synonyms) for w in words_of(name))
            for term in index.terms
        ),
    )


def _flag(values: Any) -> Floats:
    return np.array([float(v) for v in values], dtype=np.float32)


def _block(term_id: str) -> float:
    """Return the age of a term by its number: the first thousands hold the general types."""
    number = int("".join(c for c in term_id if c.isdigit()) or 0)
    return float(np.digitize(number, [700, 1100, 2000, 3000, 10000, 20000, 1000000, 4000000]))


def _common(index: LabelIndex) -> tuple[Floats, Floats]:
    """Return how often the table of abbreviations writes a term out, and its place there.

    What a field has short names for is what it speaks of.
    """
    by_words: dict[frozenset[str], list[int]] = {}
    for name_row, words in enumerate(index.name_words):
        by_words.setdefault(frozenset(words), []).append(int(index.name_term[name_row]))
    counts: Counter[int] = Counter()
    for key, reading, _ in read_columns("label_abbreviations.tsv"):
        if not key:
            continue
        for row in set(by_words.get(frozenset(words_of(reading)), ())):
            counts[row] += 1
    common: Floats = np.zeros(len(index.terms), dtype=np.float32)
    for row, count in counts.items():
        common[row] = math.log1p(count)
    return common, np.asarray(index.descent @ (common > 0), dtype=np.float32).clip(0, 20)


def _markers(index: LabelIndex) -> tuple[Any, dict[str, tuple[int, float]]]:
    """Return float32 [T, M] weights of marker genes, and the column and idf of each gene."""
    rows = {term.term_id: row for row, term in enumerate(index.terms)}
    table = [(t, genes.split()) for t, _, genes in read_columns("label_markers.tsv") if t in rows]
    frequency = Counter(gene for _, genes in table for gene in set(genes))
    ids = {gene: i for i, gene in enumerate(sorted(frequency))}
    idf = {g: (i, math.log(1 + len(table) / frequency[g])) for g, i in ids.items()}
    columns = [ids[gene] for _, genes in table for gene in genes]
    lines = np.repeat([rows[t] for t, _ in table], [len(genes) for _, genes in table])
    ones = np.ones(len(columns), dtype=np.float32)
    return sparse.csr_matrix((ones, (lines, columns)), shape=(len(rows), len(ids))), idf
