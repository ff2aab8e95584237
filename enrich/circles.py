"""What evidence licenses: the names, words and signs of some texts taken together.

Evidence counts in two circles. The near one is the quotes, with the title of the passage that they
are from; the far one is the passages around them. A passage also speaks of other cells, so what a
sentence takes from the far circle alone is less certain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from okrcell.corpus import ontology
from okrcell.enrich.lexicon import EXCLUSIVE
from okrcell.enrich.mentions import Mention, Reading, closure, read
from okrcell.enrich.profile_text import Subject
from okrcell.enrich.stems import senses, stem

__all__ = [
    "NAMES",
    "PEOPLE",
    "Circle",
    "Known",
    "circle",
    "is_licensed",
    "known_of",
    "stage_of",
    "title_of",
]

NAMES = ("gene", "substance", "acronym")
"""Kinds of mention that name a marker or another substance."""
PEOPLE = tuple(EXCLUSIVE)
"""Kinds of mention that say whose cells are meant: sex, stage of life, species."""

_OPEN = ("cell", "tissue")  # may be put in more general words
_VESSELS = frozenset(stem(word) for word in "vessel gland tissue organ wall layer cavity".split())
_COMPOUND = 5
_TITLE_WORDS = 12
_UNITS = frozenset(
    """percent % day days week weeks month months year years hour hours minute minutes micrometer micrometers micron
    microns mm nm cm in out of to - per times fold thirds hundred thousand million genes""".split()
)
_KINDS = frozenset("kinds types sorts forms classes groups subsets".split())
_FEW = 3  # a name of more things than this says too little to be put in more general words


@dataclass(frozen=True)
class Circle:
    """What some texts license.

    Attributes
    ----------
    ids
        By kind of mention, with what they are part of or a kind of.
    content
        Stem to the signs with which it occurs.
    stems
        All of them, single letters too.
    senses
        Groups of synonyms that occur.
    words
        In lower case.
    """

    texts: tuple[str, ...]
    readings: tuple[Reading, ...]
    ids: dict[str, frozenset[str]]
    content: dict[str, frozenset[bool]]
    stems: frozenset[str]
    senses: frozenset[int]
    words: frozenset[str]


@lru_cache(maxsize=20_000)
def circle(texts: tuple[str, ...]) -> Circle:
    """Take texts together."""
    readings = tuple(read(text) for text in texts)
    ids: dict[str, set[str]] = {}
    content: dict[str, set[bool]] = {}
    words: set[str] = set()
    for reading in readings:
        for mention in reading.mentions:
            general = mention.kind in _OPEN and len(mention.ids) <= _FEW
            for each in mention.ids:
                ids.setdefault(mention.kind, set()).update(closure(each) if general else {each})
        for found, signs in reading.content.items():
            content.setdefault(found, set()).update(signs)
        words.update(reading.words)
    return Circle(
        texts,
        readings,
        {kind: frozenset(found) for kind, found in ids.items()},
        {found: frozenset(signs) for found, signs in content.items()},
        frozenset(found for reading in readings for found in reading.stems),
        frozenset(group for word in words for group in senses(stem(word))),
        frozenset(words),
    )


def title_of(text: str) -> str:
    """Return what a passage of an ontology is about: the name before its definition, or ""."""
    name, colon, _ = text.partition(": ")
    return name if colon and len(name.split()) <= _TITLE_WORDS and "." not in name else ""


@dataclass(frozen=True)
class Known:
    """What a profile says by itself.

    Attributes
    ----------
    cell
        Its cell type and what that is a kind of.
    tissue
        Its tissue and what that is part of.
    people
        Its sex and stages of life, and "human".
    stems
        Of the names of its cell type.
    label
        Of its cell type, read.
    """

    cell: frozenset[str]
    tissue: frozenset[str]
    people: frozenset[str]
    stems: frozenset[str]
    label: Reading


@lru_cache(maxsize=20_000)
def known_of(subject: Subject) -> Known:
    """Return what a subject's metadata license."""
    label, cell_id = subject.label("identity"), subject.term_id("identity")
    names = (label, *ontology.names(cell_id))
    cell = set(closure(cell_id)) if cell_id else set()
    cell |= {each for name in names for mention in read(name).of("cell") for each in mention.ids}
    tissue_id = subject.term_id("tissue")
    tissue = set(closure(tissue_id)) if tissue_id else set()
    tissue |= {each for m in read(subject.label("tissue")).of("tissue") for each in m.ids}
    people = {
        "human",
        subject.label("sex").casefold(),
        *stage_of(subject.label("development_stage")),
    }
    return Known(
        frozenset(cell),
        frozenset(tissue),
        frozenset(people - {""}),
        frozenset(found for name in names for found in read(name).stems),
        read(label),
    )


def stage_of(label: str) -> frozenset[str]:
    """Return the stages of life that a label of HsapDv means ("65-year-old stage": adult, aged)."""
    reading = read(label)
    found = {each for mention in reading.of("stage") for each in mention.ids}
    words = set(reading.words)
    if words & {"year", "years"}:
        ages = [float(each) for mention in reading.of("number") for each in mention.ids]
        for age in ages[:1]:
            found |= {"adult"} if age >= 18 else {"child"}
            found |= {"aged"} if age >= 60 else set()
            found |= {"adolescent"} if 10 <= age < 20 else set()
    if words & {"trimester", "carnegie"} or {"post", "fertilization"} <= words:
        found |= {"prenatal"}
    return frozenset(found)


def is_licensed(mention: Mention, told: Reading, by: Circle) -> bool:
    """Whether texts name what a sentence mentions, in the same or more special words."""
    kinds = NAMES if mention.kind in NAMES else (mention.kind,)
    if any(mention.ids & by.ids.get(kind, frozenset()) for kind in kinds):
        return True
    if mention.kind == "number":
        return mention.name.lower() in by.words or _is_count(mention, told, by)
    if mention.kind in NAMES:
        # By letters: "secretin" and "secretes" have a stem in common, and nothing else.
        return mention.name.replace(" ", "").lower() in by.words or (
            mention.kind == "acronym" and any(is_short_for(mention.name, text) for text in by.texts)
        )
    if mention.kind in _OPEN and _is_licensed_apart(mention.name, by):
        return True
    parts = [found for found in told.stems[mention.start : mention.end] if found]
    if mention.kind == "tissue":
        telling = [found for found in parts if found not in _VESSELS]
        return bool(telling) and all(_has_part(found, by) for found in telling)
    return any(len(found) > 1 for found in parts) and all(found in by.stems for found in parts)


def _is_licensed_apart(name: str, by: Circle) -> bool:
    """Whether texts name the parts of a name of its own ("hepatic NK cells": liver, NK cells)."""
    first, _, rest = name.partition(" ")
    rest = rest.removeprefix("- ")
    return bool(rest) and _stands(first, by) and _stands(rest, by)


def _stands(name: str, by: Circle) -> bool:
    told = read(name)
    whole = [m for m in told.of(*_OPEN) if m.start == 0]
    if whole:
        return is_licensed(whole[0], told, by)
    stems = [found for found in told.stems if found]
    return bool(stems) and all(found in by.stems or senses(found) & by.senses for found in stems)


def _has_part(found: str, by: Circle) -> bool:
    """Whether texts have a word of anatomy, its synonym, or a compound of it ("intraepithelial")."""
    return (
        found in by.stems
        or bool(senses(found) & by.senses)
        or (len(found) >= _COMPOUND and any(found in word for word in by.words))
    )


def _is_count(mention: Mention, told: Reading, by: Circle) -> bool:
    """Whether a number sums up what the texts name one by one ("two transmitters", "three kinds")."""
    after = set(told.words[mention.end : mention.end + 1])
    lists_two = mention.name.lower() == "two" and "and" in by.words and not after & _UNITS
    return lists_two or (mention.name.isalpha() and bool(after & _KINDS))


@lru_cache(maxsize=50_000)
def is_short_for(short: str, text: str) -> bool:
    """Whether an abbreviation has the initials of words that stand together, or joins them ("NKT")."""
    plain = short.removesuffix("s").lower()
    words = [word for word in read(text).words if word.isalnum()]
    if any(
        plain in {a + b, a + b + c}
        for a, b, c in zip(words, words[1:], [*words[2:], ""], strict=False)
    ):
        return True
    wanted, initials = sorted(plain), [word[0] for word in words]
    for start in range(len(initials) - 1):
        window = initials[start : start + len(wanted) + 1]
        if len(wanted) > 1 and all(window.count(c) >= wanted.count(c) for c in wanted):
            return True
    return False
