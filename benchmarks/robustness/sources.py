"""The data sets: each file as a store, made once, and the texts of its types as jobs.

Text of a pair is the text of its cell's Cell Ontology term: one text per term. Cells whose label has
no term have no text and are left out.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock

from okrcell.artifacts import commit, current_manifest, invalidate
from okrcell.corpus import build, cells
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.corpus.ontology import bundled
from okrcell.corpus.shards import CellMatrix, load_matrix
from okrcell.schemas import TABLES, read_table, write_table

__all__ = ["DATA", "Source", "TestCells", "job_of", "store_of", "test_cells"]

_TERMS = Path("groundtruth") / "dataset_labels_to_cl.tsv"


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes
    ----------
    name
        As the page calls it.
    file
        Name of the h5ad file, without its ending.
    labels
        Its name in the table of labels.
    donor
        Column of donors to split by; without one cells are split within their type.
    fractions
        Shares of training, validation and test.
    """

    name: str
    file: str
    labels: str
    tissue: str
    donor: str = ""
    fractions: tuple[float, float, float] = (0.65, 0.1, 0.25)


DATA = {
    "facs": Source("FACS", "pbmc_facs_10pop", "pbmc_facs_10pop", "blood"),
    "kang": Source(
        "Kang", "pbmc_kang_ctrl_5donors", "pbmc_kang_ctrl_5donors", "blood", "batch", (0.6, 0.2, 0.2)
    ),
    "gut": Source(
        "gut", "gut_68types_dev_donors", "gut_68types", "colon", "donor", (0.5, 0.15, 0.35)
    ),
    "onek1k": Source(
        "OneK1K", "pbmc_onek1k_40donors", "pbmc_onek1k_40donors", "blood", "donor"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class TestCells:
    """The cells that every model of a data set is asked about.

    Attributes
    ----------
    matrix
        Their counts, n cells.
    types
        Names of the data set's types, sorted.
    texts
        Text of each type.
    truth
        int64 [n]: type of each cell.
    donors
        Donor of each cell, empty where none is named.
    """

    matrix: CellMatrix
    types: tuple[str, ...]
    texts: tuple[str, ...]
    truth: np.ndarray
    donors: np.ndarray


def store_of(data: Path, work: Path, name: str) -> Path:
    """Return the store of a data set; make it where it is missing."""
    store = work / "stores" / name
    with _lock(work, name):
        _fill(store, data, name)
    return store


def _fill(store: Path, data: Path, name: str) -> None:
    source = DATA[name]
    build.init_store(store)
    columns = {"cell_type": "cell_type"} | ({"donor": source.donor} if source.donor else {})
    constants = {"tissue": source.tissue, "organism": "Homo sapiens"}
    how = CellsConfig(dataset_id=name, columns=columns, constants=constants)
    config = CorpusConfig(split_fractions=source.fractions, values="counts")
    decided = {"cell_type": _term_ids(data / _TERMS, source.labels)}
    cells.add_cells(store, data / "cells" / f"{source.file}.h5ad", config, how, decided)


def job_of(data: Path, work: Path, name: str, text: str) -> Path:
    """Return a job with the text of each profile of a store; make it where it is missing.

    Parameters
    ----------
    text
        ``label``, ``definition`` or ``enriched``.
    """
    store = work / "stores" / name
    job = work / "jobs" / f"{name}-{text}"
    with _lock(work, f"{name}-{text}"):
        inputs = {"cells": cells.cells_fingerprint(store)}
        if current_manifest(job, "job", config={"text": text}, inputs=inputs) is not None:
            return job
        profiles = cells.load_profiles(store).to_pylist()
        written = _enriched(data, work / "enriched", name) if text == "enriched" else {}
        rows = []
        for profile in profiles:
            term = bundled("cl").get(profile["cell_type_ontology_term_id"] or "")
            if term is None:
                continue
            plain = {"label": term.label, "definition": f"{term.label}: {term.definition}"}
            found = plain[text] if text in plain else written[profile["profile_id"]]
            rows.append(
                {
                    "profile_id": profile["profile_id"], "status": "accepted", "text": found,
                    "original_text": term.label, "reliability": 1.0, "writer": text,
                }
            )  # fmt: skip
        invalidate(job)
        schema = TABLES["descriptions"].schema
        names = schema.names
        table = pa.Table.from_pylist([{n: row.get(n) for n in names} for row in rows], schema)
        n = write_table(job / "descriptions.parquet", "descriptions", table)
        none = TABLES["expression_cells"].schema.empty_table()
        write_table(job / "expression_cells.parquet", "expression_cells", none)
        files = {"descriptions.parquet": n, "expression_cells.parquet": 0}
        commit(job, "job", config={"text": text}, inputs=inputs, files=files)
    return job


@lru_cache(maxsize=8)
def test_cells(store: Path, job: Path) -> TestCells:
    """Read the test cells that have a text."""
    profiles = {
        row["profile_id"]: row["cell_type"] for row in cells.load_profiles(store).to_pylist()
    }
    described = read_table(job / "descriptions.parquet", "descriptions", ["profile_id", "text"])
    text = {row["profile_id"]: row["text"] for row in described.to_pylist()}
    types = tuple(sorted({profiles[p] for p in text}))
    rows = [row for row in cells.load_cells(store).to_pylist() if row["profile_id"] in text]
    rows = [row for row in rows if row["split"] == "test"]
    matrix = load_matrix(store, rows[0]["dataset_id"]).take(np.array([row["row"] for row in rows]))
    texts = {profiles[p]: words for p, words in text.items()}
    truth = np.array([types.index(profiles[row["profile_id"]]) for row in rows], dtype=np.int64)
    donors = np.array([row["donor"] or "" for row in rows], dtype=np.str_)
    return TestCells(matrix, types, tuple(texts[name] for name in types), truth, donors)


def _lock(work: Path, name: str) -> FileLock:
    folder = work / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


def _term_ids(path: Path, labels: str) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle, delimiter="\t") if row["dataset"] == labels]
    return {row["label"]: row["cl_id"] for row in rows}


def _enriched(data: Path, work: Path, name: str) -> dict[str, str]:
    """Return profile id to a description by the offline writer, from the Cell Ontology alone.

    In a store of its own: others read cells from the first one meanwhile.
    """
    from okrcell.corpus.terms import add_ontologies
    from okrcell.enrich.config import EnrichConfig
    from okrcell.enrich.job import plan, run

    store, job = work / name, work / f"{name}-job"
    _fill(store, data, name)
    add_ontologies(store, ("cl",), "all")
    build.build(store, CorpusConfig())
    # What training cells express stays out: test cells of the same types are to be told apart.
    plan(store, job, EnrichConfig(expression=False))
    run(job)
    columns = ["profile_id", "text", "original_text"]
    table = read_table(job / "descriptions.parquet", "descriptions", columns).to_pylist()
    return {row["profile_id"]: row["text"] or row["original_text"] for row in table}
