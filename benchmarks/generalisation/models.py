"""From a run to the vectors of its test cells: store, texts, training, encoding; each step is kept."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from arms import ARMS, STEPS, Run
from studies import FILES, test_cells, training_file

from okrcell.artifacts import atomic_path, commit, current_manifest, invalidate
from okrcell.corpus import build, cells
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.corpus.marker_cells import DATASET, write_marker_cells
from okrcell.corpus.shards import load_matrix
from okrcell.corpus.type_texts import TypeForm, type_text
from okrcell.schemas import TABLES, write_table
from okrcell.train.checkpoint import load_model
from okrcell.train.config import TrainConfig
from okrcell.train.loop import train

__all__ = ["is_done", "text_vectors", "training_terms", "vectors_of"]

_ALL = CorpusConfig(split_fractions=(1.0, 0.0, 0.0), values="counts", min_gene_coverage=0.0)
_RUNTIME: dict[str, Any] = {
    "device": "cpu", "precision": "fp32", "workers": 0, "checkpoint_every": 10**6, "log_every": 10**6,
}  # fmt: skip


def vectors_of(run: Run, data: Path, work: Path) -> Path:
    """Train a run and encode the cells it is asked about, where that is not done yet.

    Returns
    -------
    Path
        An npz: per test file float16 [n, E], and ``terms``, the types of its real training cells.
    """
    path = _path(run, work)
    if path.exists():
        return path
    torch.set_num_threads(1)
    arm = ARMS[run.arm]
    store, n_cells = _store(data, work, run.files, arm.marker_cells)
    job = _job(store, work, arm.form)
    keys = dict(run.keys)
    per_epoch = max(1, n_cells // keys["batch_size"])
    config = TrainConfig(**keys, epochs=max(1, round(STEPS / per_epoch)), **_RUNTIME)
    folder = work / "runs" / run.key
    train(store, job, folder, config, restart=True)
    model = load_model(folder, device="cpu")
    found = {
        name: model.encode_cells(test_cells(data, name).matrix, batch_size=512).astype(np.float16)
        for name in run.tests
    }
    terms = training_terms(data, work, run.files)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, terms=np.array(terms), **found)
    shutil.rmtree(folder)
    return path


def is_done(run: Run, work: Path) -> bool:
    """Whether a run has left its vectors."""
    return _path(run, work).exists()


def _path(run: Run, work: Path) -> Path:
    return work / "vectors" / f"{run.key}.npz"


def text_vectors(work: Path, terms: Sequence[str], form: TypeForm) -> np.ndarray:
    """Return float32 [n, E], unit rows: the frozen text model's vectors of terms; kept in a file."""
    path = work / "texts" / f"{form}.npz"
    known = _known.setdefault(form, {})
    if not known and path.exists():
        with np.load(path) as stored:
            known.update(stored)
    texts = {term: type_text(term, term, form) for term in terms}
    keys = {term: hashlib.sha256(text.encode()).hexdigest() for term, text in texts.items()}
    new = {key: texts[term] for term, key in keys.items() if key not in known}
    if new:
        from okrcell.corpus.embedder import load_embedder

        known.update(zip(new, load_embedder("minilm").encode(list(new.values())), strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **known)
    return np.stack([known[keys[term]] for term in terms]).astype(np.float32)


_known: dict[str, dict[str, np.ndarray]] = {}


def _store(data: Path, work: Path, files: Sequence[str], marker_cells: int) -> tuple[Path, int]:
    """Return a store of the training cells of some files, and how many cells it has."""
    digest = hashlib.sha256(repr([sorted(files), marker_cells]).encode()).hexdigest()[:8]
    store = work / "stores" / digest
    build.init_store(store)
    for name in files:
        _add(store, training_file(data, name, work / "cells"), name, FILES[name].tissue)
    if marker_cells:
        path = work / "cells" / f"{DATASET}-{digest}.h5ad"
        if not path.exists():
            backgrounds = [load_matrix(store, name) for name in files]
            write_marker_cells(path, backgrounds, per_type=marker_cells)
        _add(store, path, DATASET, "unknown")
    return store, cells.load_cells(store).num_rows


def _add(store: Path, path: Path, name: str, tissue: str) -> None:
    how = CellsConfig(dataset_id=name, constants={"tissue": tissue, "organism": "Homo sapiens"})
    cells.add_cells(store, path, _ALL, how)


def _job(store: Path, work: Path, form: TypeForm) -> Path:
    """Return a job with the text of each profile of a store, in a form."""
    job = work / "jobs" / f"{store.name}-{form}"
    inputs = {"cells": cells.cells_fingerprint(store)}
    if current_manifest(job, "job", config={"text": form}, inputs=inputs) is not None:
        return job
    schema = TABLES["descriptions"].schema
    rows = [
        {
            "profile_id": profile["profile_id"], "status": "accepted", "reliability": 1.0,
            "text": type_text(profile["cell_type"], profile["cell_type_ontology_term_id"], form),
            "original_text": profile["cell_type"], "writer": form,
        }
        for profile in cells.load_profiles(store).to_pylist()
    ]  # fmt: skip
    invalidate(job)
    table = pa.Table.from_pylist([{n: row.get(n) for n in schema.names} for row in rows], schema)
    n = write_table(job / "descriptions.parquet", "descriptions", table)
    none = TABLES["expression_cells"].schema.empty_table()
    write_table(job / "expression_cells.parquet", "expression_cells", none)
    files = {"descriptions.parquet": n, "expression_cells.parquet": 0}
    commit(job, "job", config={"text": form}, inputs=inputs, files=files)
    return job


def training_terms(data: Path, work: Path, files: Sequence[str]) -> list[str]:
    """Return the types of the real training cells of some files, sorted."""
    return sorted(
        {term for name in files for term in _terms(training_file(data, name, work / "cells"))}
    )


@cache
def _terms(path: Path) -> frozenset[str]:
    import anndata

    adata = anndata.read_h5ad(path, backed="r")
    return frozenset(adata.obs["cell_type_ontology_term_id"].astype(str))
