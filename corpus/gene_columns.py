"""Which column of a file is which gene: the best source of names, and what is kept of the matrix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from okrcell.corpus.genes import GENE_TABLE, KEPT, GeneAliases, GeneReport, resolve_genes
from okrcell.errors import GeneCoverageError

__all__ = ["GeneColumns", "best_columns", "resolve_columns"]

_ID_COLUMNS = ("feature_id", "ensembl_id", "gene_ids", "gene_id", "ensembl", "Accession")
_SYMBOL_COLUMNS = ("feature_name", "gene_symbol", "gene_symbols", "gene_name", "gene_names", "Gene")
_TYPE_COLUMNS = ("feature_types", "feature_type")
_GENES = "Gene Expression"
OTHER_FEATURE = "other feature"
"""Status of antibodies, guides and the like, which 10x files list among the genes."""


@dataclass(frozen=True)
class GeneColumns:
    """The fate of every column of a matrix.

    Attributes
    ----------
    table
        Table ``genes``, one row per column of the file, in its order.
    gene_ids
        Ensembl ids of the columns that are kept, in the order of the file.
    candidates
        int32 [G]: a number for each column that resolves to a gene, duplicates included, ascending;
        -1 for the others.
    kept
        int32 [G]: likewise, without the duplicates that lose.
    coverage
        Share of the genes of the file that are kept.
    """

    table: pa.Table
    gene_ids: tuple[str, ...]
    candidates: npt.NDArray[np.int32]
    kept: npt.NDArray[np.int32]
    coverage: float


def best_columns(
    var: Any, path: Path, least: float, aliases: GeneAliases | None = None
) -> tuple[list[str], GeneColumns]:
    """Return the names from the source that resolves most genes, and what they resolve to.

    The index is looked at first, then columns of ids and of symbols by their usual names. Of two
    columns of one gene the first is kept, as their sums are not known here.

    Raises
    ------
    GeneCoverageError
        No source resolves the least share of the genes.
    """
    sources = {"index": [str(name) for name in var.index]}
    for column in (*_ID_COLUMNS, *_SYMBOL_COLUMNS):
        if column in var.columns:
            sources[column] = [str(name) for name in var[column].astype(object)]
    is_gene = _is_gene(var)
    n_genes = int(is_gene.sum())
    reports = {
        source: resolve_genes(
            [names[i] for i in np.flatnonzero(is_gene)], np.zeros(n_genes), aliases
        )
        for source, names in sources.items()
    }
    best = max(reports, key=lambda source: len(reports[source].gene_ids))
    found = len(reports[best].gene_ids)
    if not found or found / n_genes < least:
        hint = f"; {reports[best].hint}" if reports[best].hint else ""
        raise GeneCoverageError(
            f"{path} var",
            found=f"{found} of {n_genes} genes in {GENE_TABLE}"
            f" (first names: {', '.join(sources['index'][:3])}){hint}",
            expected=f"at least {least:.0%} human Ensembl ids or gene symbols",
            fix="Put Ensembl ids or symbols into var_names or a column 'ensembl_id'; human data only.",
        )
    names = sources[best]
    return names, _columns(names, np.flatnonzero(is_gene), reports[best])


def resolve_columns(
    var: Any, names: list[str], totals: npt.NDArray[np.float64], aliases: GeneAliases | None = None
) -> GeneColumns:
    """Resolve the columns of a matrix by their names.

    Parameters
    ----------
    totals
        float64 [G]: column sums; of two columns of one gene the larger is kept.
    """
    at = np.flatnonzero(_is_gene(var))
    return _columns(names, at, resolve_genes([names[i] for i in at], totals[at], aliases))


def _columns(names: list[str], at: npt.NDArray[np.int64], report: GeneReport) -> GeneColumns:
    """Put the report of the columns ``at``, which are genes, among all columns of the file."""
    n = len(names)
    found = report.table.drop_columns(["column", "var_name"])
    columns: dict[str, list[Any]] = {name: [""] * n for name in found.column_names}
    columns |= {"column": list(range(n)), "var_name": list(names), "status": [OTHER_FEATURE] * n}
    places = at[report.table["column"].to_numpy()].tolist()
    for name in found.column_names:
        for place, value in zip(places, found[name].to_pylist(), strict=True):
            columns[name][place] = value
    kept_at = at[report.columns]
    in_question = np.array([status in {*KEPT, "duplicate"} for status in columns["status"]])
    return GeneColumns(
        table=pa.table(columns, schema=report.table.schema),
        gene_ids=tuple(report.gene_ids),
        candidates=_numbered(np.flatnonzero(in_question), n),
        kept=_numbered(kept_at, n),
        coverage=len(report.gene_ids) / max(len(at), 1),
    )


def _is_gene(var: Any) -> npt.NDArray[np.bool_]:
    for column in _TYPE_COLUMNS:
        if column in var.columns:
            genes = np.asarray(var[column].astype(object) == _GENES, dtype=bool)
            if genes.any():
                return genes
    return np.ones(len(var), dtype=bool)


def _numbered(columns: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int32]:
    numbers = np.full(n, -1, dtype=np.int32)
    numbers[columns] = np.arange(len(columns), dtype=np.int32)
    return numbers
