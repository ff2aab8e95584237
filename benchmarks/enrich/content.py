"""What a text on a cell type says, as units that two texts can be compared by.

Markers are genes and surface markers, substances other names of what a cell makes or takes up, locations
UBERON terms, lineage other CL terms; all as the enrich stage reads them (``enrich.mentions``), and only
where the text affirms them. Functions are sentences
with a word of doing ("secretes", "role in"); two of them say the same from a cosine on that is fixed on
30 pairs written by hand (``function_pairs.tsv``), and the telling words of function sentences are
compared one by one beside that, since no cosine tells glucagon from insulin reliably.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from okrcell.corpus import ontology
from okrcell.enrich.mentions import read
from okrcell.enrich.sentences import split_sentences
from okrcell.enrich.stems import senses, stem

__all__ = [
    "KINDS",
    "Content",
    "Score",
    "content_of",
    "function_threshold",
    "score",
    "shared_grams",
    "with_label",
]

KINDS = ("markers", "substances", "locations", "lineage", "function words", "functions")
PAIRS = Path(__file__).with_name("function_pairs.tsv")
NEAR, PARTLY = 2, 0.5
"""A term this many steps above or below earns this much."""
_OF_KIND = {
    "markers": ("gene", ""),
    "substances": ("substance", ""),
    "locations": ("tissue", "UBERON:"),
    "lineage": ("cell", "CL:"),
}
_DOING = frozenset(
    stem(word)
    for word in """
    secretes produces synthesizes releases regulates controls mediates transports absorbs reabsorbs filters
    contracts relaxes phagocytoses engulfs digests kills lyses suppresses inhibits activates stimulates supports
    protects maintains participates contributes functions function role responsible involved differentiates
    migrates transmits conducts transduces detects senses responds stores converts metabolizes degrades resorbs
    forms lines covers repairs regenerates proliferates presents recognizes promotes induces modulates
    enables facilitates provides nourishes clears removes
    """.split()
)


@dataclass(frozen=True)
class Content:
    """Units of a text.

    Attributes
    ----------
    names
        For each kind of name the ids that it may mean, each name once.
    words
        Stems of the telling words of sentences on function.
    functions
        Sentences on function.
    n_words
        Of the text.
    """

    names: dict[str, tuple[frozenset[str], ...]]
    words: frozenset[str]
    functions: tuple[str, ...]
    n_words: int


@lru_cache(maxsize=20_000)
def content_of(text: str, term_id: str) -> Content:
    """Return the units of a text about a cell type; its own names are none."""
    names = _names(text, term_id)
    functions = tuple(s for s in split_sentences(text) if _is_function(s))
    own = {stem(w) for name in ontology.names(term_id) for w in re.findall(r"\w+", name.lower())}
    words: set[str] = set()
    for sentence in functions:
        said = read(sentence)
        words |= {found for found, signs in said.content.items() if False in signs}
    return Content(names, frozenset(words - own - _DOING), functions, len(text.split()))


def _names(text: str, term_id: str) -> dict[str, tuple[frozenset[str], ...]]:
    reading = read(text)
    names = {}
    for kind, (mention_kind, prefix) in _OF_KIND.items():
        units: dict[frozenset[str], None] = {}
        for mention in reading.of(mention_kind):
            ids = frozenset(each for each in mention.ids if each.startswith(prefix))
            if ids and not mention.is_denied and term_id not in ids:
                units.setdefault(ids)
        names[kind] = tuple(units)
    return names


def with_label(content: Content, label: str, term_id: str) -> Content:
    """Add what the words of the label name: the artery in "smooth muscle cell of the pulmonary artery"."""
    words = label.split()
    parts = [_names(" ".join(words[at:]), term_id) for at in range(len(words))]
    names = {
        kind: tuple(dict.fromkeys((*units, *(unit for part in parts for unit in part[kind]))))
        for kind, units in content.names.items()
    }
    return Content(names, content.words, content.functions, content.n_words)


def _is_function(sentence: str) -> bool:
    return bool(_DOING & set(read(sentence).content))


@cache
def _ways(term_id: str) -> dict[str, int]:
    return {term_id: 0, **ontology.ancestors(term_id)}


def _credit(kind: str, unit: frozenset[str], others: Sequence[frozenset[str]]) -> float:
    """Return 1 if a unit is among others, part of that if only a near ancestor or descendant is."""
    if any(unit & other for other in others):
        return 1.0
    if kind not in {"locations", "lineage"}:
        return 0.0
    near = any(
        min(_ways(a).get(b, NEAR + 1), _ways(b).get(a, NEAR + 1)) <= NEAR
        for a in unit
        for other in others
        for b in other
    )
    return PARTLY if near else 0.0


@dataclass(frozen=True)
class Score:
    """Per kind the mean credit of one text's units in another; None where it has no unit."""

    credit: dict[str, float | None]
    n: dict[str, int]


def score(
    units: Content,
    other: Content,
    vectors: dict[str, np.ndarray],
    threshold: float,
    given: Content | None = None,
) -> Score:
    """Return how much of one text's content another one has.

    Parameters
    ----------
    vectors
        Sentence to its unit vector.
    threshold
        Cosine from which two sentences on function say the same.
    given
        Units that this content has are left out: what the name of the cell type gives away.
    """
    credit: dict[str, float | None] = {}
    n: dict[str, int] = {}
    for kind in _OF_KIND:
        wanted = [
            unit
            for unit in units.names[kind]
            if given is None or not any(unit & each for each in given.names[kind])
        ]
        values = [_credit(kind, unit, other.names[kind]) for unit in wanted]
        n[kind], credit[kind] = len(values), _mean(values)
    known = {sense for word in other.words for sense in senses(word)}
    values = [float(word in other.words or bool(senses(word) & known)) for word in units.words]
    n["function words"], credit["function words"] = len(values), _mean(values)
    values = [
        float(any(float(vectors[s] @ vectors[o]) >= threshold for o in other.functions))
        for s in units.functions
    ]
    n["functions"], credit["functions"] = len(values), _mean(values)
    return Score(credit, n)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def function_threshold(embedder: Any) -> tuple[float, int, int]:
    """Return the cosine that parts the hand-made pairs best, the pairs it gets right, and all."""
    with PAIRS.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    same = np.array([row["same"] == "yes" for row in rows])
    one = embedder.encode([row["expert"] for row in rows])
    other = embedder.encode([row["description"] for row in rows])
    cosines = (one * other).sum(axis=1)
    ordered = np.sort(cosines)
    cuts = (ordered[1:] + ordered[:-1]) / 2
    right = np.array([int(((cosines >= cut) == same).sum()) for cut in cuts])
    # Of equally good cuts the middle one.
    best = np.flatnonzero(right == right.max())
    at = best[len(best) // 2]
    return round(float(cuts[at]), 3), int(right[at]), len(rows)


def _grams(text: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def shared_grams(text: str, other: str, n: int = 5) -> float:
    """Return the share of a text's runs of ``n`` words that another text has."""
    own = _grams(text, n)
    return len(own & _grams(other, n)) / len(own) if own else 0.0
