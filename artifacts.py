"""Files that survive a crash: atomic writes, a manifest written last, one writer per folder.

A folder of ours carries a marker file (``okrcell.json``) from its first moment, so that no command
ever writes into somebody else's data, and a manifest (``manifest.json``) from its last, so that a
folder without one counts as absent. (Over 300 lines: claiming, writing and checking a folder are
one protocol, and are read together.) Nothing in either depends on the clock: the same inputs give
the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from okrcell import __version__
from okrcell.config import fingerprint
from okrcell.errors import (
    ForeignFolderError,
    LockedError,
    ManifestError,
    SchemaVersionError,
    StorageError,
)

__all__ = [
    "Manifest",
    "atomic_path",
    "atomic_write",
    "commit",
    "current_manifest",
    "file_sha256",
    "invalidate",
    "move",
    "read_manifest",
    "read_note",
    "storage_guard",
    "writing",
]

MARKER, MANIFEST, LOCK, TEMP_SUFFIX = "okrcell.json", "manifest.json", ".lock", ".okrcell-tmp"
FOLDER_VERSION = 1
_STORAGE_ERRNOS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "a read-only file system",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
    errno.EISDIR: "a folder where a file is to be written",
    errno.ENOTDIR: "a file where a folder is to be",
    errno.ENAMETOOLONG: "a name that is too long",
}


@dataclass(frozen=True)
class Manifest:
    """What a finished folder says of itself.

    Attributes
    ----------
    kind
        What the folder is: ``store``, ``knowledge``, ``dataset``, ``job``, ``run``, ...
    config, inputs
        The configuration, and the fingerprints of everything read, by name.
    files
        Relative path to ``{"sha256", "bytes", "rows"}``.
    facts
        Small results worth keeping beside the files (counts, coverage).
    """

    kind: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    producer: str = __version__
    schema_version: int = FOLDER_VERSION

    @property
    def fingerprint(self) -> str:
        """Identity of the content: the hashes of all files."""
        return fingerprint({name: entry["sha256"] for name, entry in self.files.items()})


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def storage_guard(where: Path) -> Iterator[None]:
    """Turn a refusal of the file system into a ``StorageError`` that names the path."""
    try:
        yield
    except OSError as error:
        raise as_storage_error(error, where) or error from None


def as_storage_error(error: BaseException, where: Path | str) -> StorageError | None:
    """Return the ``StorageError`` for a full, read-only or forbidden file system, else None."""
    found = _STORAGE_ERRNOS.get(getattr(error, "errno", None) or 0)
    if found is None and any(
        phrase in str(error).lower() for phrase in ("no space left", "disk is full")
    ):
        found = _STORAGE_ERRNOS[errno.ENOSPC]  # libraries that keep the message and lose the number
    if found is None:
        return None
    return StorageError(
        getattr(error, "filename", None) or where,
        found=found,
        expected="a place that can be written to",
        fix="Free some space or choose another folder with --out, then run the same command again.",
    )


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success it is synced and renamed onto it."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}{TEMP_SUFFIX}")
    with storage_guard(target):
        try:
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            move(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def atomic_write(target: Path, content: bytes | str) -> None:
    """Write a whole file atomically."""
    data = content.encode() if isinstance(content, str) else content
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def _sweep(folder: Path) -> None:
    """Remove what a killed writer left half-written; the caller holds the lock."""
    for leftover in folder.glob(f".*{TEMP_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder, and make the new name last: the one rename of everything we write."""
    os.replace(source, target)  # noqa: PTH105  (one name for the fault injector)
    _sync_folder(target.parent)


def read_note(path: Path) -> dict[str, Any]:
    """Return a JSON object that may be absent or damaged and can be made again; {} for either."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(folder: Path, kind: str, *, timeout_s: float = 5.0) -> Iterator[Path]:
    """Claim a folder for one kind of artefact and hold its lock.

    Raises
    ------
    ForeignFolderError
        The folder holds files and no marker of ours, or a marker of another kind.
    LockedError
        Another process holds the lock for longer than ``timeout_s``.
    StorageError
        The file system is full, read-only or closed to us.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    check_folder(folder, kind)
    with storage_guard(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=timeout_s)
        try:
            lock.acquire()
        except Timeout:
            raise LockedError(
                folder,
                found="another process writing to this folder",
                expected="one writer at a time",
                fix="Wait for it to finish, or choose another folder with --out.",
            ) from None
    try:
        _sweep(folder)
        if not (folder / MARKER).exists():
            marker = {"okrcell": kind, "schema_version": FOLDER_VERSION}
            atomic_write(folder / MARKER, json.dumps(marker) + "\n")
        with storage_guard(folder):
            yield folder
    finally:
        lock.release()


def check_folder(folder: Path, kind: str) -> None:
    """Refuse a path that is not free and not a folder of this kind; writes nothing."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ForeignFolderError(
            folder, found="a file", expected="a folder", fix="Choose another path with --out."
        )
    marker = folder / MARKER
    if not marker.exists():
        others = [
            p.name for p in folder.iterdir() if p.name != LOCK and not p.name.endswith(TEMP_SUFFIX)
        ]
        if others:
            raise ForeignFolderError(
                folder,
                found=f"files that okrcell did not write ({', '.join(sorted(others)[:3])})",
                expected="an empty folder, or one of okrcell's own",
                fix="Choose a new folder with --out.",
            )
        return
    content = _read_json(marker)
    if content.get("okrcell") != kind:
        raise ForeignFolderError(
            folder,
            found=f"an okrcell folder of kind '{content.get('okrcell')}'",
            expected=f"one of kind '{kind}'",
            fix="Check the order of the arguments, or choose a new folder.",
        )
    _check_version(marker, content.get("schema_version"))


def commit(
    folder: Path,
    kind: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    files: Mapping[str, int | None],
    facts: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write the manifest, last of all. ``files`` maps relative paths to row counts (or None)."""
    entries = {}
    for name in sorted(files):
        path = folder / name
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
        entries[name] = {
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
            "rows": files[name],
        }
    manifest = Manifest(kind, dict(config), dict(inputs), entries, dict(facts or {}))
    body = {
        "kind": kind,
        "schema_version": FOLDER_VERSION,
        "producer": manifest.producer,
        "config": manifest.config,
        "inputs": manifest.inputs,
        "files": manifest.files,
        "facts": manifest.facts,
    }
    atomic_write(folder / MANIFEST, json.dumps(body, indent=1, sort_keys=True) + "\n")
    return manifest


def invalidate(folder: Path) -> None:
    """Make a folder count as unfinished, before any of its files is replaced."""
    with storage_guard(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        if (folder / MANIFEST).exists():
            (folder / MANIFEST).unlink()
            _sync_folder(folder)


def read_manifest(folder: Path, kind: str, *, verify: bool = True) -> Manifest:
    """Read a finished folder's manifest and, unless told otherwise, check every file's sha256.

    Raises
    ------
    ManifestError
        There is no manifest, it cannot be read, or a file is missing or altered.
    SchemaVersionError
        The folder was written with another layout.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise ManifestError(
            folder,
            found="no manifest",
            expected=f"a finished '{kind}' folder",
            fix="Run the command that makes it (again); it continues where it stopped.",
        )
    content = _read_json(path)
    _check_version(path, content.get("schema_version"))
    try:
        manifest = Manifest(
            content["kind"],
            content["config"],
            content["inputs"],
            content["files"],
            content["facts"],
            content["producer"],
        )
        entries = {
            name: (entry["sha256"], entry["bytes"]) for name, entry in manifest.files.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise _corrupt(path, f"a damaged manifest ({error!r})") from None
    if manifest.kind != kind:
        raise ManifestError(
            path,
            found=f"a manifest of kind '{manifest.kind}'",
            expected=f"kind '{kind}'",
            fix="Check the path.",
        )
    for name, (sha256, size) in entries.items() if verify else ():
        file = folder / name
        if not file.exists():
            raise _corrupt(file, "no such file, though the manifest lists it")
        if file.stat().st_size != size or file_sha256(file) != sha256:
            raise _corrupt(file, "other content than the manifest says")
    return manifest


def current_manifest(
    folder: Path, kind: str, *, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> Manifest | None:
    """Return the manifest if the folder is finished, intact and made from exactly these inputs.

    A folder made from other inputs, or not finished, gives None; a damaged one raises.
    """
    if not (folder / MANIFEST).exists():
        return None
    manifest = read_manifest(folder, kind)
    same = fingerprint(dict(manifest.config)) == fingerprint(dict(config)) and dict(
        manifest.inputs
    ) == dict(inputs)
    return manifest if same else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _corrupt(path, f"unreadable JSON ({error})") from None
    if not isinstance(content, dict):
        raise _corrupt(path, f"a JSON {type(content).__name__}")
    return content


def _corrupt(path: Path, found: str) -> ManifestError:
    return ManifestError(
        path,
        found=found,
        expected="the files as okrcell wrote them",
        fix=f"Remove {path.parent} and run the command that makes it again.",
    )


def _check_version(path: Path, version: object) -> None:
    if version != FOLDER_VERSION:
        raise SchemaVersionError(
            path,
            found=f"layout version {version}",
            expected=f"version {FOLDER_VERSION}",
            fix="Make the folder again with this version of okrcell, or use the version that wrote it.",
        )
