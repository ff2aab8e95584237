"""Notes: Markdown and plain text, one document per file, sections at Markdown headings."""

from __future__ import annotations

import re
from typing import BinaryIO

from okrcell.corpus.clean import scrub
from okrcell.corpus.documents import Document, Rejected, Section, clean_id
from okrcell.errors import FileFormatError

__all__ = ["SUFFIXES", "read_note"]

SUFFIXES = frozenset({".md", ".markdown", ".txt"})
_MOST_BYTES = 1 << 25
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.+?)(?:[ \t]+#+)?[ \t]*")
_TITLE = re.compile(r"\s*#[ \t]+(.+)")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def read_note(handle: BinaryIO, where: str, source: str, stem: str) -> Document | Rejected:
    """Return a note as a document; its id is ``NOTE:`` and the file's stem, cleaned as text is.

    Raises
    ------
    FileFormatError
        Bytes that are not UTF-8, or more than 32 MiB.
    """
    content = handle.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise _bad(where, f"more than {_MOST_BYTES >> 20} MiB", "Cut the note into several files.")
    try:
        text, flags = scrub(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _bad(
            f"{where} byte {error.start + 1}",
            f"bytes that are not UTF-8 ({error.reason})",
            "Save the file as UTF-8.",
        ) from None
    name = clean_id(stem)
    if not name:
        return Rejected(where, "a note whose name has no visible character")
    sections = _sections(text)
    if not text.strip():
        return Rejected(where, "no text")
    title = _TITLE.match(text)
    return Document(
        doc_id=f"NOTE:{name}",
        title=title[1].strip() if title else name,
        text=text,
        source=source,
        sections=sections,
        ids=(f"NOTE:{name}",),
        flags=flags,
    )


def _sections(text: str) -> tuple[Section, ...]:
    """Return what stands below each heading; a heading in a code fence is code."""
    sections, name, start, position, fence = [], "", 0, 0, ""

    def close(end: int) -> None:
        body = text[start:end]
        if body.strip():
            lead = len(body) - len(body.lstrip())
            sections.append(Section(name, start + lead, start + len(body.rstrip())))

    for line in text.split("\n"):
        mark = _FENCE.match(line)
        heading = _HEADING.fullmatch(line)
        if fence:
            fence = "" if mark and mark[1].startswith(fence) else fence
        elif mark:
            fence = mark[1]
        elif heading:
            close(position)
            name, start = heading[1].strip(), min(position + len(line) + 1, len(text))
        position += len(line) + 1
    close(len(text))
    return tuple(sections)


def _bad(where: str, found: str, fix: str) -> FileFormatError:
    return FileFormatError(where, found=found, expected="UTF-8 text", fix=fix)
