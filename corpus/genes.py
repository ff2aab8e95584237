"""Gene names to unversioned Ensembl ids, with nothing dropped silently.

A symbol means what it meant in the release that a file was annotated with: that release is found by
the file's own names, symbols are read in it, and its ids are followed to the current table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from okrcell.corpus import gene_names as spelling
from okrcell.corpus.gene_lookup import Call, Lookup, annotated_with
from okrcell.corpus.gene_tables import GENE_TABLE, RELEASES, current
from okrcell.corpus.hgnc import GeneAliases, read_hgnc
from okrcell.schemas import TABLES

__all__ = [
    "GENE_RULES",
    "GENE_TABLE",
    "KEPT",
    "GeneAliases",
    "GeneReport",
    "gene_symbols",
    "read_hgnc",
    "resolve_genes",
    "table_size",
]

GENE_RULES = 2
"""Version of the tables and rules below; part of the identity of what is made with them."""

KEPT = frozenset({"id", "successor", "symbol", "preferred", "previous", "alias", "mangled"})
"""Statuses of columns that are kept."""

_WEAK = frozenset({"alias", "mangled"})
_NO_NAME = frozenset({"nan", "None", "<NA>"})


@dataclass(frozen=True)
class GeneReport:
    """The fate of every column of a file.

    Attributes
    ----------
    table
        Table ``genes``: one row per column of the file, with its status, the id it had in the
        file's own release, and a reason where one is needed. Kept are ``id``,
        ``successor`` (a retired Ensembl id whose gene has another one now), ``symbol``,
        ``preferred`` (the one protein-coding gene among several of that symbol), ``previous`` (a
        symbol of an earlier release or, by HGNC, of earlier times), ``alias`` (by HGNC) and
        ``mangled`` (a date that was a symbol). Lost are ``ambiguous``, ``unknown`` and
        ``duplicate``.
    columns
        int64 [G]: the columns of the file that are kept.
    gene_ids
        Their current Ensembl ids, unique, in the order of ``columns``.
    source_ids
        The ids that these genes had in the release the file was annotated with, where names were
        symbols; else the id itself.
    reasons
        One per column: why it was resolved in an unusual way, or lost; else empty.
    release
        The release whose symbols the file uses; empty where it has ids only.
    hint
        Why the names do not look like human genes; empty where they do.
    """

    table: pa.Table
    columns: npt.NDArray[np.int64]
    gene_ids: tuple[str, ...]
    source_ids: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    release: str = ""
    hint: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Number of columns by status."""
        return dict(sorted(Counter(self.table["status"].to_pylist()).items()))

    @property
    def coverage(self) -> float:
        """Share of the file's columns that are kept."""
        return len(self.gene_ids) / max(int(self.table.num_rows), 1)

    @property
    def lost(self) -> dict[str, tuple[str, ...]]:
        """Names of the columns that are lost, by status, in file order."""
        found: dict[str, list[str]] = {}
        pairs = zip(
            self.table["status"].to_pylist(), self.table["var_name"].to_pylist(), strict=True
        )
        for status, name in pairs:
            if status not in KEPT:
                found.setdefault(status, []).append(name)
        return {status: tuple(found[status]) for status in sorted(found)}


def gene_symbols(gene_ids: Sequence[str]) -> list[str]:
    """Return the symbol of each Ensembl id, or the id where it has none."""
    symbols = current().symbol
    return [symbols.get(gene_id) or gene_id for gene_id in gene_ids]


def table_size() -> int:
    """Return the number of genes in the bundled table."""
    return len(current().symbol)


def resolve_genes(
    var_names: Sequence[str],
    totals: npt.NDArray[np.float64],
    aliases: GeneAliases | None = None,
) -> GeneReport:
    """Resolve a file's gene names: Ensembl ids (any version suffix), symbols, or both.

    Parameters
    ----------
    var_names
        One name per column.
    totals
        float64 [G]: the column sums; of two columns of the same gene the larger is kept, of equal
        ones the first. A column that names the gene by an alias gives way to one that does not.
    aliases
        Aliases and previous symbols of an HGNC file, for names that no table knows.
    """
    names = [str(name) for name in var_names]
    bare = {name: spelling.bare_name(name) for name in dict.fromkeys(names)}
    symbols = {name for name in bare.values() if name and not spelling.ensembl_id(name)} - _NO_NAME
    release, share = annotated_with(symbols)
    hint = spelling.foreign_hint(symbols, share)
    reader = Lookup(symbols, release, share, aliases)
    unknown = Call("", "unknown", reason=hint)
    call = {
        name: unknown if hint and short in symbols else reader.read(short)
        for name, short in bare.items()
    }
    calls = [call[name] for name in names]
    best, status, reasons = _deduplicate(calls, totals)
    columns = np.array(sorted(best.values()), dtype=np.int64)
    ids = [found.gene_id for found in calls]
    known = current().symbol
    table = pa.table(
        {
            "gene_id": pa.array(ids, pa.string()),
            "symbol": pa.array([known[i] or i if i else "" for i in ids], pa.string()),
            "var_name": pa.array(names, pa.string()),
            "column": pa.array(range(len(ids)), pa.int64()),
            "status": pa.array(status, pa.string()),
            "source_id": pa.array([found.source_id or found.gene_id for found in calls]),
            "reason": pa.array(reasons, pa.string()),
        },
        schema=TABLES["genes"].schema,
    )
    return GeneReport(
        table,
        columns,
        tuple(ids[column] for column in columns),
        tuple(calls[column].source_id or ids[column] for column in columns),
        tuple(reasons),
        RELEASES.get(release, GENE_TABLE) if symbols else "",
        hint,
    )


def _deduplicate(
    calls: Sequence[Call], totals: npt.NDArray[np.float64]
) -> tuple[dict[str, int], list[str], list[str]]:
    """Keep one column per gene."""
    status = [found.status for found in calls]
    reasons = [found.reason for found in calls]
    best: dict[str, int] = {}
    for column, found in enumerate(calls):
        if not found.gene_id:
            continue
        rival = best.setdefault(found.gene_id, column)
        if rival == column:
            continue
        rank = [(calls[c].status not in _WEAK, totals[c]) for c in (column, rival)]
        winner, loser = (column, rival) if rank[0] > rank[1] else (rival, column)
        best[found.gene_id], status[loser] = winner, "duplicate"
        reasons[loser] = "another column of the same gene is kept"
    return best, status, reasons
