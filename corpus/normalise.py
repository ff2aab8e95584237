"""Free-text labels to ontology terms by their words, with a score, a reason and alternatives.

Every label is read the way the Cell Ontology writes names ("CD8+ NK" becomes "CD8-positive natural
killer cell") and compared with all labels and synonyms of the field's ontologies. A name that is the
same set of words scores 1; otherwise the score is the share of words in common (Dice), where rare
words weigh more. Nothing below the acceptance score is mapped: it is listed as unresolved, and a
table of overrides settles it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from okrcell.corpus import ontology
from okrcell.errors import FileFormatError, LabelError
from okrcell.schemas import METADATA_FIELDS

__all__ = ["UNKNOWN_VALUES", "Resolution", "normalise", "read_overrides"]

UNKNOWN_VALUES = frozenset(
    {"", "unknown", "na", "nan", "none", "n/a", "not applicable", "not provided"}
)
N_ALTERNATIVES = 10

_ABBREVIATIONS = {
    "nk": "natural killer",
    "nkt": "natural killer t",
    "treg": "regulatory t",
    "tregs": "regulatory t",
    "reg": "regulatory",
    "mem": "memory",
    "mono": "monocyte",
    "dc": "dendritic",
    "pdc": "plasmacytoid dendritic",
    "cdc": "conventional dendritic",
    "hsc": "hematopoietic stem",
    "hspc": "hematopoietic precursor",
    "mait": "mucosal invariant t",
    "rbc": "erythrocyte",
    "epi": "epithelial",
    "endo": "endothelial",
    "prog": "progenitor",
}
_SURFACE_ALIASES = {"cd56": "ncam1", "cd16": "fcgr3a"}
_FILLER = frozenset({"the", "a", "an", "of", "and", "cell"})
_SYNONYM_WEIGHT = 0.98  # of two equally good names a label beats a synonym


@dataclass(frozen=True)
class Resolution:
    """What became of one label. ``term_id`` is empty where it stays unresolved."""

    label: str
    term_id: str
    term_label: str
    score: float
    reason: str
    alternatives: tuple[tuple[str, float], ...] = ()


def normalise(
    labels: Sequence[str],
    field: str,
    *,
    accept_score: float,
    overrides: Mapping[str, str] | None = None,
) -> dict[str, Resolution]:
    """Map labels of one metadata field to terms of the ontologies its field names.

    Parameters
    ----------
    labels
        Distinct values of a column.
    field
        One of ``schemas.METADATA_FIELDS``. Fields without an ontology keep their text.
    overrides
        Label to term id, decided by a person; an empty id means "leave unresolved".
    """
    resolved = {}
    for label in labels:
        text = str(label).strip()
        override = (overrides or {}).get(text)
        if text.casefold() in UNKNOWN_VALUES:
            resolved[label] = Resolution(label, "", "unknown", 1.0, "declared unknown")
        elif override is not None:
            resolved[label] = _overridden(label, override, field)
        elif field not in ontology.FIELD_ONTOLOGY:
            resolved[label] = Resolution(label, "", text, 1.0, "field has no ontology here")
        else:
            resolved[label] = _match(text, label, ontology.FIELD_ONTOLOGY[field], accept_score)
    return resolved


def _overridden(label: str, term_id: str, field: str) -> Resolution:
    if not term_id:
        return Resolution(label, "", label, 0.0, "unresolved by override")
    term = ontology.get_term(term_id)
    allowed = ontology.FIELD_ONTOLOGY.get(field, ())
    if term is None or term.ontology not in allowed:
        raise LabelError(
            f"override of {field} '{label}'",
            found=f"the term id '{term_id}'",
            expected=f"an id of {', '.join(allowed).upper() or 'no ontology: the field keeps its text'}",
            fix="Correct the id in the overrides table.",
        )
    return Resolution(label, term_id, term.label, 1.0, "override")


def _match(text: str, label: str, ontologies: Sequence[str], accept_score: float) -> Resolution:
    for name in ontologies:
        if text.upper().startswith(f"{ontology.ONTOLOGIES[name].upper()}:"):
            term = ontology.get_term(text)
            if term is not None:
                return Resolution(label, term.term_id, term.label, 1.0, "term id")
    words = _words(text)
    ranked = _rank(words, tuple(ontologies)) if words else []
    alternatives = tuple((term_id, score) for term_id, score, _ in ranked[:N_ALTERNATIVES])
    if not ranked or ranked[0][1] < accept_score:
        near = f", nearest '{ranked[0][2]}'" if ranked else ""
        score = ranked[0][1] if ranked else 0.0
        return Resolution(
            label,
            "",
            text,
            score,
            f"unresolved: no name at {accept_score:g} or above{near}",
            alternatives,
        )
    term_id, score, name = ranked[0]
    term = ontology.get_term(term_id)
    if term is None:  # pragma: no cover - the index holds known terms only
        raise KeyError(term_id)
    how = "same words as" if score >= _SYNONYM_WEIGHT else "words shared with"
    return Resolution(label, term_id, term.label, score, f"{how} '{name}'", alternatives)


def _rank(words: frozenset[str], ontologies: tuple[str, ...]) -> list[tuple[str, float, str]]:
    index, weights, default = _index(ontologies)
    # fsum is exact, so the order of a set's words cannot tip a tie between two terms.
    mine = math.fsum(weights.get(word, default) for word in words)
    best: dict[str, tuple[float, str]] = {}
    for term_id, name, factor, its_words, its_weight in index:
        shared = math.fsum(weights[word] for word in words & its_words)
        score = round(factor * 2 * shared / (mine + its_weight), 4)
        if shared and score > best.get(term_id, (0.0, ""))[0]:
            best[term_id] = (score, name)
    ordered = sorted(best.items(), key=lambda item: (-item[1][0], len(item[1][1]), item[0]))
    return [(term_id, score, name) for term_id, (score, name) in ordered[:N_ALTERNATIVES]]


@cache
def _index(
    ontologies: tuple[str, ...],
) -> tuple[list[tuple[str, str, float, frozenset[str], float]], dict[str, float], float]:
    entries = [
        (term.term_id, name, 1.0 if name == term.label else _SYNONYM_WEIGHT, words)
        for ontology_name in ontologies
        for term in ontology.terms(ontology_name)
        for name in (term.label, *term.synonyms)
        if (words := _words(name))
    ]
    frequency = Counter(word for *_, words in entries for word in words)
    weights = {word: 1 + math.log(len(entries) / n) for word, n in frequency.items()}
    default = 1 + math.log(len(entries))
    index = [
        (term_id, name, factor, words, math.fsum(weights[word] for word in words))
        for term_id, name, factor, words in entries
    ]
    return index, weights, default


@cache
def _words(text: str) -> frozenset[str]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = re.sub(r"(?<=[a-z0-9])\+(?=$|[^a-z0-9]|cd)", "-positive ", plain)
    plain = re.sub(r"\b(cd\d+[a-z]*)-(?=$|[\s/,;)])", r"\1-negative ", plain)
    plain = re.sub(r"[^a-z0-9'\-]+", " ", plain)
    words = set()
    for token in plain.split():
        marker, dash, sign = token.rpartition("-")
        if dash and sign in {"positive", "negative", "high", "low"}:
            words.add(f"{_SURFACE_ALIASES.get(marker, marker)}-{sign}")
            continue
        for part in _ABBREVIATIONS.get(token, token).split():
            words.add(_singular(part.strip("-'")))
    return frozenset(words - _FILLER - {""})


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")):
        return word[:-1]
    return word


def read_overrides(path: Path) -> dict[str, dict[str, str]]:
    """Read a table of decided labels: tab-separated, columns ``field``, ``label``, ``term_id``.

    Returns
    -------
    dict
        Field to label to term id.
    """
    import csv

    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t")
            header = set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError(
            path, found=str(error), expected="a readable TSV file", fix="Check the path."
        ) from None
    if not {"field", "label", "term_id"} <= header:
        raise FileFormatError(
            path,
            found=f"columns {', '.join(sorted(header)) or 'none'}",
            expected="tab-separated columns field, label, term_id",
            fix="Correct the header line.",
        )
    overrides: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        if row["field"] not in METADATA_FIELDS:
            raise FileFormatError(
                f"{path} line {number}",
                found=f"the field '{row['field']}'",
                expected=f"one of {', '.join(METADATA_FIELDS)}",
                fix="Correct the field name.",
            )
        overrides.setdefault(row["field"], {})[row["label"]] = (row["term_id"] or "").strip()
    return overrides
