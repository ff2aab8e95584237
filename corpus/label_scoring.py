"""One reading of a label against all names of an index: shared words, misspellings, character grams."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from okrcell.corpus.label_index import Floats, LabelIndex, grams
from okrcell.corpus.label_readings import Reading

__all__ = ["BANK_FEATURES", "Best", "beyond_names", "grams_score", "score_reading"]

BANK_FEATURES = ("dice", "query_covered", "name_covered", "same", "contained")
"""What is kept of each kind of reading: the best name's overlap, the share of the label's and of the
name's words in it, whether they are the same, and whether the label holds a whole name."""


_KIND_WEIGHT = {"raw": 1.0, "whole": 1.0, "clean": 0.97, "part": 0.92}


@dataclass(frozen=True)
class Best:
    """The best name of each term over all readings so far: float32 [T], int64 [T] (-1: none yet)."""

    score: Floats
    name: npt.NDArray[np.int64]


def score_reading(index: LabelIndex, reading: Reading, bank: dict[str, Floats], best: Best) -> None:
    """Compare one reading with all names; keep each term's best in ``bank`` and ``best``."""
    known, total = _lookup(index, reading.words)
    if not known:
        return
    shared = np.zeros(len(index.names), dtype=np.float32)
    matrix = index.word_names
    for word, factor in known:
        begin, end = matrix.indptr[word], matrix.indptr[word + 1]
        shared[matrix.indices[begin:end]] += factor * index.idf[word]
    dice = 2 * shared / (total + index.name_weight)
    dice *= np.where(index.is_label, 1.0, 0.985).astype(np.float32) * reading.weight
    by_name = shared / np.maximum(index.name_weight, 1e-6)
    same = (dice >= 0.98 * reading.weight).astype(np.float32) * reading.weight
    top, where = _reduce(index, dice)
    better = top > bank["dice"]
    bank["dice"][better] = top[better]
    bank["query_covered"][better] = (shared[where] / total)[better]
    bank["name_covered"][better] = by_name[where][better]
    np.maximum(bank["same"], np.maximum.reduceat(same, index.first_name), out=bank["same"])
    # Names that the label holds whole: "T" in "CD8 T", "endothelial" in "venous endothelial".
    held = np.where(by_name > 0.999, shared / total, 0) * reading.weight
    held = np.maximum.reduceat(held, index.first_name).astype(np.float32)
    np.maximum(bank["contained"], held, out=bank["contained"])
    scaled = top * _KIND_WEIGHT[reading.kind]
    better = scaled > best.score
    best.score[better] = scaled[better]
    best.name[better] = where[better]


def _reduce(index: LabelIndex, values: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return each term's largest value [T] and the name that has it [T]."""
    top = np.maximum.reduceat(values, index.first_name)
    is_top = values >= top[index.name_term]
    where = np.full(len(index.terms), len(values), dtype=np.int64)
    at = np.flatnonzero(is_top)
    np.minimum.at(where, index.name_term[at], at)
    return top, where


def _lookup(index: LabelIndex, words: Sequence[str]) -> tuple[list[tuple[int, float]], float]:
    """Return the index's words with a factor below 1 where guessed, and the reading's weight."""
    known: list[tuple[int, float]] = []
    total = 0.0
    for word in words:
        at = index.words.get(word)
        if at is not None:
            known.append((at, 1.0))
            total += float(index.idf[at])
            continue
        guess = _guess(index, word)
        total += index.unseen_idf if guess is None else float(index.idf[guess[0]])
        if guess is not None:
            known.append(guess)
    return known, max(total, 1e-6)


def _guess(index: LabelIndex, word: str) -> tuple[int, float] | None:
    """Return the word of the index that an unknown one begins or misspells."""
    if word not in index.guesses:
        index.guesses[word] = _nearest(index, word)
    return index.guesses[word]


def _nearest(index: LabelIndex, word: str) -> tuple[int, float] | None:
    import difflib

    if len(word) < 4 or not word.isalpha():
        return None
    begins = [w for w in index.words if w.startswith(word)]
    if begins:
        return index.words[max(begins, key=lambda w: (-index.idf[index.words[w]], w))], 0.8
    near = difflib.get_close_matches(word, index.words, n=1, cutoff=0.82) if len(word) > 4 else []
    return (index.words[near[0]], 0.85) if near else None


def beyond_names(index: LabelIndex, reading: Reading, contained: Floats) -> tuple[Floats, Floats]:
    """Return the share of the words that a term's whole text knows, and of its lineage in them."""
    known, total = _lookup(index, reading.words)
    covered = np.zeros(len(index.terms), dtype=np.float32)
    matrix = index.doc_words
    for word, factor in known:
        begin, end = matrix.indptr[word], matrix.indptr[word + 1]
        covered[matrix.indices[begin:end]] += factor * index.idf[word]
    line = np.asarray(index.ancestry @ contained, dtype=np.float32)
    top = line.max()
    return covered / total, line / top if top > 0 else line


def grams_score(index: LabelIndex, label: str) -> Floats:
    """Return each term's best cosine of character trigrams with the label, float32 [T]."""
    counts = Counter(g for g in grams(label) if g in index.grams)
    scores = np.zeros(len(index.names), dtype=np.float32)
    norm = 0.0
    matrix = index.gram_names
    for gram, count in counts.items():
        at = index.grams[gram]
        weight = count * float(index.gram_idf[at])
        norm += weight * weight
        begin, end = matrix.indptr[at], matrix.indptr[at + 1]
        scores[matrix.indices[begin:end]] += weight * matrix.data[begin:end]
    if norm:
        scores /= math.sqrt(norm)
    return np.maximum.reduceat(scores, index.first_name)
