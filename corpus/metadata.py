"""Columns of a file's cell annotation to the fields of okrcell: one label per cell and field.

Everything is kept as categories and codes, so that the work is per distinct label, not per cell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from okrcell.corpus.config import CellsConfig
from okrcell.corpus.formats import CellSource
from okrcell.errors import ConfigError, DuplicateNamesError, MissingColumnError
from okrcell.schemas import METADATA_FIELDS

__all__ = ["EXTRA_FIELDS", "UNKNOWN", "Labels", "as_labels", "read_fields"]

EXTRA_FIELDS = ("donor", "batch", "dataset")
UNKNOWN = "unknown"
_OTHER_NAMES = {"donor": ("donor_id", "donor")}


class Labels:
    """One field of all cells.

    Attributes
    ----------
    codes
        int32 [N]: index into ``names``.
    names
        Distinct texts, sorted; each is used by some cell.
    """

    def __init__(self, codes: npt.NDArray[np.int32], names: tuple[str, ...]) -> None:
        self.codes, self.names = codes, names

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def counts(self) -> dict[str, int]:
        """Number of cells by label."""
        found = np.bincount(self.codes, minlength=len(self.names)).tolist()
        return dict(zip(self.names, found, strict=True))


def read_fields(
    source: CellSource,
    cells: CellsConfig,
    standard: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[dict[str, Labels], Any]:
    """Return the labels of every field, and the names of the cells.

    A column named as in the CELLxGENE schema is found without a mapping, its term id before its
    label. Absent fields are ``unknown``; donor, batch and dataset are then empty. Where a dataset
    column is named, it becomes the batch, or the first part of it.

    Parameters
    ----------
    standard
        Further column names by field, to look for where none is mapped.

    Returns
    -------
    fields
        The nine metadata fields, ``donor`` and ``batch``.
    names
        pandas Index of N strings, unique.

    Raises
    ------
    ConfigError
        A mapping names no field.
    MissingColumnError
        A mapped column, or any column for the cell type, does not exist.
    DuplicateNamesError
        Two cells share a name.
    """
    fields = (*METADATA_FIELDS, *EXTRA_FIELDS)
    wrong = sorted({*cells.columns, *cells.constants} - set(fields))
    if wrong:
        raise ConfigError(
            f"--map/--set {wrong[0]}",
            found="an unknown field",
            expected=f"one of {', '.join(sorted(fields))}",
            fix="Correct the field name.",
        )
    columns = {
        field: column
        for field in fields
        if field not in cells.constants
        and (column := _column(source, cells, field, standard or {})) is not None
    }
    frame = source.obs(sorted(set(columns.values())))
    _check_names(source, frame.index)
    found: dict[str, Labels] = {}
    for field in fields:
        default = "" if field in EXTRA_FIELDS else UNKNOWN
        if field in columns:
            found[field] = as_labels(frame[columns[field]], default)
        else:
            text = cells.constants.get(field, default)
            found[field] = Labels(np.zeros(len(frame), dtype=np.int32), (text,))
    found["batch"] = _joined(found.pop("dataset"), found["batch"])
    return found, frame.index


def _column(
    source: CellSource, cells: CellsConfig, field: str, standard: Mapping[str, tuple[str, ...]]
) -> str | None:
    column = cells.columns.get(field)
    if column is None:  # the schema's exact id before its label
        usual = () if field == "dataset" else _OTHER_NAMES.get(field, (field,))
        candidates = (f"{field}_ontology_term_id", *usual, *standard.get(field, ()))
        column = next((name for name in candidates if name in source.obs_columns), None)
        if column is None and field != "cell_type":
            return None
    if column not in source.obs_columns:
        known = ", ".join(source.obs_columns) or "(none)"
        fix = f"Name the right column with --map {field}=COLUMN."
        if not source.obs_columns:
            fix = (
                "Put a table obs.tsv beside the matrix, with the cell's name first, and name its "
                f"column with --map {field}=COLUMN; or say --set {field}=unknown."
            )
        raise MissingColumnError(
            f"{source.path} obs",
            found=f"no column '{column or 'cell_type'}' for the field '{field}'",
            expected=f"one of its columns: {known}",
            fix=fix,
        )
    return column


def _check_names(source: CellSource, names: Any) -> None:
    if not names.is_unique:
        repeated = names.duplicated()
        raise DuplicateNamesError(
            f"{source.path} obs_names",
            found=f"'{names[repeated][0]}' more than once ({int(repeated.sum())} repeats in all)",
            expected="one name per cell",
            fix="Call adata.obs_names_make_unique(), or prefix the names with the sample.",
        )


def as_labels(column: Any, default: str) -> Labels:
    """Return a pandas column as labels: missing values get the default, 1.0 becomes ``1``."""
    import pandas as pd

    categories = column if isinstance(column.dtype, pd.CategoricalDtype) else None
    if categories is not None:
        codes, values = column.cat.codes.to_numpy(), list(column.cat.categories)
    else:
        codes, uniques = pd.factorize(column)  # missing values get -1
        values = list(uniques)
    texts = [_text(value) or default for value in values]
    used = np.unique(codes)
    present = {texts[code] if code >= 0 else default for code in used.tolist()}
    names = tuple(sorted(present))
    index = {name: at for at, name in enumerate(names)}
    # The last entry answers for the code -1.
    lookup = np.array([index.get(text, 0) for text in [*texts, default]], dtype=np.int32)
    return Labels(lookup[codes], names)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return ""
        if float(value).is_integer():
            return str(int(value))
    return str(value).strip()


def _joined(first: Labels, second: Labels) -> Labels:
    """Return the labels ``first:second``, without the colon where either is empty."""
    if first.names == ("",):
        return second
    pairs = first.codes.astype(np.int64) * len(second.names) + second.codes
    used, codes = np.unique(pairs, return_inverse=True)
    texts = []
    for pair in used.tolist():
        one, two = divmod(pair, len(second.names))
        parts = [part for part in (first.names[one], second.names[two]) if part]
        texts.append(":".join(parts))
    names = tuple(sorted(set(texts)))
    index = {name: at for at, name in enumerate(names)}
    lookup = np.array([index[text] for text in texts], dtype=np.int32)
    return Labels(lookup[codes], names)
