"""Whether a sentence says the contrary of its evidence: denied, turned into its opposite, exchanged."""

from __future__ import annotations

import itertools
from functools import cache, lru_cache

from okrcell.enrich.circles import NAMES, Circle
from okrcell.enrich.lexicon import ANTONYMS, PARTIAL, STOP, UNIVERSAL
from okrcell.enrich.mentions import Mention, Reading
from okrcell.enrich.stems import senses, stem

__all__ = ["denials", "exchanges", "opposites", "overstatements"]

Counts = dict[str, float]
Remarks = list[str]

_ENDS = frozenset(", ; . but and while whereas although".split())
_MORE = frozenset("more greater larger higher longer bigger stronger faster thicker richer".split())
_LESS = frozenset("less fewer lower smaller shorter weaker slower thinner poorer".split())
_CLAUSES = frozenset("; whereas while but although though".split())


def denials(
    told: Reading,
    near: Circle,
    quoted: Circle,
    own: Reading,
    counts: Counts,
    remarks: Remarks,
) -> None:
    """Count words that one side affirms and the other denies.

    Parameters
    ----------
    quoted
        The quotes alone, without the title of their passage.
    own
        The label of the cell type: "non-classical monocytes" denies nothing of them.
    """
    flipped, aligned = [], 0
    for found, signs in told.firm.items():
        there = near.content.get(found)
        if there is None:
            continue
        aligned += 1
        if not signs <= there | own.content.get(found, frozenset()):
            flipped.append(found)
    names = {stem(word) for m in told.of(*NAMES) for word in told.words[m.start : m.end]}
    denied_there = any(True in signs for signs in near.content.values())
    denied_here = any(True in signs for signs in told.content.values())
    counts["flipped_name"] = float(any(found in names for found in flipped))
    counts["flipped_word"] = float(any(found not in names for found in flipped))
    counts["flipped_share"] = len(flipped) / max(aligned, 1)
    counts["new_denial"] = float(told.denies and not own.denies and not denied_there)
    counts["lost_denial"] = 0.0 if denied_here else _retold(told, quoted)
    if flipped:
        words = ", ".join(told.forms[found] for found in flipped[:4])
        remarks.append(f"affirmed on one side and denied on the other: {words}")
    elif counts["new_denial"]:
        remarks.append("the sentence denies something, the quote does not")
    elif counts["lost_denial"] > 0.5:
        remarks.append("the quote denies something, the sentence does not")


def _retold(told: Reading, quoted: Circle) -> float:
    """Return how much of what a denying quote affirms is retold: who retells it all lost the denial."""
    if not any(reading.denies for reading in quoted.readings):
        return 0.0
    affirmed = [found for found, signs in quoted.content.items() if signs == {False}]
    groups = {group for found in told.content for group in senses(found)}
    hits = sum(found in told.content or bool(senses(found) & groups) for found in affirmed)
    return hits / len(affirmed) if affirmed else 1.0


@cache
def _axes() -> dict[str, tuple[tuple[int, int], ...]]:
    """Return stem to the axes it is on, each with the number of the alternative."""
    found: dict[str, list[tuple[int, int]]] = {}
    for axis, line in enumerate(ANTONYMS.strip().splitlines()):
        for place, words in enumerate(line.split("|")):
            for word in words.split():
                found.setdefault(stem(word), []).append((axis, place))
    return {word: tuple(places) for word, places in found.items()}


@lru_cache(maxsize=50_000)
def _places(stems: frozenset[str]) -> dict[int, frozenset[int]]:
    found: dict[int, set[int]] = {}
    for each in stems:
        for axis, place in _axes().get(each, ()):
            found.setdefault(axis, set()).add(place)
    return {axis: frozenset(places) for axis, places in found.items()}


def opposites(told: Reading, near: Circle, counts: Counts, remarks: Remarks) -> None:
    """Count the axes (large, small; inner, outer) on which the sentence takes another side."""
    theirs = _places(frozenset(near.content))
    for axis, places in _places(frozenset(told.content)).items():
        there = theirs.get(axis, frozenset())
        beyond = places - there
        if beyond and there - places:
            counts["opposed"] += 1.0
            word = next(
                f for f in told.content if any((axis, p) in _axes().get(f, ()) for p in beyond)
            )
            remarks.append(f"the evidence has the contrary of '{told.forms[word]}'")


def overstatements(told: Reading, near: Circle, counts: Counts, remarks: Remarks) -> None:
    """Whether the sentence says "all" or "always" where the evidence says "some" or "often"."""
    strong = [word for word in told.words if word in UNIVERSAL and word not in near.words]
    weakened = bool(near.words & PARTIAL) and not set(told.words) & PARTIAL
    counts["overstated"] = float(bool(strong) and weakened)
    if counts["overstated"]:
        remarks.append(f"'{strong[0]}' is more than the evidence says")


def exchanges(told: Reading, near: Circle, counts: Counts, remarks: Remarks) -> None:
    """Add to ``opposed`` where what is said of two things is exchanged between them."""
    if _compares_otherwise(told, near):
        counts["opposed"] += 1.0
        remarks.append("the sentence compares the other way round")
    stranger = _known_by_contrast(told, near)
    if stranger:
        counts["opposed"] += 1.0
        remarks.append(f"the quote speaks of '{stranger}' only in contrast")
    name = _given_to_another(told, near)
    if name:
        counts["opposed"] += 1.0
        remarks.append(f"the quote says so of another cell type ({name})")


def _known_by_contrast(told: Reading, near: Circle) -> str:
    """Return the cell type that the sentence speaks of and the quote only sets apart, or ""."""
    mine = next((cell for cell in told.of("cell") if not cell.is_denied), None)
    if mine is None:
        return ""
    there = [m for reading in near.readings for m in reading.of("cell")]
    same = [m for m in there if m.ids & mine.ids]
    others_lead = any(not m.is_denied for m in there if m not in same)
    return mine.name if same and others_lead and all(m.is_denied for m in same) else ""


def _compares_otherwise(told: Reading, near: Circle) -> bool:
    if "than" not in told.words:
        return False
    before, after, quality, way = _sides(told)
    for reading in near.readings:
        if "than" not in reading.words:
            continue
        before_there, after_there, quality_there, way_there = _sides(reading)
        straight = len(after & after_there)
        crossed = len(before & after_there) + len(after & before_there)
        if way * way_there >= 0:
            return crossed > straight
        # "Richer than" and "fewer than": only of the same quality is one the contrary of the other.
        return bool(quality & quality_there) and straight > crossed
    return False


def _sides(reading: Reading) -> tuple[frozenset[str], frozenset[str], frozenset[str], int]:
    """Return what is named before and after "than", the quality, and if it is more (1), less (-1)."""
    at = reading.words.index("than")
    ends = [n for n, word in enumerate(reading.words) if n > at and word in _ENDS]
    end = min(ends, default=len(reading.words))
    before, after = set(reading.stems[:at]) - {""}, set(reading.stems[at:end]) - {""}
    words = reading.words[:at]
    quality = {
        reading.stems[n + 1] for n, word in enumerate(words[:-1]) if word in {"more", "less"}
    }
    return (
        frozenset(before - after),
        frozenset(after - before),
        frozenset(quality - {""}),
        bool(_MORE & set(words)) - bool(_LESS & set(words)),
    )


Fact = tuple[frozenset[tuple[str, str]], frozenset[str], bool]
"""Cell types, each with the word before it ("effector memory T cell"), a marker, and its denial."""


def _given_to_another(told: Reading, near: Circle) -> str:
    """Return a marker that the sentence gives to one cell type and the quote to another, or ""."""
    known = [fact for reading in near.readings for fact in _facts(reading.words, reading.mentions)]
    types = [cells for cells, _, _ in known]
    if len(set(types)) < 2:
        return ""
    for cells, name, sign in _facts(told.words, told.mentions):
        about = [fact for fact in known if fact[1] & name]
        if not about or not any(cells & other for other in types):
            continue
        if not any(cells & other and sign == there for other, _, there in about):
            return ", ".join(sorted(name)[:2])
    return ""


@lru_cache(maxsize=50_000)
def _facts(words: tuple[str, ...], mentions: tuple[Mention, ...]) -> tuple[Fact, ...]:
    """Return the cell types of each clause with each marker that it names."""
    bounds = [-1, *(n for n, word in enumerate(words) if word in _CLAUSES), len(words)]
    facts: list[Fact] = []
    for begin, end in itertools.pairwise(bounds):
        inside = [m for m in mentions if begin < m.start < end]
        cells = frozenset(
            (each, _word_before(words, m)) for m in inside if m.kind == "cell" for each in m.ids
        )
        for mention in inside:
            if mention.kind in NAMES and cells:
                facts.append((cells, mention.ids, mention.is_denied))
    return tuple(facts)


def _word_before(words: tuple[str, ...], mention: Mention) -> str:
    place = mention.start - 1
    while place >= 0 and words[place] == "-":
        place -= 1
    word = words[place] if place >= 0 else ""
    return stem(word) if word.isalpha() and word not in STOP else ""
