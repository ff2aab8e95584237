"""Keeping a store: verify it, export it, import it. Damage is a finding, never an exception."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from okrcell.artifacts import Manifest, read_manifest
from okrcell.console import progress
from okrcell.corpus import integrity, integrity_cells
from okrcell.corpus.exchange import export_store, store_parts
from okrcell.corpus.importing import import_store
from okrcell.errors import OkrcellError, SchemaVersionError

__all__ = ["Finding", "export_store", "import_store", "verify"]

_PIECE = 1 << 20
_CURRENT = "made from the terms and documents that are there"
_SKIPPED = "every snippet is text[start:end] of its document"


@dataclass(frozen=True)
class Finding:
    """One check of one part of a store.

    Attributes
    ----------
    part
        Folder within the store, such as ``terms/cl``.
    check
        What must hold.
    ok
        Whether it does.
    detail
        What was found instead; empty where all is well.
    remedy
        What to do; empty where all is well.
    """

    part: str
    check: str
    ok: bool
    detail: str = ""
    remedy: str = ""


def verify(store: Path) -> list[Finding]:
    """Check a store: every file against its manifest, and every table against the others.

    Memory stays flat: tables are read in pieces, and of each snippet 32 bytes are kept.

    Raises
    ------
    ManifestError
        The folder is no store. Whatever is wrong inside one is a finding.
    """
    from okrcell.corpus.build import open_store

    store = Path(store)
    open_store(store)
    kinds = store_parts(store)
    found: list[Finding] = []
    manifests: dict[str, Manifest] = {}
    for part, kind in kinds.items():
        manifest, problem = _manifest(store, part, kind)
        if manifest is None:
            found.append(_finding(store, part, kind, None, "finished, by this version", problem))
        else:
            manifests[part] = manifest
    whole = _check_files(store, kinds, manifests, found)
    for part in whole:
        for check, problem in _guarded(_checks(store, part, kinds, manifests, whole)):
            found.append(_finding(store, part, kinds[part], manifests[part], check, problem))
    order = {part: at for at, part in enumerate(kinds)}
    return sorted(found, key=lambda finding: order[finding.part])


def _finding(
    store: Path, part: str, kind: str, manifest: Manifest | None, check: str, problem: str
) -> Finding:
    remedy = _remedy(store, part, kind, manifest, check) if problem else ""
    return Finding(part, check, not problem, problem, remedy)


def _remedy(store: Path, part: str, kind: str, manifest: Manifest | None, check: str) -> str:
    if "index" in check:
        return f"Run 'okrcell corpus rebuild {store}'."
    if check in {_CURRENT, _SKIPPED}:
        return f"Run 'okrcell corpus build {store}', after the other remedies."
    name = part.partition("/")[2]
    facts = manifest.facts if manifest else {}
    source = facts.get("file") or facts.get("source")
    again = {
        "terms": f"okrcell corpus add-ontology {store} {source or name}",
        "documents": f"okrcell corpus add-literature {store} {source or 'FILES'}",
        "dataset": f"okrcell corpus add-cells {store} {source or 'FILE'} --dataset-id {name}",
        "cells": f"okrcell corpus add-cells {store} FILE",
        "knowledge": f"okrcell corpus build {store}",
    }[kind]
    return f"Remove {store / part} and run '{again}'."


def _manifest(store: Path, part: str, kind: str) -> tuple[Manifest | None, str]:
    try:
        return read_manifest(store / part, kind, verify=False), ""
    except SchemaVersionError as error:
        return None, f"{error.found}, not {error.expected}"
    except OkrcellError as error:
        return None, error.found


def _check_files(
    store: Path, kinds: dict[str, str], manifests: dict[str, Manifest], found: list[Finding]
) -> list[str]:
    """Compare every file with its manifest; return the parts that are whole."""
    total = sum(int(e["bytes"]) for m in manifests.values() for e in m.files.values())
    whole = []
    with progress("Reading files", total, "bytes") as advance:
        for part, manifest in manifests.items():
            problems = [
                f"{name}: {problem}"
                for name, entry in sorted(manifest.files.items())
                if (problem := _file_problem(store / part / name, entry, advance))
            ]
            problem = "; ".join(problems[:3])
            check = "every file is as its manifest says"
            found.append(_finding(store, part, kinds[part], manifest, check, problem))
            if not problem:
                whole.append(part)
    return whole


def _file_problem(path: Path, entry: Any, advance: Callable[..., None]) -> str:
    digest = hashlib.sha256()
    try:
        if path.stat().st_size != entry["bytes"]:
            return f"{path.stat().st_size:,} bytes, not {entry['bytes']:,}"
        with path.open("rb") as handle:
            while piece := handle.read(_PIECE):
                digest.update(piece)
                advance(len(piece))
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return f"unreadable ({error.strerror})"
    return "" if digest.hexdigest() == entry["sha256"] else "other content"


def _guarded(outcomes: Iterator[integrity.Outcome]) -> Iterator[integrity.Outcome]:
    """Turn whatever a reader raises on a damaged table into a problem."""
    try:
        yield from outcomes
    except OkrcellError as error:
        yield "readable", f"{error.where}: {error.found}"
    except (OSError, ValueError, LookupError, ArithmeticError, MemoryError) as error:
        yield "readable", f"{type(error).__name__}: {error}"


def _checks(
    store: Path,
    part: str,
    kinds: dict[str, str],
    manifests: dict[str, Manifest],
    whole: list[str],
) -> Iterator[integrity.Outcome]:
    kind = kinds[part]
    if kind == "terms":
        yield from integrity.check_terms(store, part)
    elif kind == "documents":
        yield from integrity.check_documents(store, part)
    elif kind == "dataset":
        yield from integrity_cells.check_dataset(store, part)
    elif kind == "cells":
        datasets = {
            name.partition("/")[2]: manifest.fingerprint
            for name, manifest in manifests.items()
            if kinds[name] == "dataset"
        }
        yield from integrity_cells.check_gathered(store, datasets)
    elif kind == "knowledge":
        yield from _knowledge(store, manifests, {p for p in kinds if p not in whole})


def _knowledge(
    store: Path, manifests: dict[str, Manifest], damaged: set[str]
) -> Iterator[integrity.Outcome]:
    from okrcell.corpus.texts import open_texts

    folder = store / "knowledge"
    inputs = manifests["knowledge"].inputs
    present = {
        part: manifest.fingerprint
        for part, manifest in manifests.items()
        if part.startswith(("terms/", "documents/"))
    }
    other = sorted(p for p in inputs.keys() | present.keys() if inputs.get(p) != present.get(p))
    yield _CURRENT, f"{', '.join(other[:3])} changed since" if other else ""
    broken = sorted(damaged & set(inputs))
    if broken and not other:
        yield _SKIPPED, f"not checked, because {broken[0]} is damaged"
    if other or broken:
        yield from integrity.check_knowledge(folder, None, 0)
    else:
        texts = open_texts(store)
        yield from integrity.check_knowledge(folder, texts.tables(), texts.total)
