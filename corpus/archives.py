"""Bytes of input files: plain, gzip, zip or tar, streamed with limits and never unpacked to disk."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, cast

from okrcell.errors import DataError, FileFormatError

__all__ = ["HEAD_BYTES", "Member", "open_members", "stem_of"]

HEAD_BYTES = 1 << 16
"""As many bytes of a member as its format is told from."""

_MOST_RATIO, _RATIO_FROM, _MOST_BYTES = 250, 1 << 24, 1 << 36
_GZIP, _ZIP, _TAR, _TAR_AT = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06"), b"ustar", 257


@dataclass(frozen=True)
class Member:
    """One stream of bytes: a file, or a file in an archive.

    Attributes
    ----------
    where
        What messages call it: the path, and after an exclamation mark the name in the archive.
    name
        The file's name without folders.
    head
        Its first bytes, which reading the handle gives again.
    in_archive
        Whether other members of the same file may be sound where this one is not.
    damage
        Why not even the first bytes of a member can be read, or None.
    """

    where: str
    name: str
    head: bytes
    handle: BinaryIO
    in_archive: bool
    damage: FileFormatError | None = None


def stem_of(name: str) -> str:
    """Return a file's name without the endings of compression and format."""
    path = PurePosixPath(name)
    return path.with_suffix("").stem if path.suffix.lower() == ".gz" else path.stem


@contextmanager
def open_members(
    path: Path, where: str, advance: Callable[[int], None] = lambda _: None
) -> Iterator[Iterator[Member]]:
    """Open a file and yield an iterator over what it holds; each must be read before the next.

    Parameters
    ----------
    advance
        Called with the number of bytes that were read from the disk.

    Raises
    ------
    DataError
        The file cannot be opened.
    FileFormatError
        A damaged or truncated gzip or archive, one that unpacks to more than 250 times its size, or
        an archive with names that point outside it. Raised while reading, too.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise DataError(
            where,
            found=f"no readable file ({error.strerror})",
            expected="a file",
            fix="Check the path.",
        ) from None
    with raw:
        counted = cast(BinaryIO, io.BufferedReader(_Counted(raw, advance), 1 << 18))
        head = _peek(counted, 4)
        if head.startswith(_ZIP):
            yield _zip_members(raw, where, advance)
            return
        size = path.stat().st_size
        stream = _gunzip(counted, where, lambda: size) if head.startswith(_GZIP) else counted
        if _peek(stream, _TAR_AT + len(_TAR))[_TAR_AT:] == _TAR:
            yield _tar_members(stream, where)
        else:
            name = path.name.removesuffix(".gz") if head.startswith(_GZIP) else path.name
            yield iter([Member(where, name, _peek(stream, HEAD_BYTES), stream, False)])


def _peek(stream: BinaryIO, n: int) -> bytes:
    return cast(io.BufferedReader, stream).peek(n)[:n]


class _Counted(io.RawIOBase):
    """A raw stream that reports how far it was read."""

    def __init__(self, inner: BinaryIO, advance: Callable[[int], None]) -> None:
        self.inner, self.advance = inner, advance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        n = cast(io.BufferedReader, self.inner).readinto(buffer)
        self.advance(n)
        return n


class _Guarded(io.RawIOBase):
    """An unpacking stream that knows how much may come out, and names its file when it fails."""

    def __init__(self, inner: BinaryIO, where: str, packed: Callable[[], int]) -> None:
        self.inner, self.where, self.packed, self.total = inner, where, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self.inner.read(len(buffer))
        except (
            EOFError,
            zlib.error,
            gzip.BadGzipFile,
            zipfile.BadZipFile,
            tarfile.TarError,
        ) as error:
            raise FileFormatError(
                self.where,
                found=f"damaged or truncated data after {self.total:,} unpacked bytes ({error})",
                expected="a complete file",
                fix="Get the file again; nothing of it was added.",
            ) from None
        self.total += len(data)
        limit = max(_RATIO_FROM, _MOST_RATIO * self.packed())
        if self.total > min(limit, _MOST_BYTES):
            raise FileFormatError(
                self.where,
                found=f"more than {min(limit, _MOST_BYTES) >> 20:,} MiB from {self.packed():,} packed bytes",
                expected=f"a file that unpacks to at most {_MOST_RATIO} times its size",
                fix="Do not use this file: it is made to fill memory or disks.",
            )
        buffer[: len(data)] = data
        return len(data)


def _guard(inner: BinaryIO, where: str, packed: Callable[[], int]) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Guarded(inner, where, packed), 1 << 18))


def _gunzip(stream: BinaryIO, where: str, packed: Callable[[], int]) -> BinaryIO:
    return _guard(cast(BinaryIO, gzip.GzipFile(fileobj=stream)), where, packed)


def _member(where: str, name: str, stream: BinaryIO, packed: int) -> Member:
    place = f"{where}!{name}"
    stream = _guard(stream, place, lambda: packed)
    base = PurePosixPath(name).name
    try:
        if _peek(stream, 2) == _GZIP:
            stream, base = _gunzip(stream, place, lambda: packed), base.removesuffix(".gz")
        return Member(place, base, _peek(stream, HEAD_BYTES), stream, True)
    except FileFormatError as error:
        if not error.where.startswith(place):
            raise  # the archive itself
        return Member(place, base, b"", stream, True, error)


def _zip_members(raw: BinaryIO, where: str, advance: Callable[[int], None]) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(raw) as archive:
            for entry in archive.infolist():
                _check_name(where, entry.filename)
                if entry.is_dir():
                    continue
                if entry.flag_bits & 1:
                    raise _bad_archive(where, f"a member with a password ({entry.filename!r})")
                with archive.open(entry) as stream:
                    yield _member(
                        where, entry.filename, cast(BinaryIO, stream), entry.compress_size
                    )
                advance(entry.compress_size)
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError) as error:
        raise _bad_archive(where, f"a damaged zip file ({error})") from None


def _tar_members(stream: BinaryIO, where: str) -> Iterator[Member]:
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                _check_name(where, entry.name)
                opened = archive.extractfile(entry) if entry.isfile() else None
                if opened is not None:
                    yield _member(where, entry.name, cast(BinaryIO, opened), entry.size)
    except (tarfile.TarError, EOFError) as error:
        raise _bad_archive(where, f"a damaged tar file ({error})") from None


def _check_name(where: str, name: str) -> None:
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    if path.is_absolute() or windows.drive or windows.root or ".." in {*path.parts, *windows.parts}:
        raise _bad_archive(where, f"a member named {name!r}, which points outside the archive")


def _bad_archive(where: str, found: str) -> FileFormatError:
    return FileFormatError(
        where,
        found=found,
        expected="a sound archive of articles",
        fix="Get the archive again, or unpack it yourself and add the folder.",
    )
