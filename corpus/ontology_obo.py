"""Ontologies in OBO (1.2 and 1.4), read line by line.

Only the dozen tags that are used are looked into. On files of the makers' size this takes a fifth of
fastobo's time and a tenth of pronto's, and a slip in a cross-reference or a note, at which both stop,
refuses nothing (``benchmarks/corpus/ontology.py``). Imports are never followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from okrcell.corpus.ontology_raw import RawOntology, RawTerm, add_raw, curie, release_of
from okrcell.errors import FileFormatError

__all__ = ["read_obo"]

_PART_OF = {"part_of", "BFO:0000050"}
_HEADER = {b"ontology", b"data-version"}
_TERM = {
    b"id",
    b"name",
    b"def",
    b"synonym",
    b"is_a",
    b"relationship",
    b"intersection_of",
    b"is_obsolete",
    b"replaced_by",
    b"consider",
    b"alt_id",
}
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"\s*(.*)')
_XREF_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[,\]]|(?:[^\s,"\\\]]|\\.)++')
_COMMENT = re.compile(r"(?<!\\)!")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "W": " "}


def read_obo(handle: IO[bytes], path: Path) -> RawOntology:
    """Read an OBO file.

    Raises
    ------
    FileFormatError
        A line that is no OBO, not UTF-8, or an entry without an id; the message names the line.
    DuplicateNamesError
        An id has two entries.
    """
    records: dict[str, RawTerm] = {}
    declared = release = ""
    frame: bytes = b""
    raw: RawTerm | None = None
    for number, line in _lines(handle):
        tag, colon, value = line.partition(b":")
        if line.startswith(b"["):
            if raw is not None:
                _add(records, raw, path, number)
            frame = line.strip()
            raw = RawTerm("") if frame == b"[Term]" else None
        elif not colon:
            if line.strip() and not line.lstrip().startswith(b"!"):
                raise _wrong(path, number, f"'{_short(line)}'")
        elif raw is not None and tag in _TERM:
            _read_clause(raw, tag.decode(), _text(value, path, number), path, number)
        elif not frame and tag in _HEADER:
            text = _plain(_text(value, path, number))
            declared, release = (
                (text, release) if tag == b"ontology" else (declared, release_of(text))
            )
    if raw is not None:
        _add(records, raw, path, number)
    return RawOntology(declared, release, records)


def _lines(handle: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield lines and their numbers; one that ends with a backslash goes on in the next."""
    whole, start = b"", 0
    for number, line in enumerate(handle, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.endswith((b"\\\n", b"\\\r\n")) and not line.rstrip(b"\r\n").endswith(b"\\\\"):
            start = start or number
            whole += line.rstrip(b"\r\n")[:-1]
            continue
        yield start or number, whole + line if whole else line
        whole, start = b"", 0
    if whole:
        yield start, whole


def _read_clause(raw: RawTerm, tag: str, value: str, path: Path, number: int) -> None:
    if tag in {"id", "name"}:
        name = "term_id" if tag == "id" else "label"
        if getattr(raw, name):
            raise _wrong(path, number, f"a second '{tag}' in the entry of {raw.term_id}")
        setattr(raw, name, curie(_plain(value)) if tag == "id" else _plain(value))
    elif tag in {"def", "synonym"}:
        match = _QUOTED.match(value)
        if match is None:
            raise _wrong(path, number, f"a '{tag}' without a text in quotation marks")
        if tag == "def":
            raw.definition = _unescape(match[1])
            raw.xrefs = list(_references(match[2]))
        elif match[2].startswith("EXACT"):
            raw.synonyms.append(_unescape(match[1]))
    elif tag == "is_obsolete":
        raw.obsolete = _plain(value) == "true"
    else:
        words = _plain(value).split()
        if tag == "relationship" and len(words) > 1 and words[0] in _PART_OF:
            raw.parents.append(curie(words[1]))
        elif tag == "intersection_of" and len(words) == 1:
            raw.genus.append(curie(words[0]))
        elif tag in _LISTS and words:
            getattr(raw, _LISTS[tag]).append(curie(words[0]))


_LISTS = {
    "is_a": "parents",
    "replaced_by": "replaced_by",
    "consider": "consider",
    "alt_id": "alternative_ids",
}


def _add(records: dict[str, RawTerm], raw: RawTerm, path: Path, number: int) -> None:
    if not raw.term_id:
        raise _wrong(path, number, "the end of an entry without an 'id'")
    add_raw(records, raw, path)


def _text(value: bytes, path: Path, number: int) -> str:
    try:
        return value.decode().strip()
    except UnicodeDecodeError as error:
        raise _wrong(path, number, f"bytes that are not UTF-8 ({error.reason})") from None


def _references(text: str) -> Iterator[str]:
    """Yield the ids of a list such as ``[PMID:1, X:2 "what it is"]``."""
    if not text.startswith("["):
        return
    first = True
    for part in _XREF_TOKEN.findall(text[1:]):
        if part == "]":
            return
        if first and part != "," and not part.startswith('"'):
            yield _unescape(part)
        first = part == ","


def _plain(value: str) -> str:
    """Return a value without the comment, and the qualifiers in braces, that may follow it."""
    if comment := _COMMENT.search(value):
        value = value[: comment.start()].rstrip()
    if value.endswith("}") and not value.endswith("\\}"):
        value = value[: value.rindex("{")].rstrip() if "{" in value else value
    return _unescape(value)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), text)


def _short(line: bytes) -> str:
    return " ".join(line[:80].decode(errors="replace").split())


def _wrong(path: Path, number: int, found: str) -> FileFormatError:
    return FileFormatError(
        f"{path}, line {number}",
        found=found,
        expected="an OBO file of format 1.2 or 1.4",
        fix="Correct the line, or convert the file with ROBOT ('robot convert').",
    )
