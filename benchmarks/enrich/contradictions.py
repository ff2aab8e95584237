"""Sentences that an expert text may contradict, and what a reader made of them (``verdicts.tsv``).

Flagging is meant to miss little and is wrong most of the time; the rate that is reported counts only
what a reader found to be a contradiction. A random part of what was not flagged was read as well.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from okrcell.enrich.lexicon import ANTONYMS
from okrcell.enrich.mentions import Mention, Reading, claims_number, read
from okrcell.enrich.stems import stem

__all__ = ["VERDICTS", "flags", "read_verdicts", "wilson"]

VERDICTS = Path(__file__).with_name("verdicts.tsv")
_KINDS = ("gene", "substance", "tissue", "cell", "sex", "stage")


def flags(sentence: str, expert: str, aligned: Sequence[str], label: str) -> list[str]:
    """Return why an expert text may contradict a sentence.

    Parameters
    ----------
    aligned
        The expert sentences nearest to it.
    label
        Of the cell type: what its own name denies ("CD16-negative") counts on neither side.
    """
    told, whole = read(sentence), read(expert)
    near = [read(text) for text in aligned]
    own = read(label)
    return [
        *_names(told, whole),
        *_signs(told, near, own),
        *_axes_of(told, near, own),
        *_numbers(told, near),
    ]


def _names(told: Reading, whole: Reading) -> list[str]:
    found = []
    for kind in _KINDS:
        for mention in told.of(kind):
            same = [other for other in whole.of(kind) if other.ids & mention.ids]
            if same and all(other.is_denied != mention.is_denied for other in same):
                found.append(f"{'denies' if mention.is_denied else 'affirms'} '{mention.name}'")
    return found


def _signs(told: Reading, near: Sequence[Reading], own: Reading) -> list[str]:
    found = []
    for word, signs in told.content.items():
        there: set[bool] = set().union(
            *(reading.content.get(word, frozenset()) for reading in near)
        )
        if there and not signs & there and word not in own.content:
            found.append(f"'{told.forms[word]}' with the opposite sign")
    return found


@cache
def _axes() -> dict[str, frozenset[tuple[int, int]]]:
    found: dict[str, set[tuple[int, int]]] = {}
    for axis, line in enumerate(ANTONYMS.strip().splitlines()):
        for place, words in enumerate(line.split("|")):
            for word in words.split():
                found.setdefault(stem(word), set()).add((axis, place))
    return {word: frozenset(places) for word, places in found.items()}


def _places(reading: Reading) -> dict[int, set[int]]:
    places: dict[int, set[int]] = {}
    for word in reading.content:
        for axis, place in _axes().get(word, ()):
            places.setdefault(axis, set()).add(place)
    return places


def _axes_of(told: Reading, near: Sequence[Reading], own: Reading) -> list[str]:
    mine, names = _places(told), _places(own)
    found = []
    for reading in near:
        theirs = _places(reading)
        for axis in mine.keys() & theirs.keys() - names.keys():
            if not mine[axis] & theirs[axis]:
                found.append(f"the contrary side of '{ANTONYMS.strip().splitlines()[axis]}'")
    return list(dict.fromkeys(found))


def _numbers(told: Reading, near: Sequence[Reading]) -> list[str]:
    def measured(reading: Reading) -> list[tuple[Mention, str]]:
        numbers = [m for m in reading.of("number") if claims_number(m, reading.words)]
        return [
            (m, stem(w)) for m in numbers for w in reading.words[m.end : m.end + 1] if w.isalpha()
        ]

    theirs = [pair for reading in near for pair in measured(reading)]
    return [
        f"'{mention.name} {what}' for '{other.name} {what}'"
        for mention, what in measured(told)
        for other, of in theirs
        if of == what and not mention.ids & other.ids
    ]


def read_verdicts(sentences: Iterable[tuple[str, str]]) -> dict[tuple[str, str], dict[str, str]]:
    """Return what a reader made of a sentence about a term, for those of the sentences that were read.

    The file knows sentences by their sha256: many are others' words.

    ``verdict`` is ``contradiction``, ``tension`` (both may hold: another subset, stage or degree) or
    ``none``; ``about`` is ``type``, ``study`` (one experiment, not the cell type in general) or
    ``other type``; ``why`` says more. ``drawn`` is ``flagged``, or ``random`` for those drawn from the rest.
    """
    with VERDICTS.open(encoding="utf-8") as lines:
        rows = {
            (row["cl_id"], row["sentence_sha256"]): row
            for row in csv.DictReader(lines, delimiter="\t")
        }
    found = {}
    for cl_id, sentence in sentences:
        row = rows.get((cl_id, hashlib.sha256(sentence.encode()).hexdigest()[:16]))
        if row is not None:
            found[cl_id, sentence] = row
    return found


def wilson(k: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share ``k`` of ``n``."""
    if not n:
        return 0.0, 1.0
    z, p = 1.959964, k / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)
