"""The files and the studies they are of; training cells and test cells of each.

Labels are read as Cell Ontology terms, by the table that comes with the development data. Cells of one
study may share donors, or be the same cells in two files, so a study is left out whole.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy import sparse

from okrcell.artifacts import atomic_path
from okrcell.corpus.gene_columns import best_columns
from okrcell.corpus.shards import CellMatrix
from okrcell.evaluate.ontology_credit import live_term

__all__ = [
    "FILES",
    "STUDIES",
    "TRAIN_CAP",
    "Cells",
    "candidates",
    "files_of",
    "test_cells",
    "training_file",
]

TRAIN_CAP = 150
"""Cells of one type that a file gives to training at most: no file and no type drowns the others."""
TEST_CAP = 3_000
"""Cells of a file that are asked about at most, drawn at random once."""

_TERMS = Path("groundtruth") / "dataset_labels_to_cl.tsv"
_OWN_TERM = "cell_type_ontology_term_id"
_NUMBER = re.compile(r"^donor_")


@dataclass(frozen=True)
class Source:
    """A file: its study, the names of its labels in the table of terms, its donor column, its tissue."""

    study: str
    labels: tuple[str, ...]
    donor: str | None
    tissue: str


_KANG = ("pbmc_kang_ctrl_5donors", "pbmc_kang_ifnb_2donors")
FILES: Mapping[str, Source] = {
    "pbmc_facs_10pop": Source("blood-FACS", ("pbmc_facs_10pop",), None, "blood"),
    "pbmc68k_reduced_700": Source("blood-FACS", ("pbmc68k_reduced_700",), None, "blood"),
    "pbmc_kang_ctrl_5donors": Source("Kang", _KANG, "batch", "blood"),
    "pbmc_kang_ifnb_2donors": Source("Kang", _KANG, "donor", "blood"),
    "pbmc_kang_ifnb_2k": Source("Kang", _KANG, "donor", "blood"),
    "pbmc_onek1k_40donors": Source("OneK1K", ("pbmc_onek1k_40donors",), "donor", "blood"),
    "gut_68types_dev_donors": Source("gut", ("gut_68types",), "donor", "colon"),
    "pancreas_panc8_5techs_500": Source("pancreas", ("pancreas_panc8_5techs_500",), None, "pancreas"),
    "breast_visium_spots": Source("breast", (), None, "breast"),
}  # fmt: skip
"""Cell lines are not here: they have no Cell Ontology term, and their names say nothing."""

STUDIES = ("blood-FACS", "Kang", "OneK1K", "gut", "pancreas")
"""Left out one after the other. Breast spots are mixtures of cells: they train and are not asked about."""


@dataclass(frozen=True)
class Cells:
    """Labelled cells of a file: counts, Cell Ontology id and donor of each (empty where unknown)."""

    matrix: CellMatrix
    terms: np.ndarray
    donors: np.ndarray


def files_of(study: str) -> list[str]:
    """Return the files of a study, in the order of the table."""
    return [name for name, source in FILES.items() if source.study == study]


def candidates(data: Path, study: str) -> list[str]:
    """Return the terms of a study's files, sorted: what a cell of the study can be called."""
    return sorted({str(term) for name in files_of(study) for term in _read(data, name).terms})


def test_cells(data: Path, name: str) -> Cells:
    """Return the cells of a file that are asked about; the same in every run."""
    cells, rows = _read(data, name), None
    if len(cells.terms) > TEST_CAP:
        rows = np.sort(np.random.default_rng(0).permutation(len(cells.terms))[:TEST_CAP])
    return cells if rows is None else _some(cells, rows)


def training_file(data: Path, name: str, folder: Path) -> Path:
    """Write the training cells of a file as h5ad, where they are not there yet; return its path."""
    import anndata
    import pandas as pd

    path = folder / f"{name}.h5ad"
    if path.exists():
        return path
    cells = _read(data, name)
    rng = np.random.default_rng(0)
    kinds = [np.flatnonzero(cells.terms == term) for term in np.unique(cells.terms)]
    rows = np.sort(np.concatenate([rng.permutation(some)[:TRAIN_CAP] for some in kinds]))
    chosen = _some(cells, rows)
    obs = pd.DataFrame(
        {_OWN_TERM: chosen.terms.astype(object), "donor_id": chosen.donors.astype(object)},
        index=[f"{name}-{row}" for row in rows],
    )
    var = pd.DataFrame(index=list(chosen.matrix.gene_ids))
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        anndata.AnnData(chosen.matrix.matrix, obs=obs, var=var).write_h5ad(temporary)
    return path


@cache
def _read(data: Path, name: str) -> Cells:
    """Return all labelled cells of a file; genes as the corpus stage resolves them."""
    import anndata

    source, path = FILES[name], data / "cells" / f"{name}.h5ad"
    adata = anndata.read_h5ad(path)
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    if source.labels:
        said = _table(data, source.labels)
        terms = np.array([said.get(label, "") for label in labels])
    else:
        checked = adata.obs["label_checked"].astype(str).to_numpy() != "no"
        terms = np.where(checked, adata.obs[_OWN_TERM].astype(str).to_numpy(), "")
    terms = np.array([live_term(term) for term in terms])
    rows = np.flatnonzero(terms != "")
    donors = np.full(len(terms), "")
    if source.donor:
        donors = np.array([_NUMBER.sub("", d) for d in adata.obs[source.donor].astype(str)])
    columns = best_columns(adata.var, path, 0.0)[1]
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)[rows][:, columns.kept >= 0]
    counts.data = np.rint(counts.data)  # those of CEL-seq cells are corrected by a hair
    counts.eliminate_zeros()
    matrix = CellMatrix(sparse.csr_matrix(counts), columns.gene_ids, "counts")
    return Cells(matrix, terms[rows], donors[rows])


def _table(data: Path, datasets: Sequence[str]) -> dict[str, str]:
    """Return label to Cell Ontology id, of all cells that the labels of some data sets name."""
    with (data / _TERMS).open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    return {row["label"]: row["cl_id"] for row in rows if row["dataset"] in datasets}


def _some(cells: Cells, rows: np.ndarray) -> Cells:
    return Cells(cells.matrix.take(rows), cells.terms[rows], cells.donors[rows])
