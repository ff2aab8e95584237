"""An exported store, brought in only if every name, size and byte is what it should be.

An archive comes from somebody else: its names are held to a short grammar before anything is
written, nothing that another program would open is taken, and all is unpacked aside first. (Over
300 lines: what is refused and why is read together.)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from okrcell.artifacts import FOLDER_VERSION, LOCK, MANIFEST, MARKER, move, read_manifest, writing
from okrcell.console import progress
from okrcell.corpus.exchange import EXPORT_VERSION, HEADER, kind_of
from okrcell.errors import (
    ArtifactError,
    DataError,
    FileFormatError,
    ManifestError,
    SchemaVersionError,
    StorageError,
)

__all__ = ["import_store"]

_STAGE = ".importing"
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,149}"
_PART = re.compile(rf"(?:(?:terms|documents|datasets)/{_NAME}|knowledge|cells)")
# Tables, manifests and matrices: nothing that another program would open, such as an index.
_FILE = re.compile(rf"{_PART.pattern}/{_NAME}\.(?:parquet|json|i64|i32|f32)")
_PIECE, _MOST_JSON = 1 << 20, 1 << 28


@dataclass(frozen=True)
class _Content:
    """An archive whose names and sizes have been checked: part to its manifest and file entries."""

    parts: Mapping[str, tuple[bytes, Mapping[str, Mapping[str, Any]]]]


def import_store(archive: Path, store: Path) -> dict[str, Any]:
    """Bring the parts of an export into a store; then ``build`` has only the index to make.

    Everything is checked before anything is brought in: names, sizes, the sha256 of every file,
    and the version of every table. A killed import is continued by the same call.

    Parameters
    ----------
    store
        A new folder, or a store that has none of these parts with another content.

    Returns
    -------
    dict
        ``reused`` (all was there already), ``parts``, ``files`` and ``bytes`` that were brought in.

    Raises
    ------
    DataError
        No such archive.
    FileFormatError
        Not an export, damaged, or one that holds what an export never holds.
    SchemaVersionError
        Written by another version of okrcell.
    ManifestError
        A file is not the one of its manifest.
    ArtifactError
        The store has another content for one of the parts, or the disk is too small.
    """
    archive, store = Path(archive), Path(store)
    if not archive.is_file():
        raise DataError(
            archive,
            found="a folder" if archive.is_dir() else "no such file",
            expected="an archive made by 'okrcell corpus export'",
            fix="Check the path.",
        )
    with _opened(archive) as opened:
        content = _check_content(archive, opened)
        with _claimed(store):
            present = {part for part in content.parts if _has(store, part, content)}
            wanted = [part for part in content.parts if part not in present]
            stage = store / _STAGE
            shutil.rmtree(stage, ignore_errors=True)
            try:
                _extract(archive, opened, content, wanted, stage)
                for part in wanted:
                    _move(stage / part, store / part)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    files = {part: content.parts[part][1] for part in wanted}
    return {
        "reused": not wanted,
        "parts": sorted(wanted),
        "files": sum(map(len, files.values())),
        "bytes": sum(int(e["bytes"]) for part in files.values() for e in part.values()),
    }


@contextmanager
def _claimed(store: Path) -> Iterator[None]:
    """Hold the store's lock; if the store is new and nothing comes of it, leave no trace."""
    fresh = not store.exists() or not any(store.iterdir())
    done = False
    try:
        with writing(store, "store"):
            yield
        done = True
    finally:
        if fresh and not done and store.is_dir():
            for name in (MARKER, LOCK):
                if {p.name for p in store.iterdir()} <= {MARKER, LOCK}:
                    (store / name).unlink(missing_ok=True)
            if not any(store.iterdir()):
                store.rmdir()


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _refuse(path, f"no readable zip archive ({error})") from None


def _refuse(where: Path | str, found: str) -> FileFormatError:
    return FileFormatError(
        where,
        found=found,
        expected="an archive as 'okrcell corpus export' writes it",
        fix="Get the archive again from where it was made; do not unpack it by other means.",
    )


def _check_content(path: Path, archive: zipfile.ZipFile) -> _Content:
    """Check the names, kinds and sizes of all entries, and the manifests; reads nothing else."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name, mode = info.filename, stat.S_IFMT(info.external_attr >> 16)
        if info.orig_filename != name or not (name == HEADER or _FILE.fullmatch(name)):
            raise _refuse(path, f"an entry named {name[:200]!r}")
        if mode not in (0, stat.S_IFREG) or info.flag_bits & 0x1:
            raise _refuse(path, f"the entry {name!r}, which is a link, a device or encrypted")
        entries[name] = info
    if len({name.casefold() for name in entries}) < len(archive.infolist()):
        raise _refuse(path, "two entries of one name")
    if sum(info.compress_size for info in entries.values()) > path.stat().st_size:
        raise _refuse(path, "entries that overlap")
    header = _read_json(path, archive, entries.pop(HEADER, None), HEADER)
    if header.get("okrcell") != "export":
        raise _refuse(path, "a zip archive that is no export")
    _check_version(path, "export", header.get("version"), EXPORT_VERSION)
    parts: dict[str, tuple[bytes, Mapping[str, Mapping[str, Any]]]] = {}
    listed = header.get("parts")
    for part in listed if isinstance(listed, list) else []:
        if not isinstance(part, str) or not _PART.fullmatch(part):
            raise _refuse(path, f"a part named {str(part)[:200]!r}")
        name = f"{part}/{MANIFEST}"
        manifest = _read_json(path, archive, entries.pop(name, None), name)
        _check_manifest(f"{path}: {name}", manifest, kind_of(part))
        for file, entry in manifest["files"].items():
            _check_file(path, f"{part}/{file}", entry, entries.pop(f"{part}/{file}", None))
        parts[part] = (archive.read(name), manifest["files"])
    if entries:
        raise _refuse(path, f"'{min(entries)}', which no manifest lists")
    if not parts:
        raise _refuse(path, "no part of a store")
    return _Content(parts)


def _check_manifest(where: str, manifest: Mapping[str, Any], kind: str) -> None:
    _check_version(where, "layout", manifest.get("schema_version"), FOLDER_VERSION)
    if manifest.get("kind") != kind or not isinstance(manifest.get("producer"), str):
        raise _refuse(where, "a manifest of another kind of folder")
    if any(not isinstance(manifest.get(k), dict) for k in ("config", "inputs", "files", "facts")):
        raise _refuse(where, "an incomplete manifest")


def _check_file(path: Path, name: str, entry: Any, info: zipfile.ZipInfo | None) -> None:
    if not (
        isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and isinstance(entry.get("sha256"), str)
    ):
        raise _refuse(path, f"a manifest without size and sha256 of '{name}'")
    if info is None:
        raise _refuse(path, f"no '{name}', though a manifest lists it")
    if info.file_size != entry["bytes"]:
        raise _refuse(path, f"'{name}' with {info.file_size} bytes, not {entry['bytes']}")


def _read_json(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, name: str
) -> dict[str, Any]:
    if info is None:
        raise _refuse(path, f"no '{name}'")
    if info.file_size > _MOST_JSON:
        raise _refuse(path, f"'{name}' of {info.file_size} bytes")
    try:
        content = json.loads(archive.read(info))
    except (ValueError, RecursionError):
        raise _refuse(path, f"unreadable JSON in '{name}'") from None
    if not isinstance(content, dict):
        raise _refuse(path, f"no JSON object in '{name}'")
    return content


def _check_version(where: Path | str, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise SchemaVersionError(
            where,
            found=f"{what} version {str(found)[:50]}",
            expected=f"version {expected}",
            fix="Use the version of okrcell that made it, or make the export again with this one.",
        )


def _has(store: Path, part: str, content: _Content) -> bool:
    """Say whether a store has a part with this very content; refuse one with another."""
    folder = store / part
    if not (folder / MANIFEST).exists():
        return False
    if (folder / MANIFEST).read_bytes() == content.parts[part][0]:
        read_manifest(folder, kind_of(part))
        return True
    raise ArtifactError(
        folder,
        found=f"another '{part}' than the archive's",
        expected="a store without it",
        fix="Import into a new folder.",
    )


def _extract(
    path: Path, archive: zipfile.ZipFile, content: _Content, wanted: list[str], stage: Path
) -> None:
    """Unpack parts into the staging folder, each file checked."""
    need = sum(int(e["bytes"]) for part in wanted for e in content.parts[part][1].values())
    free = shutil.disk_usage(stage.parent).free
    if need > free:
        raise StorageError(
            stage.parent,
            found=f"{free:,} bytes free",
            expected=f"{need:,} bytes, as the archive unpacks to",
            fix="Free some space or choose another folder.",
        )
    with progress("Importing", need, "bytes") as advance:
        for part in wanted:
            manifest, files = content.parts[part]
            for name, entry in files.items():
                target = stage / part / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _unpack(path, archive, f"{part}/{name}", entry, target)
                if target.suffix == ".parquet":
                    _check_table(target)
                advance(int(entry["bytes"]))
            _write(stage / part / MANIFEST, manifest)


def _unpack(
    path: Path, archive: zipfile.ZipFile, name: str, entry: Mapping[str, Any], target: Path
) -> None:
    digest, size = hashlib.sha256(), 0
    with archive.open(name) as source, target.open("wb") as sink:
        while piece := source.read(_PIECE):
            size += len(piece)
            if size > entry["bytes"]:
                raise _refuse(path, f"'{name}' that is longer than it says")
            digest.update(piece)
            sink.write(piece)
        sink.flush()
        os.fsync(sink.fileno())
    if size != entry["bytes"] or digest.hexdigest() != entry["sha256"]:
        raise ManifestError(
            f"{path}: {name}",
            found="other content than the manifest says",
            expected="the file as okrcell wrote it",
            fix="Get the archive again from where it was made.",
        )


def _check_table(target: Path) -> None:
    """Refuse a table of another version; its kind is what the file itself says."""
    import pyarrow as pa

    from okrcell.schemas import TABLES, stamp_of

    try:
        kind, version = stamp_of(target)
    except (pa.ArrowInvalid, OSError) as error:
        raise _refuse(target.name, f"no readable Parquet ({error})") from None
    if kind not in TABLES:
        raise _refuse(target.name, f"the table '{kind[:50]}'" if kind else "a table without a kind")
    _check_version(target.name, f"table '{kind}',", version, str(TABLES[kind].version))


def _write(target: Path, content: bytes) -> None:
    with target.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def _move(source: Path, target: Path) -> None:
    """Bring in one part whole; what an interrupted command left in its place is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    move(source, target)
