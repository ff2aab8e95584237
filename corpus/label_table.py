"""Labels from a table or a file of cells, resolved row by row, and written for a person to decide."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from okrcell import console
from okrcell.corpus.label_overrides import write_rows
from okrcell.corpus.normalise import Context, Resolution, normalise
from okrcell.corpus.ontology import FIELD_ONTOLOGY, Ontology, bundled, of_store
from okrcell.errors import ConfigError, DataError, FileFormatError, MissingColumnError
from okrcell.schemas import METADATA_FIELDS

__all__ = ["CONTEXTS", "LabelRow", "as_json", "read_labels", "resolve_rows", "write_overrides"]

CONTEXTS = ("tissue", "markers")
_TABLES = re.compile(r"\.(tsv|txt|csv)(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True)
class LabelRow:
    """A label with what is known beside it; ``n_cells`` is 0 where it comes from a table."""

    label: str
    tissue: str = ""
    markers: tuple[str, ...] = ()
    n_cells: int = 0


def read_labels(
    path: Path,
    field: str,
    context: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
) -> list[LabelRow]:
    """Read the labels of one field.

    Parameters
    ----------
    path
        A table (``.tsv``, ``.txt``, ``.csv``, also gzipped) with a column ``label`` and, where given,
        ``tissue`` or ``organ``, and ``markers`` (symbols between commas, semicolons or spaces), which
        gives one row per line; or a file of cells, which gives one row per distinct label.
    context
        Which of ``tissue`` and ``markers`` to use. A table need not have them; of a file of cells the
        tissue is used where a label has only one, and the markers are computed from its matrix.
    columns
        Field to column, where columns have other names; ``label`` names that of a table.

    Raises
    ------
    ConfigError
        An unknown field or context.
    FileFormatError, MissingColumnError, DataError
        The file cannot be read, lacks the column, or holds no label.
    """
    path, asked = Path(path), [name.strip() for name in context if name.strip()]
    unknown = next((name for name in asked if name not in CONTEXTS), None)
    if unknown is not None or field not in METADATA_FIELDS:
        raise ConfigError(
            "--field" if unknown is None else "--context",
            found=f"'{field if unknown is None else unknown}'",
            expected=f"one of {', '.join(METADATA_FIELDS if unknown is None else CONTEXTS)}",
            fix="Correct the name.",
        )
    if _TABLES.search(path.name):
        rows = _table(path, asked, columns or {})
    else:
        rows = _cells(path, field, asked, columns or {})
    if not rows:
        raise DataError(
            path,
            found="no label",
            expected="one row or more",
            fix="Check that it is the right file.",
        )
    return rows


def resolve_rows(
    rows: Sequence[LabelRow],
    field: str,
    *,
    store: Path | None = None,
    accept_score: float,
    overrides: Mapping[str, str] | None = None,
) -> list[Resolution]:
    """Resolve rows in their order; one label in two tissues may become two terms.

    Parameters
    ----------
    store
        Use its own copy of an ontology where it has one from a file.
    """
    names = FIELD_ONTOLOGY.get(field, ())
    ontologies: list[Ontology] = [of_store(store, n) if store else bundled(n) for n in names]
    known: dict[tuple[str, str, tuple[str, ...]], Resolution] = {}
    found = []
    with console.progress("normalise", len(rows), "labels") as advance:
        for row in rows:
            key = (row.label, row.tissue, row.markers)
            if key not in known:
                known[key] = normalise(
                    [row.label],
                    field,
                    accept_score=accept_score,
                    overrides=overrides,
                    contexts={row.label: Context(row.tissue, row.markers)},
                    ontologies=ontologies or None,
                )[row.label]
            found.append(known[key])
            advance()
    return found


def as_json(resolution: Resolution) -> dict[str, Any]:
    """Return a resolution as one JSON object; ``term_id`` is the best guess, ``status`` says if it holds."""
    best = resolution.alternatives[0][0] if resolution.alternatives else ""
    return {
        "label": resolution.label,
        "term_id": resolution.term_id or best,
        "term_label": resolution.term_label if resolution.term_id else resolution.nearest,
        "score": resolution.score,
        "reason": resolution.reason,
        "status": resolution.status,
        "alternatives": [
            {"term_id": term_id, "score": score} for term_id, score in resolution.alternatives
        ],
    }


def write_overrides(
    path: Path, field: str, rows: Sequence[LabelRow], resolutions: Sequence[Resolution]
) -> None:
    """Write a table to edit and give back as overrides, the open labels first.

    An open label has an empty ``term_id`` to fill in; left empty, it stays unresolved. A decision holds
    for a label wherever it occurs, so a label with different terms in different tissues is left open,
    too. Labels that say "unknown" need no decision.
    """
    by_label: dict[str, list[Resolution]] = {}
    n_cells: dict[str, int] = {}
    for row, resolution in zip(rows, resolutions, strict=True):
        label = row.label.strip()
        by_label.setdefault(label, []).append(resolution)
        n_cells[label] = n_cells.get(label, 0) + row.n_cells
    table = []
    for label, found in by_label.items():
        first = found[0]
        if first.status in {"unknown", "text"}:
            continue
        terms = sorted({r.term_id for r in found})
        settled = first.term_id if len(terms) == 1 else ""
        reason = (
            first.reason
            if len(terms) == 1
            else f"its rows differ: {', '.join(filter(None, terms))}"
        )
        table.append(
            {
                "field": field,
                "label": label,
                "term_id": settled,
                "term_label": first.term_label if settled else "",
                "score": f"{first.score:.4f}",
                "status": first.status if len(terms) == 1 else "unresolved",
                "reason": reason,
                "nearest": ", ".join(f"{t} {s:.2f}" for t, s in first.alternatives[:5]),
            }
        )
    table.sort(key=lambda row: (bool(row["term_id"]), -n_cells[row["label"]], row["label"]))
    write_rows(path, table)


# --- tables ------------------------------------------------------------------------------------


def _table(path: Path, asked: Sequence[str], columns: Mapping[str, str]) -> list[LabelRow]:
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    delimiter = "," if ".csv" in path.name.lower()[-7:] else "\t"
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, delimiter=delimiter, strict=True)
            header = [name for name in reader.fieldnames or () if name]
            content = list(reader)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError(
            path,
            found=f"a table that cannot be read ({str(error)[:160]})",
            expected="a whole table in UTF-8, columns separated by tabs (.csv: commas)",
            fix="Check the path, and save the table again as UTF-8.",
        ) from None
    label = columns.get("label", "label")
    if label not in header:
        raise MissingColumnError(
            path,
            found=f"columns {', '.join(header) or 'none'}",
            expected=f"a column '{label}', and where given 'tissue' or 'organ', and 'markers'",
            fix="Name the column of labels 'label', or say --map label=COLUMN.",
        )
    tissues = [name for name in (columns.get("tissue", "tissue"), "organ") if name in header]
    rows = []
    for row in content:
        tissue = next((text for name in tissues if (text := (row[name] or "").strip())), "")
        rows.append(
            LabelRow(
                (row[label] or "").strip(),
                tissue if "tissue" in asked else "",
                _genes(row.get("markers") or "") if "markers" in asked else (),
            )
        )
    return rows


def _genes(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(gene for gene in re.split(r"[,;|\s]+", text) if gene))


# --- cells -------------------------------------------------------------------------------------


def _cells(
    path: Path, field: str, asked: Sequence[str], columns: Mapping[str, str]
) -> list[LabelRow]:
    from okrcell.corpus.formats import open_source
    from okrcell.corpus.metadata import as_labels

    source = open_source(path)
    try:
        column = columns.get(field, field)
        if column not in source.obs_columns:
            raise MissingColumnError(
                f"{path} obs",
                found=f"no column '{column}' for the field '{field}'",
                expected=f"one of its columns: {', '.join(source.obs_columns) or '(none)'}",
                fix=f"Name the right column with --map {field}=COLUMN.",
            )
        place = columns.get("tissue", "tissue")
        use_tissue = "tissue" in asked and place in source.obs_columns and place != column
        frame = source.obs(sorted({column, place} if use_tissue else {column}))
        labels = as_labels(frame[column], "unknown")
        tissues = [""] * len(labels.names)
        if use_tissue:
            tissue = as_labels(frame[place], "")
            for at in range(len(tissues)):
                codes = np.unique(tissue.codes[labels.codes == at])
                tissues[at] = tissue.names[int(codes[0])] if len(codes) == 1 else ""
        markers: list[tuple[str, ...]] = [()] * len(labels.names)
        if "markers" in asked and field == "cell_type":
            from okrcell.corpus.label_markers import marker_genes

            markers = marker_genes(source, labels.codes, len(labels.names))
        return [
            LabelRow(label, tissues[at], markers[at], labels.counts[label])
            for at, label in enumerate(labels.names)
        ]
    finally:
        source.close()
