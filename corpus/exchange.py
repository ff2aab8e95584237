"""A store as one file: its finished parts in a zip archive, the same bytes each time.

What is derived (the index), temporary or downloaded is left out. Tables are stored as they are, since Parquet is compressed already; only the flat files of
matrices are deflated. Names are sorted and dates fixed: the same store gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from okrcell.artifacts import (
    MANIFEST,
    Manifest,
    atomic_path,
    file_sha256,
    read_manifest,
    storage_guard,
)
from okrcell.console import progress
from okrcell.errors import (
    ConfigError,
    ForeignFolderError,
    ManifestError,
)

__all__ = ["EXPORT_VERSION", "HEADER", "export_store", "kind_of", "store_parts"]

HEADER, EXPORT_VERSION = "okrcell-export.json", 1
_KINDS = {"terms": "terms", "documents": "documents", "datasets": "dataset"}
_SINGLE = {"knowledge": "knowledge", "cells": "cells"}
_CELLS = frozenset({"dataset", "cells"})
_EPOCH = (1980, 1, 1, 0, 0, 0)
_PIECE = 1 << 20


def store_parts(store: Path) -> dict[str, str]:
    """Return the parts that a store has, finished or not: relative folder to kind, by name."""
    found = {
        f"{parent}/{folder.name}": kind
        for parent, kind in _KINDS.items()
        for folder in (store / parent).glob("*")
        if folder.is_dir() and not folder.name.startswith(".")
    }
    found |= {name: kind for name, kind in _SINGLE.items() if (store / name).is_dir()}
    return dict(sorted(found.items()))


def kind_of(part: str) -> str:
    """Return the kind of a part by its name."""
    return _SINGLE.get(part) or _KINDS[part.partition("/")[0]]


def export_store(store: Path, target: Path, include_cells: bool = False) -> dict[str, Any]:
    """Write the finished parts of a store into one zip archive.

    Parameters
    ----------
    target
        The archive; it is replaced only if it is an export already.
    include_cells
        Take the cells too: expression, metadata and profiles.

    Returns
    -------
    dict
        ``archive``, ``sha256``, ``bytes``, ``parts``, and ``left_out``: unfinished parts, and cells
        that were not asked for.

    Raises
    ------
    ManifestError
        Not a store, nothing finished in it, or a file that is not as its manifest says.
    ForeignFolderError
        The target is something else than an export.
    """
    from okrcell.corpus.build import open_store

    store, target = Path(store), Path(target)
    open_store(store)
    _check_target(store, target)
    manifests: dict[str, tuple[Manifest, bytes]] = {}
    left_out = {}
    for part, kind in store_parts(store).items():
        if kind in _CELLS and not include_cells:
            left_out[part] = "cells"
        elif not (store / part / MANIFEST).exists():
            left_out[part] = "unfinished"
        else:
            manifest = read_manifest(store / part, kind, verify=False)
            manifests[part] = (manifest, (store / part / MANIFEST).read_bytes())
    if not manifests:
        raise ManifestError(
            store,
            found="no finished part" + (" but cells" if "cells" in left_out.values() else ""),
            expected="ontologies, documents or cells to export",
            fix="Add something to the store first, or include the cells.",
        )
    header = {"okrcell": "export", "version": EXPORT_VERSION, "parts": sorted(manifests)}
    total = sum(
        entry["bytes"] for manifest, _ in manifests.values() for entry in manifest.files.values()
    )
    with storage_guard(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_path(target) as temporary,
        zipfile.ZipFile(temporary, "w", allowZip64=True) as archive,
        progress("Exporting", total, "bytes") as advance,
    ):
        _add(archive, HEADER, _json(header))
        for part, (manifest, content) in manifests.items():
            _add(archive, f"{part}/{MANIFEST}", content)
            for name, entry in sorted(manifest.files.items()):
                _add_file(archive, store, f"{part}/{name}", entry)
                advance(int(entry["bytes"]))
    return {
        "archive": str(target),
        "sha256": file_sha256(target),
        "bytes": target.stat().st_size,
        "parts": sorted(manifests),
        "left_out": left_out,
    }


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _check_target(store: Path, target: Path) -> None:
    if store.resolve() in (target.resolve(), *target.resolve().parents):
        raise ConfigError(
            target,
            found="a place inside the store",
            expected="a file elsewhere",
            fix="Choose another path for the archive.",
        )
    if not target.exists():
        return
    try:
        with zipfile.ZipFile(target) as archive:
            ours = archive.namelist()[:1] == [HEADER]
    except (OSError, zipfile.BadZipFile):
        ours = False
    if not ours:
        raise ForeignFolderError(
            target,
            found="a folder" if target.is_dir() else "a file that is no export of okrcell",
            expected="a free path, or an older export to replace",
            fix="Choose another path for the archive.",
        )


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    packed = re.search(r"\.[iuf]\d+$", name)
    info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    return info


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(_entry(name), content)


def _add_file(archive: zipfile.ZipFile, store: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Copy one file, and check on the way that it is the one of the manifest."""
    digest, size = hashlib.sha256(), 0
    info = _entry(name)
    info.file_size = int(entry["bytes"])
    path = store / name
    try:
        with path.open("rb") as source, archive.open(info, "w") as sink:
            while piece := source.read(_PIECE):
                digest.update(piece)
                size += len(piece)
                sink.write(piece)
    except FileNotFoundError:
        size = -1
    if size != entry["bytes"] or digest.hexdigest() != entry["sha256"]:
        raise ManifestError(
            path,
            found="no such file" if size < 0 else "other content than the manifest says",
            expected="the file as okrcell wrote it",
            fix="Run 'okrcell corpus verify' on the store: it says what to do.",
        )
