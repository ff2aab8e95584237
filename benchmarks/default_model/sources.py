"""Training files of the default model: labelled counts, capped per type, as h5ad with Cell Ontology ids."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from scipy import sparse

from okrcell.artifacts import atomic_path, file_sha256
from okrcell.corpus.expression import recover_counts
from okrcell.corpus.normalise import read_overrides

__all__ = ["CAP", "TERM", "Source", "prepared"]

CAP = 150
"""Cells of one type that a file gives at most: no file and no type drowns the others."""

TERM = "cell_type_ontology_term_id"
_TABLE = Path("groundtruth") / "dataset_labels_to_cl.tsv"


@dataclass(frozen=True)
class Source:
    """A file that cells were taken from.

    Attributes
    ----------
    name
        Name of the dataset in the store.
    path
        h5ad with the cells that were taken.
    origin
        Name and sha256 of the file that they were taken from, and where that is from.
    tissue
        Constant of all its cells.
    labels
        Column of labels that the corpus stage resolves, None where the cells carry terms; and what
        somebody decided of these labels.
    """

    name: str
    path: Path
    origin: str
    sha256: str
    licence: str
    tissue: str
    labels: str | None
    decided: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class _File:
    labels: tuple[str, ...]
    donor: str | None
    tissue: str
    licence: str


_KANG = ("pbmc_kang_ctrl_5donors", "pbmc_kang_ifnb_2donors")
_FILES = {
    "pbmc_facs_10pop": _File(("pbmc_facs_10pop",), None, "blood", "MIT"),
    "pbmc_kang_ctrl_5donors": _File(_KANG, "batch", "blood", "GPL-3"),
    "pbmc_kang_ifnb_2donors": _File(_KANG, "donor", "blood", "GPL-3"),
    "pbmc_onek1k_40donors": _File(("pbmc_onek1k_40donors",), "donor", "blood", "MIT"),
    "gut_68types_dev_donors": _File(("gut_68types",), "donor", "colon", "Apache-2.0"),
    "pancreas_panc8_5techs_500": _File(("pancreas_panc8_5techs_500",), "dataset", "pancreas", "MIT"),
    "breast_visium_spots": _File((), None, "breast", "MIT; data CC BY 4.0"),
}  # fmt: skip
"""Left out: files without labels, cancer cell lines, which have no Cell Ontology term, the 68k cells, which
scanpy ships, and pbmc_kang_ifnb_2k, whose labelled cells stand in the two other files of that study."""


def prepared(data: Path | None, folder: Path) -> Iterator[Source]:
    """Yield scanpy's cells and, where there is a folder of development files, the labelled ones of it."""
    folder.mkdir(parents=True, exist_ok=True)
    yield _scanpy(folder)
    for name, file in _FILES.items():
        path = None if data is None else data / "cells" / f"{name}.h5ad"
        if path is not None and path.exists():
            yield _development(data, path, name, file, folder)


def _scanpy(folder: Path) -> Source:
    """Take the 700 blood cells that scanpy ships; their counts are recovered from the logarithms."""
    import scanpy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shipped = scanpy.datasets.pbmc68k_reduced()
    labels = shipped.obs["bulk_labels"].astype(str).to_numpy()
    made = anndata.AnnData(recover_counts(shipped.raw.X), obs=shipped.obs[[]].copy())
    made.var_names = shipped.raw.var_names
    path = folder / "pbmc68k_reduced.h5ad"
    _write(made, labels, "cell_type", None, path)
    with as_file(files("scanpy.datasets") / "10x_pbmc68k_reduced.h5ad") as origin:
        digest = file_sha256(origin)
    with as_file(files("okrcell.examples") / "pbmc68k_labels.tsv") as table:
        decided = read_overrides(table)
    origin_name = "10x_pbmc68k_reduced.h5ad (scanpy)"
    return Source(
        path.stem, path, origin_name, digest, "BSD-3-Clause", "blood", "cell_type", decided
    )


def _development(data: Path, path: Path, name: str, file: _File, folder: Path) -> Source:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = anndata.read_h5ad(path)
    labels = adata.obs["cell_type"].astype(str)
    if file.labels:
        with (data / _TABLE).open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
        said = {row["label"]: row["cl_id"] for row in rows if row["dataset"] in file.labels}
        terms = np.array([said.get(label, "") for label in labels])
    else:
        checked = adata.obs["label_checked"].astype(str).to_numpy() != "no"
        terms = np.where(checked, adata.obs[TERM].astype(str).to_numpy(), "")
    donors = None if file.donor is None else adata.obs[file.donor].astype(str).to_numpy()
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    counts.data = np.rint(counts.data)  # those of CEL-seq cells are corrected by a hair
    counts.eliminate_zeros()
    made = anndata.AnnData(counts, obs=adata.obs[[]].copy(), var=adata.var[["ensembl_id", "gene_symbol"]])  # fmt: skip
    if not str(adata.var_names[0]).startswith("ENSG"):
        made.var_names = adata.var_names
    target = folder / path.name
    _write(made, terms, TERM, donors, target)
    digest = file_sha256(path)
    return Source(name, target, path.name, digest, file.licence, file.tissue, None, {})


def _write(
    made: Any, types: np.ndarray, column: str, donors: np.ndarray | None, path: Path
) -> None:
    """Write the cells that have a type, at most 150 of one."""
    rng = np.random.default_rng(0)
    kinds = [np.flatnonzero(types == kind) for kind in np.unique(types[types != ""])]
    rows = np.sort(np.concatenate([rng.permutation(some)[:CAP] for some in kinds]))
    made = made[rows].copy()
    made.obs[column] = types[rows].astype(object)
    if donors is not None:
        made.obs["donor_id"] = donors[rows].astype(object)
    with atomic_path(path) as temporary:
        made.write_h5ad(temporary)
