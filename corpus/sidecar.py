"""A table of cells beside a matrix that carries none: 10x output knows barcodes only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from okrcell.errors import DuplicateNamesError, FileFormatError

__all__ = ["read_sidecar", "sidecar_of"]

_ENDINGS = tuple(f".{kind}{gz}" for kind in ("tsv", "csv") for gz in ("", ".gz"))
_NAMES = ("obs", "metadata", "cells")


def sidecar_of(path: Path, prefix: str = "") -> Path | None:
    """Return the table of cells of a matrix, or None.

    For a folder: ``obs``, ``metadata`` or ``cells`` in it (after the prefix of its matrix); for a
    10x file ``NAME.h5``: ``NAME.obs`` beside it; each ``.tsv`` or ``.csv``, also ``.gz``.
    """
    if path.is_dir():
        names = [f"{prefix}{name}{end}" for name in _NAMES for end in _ENDINGS]
        folder = path
    elif path.suffix == ".h5":
        names = [f"{path.stem}.obs{end}" for end in _ENDINGS]
        folder = path.parent
    else:
        return None
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_sidecar(path: Path, barcodes: list[str]) -> Any:
    """Read a table whose first column names cells, put into the order of ``barcodes``.

    Cells that the table does not name get empty values.

    Raises
    ------
    FileFormatError
        Not a table, or not one of its names is a barcode.
    DuplicateNamesError
        A cell is named twice.
    """
    import pandas as pd

    separator = "\t" if ".tsv" in path.name else ","
    try:
        table = pd.read_csv(path, sep=separator, index_col=0, dtype={0: str}, low_memory=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileFormatError(
            path,
            found=f"no readable table ({str(error).splitlines()[0][:160]})",
            expected="a header line and one line per cell, the barcode first",
            fix="Correct or remove the file.",
        ) from None
    table.index = table.index.astype(str)
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise DuplicateNamesError(
            path,
            found=f"the cell '{twice}' more than once",
            expected="one line per cell",
            fix="Remove the repeats.",
        )
    if not table.index.isin(barcodes).any():
        raise FileFormatError(
            path,
            found=f"no cell of the matrix (first names: {', '.join(table.index[:3])})",
            expected=f"barcodes such as {', '.join(barcodes[:3])} in the first column",
            fix="Write the barcodes as the matrix has them, or remove the file.",
        )
    return table.reindex(barcodes)
