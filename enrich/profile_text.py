"""A profile in words: the standardised original text, and what to ask about each facet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from okrcell.enrich.draft import FACETS, Facet
from okrcell.schemas import METADATA_FIELDS

__all__ = [
    "NORMAL",
    "Subject",
    "facet_queries",
    "known_label",
    "original_text",
    "paper_query",
    "subject_of",
]

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

    def narrowed(self, facet: Facet) -> Subject:
        """Return the subject with nothing but its cell type and the facet's field."""
        kept = {_FIELD_OF["identity"], _FIELD_OF[facet]}
        return Subject(tuple(field for field in self.fields if field[0] in kept))

    def _get(self, facet: Facet) -> tuple[str, str]:
        for name, label, term_id in self.fields:
            if name == _FIELD_OF[facet]:
                return label, term_id
        return "", ""


def known_label(profile: Mapping[str, Any], field: str) -> str:
    """Return the label of a profile's field, "" where it says that nothing is known."""
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
            if (label := known_label(profile, field))
        )
    )


def original_text(profile: Mapping[str, Any]) -> str:
    """Return the standardised text of a profile: its known fields among the nine, on one line.

    This is the paper's "original text", against which the enriched one is screened.
    """
    parts = []
    for field in METADATA_FIELDS:
        label = known_label(profile, field)
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


def paper_query(subject: Subject) -> str:
    """Return the paper's single query: cell type, tissue, sex and development stage in a sentence.

    The paper names these four fields and does not print its template; the wording is ours.
    Unknown fields are left out; "" where all four are unknown.
    """
    cell, tissue, sex, stage = (
        subject.label(facet) for facet in ("identity", "tissue", "sex", "development_stage")
    )
    if not (cell or tissue or sex or stage):
        return ""
    parts = [cell or "cell"]
    if tissue:
        parts.append(f"from the tissue {tissue}")
    if sex:
        parts.append(f"of {sex} sex")
    if stage:
        parts.append(f"at the development stage {stage}")
    return f"This is a {' '.join(parts)}."
