"""Aliases and previous symbols from a gene table of the HGNC."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from okrcell.artifacts import file_sha256
from okrcell.errors import DataError, FileFormatError, MissingColumnError

__all__ = ["GeneAliases", "read_hgnc"]

_COLUMNS = ("symbol", "alias_symbol", "prev_symbol", "ensembl_gene_id")
Records = Mapping[str, tuple[tuple[str, str], ...]]
"""A name to the genes it may mean: approved symbol, and Ensembl id (empty where none is given)."""


@dataclass(frozen=True)
class GeneAliases:
    """Names of genes, each with the genes it may mean.

    Attributes
    ----------
    approved, previous, alias
        Name to pairs of approved symbol and Ensembl id.
    fingerprint
        sha256 of the file, for the identity of what is made with it.
    """

    approved: Records
    previous: Records
    alias: Records
    fingerprint: str


def read_hgnc(path: Path) -> GeneAliases:
    """Read a gene table: tab-separated, plain or gzip, with the column names of HGNC's complete set.

    Needed are ``symbol``, ``alias_symbol``, ``prev_symbol`` and ``ensembl_gene_id``, in any order
    among others; several names of one gene are separated by ``|``. Rows whose ``status`` is not
    ``Approved`` are left out.

    Raises
    ------
    MissingColumnError
        A column is missing.
    FileFormatError
        Not UTF-8 text, damaged gzip, or a row of another length.
    DataError
        No such file, or no gene in it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            path,
            found="a folder" if path.is_dir() else "no such file",
            expected="a gene table of the HGNC",
            fix="Check the path.",
        )
    try:
        rows = _rows(path)
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileFormatError(
            path,
            found=f"unreadable text ({error})",
            expected="tab-separated UTF-8, plain or gzip",
            fix="Download the file again.",
        ) from None
    kinds: dict[str, dict[str, dict[tuple[str, str], None]]] = {
        "approved": {},
        "previous": {},
        "alias": {},
    }
    for symbol, alias, previous, gene_id in rows:
        gene = (symbol, gene_id)
        kinds["approved"].setdefault(symbol, {})[gene] = None
        for kind, names in (("previous", previous), ("alias", alias)):
            for name in filter(None, map(str.strip, names.split("|"))):
                kinds[kind].setdefault(name, {})[gene] = None
    if not rows:
        raise DataError(
            path,
            found="no approved gene",
            expected="one gene per row",
            fix="Give HGNC's complete set.",
        )
    tables = {
        kind: {name: tuple(genes) for name, genes in names.items()} for kind, names in kinds.items()
    }
    return GeneAliases(tables["approved"], tables["previous"], tables["alias"], file_sha256(path))


def _rows(path: Path) -> list[tuple[str, str, str, str]]:
    with path.open("rb") as probe:
        packed = probe.read(2) == b"\x1f\x8b"
    opened = (
        gzip.open(path, "rt", encoding="utf-8-sig", newline="")
        if packed
        else path.open(encoding="utf-8-sig", newline="")
    )
    with opened as handle:
        # Quotes are data in HGNC's file only around lists; csv's own rule undoes them.
        reader = csv.reader(handle, delimiter="\t")
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in _COLUMNS if name not in header]
        if missing:
            raise MissingColumnError(
                path,
                found=f"no column '{missing[0]}'",
                expected=f"tab-separated columns {', '.join(_COLUMNS)}",
                fix="Give HGNC's complete set, or name the columns as there.",
            )
        where = [header.index(name) for name in _COLUMNS]
        status = header.index("status") if "status" in header else None
        rows = []
        for row in reader:
            if not any(row):
                continue
            if len(row) != len(header):
                raise FileFormatError(
                    f"{path} line {reader.line_num}",
                    found=f"{len(row)} fields",
                    expected=f"{len(header)}, as in the header",
                    fix="Download the file again; a spreadsheet may have changed it.",
                )
            if status is not None and row[status] != "Approved":
                continue
            symbol, alias, previous, gene_id = (row[index].strip() for index in where)
            if symbol:
                rows.append((symbol, alias, previous, gene_id.partition(".")[0]))
    return rows
