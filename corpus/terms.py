"""The table ``terms`` of a store: ontologies added to it, by name or from files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from okrcell.artifacts import (
    MANIFEST,
    Manifest,
    atomic_write,
    commit,
    current_manifest,
    file_sha256,
    invalidate,
    read_manifest,
    writing,
)
from okrcell.config import fingerprint
from okrcell.console import progress
from okrcell.corpus.ontology import ONTOLOGIES, Ontology, Term, bundled, obsolete_counts
from okrcell.corpus.ontology_files import SUFFIXES, is_ontology_file, read_ontology
from okrcell.corpus.ontology_stored import REPORT, from_terms
from okrcell.errors import ArtifactError, ConfigError
from okrcell.schemas import METADATA_FIELDS

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TermScope", "add_ontologies", "used_terms"]

TermScope = Literal["all", "profiles"]
_READER_VERSION = 1
_FIRST_SHOWN = ("release", "origin", "file", "sha256", "terms")
_NEAR = 2  # steps up from a term in use that still say what it is


@dataclass(frozen=True)
class _Source:
    """One ontology to be added; ``fingerprint`` is of what it was read from."""

    ontology: Ontology
    origin: str
    fingerprint: str
    facts: Mapping[str, Any]
    details: Mapping[str, Any] = field(default_factory=dict)


def add_ontologies(
    store: Path, names_or_files: Sequence[str], scope: TermScope = "all"
) -> dict[str, Any]:
    """Add the terms of ontologies to a store.

    A file takes the place of the bundled ontology of the same name for the whole store, until that
    name is added again. A file that was added before is not read again.

    Parameters
    ----------
    names_or_files
        Bundled short names (``cl``), or files: ``.obo``, ``.owl``, ``.json``, also ``.gz``. Empty:
        every bundled ontology that the store has not from a file.
    scope
        ``all`` live terms, or only those that the store's ``profiles`` use, with their ancestors
        up to two steps. A file's other terms are kept beside them, for labels to be matched.

    Returns
    -------
    dict
        ``reused`` (nothing changed), and ``ontologies``: name to release, origin and counts. The
        lists behind the counts of a file are in ``terms/NAME/report.json``.

    Raises
    ------
    ConfigError
        An unknown name, or two arguments that are the same ontology.
    DataError
        A file that cannot be read, or that holds no terms.
    """
    from okrcell.corpus.build import open_store

    open_store(store)
    words = list(names_or_files) or [n for n in ONTOLOGIES if _origin(store, n) != "file"]
    _check_words(words)
    profiles = _profile_ids(store) if scope == "profiles" else frozenset()
    config = {"scope": scope, "reader": _READER_VERSION}
    # Read before the store is locked: a large file takes a while, and may turn out to be damaged.
    sources: dict[str, _Source | Manifest] = {}
    for word in words:
        name, source = _known_file(store, word, config, profiles) or _source(word)
        if name in sources:
            raise ConfigError(
                word,
                found=f"the ontology '{name}' a second time",
                expected="one source for each ontology",
                fix="Leave one of the two out.",
            )
        sources[name] = source
    changed, added = False, {}
    with writing(store, "store"):
        for name, source in sources.items():
            if isinstance(source, Manifest):
                manifest = source
            else:
                manifest, wrote = _write(store, source, config, profiles)
                changed |= wrote
            added[name] = _shown(manifest.facts)
    return {"reused": not changed, "ontologies": added}


def _shown(facts: Mapping[str, Any]) -> dict[str, Any]:
    first = {key: facts[key] for key in _FIRST_SHOWN if key in facts}
    return first | {key: facts[key] for key in sorted(set(facts) - {*first, "prefixes"})}


def used_terms(ontology: Ontology, ids: Iterable[str]) -> frozenset[str]:
    """Return the live terms that ids mean in an ontology, and their ancestors up to two steps."""
    used: set[str] = set()
    for term_id in ids:
        term = ontology.get(term_id)
        if term is not None:
            near = {t for t, steps in ontology.ancestors(term_id).items() if steps <= _NEAR}
            used |= near | {term.term_id}
    return frozenset(used)


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        if word not in ONTOLOGIES and not is_ontology_file(word):
            raise ConfigError(
                f"ontology '{word}'",
                found="neither a known name nor a file",
                expected=f"one of {', '.join(ONTOLOGIES)}, or FILE{'|'.join(SUFFIXES)}[.gz]",
                fix="Correct the name or the path.",
            )


def _origin(store: Path, name: str) -> str:
    folder = store / "terms" / name
    if not (folder / MANIFEST).exists():
        return ""
    return str(read_manifest(folder, "terms", verify=False).config.get("origin", ""))


def _profile_ids(store: Path) -> frozenset[str]:
    from okrcell.corpus.cells import load_profiles

    rows = load_profiles(store).to_pylist()
    ids = {row[f"{name}_ontology_term_id"] for row in rows for name in METADATA_FIELDS}
    return frozenset(ids - {"", None})


def _inputs(sha256: str, profiles: frozenset[str]) -> dict[str, str]:
    return {"source": sha256} | ({"profiles": fingerprint(sorted(profiles))} if profiles else {})


def _known_file(
    store: Path, word: str, config: Mapping[str, Any], profiles: frozenset[str]
) -> tuple[str, Manifest] | None:
    """Return the store's ontology that was made from this very file, if there is one."""
    path = Path(word)
    if word in ONTOLOGIES or not path.is_file():
        return None
    inputs = _inputs(file_sha256(path), profiles)
    for folder in sorted((store / "terms").glob("*")):
        try:
            found = current_manifest(
                folder, "terms", config={**config, "origin": "file"}, inputs=inputs
            )
        except ArtifactError:
            continue  # damaged: it is written anew if it is this one
        if found is not None:
            return folder.name, found
    return None


def _source(word: str) -> tuple[str, _Source]:
    """Read what an argument names: a bundled name first, as a file can be called './cl'."""
    if word in ONTOLOGIES:
        ontology = bundled(word)
        return word, _Source(ontology, "bundled", ontology.fingerprint, obsolete_counts(word))
    path = Path(word)
    size = path.stat().st_size if path.is_file() else 0
    with progress(f"Reading {path.name}", size, "bytes") as advance:
        read = read_ontology(path, advance)
    sha256 = file_sha256(path)
    ontology = from_terms(read.name, read.release, read.prefixes, sha256, read.terms)
    facts = {**read.counts, "file": path.name, "sha256": sha256}
    return read.name, _Source(ontology, "file", sha256, facts, read.details)


def _write(
    store: Path, source: _Source, config: Mapping[str, Any], profiles: frozenset[str]
) -> tuple[Manifest, bool]:
    """Write one ontology's folder; return its manifest and whether anything changed."""
    from okrcell.schemas import write_table

    name, by_profiles = source.ontology.name, config["scope"] == "profiles"
    folder = store / "terms" / name
    config = {**config, "origin": source.origin}
    inputs = _inputs(source.fingerprint, profiles)
    try:
        current = current_manifest(folder, "terms", config=config, inputs=inputs)
    except ArtifactError:
        current = None  # damaged or of another version: write it anew
    if current is not None:
        return current, False
    chosen = every = list(source.ontology.terms())
    if by_profiles:
        used = used_terms(source.ontology, profiles)
        chosen = [term for term in every if term.term_id in used]
    replaced = _origin(store, name)
    invalidate(folder)
    files: dict[str, int | None] = {}
    if source.origin == "file":
        # First of all: a folder with a report and no manifest is known as an unfinished copy.
        report = json.dumps(source.details, indent=1, sort_keys=True, ensure_ascii=False)
        atomic_write(folder / REPORT, report + "\n")
        files[REPORT] = None
        if by_profiles:
            path = folder / "ontology.parquet"
            files[path.name] = write_table(path, "terms", _table(every))
    files["terms.parquet"] = write_table(folder / "terms.parquet", "terms", _table(chosen))
    for stale in {REPORT, "ontology.parquet"} - set(files):
        (folder / stale).unlink(missing_ok=True)
    facts = {
        "release": source.ontology.release,
        "origin": source.origin,
        **source.facts,
        "terms": len(chosen),
        "prefixes": list(source.ontology.prefixes),
    }
    manifest = commit(folder, "terms", config=config, inputs=inputs, files=files, facts=facts)
    if replaced and replaced != source.origin:
        from okrcell.console import say

        say(f"{name}: {source.ontology.release} from {source.origin} replaces the {replaced} copy")
    return manifest, True


def _table(terms: Sequence[Term]) -> pa.Table:
    import pyarrow as pa

    from okrcell.schemas import TABLES

    schema = TABLES["terms"].schema
    columns = {name: [getattr(term, name) for term in terms] for name in schema.names}
    return pa.table(columns, schema=schema)
