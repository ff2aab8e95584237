"""A profile in words: the standardised original text, and what to ask about each facet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from okrcell.enrich.draft import FACETS, Facet
from okrcell.schemas import METADATA_FIELDS

__all__ = ["NORMAL", "Subject", "facet_queries", "original_text", "subject_of"]

NORMAL = "PATO:0000461"
"""The term that the CELLxGENE schema uses for "no disease"."""

_UNKNOWN = frozenset({"", "unknown", "na", "nan", "none", "n/a", "not applicable", "not provided"})
_NAMES = {
    "self_reported_ethnicity": "ethnicity",
    "development_stage": "development stage",
    "suspension_type": "suspension",
}
_FIELD_OF: dict[Facet, str] = {
    "identity": "cell_type",
    "markers_function": "cell_type",
    "tissue": "tissue",
    "disease": "disease",
    "development_stage": "development_stage",
    "sex": "sex",
}


@dataclass(frozen=True)
class Subject:
    """What a description is about: label and term id (or "") of each facet's known field.

    Profiles that differ in no facet (in the assay, say) have the same subject, share one
    description and are paid for once.
    """

    fields: tuple[tuple[str, str, str], ...]

    def label(self, facet: Facet) -> str:
        """Return the label of the facet's field, "" where it is unknown."""
        return self._get(facet)[0]

    def term_id(self, facet: Facet) -> str:
        """Return the term id of the facet's field, "" where there is none."""
        return self._get(facet)[1]

    def _get(self, facet: Facet) -> tuple[str, str]:
        for name, label, term_id in self.fields:
            if name == _FIELD_OF[facet]:
                return label, term_id
        return "", ""


def _value(profile: Mapping[str, Any], field: str) -> str:
    text = " ".join(str(profile.get(field) or "").split())
    return "" if text.casefold() in _UNKNOWN else text


def subject_of(profile: Mapping[str, Any]) -> Subject:
    """Return a profile's subject.

    Parameters
    ----------
    profile
        A row of the table ``profiles``.
    """
    return Subject(
        tuple(
            (field, label, str(profile.get(f"{field}_ontology_term_id") or ""))
            for field in dict.fromkeys(_FIELD_OF.values())
            if (label := _value(profile, field))
        )
    )


def original_text(profile: Mapping[str, Any]) -> str:
    """Return the standardised text of a profile: its known fields among the nine, on one line.

    This is the paper's "original text", against which the enriched one is screened.
    """
    parts = []
    for field in METADATA_FIELDS:
        label = _value(profile, field)
        if label:
            parts.append(label if field == "cell_type" else f"{_NAMES.get(field, field)}: {label}")
    return f"{'; '.join(parts)}." if parts else "unknown cell."


def facet_queries(subject: Subject) -> dict[Facet, tuple[str, ...]]:
    """Return the queries by which evidence for each known facet is searched.

    Facets whose field is unknown are left out; "normal" and sex are named, not searched for.
    """
    cell = subject.label("identity")
    queries: dict[Facet, tuple[str, ...]] = {}
    for facet in FACETS:
        label = subject.label(facet)
        if not label:
            continue
        if facet == "identity":
            queries[facet] = (f"{label} definition and lineage",)
        elif facet == "markers_function":
            queries[facet] = (f"{label} marker genes expressed", f"{label} function")
        elif facet == "sex" or subject.term_id(facet) == NORMAL or not cell:
            queries[facet] = ()
        else:
            queries[facet] = (f"{cell} in {label}",)
    return queries
