"""Free-text labels to ontology terms, each with a score, a status, a reason and alternatives.

Cell types go through a ranker that reads abbreviations, signs, organ and marker genes (modules
``label_*``); its score is the probability that the term is right. The other fields are compared by
their words. Nothing below the acceptance score is mapped: it is listed as unresolved, and a table of
overrides settles it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from okrcell.corpus import ontology as bundled_ontologies
from okrcell.corpus.label_matcher import CellTypeMatcher, Context
from okrcell.corpus.label_overrides import read_overrides
from okrcell.corpus.label_plain import PlainMatcher, Ranking
from okrcell.corpus.ontology import FIELD_ONTOLOGY, Ontology, bundled
from okrcell.errors import LabelError

__all__ = ["UNKNOWN_VALUES", "Context", "Resolution", "normalise", "read_overrides"]

UNKNOWN_VALUES = frozenset(
    {"", "unknown", "na", "nan", "none", "n/a", "not applicable", "not provided", "null", "<na>"}
)
CERTAIN = 0.9
"""From this probability on a mapping is called certain."""

_NO_TYPE = re.compile(
    r"(?<![a-z])(?:doublets?|multiplets?|unassigned|unclassified|unidentified|undetermined|"
    r"undefined|ambiguous|low[-_ ]?quality|lowq|debris|empty|ambient|artefact|artifact|junk|"
    r"contaminants?|filtered|removed|excluded|to[-_ ]remove|no[-_ ]?call|unspecified)(?![a-z])"
    r"|^(?:contamination|misc|unk|unknown|others?|mixed|none|cells?|cluster)?[-_ \d]*$",
    re.I,
)
_TERM_ID = re.compile(r"[A-Za-z]+[:_]\d{4,}")


@dataclass(frozen=True)
class Resolution:
    """What became of one label.

    Attributes
    ----------
    term_id, term_label
        ``term_id`` is empty where the label stays unresolved or has no ontology.
    score
        Probability that the term is right for cell types, similarity in words for other fields.
    alternatives
        Up to ten term ids with scores, best first, the chosen one included.
    status
        ``certain`` (0.9 or above), ``likely`` (the acceptance score or above), ``unresolved``,
        ``unknown`` (the label says so), ``override`` (a person decided), or ``text`` (the field has
        no ontology).
    nearest
        Label of the best term of an unresolved label.
    """

    label: str
    term_id: str
    term_label: str
    score: float
    reason: str
    alternatives: tuple[tuple[str, float], ...] = ()
    status: str = "likely"
    nearest: str = ""


def normalise(
    labels: Sequence[str],
    field: str,
    *,
    accept_score: float,
    overrides: Mapping[str, str] | None = None,
    contexts: Mapping[str, Context] | None = None,
    ontologies: Sequence[Ontology] | None = None,
) -> dict[str, Resolution]:
    """Map labels of one metadata field to terms of the ontologies its field names.

    Parameters
    ----------
    labels
        Distinct values of a column.
    field
        One of ``schemas.METADATA_FIELDS``. Fields without an ontology keep their text.
    accept_score
        Least score (0 to 1) at which a label becomes a term.
    overrides
        Label to term id, decided by a person; an empty id means "leave unresolved".
    contexts
        Tissue and marker genes that come with a label; they tell cell types of one name apart.
    ontologies
        Instead of the bundled ontologies of the field, in the same order.

    Returns
    -------
    dict
        Label to resolution, in the order of the labels.

    Raises
    ------
    LabelError
        An override names a term that the field's ontologies do not have.
    """
    used = tuple(ontologies) if ontologies else _bundled(field)
    resolved = {}
    for label in labels:
        text = str(label).strip()
        override = (overrides or {}).get(text)
        if text.casefold() in UNKNOWN_VALUES:
            resolved[label] = Resolution(
                label, "", "unknown", 1.0, "declared unknown", (), "unknown"
            )
        elif override is not None:
            resolved[label] = _overridden(label, override, field, used)
        elif not used:
            resolved[label] = Resolution(
                label, "", text, 1.0, "field has no ontology here", (), "text"
            )
        else:
            context = (contexts or {}).get(label, Context())
            resolved[label] = _by_id(label, text, used) or _matched(
                label, text, field, context, used, accept_score
            )
    return resolved


def _bundled(field: str) -> tuple[Ontology, ...]:
    return tuple(bundled(name) for name in FIELD_ONTOLOGY.get(field, ()))


def _overridden(label: str, term_id: str, field: str, ontologies: Sequence[Ontology]) -> Resolution:
    if not term_id:
        reason = "unresolved by override"
        return Resolution(label, "", label, 0.0, reason, (), "unresolved")
    for ontology in ontologies:
        term = ontology.get(term_id)
        if term is not None:
            said = "" if term.term_id == term_id else f" ({term_id} is obsolete)"
            best = ((term.term_id, 1.0),)
            return Resolution(
                label, term.term_id, term.label, 1.0, f"override{said}", best, "override"
            )
    names = ", ".join(ontology.name for ontology in ontologies).upper()
    raise LabelError(
        f"override of {field} '{label}'",
        found=f"the term id '{term_id}'",
        expected=f"an id of {names or 'no ontology: the field keeps its text'}",
        fix="Correct the id in the overrides table.",
    )


def _by_id(label: str, text: str, ontologies: Sequence[Ontology]) -> Resolution | None:
    """Resolve a label that is itself a term id; None where it is not, or nobody knows it."""
    if not _TERM_ID.fullmatch(text):
        return None
    given = text.replace("_", ":")
    for ontology in ontologies:
        for prefix in ontology.prefixes:
            if not given.casefold().startswith(f"{prefix.casefold()}:"):
                continue
            term_id = prefix + given[len(prefix) :]
            term = ontology.get(term_id)
            if term is None:
                return None
            reason = "term id"
            if term.term_id != term_id:
                old = bundled_ontologies.get_term(term_id)
                reason = f"obsolete term id, replaced{f' (was {old.label!r})' if old else ''}"
            best = ((term.term_id, 1.0),)
            return Resolution(label, term.term_id, term.label, 1.0, reason, best, "certain")
    return None


def _matched(
    label: str,
    text: str,
    name: str,
    context: Context,
    ontologies: tuple[Ontology, ...],
    accept_score: float,
) -> Resolution:
    if name == "cell_type":
        found: Ranking = _cell_types(_same(ontologies)).find(text, context)
    else:
        found = _plain(name, _same(ontologies)).find(text)
    if not found.ranked:
        reason = "unresolved: no name shares a word with it"
        return Resolution(label, "", text, 0.0, reason, (), "unresolved")
    term_id, score = found.ranked[0]
    term = next(t for t in (ontology.get(term_id) for ontology in ontologies) if t is not None)
    no_type = name == "cell_type" and not found.exact and _NO_TYPE.search(text)
    if no_type or score < accept_score:
        why = (
            f"'{no_type.group().lower()}' is no cell type"
            if no_type
            else f"no name at {accept_score:g} or above"
        )
        reason = f"unresolved: {why}, nearest '{term.label}'"
        return Resolution(label, "", text, score, reason, found.ranked, "unresolved", term.label)
    status = "certain" if score >= CERTAIN else "likely"
    return Resolution(label, term.term_id, term.label, score, found.reason, found.ranked, status)


@dataclass(frozen=True)
class _Same:
    """Ontologies that are equal where their content is, so that an index is built once."""

    content: tuple[tuple[str, str], ...]
    ontologies: tuple[Ontology, ...] = field(compare=False)


def _same(ontologies: tuple[Ontology, ...]) -> _Same:
    return _Same(tuple((o.name, o.fingerprint) for o in ontologies), ontologies)


@lru_cache(maxsize=4)
def _cell_types(used: _Same) -> CellTypeMatcher:
    return CellTypeMatcher(used.ontologies)


@lru_cache(maxsize=16)
def _plain(name: str, used: _Same) -> PlainMatcher:
    return PlainMatcher(name, used.ontologies)
