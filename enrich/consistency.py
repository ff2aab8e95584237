"""A sentence held against its evidence: what it names that nobody else does, and what is not covered.

Each finding is counted and said in words; ``support`` weighs the counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from okrcell.enrich.circles import (
    NAMES,
    PEOPLE,
    Circle,
    Known,
    circle,
    is_licensed,
    is_short_for,
    known_of,
    title_of,
)
from okrcell.enrich.mentions import Mention, Reading, claims_number, read
from okrcell.enrich.opposition import denials, exchanges, opposites, overstatements
from okrcell.enrich.profile_text import Subject
from okrcell.enrich.stems import senses

__all__ = ["FEATURES", "Findings", "compare"]

FEATURES = (
    "cell_unknown",
    "tissue_unknown",
    "name_unknown",
    "people_unknown",
    "number_unknown",
    "odd_cell",
    "taken_from_around",
    "tissue_around",
    "flipped_name",
    "flipped_word",
    "flipped_share",
    "new_denial",
    "lost_denial",
    "opposed",
    "overstated",
    "close_text",
    "off_topic",
    "covered",
)
"""What is counted; all but the last speak against a sentence."""

_ODD = (
    "cell_unknown",
    "tissue_unknown",
    "name_unknown",
    "people_unknown",
    "number_unknown",
    "taken_from_around",
    "flipped_name",
    "flipped_word",
    "new_denial",
    "opposed",
)
_POOR = 0.4  # share of words covered, below which quote and sentence are about other things
_PRIOR = 0.5  # words given for free, since one more or less says little of a short sentence
_SYNONYM = 0.8  # what a synonym counts for
_MOST = 3.0  # more of one kind says nothing new


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes
    ----------
    counts
        One for each of ``FEATURES``.
    remarks
        What was found, for people.
    """

    counts: dict[str, float]
    remarks: tuple[str, ...]


def compare(
    sentence: str, quotes: tuple[str, ...], context: tuple[str, ...], subject: Subject
) -> Findings:
    """Hold a sentence against quotes, the passages they are from, and its subject."""
    told, known = read(sentence), known_of(subject)
    titles = tuple(title for text in context if (title := title_of(text)))
    near, far = circle(quotes + titles), circle(quotes + context)
    counts = dict.fromkeys(FEATURES, 0.0)
    remarks: list[str] = []
    _unknown_names(told, near, far, known, subject, counts, remarks)
    denials(told, near, circle(quotes), known.label, counts, remarks)
    opposites(told, near, counts, remarks)
    exchanges(told, near, counts, remarks)
    overstatements(told, near, counts, remarks)
    _coverage(told, near, known, counts, remarks)
    # Something odd in a sentence that follows its quote closely has been put there; in one that is
    # freely reworded it may be another name for the same.
    counts["close_text"] = counts["covered"] * any(counts[name] for name in _ODD)
    return Findings({name: min(counts[name], _MOST) for name in FEATURES}, tuple(remarks))


def _unknown_names(
    told: Reading,
    near: Circle,
    far: Circle,
    known: Known,
    subject: Subject,
    counts: dict[str, float],
    remarks: list[str],
) -> None:
    """Count names that no evidence has, by kind, and those from around the quotes."""
    for mention in told.mentions:
        group = mention.kind
        group = "name" if group in NAMES else "people" if group in PEOPLE else group
        if is_licensed(mention, told, near) or _is_own(mention, told, known, subject):
            continue
        of_profile = group == "tissue" and bool(mention.ids & known.tissue)
        if of_profile or is_licensed(mention, told, far):
            counts["tissue_around" if of_profile else "taken_from_around"] += 1
            remarks.append(f"the quote does not name '{mention.name}'")
        else:
            counts[f"{group}_unknown"] += 1
            remarks.append(f"no evidence names '{mention.name}'")
    inside = {place for mention in told.mentions for place in range(mention.start, mention.end)}
    for place, found in enumerate(told.stems[:-1]):
        names_cell = (
            bool(found) and place not in inside and told.words[place + 1] in {"cell", "cells"}
        )
        if names_cell and not (
            found in far.content or found in known.stems or senses(found) & far.senses
        ):
            counts["odd_cell"] += 1
            remarks.append(f"no evidence names '{told.words[place]} {told.words[place + 1]}'")


def _is_own(mention: Mention, told: Reading, known: Known, subject: Subject) -> bool:
    """Whether the profile itself names it, or it is a way of speaking."""
    if mention.kind == "number":
        return not claims_number(mention, told.words)
    if mention.kind in PEOPLE:
        return bool(mention.ids & known.people)
    if mention.kind == "acronym":
        return is_short_for(mention.name, subject.label("identity"))
    if mention.kind in NAMES:
        return False
    parts = set(told.stems[mention.start : mention.end]) - {""}
    return bool(mention.ids & known.cell) or (bool(parts) and parts <= known.stems)


def _coverage(
    told: Reading, near: Circle, known: Known, counts: dict[str, float], remarks: list[str]
) -> None:
    """Measure how much of what the sentence says stands in the quotes."""
    covered, missing, n = 0.0, [], 0
    named = {
        told.stems[place]
        for mention in told.mentions
        if is_licensed(mention, told, near)
        for place in range(mention.start, mention.end)
    }
    for found in told.content:
        if found in known.stems:
            continue
        n += 1
        if found in near.content or found in named:
            covered += 1.0
        elif senses(found) & near.senses:
            covered += _SYNONYM
        else:
            missing.append(told.forms[found])
    counts["covered"] = (covered + _PRIOR) / (n + _PRIOR)
    counts["off_topic"] = max(0.0, 1.0 - counts["covered"] / _POOR)
    if counts["covered"] < _POOR:
        remarks.append(f"the quote does not speak of: {', '.join(missing[:6])}")
