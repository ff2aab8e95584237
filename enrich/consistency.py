"""A sentence held against its evidence: what it names, denies and orders otherwise, what is not covered.

Each finding is counted and said in words; ``support`` weighs the counts. Evidence counts in two
circles: the quotes, and the passages around them. What a sentence takes from the wider circle is
less certain, since a passage also speaks of other cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache

from okrcell.corpus import ontology
from okrcell.enrich.lexicon import ANTONYMS, EXCLUSIVE, PARTIAL, UNIVERSAL
from okrcell.enrich.mentions import Mention, Reading, claims_number, closure, read
from okrcell.enrich.profile_text import Subject
from okrcell.enrich.stems import senses, stem

__all__ = ["Findings", "compare", "stage_of"]

_OPEN_KINDS = ("cell", "tissue")
_NAMES = ("gene", "substance", "acronym")
_PEOPLE = tuple(EXCLUSIVE)

Similar = Callable[[str, Sequence[str]], float]
"""Highest cosine between a word and the words of a list, in [0, 1]."""


@dataclass(frozen=True)
class Findings:
    """Counts of what speaks against a sentence, and in words the gravest of it.

    Attributes
    ----------
    counts
        Name of a feature to its value.
    remarks
        What was found, for people.
    """

    counts: dict[str, float]
    remarks: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Circle:
    """What some texts license."""

    readings: tuple[Reading, ...]
    ids: dict[str, frozenset[str]]
    content: dict[str, frozenset[bool]]
    senses: frozenset[int]
    words: frozenset[str]


@lru_cache(maxsize=20_000)
def _circle(texts: tuple[str, ...]) -> _Circle:
    readings = tuple(read(text) for text in texts)
    ids: dict[str, set[str]] = {}
    content: dict[str, set[bool]] = {}
    words: set[str] = set()
    for reading in readings:
        for mention in reading.mentions:
            known = ids.setdefault(mention.kind, set())
            for each in mention.ids:
                known |= closure(each) if mention.kind in _OPEN_KINDS else {each}
        for found, signs in reading.content.items():
            content.setdefault(found, set()).update(signs)
        words.update(reading.words)
    return _Circle(
        readings,
        {kind: frozenset(found) for kind, found in ids.items()},
        {found: frozenset(signs) for found, signs in content.items()},
        frozenset(group for found in content for group in senses(found)),
        frozenset(words),
    )


@lru_cache(maxsize=20_000)
def _known_of(
    subject: Subject,
) -> tuple[frozenset[str], frozenset[str], frozenset[str], frozenset[str]]:
    """Return a subject's own ids (type, with what it is a kind of), wider ids (tissue), people, stems."""
    cell_id, tissue_id = subject.term_id("identity"), subject.term_id("tissue")
    own = set(closure(cell_id)) if cell_id else set()
    names = [subject.label("identity"), *ontology.names(cell_id)]
    for name in names:
        own |= {each for mention in read(name).of("cell") for each in mention.ids}
    wider = set(closure(tissue_id)) if tissue_id else set()
    wider |= {each for m in read(subject.label("tissue")).of("tissue") for each in m.ids}
    people = {
        "human",
        subject.label("sex").casefold(),
        *stage_of(subject.label("development_stage")),
    }
    stems = {found for name in names for found in read(name).content}
    return frozenset(own), frozenset(wider), frozenset(people - {""}), frozenset(stems)


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


# --- comparison --------------------------------------------------------------------------------


def compare(
    sentence: str,
    quotes: tuple[str, ...],
    context: tuple[str, ...],
    subject: Subject,
    similar: Similar | None = None,
) -> Findings:
    """Hold a sentence against quotes, the passages they are from, and its subject.

    Parameters
    ----------
    similar
        Gives words without a counterpart a second chance by their vectors; None leaves that out.
    """
    told = read(sentence)
    near, far = _circle(quotes), _circle(quotes + context)
    counts: dict[str, float] = {}
    remarks: list[str] = []
    foreign = _foreign(told, near, far, subject, counts, remarks)
    _polarity(told, near, far, counts, remarks)
    _antonyms(told, near, far, counts, remarks)
    _coverage(told, near, far, subject, foreign, similar, counts, remarks)
    _degree(told, near, counts, remarks)
    _lead(told, near, subject, counts, remarks)
    return Findings(counts, tuple(remarks))


def _foreign(
    told: Reading,
    near: _Circle,
    far: _Circle,
    subject: Subject,
    counts: dict[str, float],
    remarks: list[str],
) -> set[str]:
    """Count names that no evidence has, by kind; return the stems of those names."""
    own, wider, people, own_stems = _known_of(subject)
    kinds = ("cell", "tissue", "name", "people", "number")
    counts |= {f"{kind}_unknown": 0.0 for kind in kinds} | {f"{kind}_around": 0.0 for kind in kinds}
    stems: set[str] = set()
    for mention in told.mentions:
        if mention.kind == "number" and not claims_number(mention):
            continue
        group = mention.kind
        group = "name" if group in _NAMES else "people" if group in _PEOPLE else group
        if _licensed(mention, told, near) or (mention.kind == "cell" and mention.ids & own):
            continue
        if group == "people" and mention.ids & people:
            continue
        parts = set(told.stems[mention.start : mention.end]) - {""}
        if parts and parts <= own_stems:
            continue
        if _licensed(mention, told, far) or (mention.kind == "tissue" and mention.ids & wider):
            counts[f"{group}_around"] += 1
            remarks.append(f"'{mention.name}' is in the passage, not in the quote")
        else:
            counts[f"{group}_unknown"] += 1
            stems |= parts
            remarks.append(f"no evidence names '{mention.name}'")
    return stems


def _licensed(mention: Mention, told: Reading, circle: _Circle) -> bool:
    if mention.ids & circle.ids.get(mention.kind, frozenset()):
        return True
    if mention.kind in _NAMES and any(
        mention.ids & circle.ids.get(kind, frozenset()) for kind in _NAMES
    ):
        return True
    if mention.kind == "number":
        return mention.name.lower() in circle.words
    parts = [found for found in told.stems[mention.start : mention.end] if found]
    if mention.kind in {"gene", "acronym"}:
        return mention.name.replace(" ", "").lower() in circle.words
    return bool(parts) and all(found in circle.content for found in parts)


def _polarity(
    told: Reading, near: _Circle, far: _Circle, counts: dict[str, float], remarks: list[str]
) -> None:
    """Count words that one side affirms and the other denies."""
    flipped, aligned = [], 0
    for found, signs in told.content.items():
        there = near.content.get(found) or far.content.get(found)
        if there is None:
            continue
        aligned += 1
        if not signs <= there:
            flipped.append(told.forms[found])
    names = {mention.name for mention in told.mentions if mention.is_denied}
    quote_denies = any(True in signs for signs in near.content.values())
    tells_denial = any(told.signs)
    counts["flipped"] = float(min(len(flipped), 3))
    counts["flipped_share"] = len(flipped) / max(aligned, 1)
    counts["new_denial"] = float(tells_denial and not quote_denies)
    counts["lost_denial"] = float(quote_denies and not tells_denial)
    if flipped:
        remarks.append(f"affirmed on one side and denied on the other: {', '.join(flipped[:4])}")
    elif counts["new_denial"]:
        remarks.append(
            f"the quote denies nothing{': ' + ', '.join(sorted(names)) if names else ''}"
        )


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


def _antonyms(
    told: Reading, near: _Circle, far: _Circle, counts: dict[str, float], remarks: list[str]
) -> None:
    """Count axes on which the sentence takes another side than the evidence."""
    mine, theirs = _places(frozenset(told.content)), _places(frozenset(near.content))
    around = _places(frozenset(far.content))
    opposed = new = 0
    for axis, places in mine.items():
        beyond = places - theirs.get(axis, frozenset())
        if not beyond:
            continue
        if theirs.get(axis, frozenset()) - places:
            opposed += 1
            words = [
                w for f, w in told.forms.items() if any(a == axis for a, _ in _axes().get(f, ()))
            ]
            remarks.append(f"the evidence has the contrary of '{', '.join(words[:2])}'")
        elif beyond - around.get(axis, frozenset()):
            new += 1
    counts["opposed"], counts["new_degree"] = float(opposed), float(new)


def _coverage(
    told: Reading,
    near: _Circle,
    far: _Circle,
    subject: Subject,
    foreign: set[str],
    similar: Similar | None,
    counts: dict[str, float],
    remarks: list[str],
) -> None:
    """Measure how much of what the sentence says stands in the quotes, or around them."""
    _, _, _, own_stems = _known_of(subject)
    score = soft = around = 0.0
    missing: list[str] = []
    n = 0
    for found in told.content:
        if found in own_stems:
            continue
        n += 1
        if found in near.content:
            score, soft, around = score + 1, soft + 1, around + 1
        elif senses(found) & near.senses:
            score, soft, around = score + 0.8, soft + 0.9, around + 0.9
        else:
            nearest = similar(told.forms[found], _words_of(near)) if similar else 0.0
            soft += 0.0 if found in foreign else nearest
            around += float(found in far.content)
            missing.append(told.forms[found])
    counts["covered"] = score / n if n else 1.0
    counts["soft"] = soft / n if n else 1.0
    counts["around"] = around / n if n else 1.0
    counts["missing"] = float(len(missing))
    if n and counts["covered"] < 0.5:
        remarks.append(f"the quote does not speak of: {', '.join(missing[:6])}")


@lru_cache(maxsize=20_000)
def _word_list(texts: tuple[Reading, ...]) -> tuple[str, ...]:
    return tuple(sorted({word for reading in texts for word in reading.forms.values()}))


def _words_of(circle: _Circle) -> tuple[str, ...]:
    return tuple(dict.fromkeys(w for reading in circle.readings for w in reading.forms.values()))


def _degree(told: Reading, near: _Circle, counts: dict[str, float], remarks: list[str]) -> None:
    """Count statements that are stronger than the evidence: "all" for "some", "only"."""
    mine = [word for word in told.words if word in UNIVERSAL and word not in near.words]
    hedged = bool(near.words & PARTIAL) and not set(told.words) & PARTIAL
    counts["overstated"] = float(bool(mine)) + float(bool(mine) and hedged)
    if mine:
        remarks.append(f"'{mine[0]}' is more than the evidence says")


def _lead(
    told: Reading, near: _Circle, subject: Subject, counts: dict[str, float], remarks: list[str]
) -> None:
    """Whether the first cell type named is another than the subject, and not the quote's first."""
    own = _known_of(subject)[0]
    mine = _first(told.of("cell"))
    counts["other_lead"] = 0.0
    if mine is None or mine.ids & own:
        return
    firsts = [first for reading in near.readings if (first := _first(reading.of("cell")))]
    heads: Iterable[frozenset[str]] = (
        frozenset().union(*(closure(each) for each in first.ids)) for first in firsts
    )
    if not any(mine.ids & head for head in heads):
        counts["other_lead"] = 1.0
        remarks.append(f"the sentence speaks first of '{mine.name}', the quote does not")


def _first(cells: list[Mention]) -> Mention | None:
    return next((cell for cell in cells if not cell.is_denied), None)
