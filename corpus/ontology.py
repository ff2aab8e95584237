"""Ontology terms: those that come with the install, and those a store took from a file.

The bundled ones are read from ``cellxgene-ontology-guide``: versioned, offline, with definitions,
ancestors and distances along is_a and part_of. A store's own copy is read from its table ``terms``.
Nothing is loaded before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from okrcell.errors import ConfigError

__all__ = [
    "FIELD_ONTOLOGY",
    "ONTOLOGIES",
    "Ontology",
    "Term",
    "ancestors",
    "bundled",
    "get_term",
    "ids_by_label",
    "names",
    "of_store",
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

# The CELLxGENE schema counts AfPO, which HANCESTRO imports, as a part of it.
ALSO_OWN = {"HANCESTRO": ("AfPO",)}
_PREFIXES = {name: (prefix, *ALSO_OWN.get(prefix, ())) for name, prefix in ONTOLOGIES.items()}
_NAMES = {prefix.lower(): name for name, prefixes in _PREFIXES.items() for prefix in prefixes}


@dataclass(frozen=True)
class Term:
    """One live ontology term.

    Attributes
    ----------
    definition
        Empty where the ontology gives none.
    synonyms
        Exact ones only: a broad or related name is another thing's name.
    parents
        Direct is_a and part_of parents of the same ontology.
    xrefs
        References of the definition, such as ``PMID:15693950``.
    replaces
        Obsolete and alternative ids that now mean this term.
    """

    term_id: str
    label: str
    definition: str
    synonyms: tuple[str, ...]
    parents: tuple[str, ...]
    ontology: str
    release: str
    xrefs: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Content:
    """What an ontology holds once it is loaded: live terms in order of id, obsolete id to live id."""

    live: Mapping[str, Term]
    replaced: Mapping[str, str]
    ancestors: Callable[[str], dict[str, int]]


class Ontology:
    """One ontology: its live terms by id, their ancestors, and what became of the others.

    Attributes
    ----------
    name, release
        Short name (``cl``) and release, as the makers write it.
    prefixes
        Prefixes of the ids that belong to it, the main one first.
    """

    def __init__(
        self,
        name: str,
        release: str,
        prefixes: tuple[str, ...],
        fingerprint: Callable[[], str],
        load: Callable[[], Content],
    ) -> None:
        self.name, self.release, self.prefixes = name, release, prefixes
        self._fingerprint, self._load = fingerprint, load

    def __repr__(self) -> str:
        return f"Ontology({self.name!r}, {self.release!r})"

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the content (sha256, hex)."""
        return self._fingerprint()

    @cached_property
    def _content(self) -> Content:
        return self._load()

    def __len__(self) -> int:
        return len(self._content.live)

    def terms(self) -> Iterator[Term]:
        """Yield the live terms in order of id."""
        yield from self._content.live.values()

    def get(self, term_id: str) -> Term | None:
        """Return the live term that an id means today.

        An obsolete or alternative id gives its replacement (compare ``term_id`` to tell); None where
        the id is unknown, or obsolete without a replacement in this ontology.
        """
        live = self._content.live
        return live.get(term_id) or live.get(self._content.replaced.get(term_id, ""))

    def ancestors(self, term_id: str) -> dict[str, int]:
        """Return the ancestors of ``get(term_id)`` and the steps to each; the term is left out."""
        term = self.get(term_id)
        return self._content.ancestors(term.term_id) if term else {}


# --- bundled -----------------------------------------------------------------------------------


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


@cache
def _replacements(name: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Return obsolete id to live id, and live id to the obsolete ones it replaces."""
    from okrcell.corpus.ontology_json import guide_terms
    from okrcell.corpus.ontology_raw import replacements, replaces

    found = replacements(guide_terms(_raw(name)), _PREFIXES[name])
    return found, replaces(found)


def release(name: str) -> str:
    """Return the release of a bundled ontology, such as ``v2026-03-26``."""
    return str(_schema().supported_ontologies[ONTOLOGIES[name]]["version"])


def _name_of(term_id: str) -> str | None:
    return _NAMES.get(term_id.partition(":")[0].lower())


@cache
def get_term(term_id: str) -> Term | None:
    """Return the bundled term with exactly this id, obsolete ones included; None where none has it.

    ``bundled(name).get`` resolves obsolete ids to what replaced them.
    """
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
        replaces=_replacements(name)[1].get(term_id, ()),
    )


def terms(name: str) -> Iterator[Term]:
    """Yield the live terms of a bundled ontology in order of id."""
    for term_id, entry in sorted(_raw(name).items()):
        if entry.get("deprecated") or term_id.partition(":")[0] not in _PREFIXES[name]:
            continue
        term = get_term(term_id)
        if term is not None:
            yield term


def obsolete_counts(name: str) -> dict[str, int]:
    """Return how many ids a bundled ontology has retired, and how many of them are replaced."""
    from okrcell.corpus.ontology_json import guide_terms
    from okrcell.corpus.ontology_raw import obsolete_ids

    replaced = _replacements(name)[0]
    return obsolete_ids(guide_terms(_raw(name)), replaced, _PREFIXES[name])[1]


def ancestors(term_id: str) -> dict[str, int]:
    """Return the ancestors of a term and the number of steps to each; the term itself is left out."""
    name = _name_of(term_id)
    entry = _raw(name).get(term_id) if name else None
    return dict(entry.get("ancestors", {})) if entry else {}


def names(term_id: str) -> tuple[str, ...]:
    """Return a term's label and synonyms; empty for an unknown id."""
    term = get_term(term_id)
    return (term.label, *term.synonyms) if term else ()


@cache
def bundled(name: str) -> Ontology:
    """Return an ontology that comes with the install.

    Raises
    ------
    ConfigError
        The name is not one of ``ONTOLOGIES``.
    """
    if name not in ONTOLOGIES:
        _raw(name)  # raises

    def fingerprint() -> str:
        import cellxgene_ontology_guide

        from okrcell.artifacts import file_sha256

        folder = Path(str(cellxgene_ontology_guide.__file__)).parent / "data"
        return file_sha256(folder / f"{ONTOLOGIES[name]}-ontology-{release(name)}.json.zst")

    def load() -> Content:
        live = {term.term_id: term for term in terms(name)}
        return Content(live, _replacements(name)[0], ancestors)

    return Ontology(name, release(name), _PREFIXES[name], fingerprint, load)


# --- a store's own -----------------------------------------------------------------------------


@cache
def ids_by_label(name: str) -> Mapping[str, str]:
    """Return the labels of a bundled ontology's live terms, each with its id."""
    return MappingProxyType({term.label: term.term_id for term in bundled(name).terms()})


def of_store(store: Path, name: str) -> Ontology:
    """Return the store's own copy of an ontology where it was added from a file, else the bundled one.

    Raises
    ------
    ConfigError
        Neither the store nor the install has it.
    ManifestError
        The store's copy is unfinished or damaged.
    """
    from okrcell.corpus.ontology_stored import stored

    return stored(Path(store), name) or bundled(name)
