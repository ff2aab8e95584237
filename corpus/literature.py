"""Documents from files: Markdown and plain-text notes, cleaned of characters that hide or reorder text."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path

import pyarrow as pa

from okrcell.errors import DataError, FileFormatError
from okrcell.schemas import TABLES

__all__ = ["clean_text", "read_notes"]

# Tag characters, bidirectional controls, zero-width characters: text that a person does not see.
_HIDDEN = re.compile(
    "[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\u00ad\U000e0000-\U000e007f]"
)


def clean_text(text: str) -> str:
    """Return text in NFC with Unix line ends and without control or hidden characters."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _HIDDEN.sub("", text)
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def read_notes(folder: Path) -> pa.Table:
    """Read every ``.md`` and ``.txt`` file of a folder as one document each.

    Returns
    -------
    pyarrow.Table
        Table ``documents``; the id is ``NOTE:`` and the file's stem.

    Raises
    ------
    DataError
        No such folder, or no note in it.
    FileFormatError
        A file is not UTF-8 text.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix in {".md", ".txt"} and p.is_file())
    if not paths:
        raise DataError(
            folder,
            found="no .md or .txt file" if folder.is_dir() else "no such folder",
            expected="a folder of notes",
            fix="Check the path.",
        )
    rows = []
    for path in paths:
        try:
            text = clean_text(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise FileFormatError(
                path,
                found=f"bytes that are not UTF-8 ({error.reason})",
                expected="UTF-8 text",
                fix="Save the file as UTF-8.",
            ) from None
        title = re.match(r"#\s+(.+)", text)
        rows.append(
            {
                "doc_id": f"NOTE:{path.stem}",
                "title": title.group(1).strip() if title else path.stem,
                "year": None,
                "source": "notes",
                "licence": "",
                "is_retracted": False,
                "text": text,
                "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
        )
    ids = [row["doc_id"] for row in rows]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(
            folder,
            found=f"two files named '{str(twice).removeprefix('NOTE:')}'",
            expected="file names that differ",
            fix="Rename one of them.",
        )
    return pa.Table.from_pylist(rows, schema=TABLES["documents"].schema)
