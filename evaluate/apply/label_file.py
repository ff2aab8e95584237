"""A table of labels that a user brings: what the cells of a file can be called."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NamedTuple

from okrcell.corpus.ontology import bundled
from okrcell.errors import FileFormatError, LabelError, MissingColumnError

__all__ = ["Label", "read_labels"]

_MOST_BYTES = 32 << 20
_MOST_TEXT = 20_000
_LABEL_HELP = "a TSV with the column 'label', and optionally 'term_id' and 'description'"


class Label(NamedTuple):
    """One row of a table of labels; ``term_id`` is a live Cell Ontology id or empty."""

    label: str
    term_id: str
    description: str


def read_labels(path: Path) -> list[Label]:
    """Read a table of labels.

    Raises
    ------
    FileFormatError
        Not a text file in UTF-8, or a description of more than 20,000 characters.
    MissingColumnError
        No column ``label``.
    LabelError
        No row, one label, a label or a term twice, an empty label, or an id that the Cell Ontology
        does not have. The message names the line.
    """
    rows = _rows(path)
    found: list[Label] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        label = " ".join(row.get("label", "").split())
        if not label:
            raise _label_error(path, line, "an empty label", "a name in every row")
        description = row.get("description", "").strip()
        if len(description) > _MOST_TEXT:
            raise _label_error(
                path, line, f"a description of {len(description):,} characters", "some sentences"
            )
        entry = Label(label, _live(path, line, row.get("term_id", "").strip()), description)
        for what, key in (
            ("label", label.casefold()),
            ("term", entry.term_id and f"{entry.term_id}\t{description}"),
        ):
            if key and lines.setdefault(f"{what} {key}", line) != line:
                before = lines[f"{what} {key}"]
                name = label if what == "label" else f"{entry.term_id}"
                raise _label_error(
                    path,
                    line,
                    f"the {what} '{name}' again (first in line {before})",
                    "every label once"
                    if what == "label"
                    else "every term once, unless descriptions tell them apart",
                )
        found.append(entry)
    if len(found) < 2:
        raise LabelError(
            path,
            found=f"{len(found)} label" + (f" ('{found[0].label}')" if found else "s"),
            expected="at least two to choose from",
            fix="Add the other types that the file may hold; every cell would get the one name.",
        )
    return found


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return line numbers and rows; blank ones are left out."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else f"no table ({error})"
        raise FileFormatError(
            path, found=what, expected=_LABEL_HELP, fix="Check the path."
        ) from None
    reader = csv.DictReader(io.StringIO(text), delimiter="\t")
    columns = [str(name).strip() for name in reader.fieldnames or ()]
    if "label" not in columns:
        raise MissingColumnError(
            path,
            found=f"the columns {', '.join(columns)}" if columns else "an empty file",
            expected=_LABEL_HELP,
            fix="Put the names of the columns into the first line, with tabs between them.",
        )
    reader.fieldnames = columns
    rows = [
        (line, {key: value or "" for key, value in row.items() if key is not None})
        for line, row in enumerate(reader, 2)
    ]
    return [(line, row) for line, row in rows if any(value.strip() for value in row.values())]


def _live(path: Path, line: int, term_id: str) -> str:
    if not term_id:
        return ""
    term = bundled("cl").get(term_id.replace("_", ":"))
    if term is None:
        raise _label_error(
            path,
            line,
            f"the term id '{term_id}'",
            f"an id of the Cell Ontology ({bundled('cl').release}), such as CL:0000236, or nothing",
        )
    return term.term_id


def _label_error(path: Path, line: int, found: str, expected: str) -> LabelError:
    return LabelError(
        f"{path} line {line}", found=found, expected=expected, fix="Correct the table."
    )
