"""Ontology terms from ``cellxgene-ontology-guide``: versioned, offline, with definitions and ancestors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from okrcell.errors import ConfigError

__all__ = [
    "FIELD_ONTOLOGY",
    "ONTOLOGIES",
    "Term",
    "ancestors",
    "get_term",
    "names",
    "release",
    "terms",
]

ONTOLOGIES = {
    "cl": "CL",
    "uberon": "UBERON",
    "mondo": "MONDO",
    "hsapdv": "HsapDv",
    "pato": "PATO",
    "efo": "EFO",
    "hancestro": "HANCESTRO",
}
"""Short name, as used for sources and flags, to term prefix."""

FIELD_ONTOLOGY = {
    "cell_type": ("cl",),
    "tissue": ("uberon",),
    "disease": ("mondo", "pato"),
    "development_stage": ("hsapdv",),
    "sex": ("pato",),
    "self_reported_ethnicity": ("hancestro",),
    "assay": ("efo",),
}
"""Metadata field to the ontologies that the CELLxGENE schema names for it, in order."""


@dataclass(frozen=True)
class Term:
    """One ontology term; ``definition`` is empty where the ontology gives none."""

    term_id: str
    label: str
    definition: str
    synonyms: tuple[str, ...]
    parents: tuple[str, ...]
    ontology: str
    release: str


@cache
def _schema() -> Any:
    from cellxgene_ontology_guide.supported_versions import CXGSchema

    return CXGSchema()


@cache
def _raw(name: str) -> dict[str, dict[str, Any]]:
    if name not in ONTOLOGIES:
        raise ConfigError(
            f"ontology '{name}'",
            found="an unknown name",
            expected=f"one of {', '.join(ONTOLOGIES)}",
            fix="Correct the name.",
        )
    content: dict[str, dict[str, Any]] = _schema().ontology(ONTOLOGIES[name])
    return content


def release(name: str) -> str:
    """Return the release of a bundled ontology, such as ``v2026-03-26``."""
    return str(_schema().supported_ontologies[ONTOLOGIES[name]]["version"])


def _name_of(term_id: str) -> str | None:
    prefix = term_id.partition(":")[0].lower()
    return prefix if prefix in ONTOLOGIES else None


@cache
def get_term(term_id: str) -> Term | None:
    """Return a term, or None where no bundled ontology has the id."""
    name = _name_of(term_id)
    entry = _raw(name).get(term_id) if name else None
    if name is None or entry is None:
        return None
    distances: dict[str, int] = entry.get("ancestors", {})
    return Term(
        term_id=term_id,
        label=entry["label"],
        definition=(entry.get("description") or "").strip(),
        synonyms=tuple(sorted(entry.get("synonyms") or (), key=lambda s: (s.casefold(), s))),
        parents=tuple(sorted(t for t, distance in distances.items() if distance == 1)),
        ontology=name,
        release=release(name),
    )


def terms(name: str) -> Iterator[Term]:
    """Yield the live terms of an ontology in order of id."""
    prefix = ONTOLOGIES.get(name, name) + ":"
    for term_id, entry in sorted(_raw(name).items()):
        if entry.get("deprecated") or not term_id.startswith(prefix):
            continue
        term = get_term(term_id)
        if term is not None:
            yield term


def ancestors(term_id: str) -> dict[str, int]:
    """Return the ancestors of a term and the number of steps to each; the term itself is left out."""
    name = _name_of(term_id)
    entry = _raw(name).get(term_id) if name else None
    return dict(entry.get("ancestors", {})) if entry else {}


def names(term_id: str) -> tuple[str, ...]:
    """Return a term's label and synonyms; empty for an unknown id."""
    term = get_term(term_id)
    return (term.label, *term.synonyms) if term else ()
