"""Ontology files of any kind to terms: opened safely, told apart by suffix, never imported from."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from okrcell.corpus.ontology_assembly import OntologyFile, assemble
from okrcell.errors import DataError, FileFormatError

__all__ = ["SUFFIXES", "is_ontology_file", "read_ontology"]

SUFFIXES = (".obo", ".owl", ".json")
_GZIP_MAGIC = b"\x1f\x8b"
# Ontologies shrink 5 to 40 times; a bomb, about 1,000 times.
_MOST_TIMES, _ALWAYS_ALLOWED = 100, 64 << 20


def is_ontology_file(text: str) -> bool:
    """Return whether an argument names a file (it exists, or its suffix is one of ours)."""
    return Path(text).is_file() or _kind(Path(text)) in SUFFIXES


def read_ontology(path: Path, advance: Callable[[int], None] | None = None) -> OntologyFile:
    """Read an ontology from ``.obo``, ``.owl`` (RDF/XML) or ``.json``, plain or ``.gz``.

    Parameters
    ----------
    advance
        Called with the number of bytes of the file that were read since the last call.

    Returns
    -------
    OntologyFile
        Its release is the file's own, else that in its name, else the begin of its sha256.

    Raises
    ------
    DataError
        No such file, or no live terms in it.
    FileFormatError
        Another format, damaged, not UTF-8, or made to do harm (entities, gzip bomb).
    DuplicateNamesError
        An id is defined twice.
    """
    from okrcell.artifacts import file_sha256
    from okrcell.corpus.ontology_json import read_json
    from okrcell.corpus.ontology_obo import read_obo
    from okrcell.corpus.ontology_owl import read_owl

    readers = {".obo": read_obo, ".owl": read_owl, ".json": read_json}
    if not path.is_file():
        raise DataError(path, found="no such file", expected="an ontology", fix="Check the path.")
    kind = _kind(path)
    if kind not in SUFFIXES:
        raise FileFormatError(
            path,
            found=f"the suffix '{kind}'",
            expected=f"one of {', '.join(SUFFIXES)}, also with .gz",
            fix="Give the file the suffix of its format.",
        )
    try:
        with _open(path, advance) as handle:
            raw = readers[kind](handle, path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FileFormatError(
            path,
            found=f"a damaged gzip file ({error})",
            expected="a complete file",
            fix="Copy or download it again.",
        ) from None
    release = raw.release or _release_from_name(path) or f"sha256:{file_sha256(path)[:12]}"
    return assemble(path, raw.declared, release, raw.records)


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _release_from_name(path: Path) -> str:
    """Return the version in a name such as ``CL-ontology-v2026-03-26.json.gz``, else ""."""
    stem = path.name.removesuffix(".gz").removesuffix(".json")
    before, found, version = stem.partition("-ontology-")
    return version if found and before else ""


class _Bounded(io.RawIOBase):
    """A byte stream that reports how far the file was read and refuses to grow without end."""

    def __init__(self, path: Path, advance: Callable[[int], None] | None) -> None:
        self._path, self._advance = path, advance
        self._file = path.open("rb")
        self._size = path.stat().st_size
        self._packed = self._file.read(2) == _GZIP_MAGIC
        self._file.seek(0)
        self._stream: IO[bytes] = gzip.GzipFile(fileobj=self._file) if self._packed else self._file  # type: ignore[assignment]
        self._read = self._told = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._read += len(data)
        if self._packed and self._read > max(_ALWAYS_ALLOWED, _MOST_TIMES * self._size):
            raise FileFormatError(
                self._path,
                found=f"a gzip file that unpacks to over {_MOST_TIMES} times its size",
                expected="an ontology",
                fix="If it is a real one, unpack it first and add the plain file.",
            )
        if self._advance is not None:
            self._advance(self._file.tell() - self._told)
            self._told = self._file.tell()
        return len(data)

    def close(self) -> None:
        self._stream.close()
        self._file.close()
        super().close()


def _open(path: Path, advance: Callable[[int], None] | None) -> io.BufferedReader:
    return io.BufferedReader(_Bounded(path, advance), 1 << 18)
