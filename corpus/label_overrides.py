"""The table in which a person decides labels: written with what is open, read back as decisions."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from okrcell.artifacts import atomic_write
from okrcell.errors import FileFormatError
from okrcell.schemas import METADATA_FIELDS

__all__ = ["OVERRIDE_COLUMNS", "overrides_text", "read_overrides", "write_rows"]

OVERRIDE_COLUMNS = (
    "field", "label", "term_id", "term_label", "score", "status", "reason", "nearest",
)  # fmt: skip


def read_overrides(path: Path) -> dict[str, dict[str, str]]:
    """Read a table of decided labels: tab-separated, columns ``field``, ``label``, ``term_id``.

    More columns are allowed. An empty ``term_id`` means "leave unresolved". A label may stand twice
    with the same decision.

    Returns
    -------
    dict
        Field to label to term id.

    Raises
    ------
    FileFormatError
        The file cannot be read, lacks a column, names an unknown field, or decides a label twice in
        different ways; the lines are named.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t")
            header = set(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError(
            path, found=str(error), expected="a readable TSV file", fix="Check the path."
        ) from None
    if not {"field", "label", "term_id"} <= header:
        raise FileFormatError(
            path,
            found=f"columns {', '.join(sorted(map(str, header))) or 'none'}",
            expected="tab-separated columns field, label, term_id",
            fix="Correct the header line.",
        )
    overrides: dict[str, dict[str, str]] = {}
    lines: dict[tuple[str, str], int] = {}
    for number, row in rows:
        field, label = row["field"], (row["label"] or "").strip()
        if field not in METADATA_FIELDS:
            raise FileFormatError(
                f"{path} line {number}",
                found=f"the field '{field}'",
                expected=f"one of {', '.join(METADATA_FIELDS)}",
                fix="Correct the field name.",
            )
        term_id = (row["term_id"] or "").strip()
        before = overrides.setdefault(field, {}).setdefault(label, term_id)
        first = lines.setdefault((field, label), number)
        if before != term_id:
            raise FileFormatError(
                f"{path} lines {first} and {number}",
                found=f"two decisions for '{label}': '{before}' and '{term_id}'",
                expected="one decision for each label of a field",
                fix="Remove one of the lines.",
            )
    return overrides


def overrides_text(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the table as text; tabs and line breaks inside a value become spaces."""
    text = io.StringIO()
    text.write("\t".join(OVERRIDE_COLUMNS) + "\n")
    for row in rows:
        cells = [" ".join(row.get(column, "").split()) for column in OVERRIDE_COLUMNS]
        # A quote at the start of a cell would open a quoted cell when the table is read back.
        quoted = ['"' + c.replace('"', '""') + '"' if c.startswith('"') else c for c in cells]
        text.write("\t".join(quoted) + "\n")
    return text.getvalue()


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write the table atomically."""
    atomic_write(path, overrides_text(rows))
