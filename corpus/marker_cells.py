"""Cells made of markers: real backgrounds that express what a cell type is known to express.

A model that has seen no cell of an organ knows no word of its types. What the field knows of them, the
shipped table of markers, can be turned into training cells: a real cell lends its depth, its
housekeeping genes and its noise; what it expresses of other types' markers is mostly taken away; the
markers of the wanted type are put in. Such a cell is no measurement. It is for training alone, under a
name that says what it is, and no cell of it may be evaluated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell.artifacts import atomic_path
from okrcell.corpus.marker_table import bundled_markers
from okrcell.corpus.shards import CellMatrix
from okrcell.errors import DataError

__all__ = ["DATASET", "marker_cells", "write_marker_cells"]

DATASET = "marker-cells"
"""Name under which such cells stand in a store."""

_PER_10K = 8.0
"""Median molecules of a marker among 10,000 where it is expressed; the spread is log-normal."""
_SPREAD = 1.1
_SILENT = 0.35
"""Share of a type's markers that a cell does not show."""
_AMBIENT = 0.2
"""Share of other types' marker genes that stays as the background had it."""
_LEAST_DEPTH = 200.0
_LEAST_GENES = 5_000
"""A background of fewer genes is a panel: it says little of how a whole cell looks."""

_Ints = npt.NDArray[np.int64]


def marker_cells(
    backgrounds: Sequence[CellMatrix],
    *,
    per_type: int = 8,
    seed: int = 0,
    terms: Collection[str] | None = None,
) -> tuple[CellMatrix, tuple[str, ...]]:
    """Return synthetic cells of all types of the shipped table, and the Cell Ontology id of each.

    A cell's background is drawn evenly from the matrices, and from the cells of one. Genes with which
    the table marks other types are set to 0, each with chance 0.8; those whose absence marks the type,
    always. Each marker is silent with chance 0.35; else its count is Poisson, of a log-normal mean (8
    molecules in 10,000 at the median).

    Parameters
    ----------
    backgrounds
        Cells of any types, counts; those of fewer than 5,000 genes are passed over where there are
        others. Their labels are not read.
    per_type
        Cells of each type.
    terms
        Types to make, of those that the table has; all of them by default.

    Raises
    ------
    DataError
        There is no background of counts.
    """
    usable = _usable(backgrounds)
    table = bundled_markers()
    wanted = sorted(table if terms is None else set(terms) & table.keys())
    marked = {gene for some in table.values() for gene in _genes(some, 1)}
    gene_ids = sorted(marked.union(*(cells.gene_ids for cells in usable)))
    column = {gene: at for at, gene in enumerate(gene_ids)}
    places = [np.array([column[gene] for gene in cells.gene_ids]) for cells in usable]
    is_marker = np.zeros(len(gene_ids), dtype=bool)
    is_marker[[column[gene] for gene in marked]] = True
    rng = np.random.default_rng([seed, 0])
    rows: list[tuple[_Ints, npt.NDArray[np.float64]]] = []
    for term in wanted:
        own = np.array([column[gene] for gene in _genes(table[term], 1)], dtype=np.int64)
        against = [column[gene] for gene in _genes(table[term], -1) if gene in column]
        for _ in range(per_type):
            which = int(rng.integers(len(usable)))
            row = usable[which].matrix[[int(rng.integers(usable[which].matrix.shape[0]))]]
            at, values = places[which][row.indices], row.data.astype(np.float64)
            depth = max(float(values.sum()), _LEAST_DEPTH)
            gone = is_marker[at] & (rng.random(len(at)) >= _AMBIENT)
            gone |= np.isin(at, against) | np.isin(at, own)
            mean = _PER_10K * np.exp(_SPREAD * rng.standard_normal(len(own))) * depth / 1e4
            count = rng.poisson(mean * (rng.random(len(own)) >= _SILENT))
            rows.append((np.r_[at[~gone], own], np.r_[values[~gone], count]))
    made = _stacked(rows, len(gene_ids))
    return CellMatrix(made, tuple(gene_ids), "counts"), tuple(np.repeat(wanted, per_type).tolist())


def write_marker_cells(
    path: Path, backgrounds: Sequence[CellMatrix], *, per_type: int = 8, seed: int = 0
) -> int:
    """Write :func:`marker_cells` as h5ad with ``cell_type_ontology_term_id``; return their number.

    Add it to a store under the name :data:`DATASET`, with all cells in the split ``train``.
    """
    import anndata
    import pandas as pd

    cells, terms = marker_cells(backgrounds, per_type=per_type, seed=seed)
    names = [f"made-{number}" for number in range(len(terms))]
    data = anndata.AnnData(
        cells.matrix,
        obs=pd.DataFrame({"cell_type_ontology_term_id": list(terms)}, index=names),
        var=pd.DataFrame(index=list(cells.gene_ids)),
    )
    with atomic_path(path) as temporary:
        data.write_h5ad(temporary, compression="gzip")
    return len(terms)


def _usable(backgrounds: Sequence[CellMatrix]) -> list[CellMatrix]:
    counts = [cells for cells in backgrounds if cells.values == "counts" and cells.matrix.shape[0]]
    if not counts:
        raise DataError(
            "backgrounds of marker cells",
            found=f"{len(backgrounds)} matrices, none of counts",
            expected="real cells with counts",
            fix="Add a dataset with counts to the store.",
        )
    return [cells for cells in counts if len(cells.gene_ids) >= _LEAST_GENES] or counts


def _genes(markers: Sequence[tuple[str, str, int, str]], sign: int) -> Iterator[str]:
    yield from (gene for gene, _, own, _ in markers if own == sign)


def _stacked(
    rows: Sequence[tuple[_Ints, npt.NDArray[np.float64]]], n_genes: int
) -> sparse.csr_matrix:
    ends = np.cumsum([0, *(len(at) for at, _ in rows)])
    indices = np.concatenate([at for at, _ in rows]) if rows else np.zeros(0, dtype=np.int64)
    values = np.concatenate([v for _, v in rows]) if rows else np.zeros(0)
    made = sparse.csr_matrix(
        (values.astype(np.float32), indices, ends), shape=(len(rows), n_genes), dtype=np.float32
    )
    made.eliminate_zeros()
    made.sort_indices()
    return made
