"""Ontologies out of tables: a store's own copy of one that was added from a file."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from okrcell.artifacts import MANIFEST, read_manifest
from okrcell.corpus.ontology import Content, Ontology, Term
from okrcell.errors import ManifestError

__all__ = ["REPORT", "from_terms", "stored"]

REPORT = "report.json"
"""What became of a file's terms; only copies that were made from a file have it."""


def stored(store: Path, name: str) -> Ontology | None:
    """Return a store's own copy of an ontology, or None where it was not added from a file.

    Raises
    ------
    ManifestError
        The copy is unfinished or damaged.
    """
    folder = store / "terms" / name
    if not (folder / MANIFEST).exists() and not (folder / REPORT).exists():
        return None  # absent, or a bundled copy in the making, which labels do not need
    try:
        manifest = read_manifest(folder, "terms")
    except ManifestError as error:
        raise ManifestError(
            folder,
            found=error.found,
            expected="a finished copy of the ontology",
            fix=f"Run 'okrcell corpus add-ontology {store}' again with '{name}' or its file.",
        ) from None
    if manifest.config.get("origin") != "file":
        return None
    # Where only a part of the terms is searched, the whole lies beside it.
    whole = next(n for n in ("ontology.parquet", "terms.parquet") if n in manifest.files)
    return _read_terms(
        folder / whole, name, manifest.fingerprint, tuple(manifest.facts["prefixes"])
    )


@lru_cache(maxsize=16)
def _read_terms(path: Path, name: str, fingerprint: str, prefixes: tuple[str, ...]) -> Ontology:
    from okrcell.schemas import read_table

    every = [
        Term(
            term_id=row["term_id"],
            label=row["label"],
            definition=row["definition"],
            synonyms=tuple(row["synonyms"]),
            parents=tuple(row["parents"]),
            ontology=row["ontology"],
            release=row["release"],
            xrefs=tuple(row["xrefs"]),
            replaces=tuple(row["replaces"]),
        )
        for row in read_table(path, "terms").to_pylist()
    ]
    return from_terms(name, every[0].release if every else "", prefixes, fingerprint, every)


def from_terms(
    name: str, release: str, prefixes: tuple[str, ...], fingerprint: str, every: Iterable[Term]
) -> Ontology:
    """Return an ontology of terms in memory; ancestors are found along their parents."""
    live = {term.term_id: term for term in sorted(every, key=lambda term: term.term_id)}
    replaced = {old: term.term_id for term in live.values() for old in term.replaces}

    def climb(term_id: str) -> dict[str, int]:
        steps, distance, level = {term_id: 0}, 0, [term_id]
        while level:
            distance += 1
            above = dict.fromkeys(
                p for t in level for p in live[t].parents if p in live and p not in steps
            )
            steps.update(dict.fromkeys(above, distance))
            level = list(above)
        del steps[term_id]
        return steps

    content = Content(live, replaced, climb)
    return Ontology(name, release, prefixes, lambda: fingerprint, lambda: content)
