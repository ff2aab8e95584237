"""Gene names to unversioned Ensembl ids, by a bundled GENCODE table, with nothing dropped silently."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from okrcell.schemas import TABLES

__all__ = ["GENE_TABLE", "GeneReport", "gene_symbols", "resolve_genes", "table_size"]

GENE_TABLE = "GENCODE 48 (human)"
_ENSEMBL = re.compile(r"ENSG\d{11}")


@dataclass(frozen=True)
class GeneReport:
    """The fate of every column of a file.

    Attributes
    ----------
    table
        Table ``genes``: one row per column of the file that was kept or lost, with its status:
        ``id``, ``symbol`` or ``preferred`` (one protein-coding gene among several of that name)
        are kept; ``ambiguous``, ``unknown`` and ``duplicate`` are lost.
    columns
        int64 [G]: the columns of the file that are kept.
    gene_ids
        Their Ensembl ids, unique, in the order of ``columns``.
    """

    table: pa.Table
    columns: npt.NDArray[np.int64]
    gene_ids: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of columns by status."""
        return dict(sorted(Counter(self.table["status"].to_pylist()).items()))

    @property
    def coverage(self) -> float:
        """Share of the file's columns that are kept."""
        return len(self.gene_ids) / max(int(self.table.num_rows), 1)


@cache
def _tables() -> tuple[dict[str, str], dict[str, list[tuple[str, str]]]]:
    by_id: dict[str, str] = {}
    by_symbol: dict[str, list[tuple[str, str]]] = {}
    path = files("okrcell.corpus") / "data" / "genes_human.tsv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()[1:]
    for line in lines:
        gene_id, symbol, biotype = line.split("\t")
        by_id[gene_id] = symbol
        if symbol:
            by_symbol.setdefault(symbol, []).append((gene_id, biotype))
    return by_id, by_symbol


def gene_symbols(gene_ids: Sequence[str]) -> list[str]:
    """Return the symbol of each Ensembl id, or the id where it has none."""
    by_id, _ = _tables()
    return [by_id.get(gene_id) or gene_id for gene_id in gene_ids]


def table_size() -> int:
    """Return the number of genes in the bundled table."""
    return len(_tables()[0])


def resolve_genes(var_names: Sequence[str], totals: npt.NDArray[np.float64]) -> GeneReport:
    """Resolve a file's gene names, Ensembl ids (any version suffix) or symbols.

    Parameters
    ----------
    var_names
        One name per column.
    totals
        float64 [G]: the column sums; of two columns of the same gene the larger is kept.
    """
    ids, statuses = zip(*map(_resolve, var_names), strict=True) if len(var_names) else ((), ())
    status = list(statuses)
    best: dict[str, int] = {}
    for column, gene_id in enumerate(ids):
        if not gene_id:
            continue
        rival = best.get(gene_id)
        if rival is None:
            best[gene_id] = column
            continue
        winner, loser = (column, rival) if totals[column] > totals[rival] else (rival, column)
        best[gene_id], status[loser] = winner, "duplicate"
    columns = np.array(sorted(best.values()), dtype=np.int64)
    table = pa.table(
        {
            "gene_id": pa.array(ids, pa.string()),
            "symbol": pa.array([gene_symbols([i])[0] if i else "" for i in ids], pa.string()),
            "var_name": pa.array([str(name) for name in var_names], pa.string()),
            "column": pa.array(range(len(ids)), pa.int64()),
            "status": pa.array(status, pa.string()),
        },
        schema=TABLES["genes"].schema,
    )
    return GeneReport(table, columns, tuple(ids[column] for column in columns))


def _resolve(name: str) -> tuple[str, str]:
    by_id, by_symbol = _tables()
    match = _ENSEMBL.match(str(name))
    if match:
        gene_id = match.group()
        return (gene_id, "id") if gene_id in by_id else ("", "unknown")
    found = by_symbol.get(str(name), [])
    if len(found) == 1:
        return found[0][0], "symbol"
    coding = [gene_id for gene_id, biotype in found if biotype == "protein_coding"]
    if len(coding) == 1:
        return coding[0], "preferred"
    return "", "ambiguous" if found else "unknown"
