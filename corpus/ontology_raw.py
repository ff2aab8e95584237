"""One class of an ontology file, whatever its format, and what became of the obsolete ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from okrcell.errors import DuplicateNamesError

__all__ = [
    "RawOntology",
    "RawTerm",
    "add_raw",
    "curie",
    "duplicate",
    "obsolete_ids",
    "prefix_of",
    "release_of",
    "replacements",
    "replaces",
]

_IRI = re.compile(r"^(?:https?://\S*[/#]|obo\.)([A-Za-z][A-Za-z0-9.-]*)_(\w*\d\w*)$")
_LONGEST_IRI = 300
_CURIE = re.compile(r"^([A-Za-z][A-Za-z0-9_.-]{0,39}):\S+$")


@dataclass(slots=True)
class RawTerm:
    """One class of a file, as it stands there; ids are CURIEs.

    ``parents`` are is_a and part_of together, as CELLxGENE counts ancestors; ``genus``, of a logical
    definition, stands in for them in files that no reasoner has been over.
    """

    term_id: str
    label: str = ""
    definition: str = ""
    synonyms: list[str] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    genus: list[str] = field(default_factory=list)
    xrefs: list[str] = field(default_factory=list)
    obsolete: bool = False
    replaced_by: list[str] = field(default_factory=list)
    consider: list[str] = field(default_factory=list)
    alternative_ids: list[str] = field(default_factory=list)


class RawOntology(NamedTuple):
    """What a reader makes of a file: its name for itself and its version ("" where it states none)."""

    declared: str
    release: str
    records: dict[str, RawTerm]


def release_of(version: str) -> str:
    """Return the release in a version such as ``.../cl/releases/2026-03-26/cl.owl``."""
    parts = [part for part in version.split("/") if part]
    while len(parts) > 1 and parts[-1].endswith((".owl", ".obo", ".json")):
        parts.pop()
    return parts[-1] if parts else ""


def curie(text: str) -> str:
    """Return ``CL:0000000`` for the IRI or the dotted form of an id; other text as it is."""
    match = _IRI.match(text) if len(text) <= _LONGEST_IRI else None
    return f"{match[1]}:{match[2]}" if match else text


def prefix_of(term_id: str) -> str:
    """Return the prefix of a CURIE; empty where the id has none."""
    match = _CURIE.match(term_id)
    return match[1] if match and "//" not in term_id else ""


def add_raw(records: dict[str, RawTerm], raw: RawTerm, where: Path | str) -> None:
    """Add a term to those read so far; refuse an id that is there already."""
    if raw.term_id in records:
        raise duplicate(where, raw.term_id)
    records[raw.term_id] = raw


def duplicate(where: Path | str, term_id: str) -> DuplicateNamesError:
    """Return the error for an id that a file defines twice."""
    return DuplicateNamesError(
        where,
        found=f"the id {term_id} twice",
        expected="one entry per id",
        fix="Merge or remove one of the two entries.",
    )


def replacements(records: Iterable[RawTerm], prefixes: tuple[str, ...]) -> dict[str, str]:
    """Return obsolete and alternative ids and the live id that each means now.

    ``replaced_by`` is followed through further obsolete terms; ``consider``, which is only a
    suggestion, counts where nothing else is named and it leads to a single live term.
    """
    by_id = {raw.term_id: raw for raw in records if prefix_of(raw.term_id) in prefixes}
    live = {t for t, raw in by_id.items() if raw.label and not raw.obsolete}
    meaning = {term_id: term_id for term_id in live}
    found: dict[str, str] = {}
    for term_id, raw in sorted(by_id.items()):
        now = _follow(term_id, by_id, meaning)
        if not now:
            continue
        for old in (term_id, *raw.alternative_ids):
            if old not in live and old != now:
                found.setdefault(old, now)
    return found


def _follow(term_id: str, by_id: Mapping[str, RawTerm], meaning: dict[str, str]) -> str:
    """Return the live id that a term means now ("": none); ``meaning`` keeps what is known already.

    Each term is looked into once and without recursion: chains may be as long as the file. A term
    that leads back to itself means nothing on that way.
    """
    waiting, entered = [term_id], set[str]()
    while waiting:
        at = waiting[-1]
        raw = by_id.get(at)
        if at in meaning or raw is None:
            waiting.pop()
            continue
        leads_to = raw.replaced_by or raw.consider
        if at not in entered:
            entered.add(at)
            waiting += [t for t in leads_to if t not in meaning and t not in entered]
            continue
        found = [now for t in leads_to if (now := meaning.get(t, ""))]
        unclear = not raw.replaced_by and len(set(found)) != 1
        meaning[at] = "" if unclear or not found else found[0]
        waiting.pop()
    return meaning.get(term_id, "")


def obsolete_ids(
    records: Iterable[RawTerm], replaced: Mapping[str, str], prefixes: tuple[str, ...]
) -> tuple[dict[str, str], dict[str, int]]:
    """Return every obsolete id and what replaces it, in this ontology or another ("": nothing).

    The second value counts them: ``obsolete``, ``obsolete_replaced`` (by a live term of this
    ontology) and ``obsolete_replaced_elsewhere``.
    """
    found, elsewhere = {}, 0
    for raw in sorted(records, key=lambda raw: raw.term_id):
        if not raw.obsolete or prefix_of(raw.term_id) not in prefixes:
            continue
        other = next((t for t in raw.replaced_by if _is_foreign(t, prefixes)), "")
        found[raw.term_id] = replaced.get(raw.term_id, other)
        elsewhere += bool(other) and raw.term_id not in replaced
    counts = {
        "obsolete": len(found),
        "obsolete_replaced": sum(term_id in replaced for term_id in found),
        "obsolete_replaced_elsewhere": elsewhere,
    }
    return found, counts


def _is_foreign(term_id: str, prefixes: tuple[str, ...]) -> bool:
    # An id has a number; some files name a web page instead.
    prefix = prefix_of(term_id)
    return bool(prefix) and prefix not in prefixes and any(c.isdigit() for c in term_id)


def replaces(replaced: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return live id to the ids that it replaces, in order."""
    found: dict[str, list[str]] = {}
    for old, now in sorted(replaced.items()):
        found.setdefault(now, []).append(old)
    return {now: tuple(old) for now, old in found.items()}
