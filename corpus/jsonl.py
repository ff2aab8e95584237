"""JSON Lines: one article, abstract or passage per line, with whatever ids the line gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from okrcell.corpus.clean import clean_text, scrub
from okrcell.corpus.documents import (
    Document,
    Rejected,
    Section,
    clean_id,
    compose,
    iso_day,
    work_id,
    year_in,
)
from okrcell.corpus.licence import licence_name
from okrcell.errors import FileFormatError

__all__ = ["looks_like_jsonl", "read_jsonl"]

_MOST_BYTES = 1 << 25
_KIND_OF_KEY = {"pmcid": "PMC", "pmid": "PMID", "doi": "DOI"}
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")


def looks_like_jsonl(head: bytes) -> bool:
    """Tell whether the first bytes of a file begin a line that is one JSON object."""
    line, end, _ = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        # A line longer than what was looked at; a lone "{" opens JSON laid out over many lines.
        return not end and line.lstrip(b"{ \t\r").startswith(b'"')


def read_jsonl(handle: BinaryIO, where: str, source: str) -> Iterator[Document | Rejected]:
    """Yield one document per line, its text at the character offsets of the line's ``text``.

    Fields: ``text`` (or ``sections`` with texts); optional ``title``, ``id``, ``pmid``, ``pmcid``,
    ``doi``, ``year``, ``licence`` or ``license``, ``revision`` (ISO date), ``is_retracted``,
    ``sections`` (``name``, ``start``, ``end``, or ``name`` and ``text``). Others are passed over.
    A line that is JSON and lacks what a document needs is left out with a reason.

    Raises
    ------
    FileFormatError
        A line is not a JSON object, not UTF-8, or longer than 32 MiB; the error names it.
    """
    number = position = 0
    while line := handle.readline(_MOST_BYTES + 1):
        number += 1
        if len(line) > _MOST_BYTES:
            raise _bad(where, number, f"a line of more than {_MOST_BYTES >> 20} MiB")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield _document(_parse(line, where, number, position), f"{where} line {number}", source)
        position += len(line)


def _parse(line: bytes, where: str, number: int, position: int) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _bad(
            where,
            number,
            f"bytes that are not UTF-8 (0x{line[error.start]:02x} at byte {position + error.start + 1})",
        ) from None
    except RecursionError:
        raise _bad(where, number, "JSON nested too deep") from None
    except ValueError as error:
        raise _bad(where, number, f"no JSON ({error})") from None
    if not isinstance(record, dict):
        raise _bad(where, number, f"a JSON {type(record).__name__}")
    return record


def _document(record: Mapping[str, Any], where: str, source: str) -> Document | Rejected:
    ids = [
        name
        for key, kind in _KIND_OF_KEY.items()
        if (name := work_id(kind, _stated(record.get(key))))
    ]
    own = clean_id(_stated(record.get("id")))
    if own:
        kind, colon, value = own.partition(":")
        known = (
            work_id(kind.upper(), value)
            if colon and kind.upper() in {"PMID", "PMC", "DOI"}
            else None
        )
        ids.insert(0, known or f"JSONL:{own}")
    if not ids:
        return Rejected(where, "no id, pmid, pmcid or doi")
    laid_out = _layout(record)
    if isinstance(laid_out, str):
        return Rejected(where, laid_out)
    text, sections, flags = laid_out
    title = record.get("title") if isinstance(record.get("title"), str) else ""
    if not text.strip():
        return Rejected(where, "no text")
    stated = record.get("licence") or record.get("license")
    links = [stated] if isinstance(stated, str) else []
    revision = _DATE.match(_stated(record.get("revision")))
    retracted = record.get("is_retracted") is True
    return Document(
        doc_id=ids[0],
        title=clean_text(str(title)).strip(),
        text=text,
        source=source,
        sections=sections,
        year=year_in(_stated(record.get("year"))[:5]),
        licence=licence_name(links, clean_text(links[0]).strip() if links else ""),
        revision=iso_day(*revision.groups()) if revision else "",
        ids=tuple(dict.fromkeys(ids)),
        is_retracted=retracted,
        flags=tuple(sorted(flags)),
    )


def _layout(record: Mapping[str, Any]) -> tuple[str, tuple[Section, ...], set[str]] | str:
    """Return text, sections and flags, or why the record has none."""
    text, listed = record.get("text"), record.get("sections")
    if text is not None and not isinstance(text, str):
        return "a text that is not a string"
    if listed is not None and not (
        isinstance(listed, list) and all(isinstance(entry, dict) for entry in listed)
    ):
        return "sections that are not a list of objects"
    if text is None:
        parts = [
            (name, name, entry["text"])
            for entry in listed or []
            if isinstance(entry.get("text"), str)
            for name in [str(entry.get("name") or "")]
        ]
        return compose(parts) if parts else "no text"
    if not listed:
        clean, found = scrub(text, compose=False)
        return clean, (Section("", 0, len(clean)),), set(found)
    return _sliced(text, listed)


def _sliced(
    text: str, listed: list[dict[str, Any]]
) -> tuple[str, tuple[Section, ...], set[str]] | str:
    """Return the text with its given sections, moved along where hidden characters were removed."""
    pieces: list[str] = []
    sections: list[Section] = []
    flags: set[str] = set()
    last = length = 0

    def take(stop: int) -> None:
        nonlocal last, length
        clean, found = scrub(text[last:stop], compose=False)
        flags.update(found)
        pieces.append(clean)
        last, length = stop, length + len(clean)

    for entry in listed:
        start, end = entry.get("start"), entry.get("end")
        # Not isinstance: true and false are numbers to Python.
        if not (type(start) is type(end) is int and last <= start <= end <= len(text)):
            return "sections whose offsets are not in order within the text"
        take(start)
        begin = length
        take(end)
        sections.append(Section(clean_text(str(entry.get("name") or "")), begin, length))
    take(len(text))
    return "".join(pieces), tuple(sections), flags


def _stated(value: object) -> str:
    """Return a text or a whole number as text; anything else, true and false too, states nothing."""
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _bad(where: str, number: int, found: str) -> FileFormatError:
    return FileFormatError(
        f"{where} line {number}",
        found=found,
        expected="one JSON object per line, in UTF-8",
        fix="Correct or remove the line; nothing of the file was added.",
    )
