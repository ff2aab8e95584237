"""What a user means by paths, store and source, and the format of a file, told from its content."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from okrcell.corpus import jats, jsonl, medline, notes
from okrcell.corpus.archives import Member, open_members
from okrcell.corpus.ontology import ONTOLOGIES
from okrcell.corpus.xml_stream import root_name
from okrcell.errors import ConfigError, DataError, FileFormatError

__all__ = [
    "EXPECTED",
    "Input",
    "check_source",
    "collect_inputs",
    "format_of",
    "format_of_file",
    "nothing_to_read",
]

EXPECTED = (
    "PubMed or MEDLINE XML, PMC JATS XML, JSON lines, Markdown or text; plain, .gz, zip or tar"
)

_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,39}")


@dataclass(frozen=True)
class Input:
    """A file to read: the name by which a store knows it, and whether the user named it itself."""

    name: str
    path: Path
    explicit: bool
    sha256: str = ""
    kind: str = ""


def collect_inputs(paths: Sequence[Path]) -> list[Input]:
    """Return all files below the paths, each once, in a stable order, with names that differ.

    A name begins with the folder that the user gave, or that the file is in: files of the same name
    in different folders are different files to a store.

    Raises
    ------
    DataError
        A path that is neither a folder nor a regular file.
    """
    found: dict[Path, Input] = {}
    names: Counter[str] = Counter()
    for given in paths:
        if given.is_dir():
            below = ((p.relative_to(given).as_posix(), p) for p in given.rglob("*") if p.is_file())
            files, folder = sorted(below), given.resolve().name
        elif given.is_file():
            files, folder = [(given.name, given)], given.resolve().parent.name
        else:
            # A pipe or device would be waited for without end, and cannot be read a second time.
            special = given.exists()
            raise DataError(
                given,
                found="neither a regular file nor a folder"
                if special
                else "no such file or folder",
                expected=EXPECTED,
                fix="Write what it gives to a file and add that." if special else "Check the path.",
            )
        for name, path in files:
            if path.resolve() not in found:
                name = f"{folder}/{name}"
                names[name] += 1
                unique = name if names[name] == 1 else f"{name}#{names[name]}"
                found[path.resolve()] = Input(unique, path, not given.is_dir())
    return list(found.values())


def format_of_file(entry: Input) -> tuple[str, str]:
    """Return the format of a file (``archive`` for zip and tar), or "" and what it is instead."""
    with open_members(entry.path, str(entry.path)) as members:
        first = next(members, None)
        return ("archive", "") if first is None or first.in_archive else format_of(first)


def format_of(member: Member) -> tuple[str, str]:
    """Return the format of a stream, or "" and what it is instead."""
    head, suffix = member.head, PurePosixPath(member.name).suffix.lower()
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        return "", "an empty file"
    if start.startswith((b"<", b"\xff\xfe", b"\xfe\xff")):
        root = root_name(head)
        if root in medline.ROOTS:
            return "medline", ""
        # XML that is damaged before its first element goes to a reader, which says where.
        if root in jats.ROOTS or (root is None and suffix in {".xml", ".nxml"}):
            return "jats", ""
        if suffix not in notes.SUFFIXES:
            return "", f"XML of another kind (<{root}>)" if root else "an unknown format"
    if suffix in {".jsonl", ".ndjson"} or jsonl.looks_like_jsonl(head):
        return "jsonl", ""
    if suffix in notes.SUFFIXES:
        return "note", ""
    return "", f"an unknown format ({suffix or 'no suffix'})"


def nothing_to_read(where: str, skipped: Mapping[str, int]) -> FileFormatError:
    """Return the error about input of which no file can be read, with the reasons counted."""
    why = ", ".join(f"{n} x {reason}" for reason, n in skipped.items())
    return FileFormatError(
        where,
        found="no file that can be read" + (f" ({why})" if why else ""),
        expected=EXPECTED,
        fix="Check the path.",
    )


def check_source(store: Path, source: str | None) -> None:
    """Raise ``ConfigError`` for a source by which documents cannot be searched."""
    if source is None:
        return
    taken = {*ONTOLOGIES, *(path.name for path in (store / "terms").glob("*"))}
    if not _SOURCE.fullmatch(source) or source.lower() in taken:
        raise ConfigError(
            "--source",
            found=f"'{source}'" + (", an ontology" if source.lower() in taken else ""),
            expected="1 to 40 letters, digits and dashes that do not name an ontology",
            fix="Choose another name.",
        )
