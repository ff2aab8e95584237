"""Evaluate a run: six tasks, every method, one folder of results that is written once."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import okrcell
from okrcell.artifacts import (
    atomic_write,
    commit,
    current_manifest,
    invalidate,
    read_manifest,
    writing,
)
from okrcell.config import fingerprint
from okrcell.errors import ConfigError, LabelLeakError
from okrcell.evaluate import methods as m
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData, load_eval_data
from okrcell.evaluate.intervals import MIN_DONORS, Bootstrap
from okrcell.evaluate.rows import TaskResult, to_table
from okrcell.schemas import write_table

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder

__all__ = ["KIND", "MAIN", "describe", "n_steps", "run"]

KIND = "evaluation"
MAIN = "okrcell"
BASELINES = (
    "majority",
    "pca",
    "pca+ridge",
    "pca+ridge-desc",
    "random",
    "duplicate ceiling",
    "chance",
)
TEXT_BASELINES = frozenset({"pca+ridge", "pca+ridge-desc"})
RESULTS, DETAILS, TIMINGS = "results.parquet", "details.json", "timings.json"

_SMALL_TEST = 1000
_UMAP_CELLS = 2000

Progress = Callable[..., None]


def describe(
    model_run: Path,
    store: Path,
    job: Path,
    config: EvaluateConfig,
    twins: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Return what a run would read, without loading a model: the plan of ``--dry-run``."""
    runs = _named_runs(model_run, twins)
    return {
        "methods": [*runs, *BASELINES[:5]],
        "tasks": list(config.tasks),
        "inputs": _inputs(runs, store, job),
        "config_sha256": fingerprint(config),
    }


def run(
    model_run: Path,
    store: Path,
    job: Path,
    out: Path,
    config: EvaluateConfig | None = None,
    *,
    twins: Mapping[str, Path] | None = None,
    embedder: Embedder | None = None,
    open_model: Callable[[Path], Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a trained run and its twins beside the baselines.

    Parameters
    ----------
    model_run, twins
        Run folders; the first is reported as ``okrcell``, twins under the names given.
    store, job
        Where the cells and the descriptions are.
    out
        Folder for ``results.parquet``, ``details.json`` and the manifest. An identical finished
        evaluation there is reused.
    embedder, open_model
        Opened from the runs where they are not given.
    progress
        Called with ``(1, note=...)`` after each of the ``n_steps`` steps.

    Returns
    -------
    dict
        ``reused``, ``out``, counts of cells and types, headline numbers and notes.

    Raises
    ------
    DataError
        The data leak, hold fewer than two types, or an embedding is unusable.
    """
    config = config or EvaluateConfig()
    runs = _named_runs(model_run, twins)
    inputs = _inputs(runs, store, job)
    settings = config.model_dump(mode="json")
    manifest = current_manifest(out, KIND, config=settings, inputs=inputs)
    if manifest is not None:
        return {"reused": True, "out": str(out), **manifest.facts}
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    data = load_eval_data(store, job)
    with writing(out, KIND):
        invalidate(out)
        clock = _Clock(progress or (lambda n=1, note="": None))
        found = _methods(runs, data, config, embedder, open_model or okrcell.load, clock)
        result = TaskResult(details={"tasks": {}}, notes=_notes(data))
        # Many small problems: threads would cost more than they bring, and change the sums.
        with threadpool_limits(1):
            for task in config.tasks:
                _task(task, found, data, config, result, clock)
        result.details.update(_context(runs, found, data, job, config))
        clock.done("context")
        result.details["notes"] = list(dict.fromkeys(result.notes))
        table = to_table(
            result.rows, data.dataset, data.sha256, {name: inputs[name] for name in runs}
        )
        n_rows = write_table(out / RESULTS, "results", table)
        atomic_write(
            out / DETAILS, json.dumps(_plain(result.details), indent=1, sort_keys=True) + "\n"
        )
        atomic_write(out / TIMINGS, json.dumps(clock.seconds, indent=1) + "\n")
        facts = {
            "dataset": data.dataset,
            "n_test": len(data.test),
            "n_types": len(data.types),
            "n_unseen": len(data.unseen),
            "methods": [method.name for method in found],
            "tasks": list(config.tasks),
            "notes": result.details["notes"],
        }
        commit(
            out,
            KIND,
            config=settings,
            inputs=inputs,
            files={RESULTS: n_rows, DETAILS: None},
            facts=facts,
        )
    return {"reused": False, "out": str(out), **facts}


def n_steps(config: EvaluateConfig, n_runs: int) -> int:
    """Return how often ``run`` calls ``progress``."""
    return n_runs + 4 + len(config.tasks) + 1


class _Clock:
    """Seconds per step; kept out of every file that a manifest lists."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.last = progress, time.monotonic()
        self.seconds: dict[str, float] = {}

    def done(self, step: str) -> None:
        now = time.monotonic()
        self.seconds[step] = round(now - self.last, 3)
        self.last = now
        self.progress(1, note=step)


def _named_runs(model_run: Path, twins: Mapping[str, Path] | None) -> dict[str, Path]:
    runs = {MAIN: Path(model_run)}
    for name, path in (twins or {}).items():
        if not name or name == MAIN or name in BASELINES:
            raise ConfigError(
                f"--twin {name}",
                found="a name that is taken" if name else "no name",
                expected=f"none of {', '.join((MAIN, *BASELINES))}",
                fix="Choose another name, such as --twin infonce=RUN.",
            )
        runs[name] = Path(path)
    return runs


def _inputs(runs: Mapping[str, Path], store: Path, job: Path) -> dict[str, str]:
    from okrcell.corpus.cells import cells_fingerprint

    cells = cells_fingerprint(store)
    inputs = {"cells": cells, "descriptions": read_manifest(job, "job").fingerprint}
    for name, path in runs.items():
        manifest = read_manifest(path, "run")
        if manifest.inputs.get("cells") != cells:
            raise LabelLeakError(
                path,
                found=f"a model trained on other cells, labels or splits than {store} holds now",
                expected="the store it was trained from, unchanged",
                fix="Train again on this store: otherwise test cells may have been trained on.",
            )
        inputs[name] = manifest.fingerprint
    return inputs


def _methods(
    runs: Mapping[str, Path],
    data: EvalData,
    config: EvaluateConfig,
    embedder: Embedder | None,
    open_model: Callable[[Path], Any],
    clock: _Clock,
) -> list[m.MethodOutput]:
    found = []
    for name, path in runs.items():
        model = open_model(path)
        source: m.TextSource = model.config.text_source
        about = f"trained with {model.config.objective} on {source}s"
        found.append(m.trained(name, model, data, texts=source, about=about))
        clock.done(f"method {name}")
    base = m.pca(data, config.seed)
    found.append(base)
    clock.done("method pca")
    if embedder is None:
        from okrcell.corpus.embedder import load_embedder

        embedder = load_embedder(config.embedder)
    sources: tuple[m.TextSource, ...] = ("label", "description")
    for texts in sources:
        found.append(m.pca_ridge(data, base, embedder, texts))
        clock.done(f"method {found[-1].name}")
    found.append(m.random(data, config.seed))
    clock.done("method random")
    return found


def _task(
    task: str,
    found: list[m.MethodOutput],
    data: EvalData,
    config: EvaluateConfig,
    total: TaskResult,
    clock: _Clock,
) -> None:
    """Run one task for every method it applies to, and add its results to the total.

    The ridge baselines live in a text space and are read only where texts are.
    """
    details: dict[str, Any] = {}

    def add(name: str, part: TaskResult) -> None:
        total.rows.extend(part.rows)
        total.notes.extend(part.notes)
        if part.details:
            details[name] = part.details

    of_cells = [method for method in found if method.name not in TEXT_BASELINES]
    of_texts = [method for method in found if method.encode_text is not None]
    rows = _thinned(data.test, config)
    if task == "clustering":
        from okrcell.evaluate.clustering import clustering

        boot = Bootstrap.over(data.donors[rows], config.bootstrap, config.seed)
        for method in of_cells:
            add(
                method.name,
                clustering(method.name, method.cells[rows], data.labels[rows], boot, config),
            )
    elif task == "annotation":
        from okrcell.evaluate.annotation import annotation, majority

        for method in of_cells:
            add(method.name, annotation(method, data, config))
        add("majority", majority(data, config))
    elif task == "batch":
        from okrcell.evaluate.batch import batch_correction

        before = next(method for method in found if method.name == "pca").cells[rows]
        where = data.labels[rows], data.batches[rows]
        for method in of_cells:
            add(
                method.name,
                batch_correction(method.name, method.cells[rows], before, *where, config),
            )
    elif task == "few_shot":
        from okrcell.evaluate.few_shot import few_shot

        for method in of_cells:
            add(
                method.name,
                few_shot(method.name, method.cells[data.test], data.labels[data.test], config),
            )
    elif task == "zero_shot":
        from okrcell.evaluate.zero_shot import majority_zero_shot, zero_shot

        for method in of_texts:
            add(method.name, zero_shot(method, data, config))
        add("majority", majority_zero_shot(data, config))
    else:
        from okrcell.evaluate.retrieval import ceiling, retrieval

        for method in of_texts:
            add(method.name, retrieval(method, data, config))
        add("reference", ceiling(data, config))
    total.details["tasks"][task] = details
    clock.done(f"task {task}")


def _thinned(rows: np.ndarray, config: EvaluateConfig) -> np.ndarray:
    if len(rows) <= config.max_cells:
        return rows
    return np.sort(np.random.default_rng(config.seed).permutation(rows)[: config.max_cells])


def _notes(data: EvalData) -> list[str]:
    notes = list(data.notes)
    n = len(data.test)
    if n < _SMALL_TEST:
        notes.append(
            f"Only {n} test cells: differences of a few points are noise, as the intervals show."
        )
    if Bootstrap.over(data.donors[data.test], 1, 0).unit == "cells":
        notes.append(
            f"Intervals resample cells: fewer than {MIN_DONORS} donors are named in the test split, so "
            "they say nothing about new donors."
        )
    if "+" not in data.dataset:
        notes.append(
            "One dataset: nothing here shows how the model does on another laboratory's cells."
        )
    if not data.unseen:
        notes.append(
            "Every test type occurs in train: zero-shot on unseen types could not be asked."
        )
    return notes


def _context(
    runs: Mapping[str, Path],
    found: list[m.MethodOutput],
    data: EvalData,
    job: Path,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Gather what the report shows beside the numbers."""
    from okrcell.evaluate.examples import choose_profiles, collect_examples

    rows = data.test
    if len(rows) > _UMAP_CELLS:
        rows = np.sort(np.random.default_rng(config.seed).permutation(rows)[:_UMAP_CELLS])
    shown = [method for method in found if method.name in {MAIN, "pca"}]
    types, counts = np.unique(data.labels[data.test], return_counts=True)
    return {
        "data": {
            "dataset": data.dataset,
            "sha256": data.sha256,
            "n_train": len(data.train),
            "n_test": len(data.test),
            "n_genes": len(data.matrix.gene_ids),
            "values": str(data.matrix.values),
            "n_profiles": len(data.descriptions),
            "test_types": {str(k): int(v) for k, v in zip(types, counts, strict=True)},
            "seen": sorted(data.seen),
            "unseen": sorted(data.unseen),
            "batches": sorted({str(name) for name in data.batches[data.test]}),
            "interval_unit": Bootstrap.over(data.donors[data.test], 1, 0).unit,
        },
        "methods": [{"name": method.name, "about": method.about} for method in found]
        + [{"name": "majority", "about": "always the most frequent type of the train cells"}],
        "runs": {name: _run_card(path) for name, path in runs.items()},
        "umap": {
            "methods": {method.name: _umap(method.cells[rows], config.seed) for method in shown},
            "labels": data.labels[rows].tolist(),
            "batches": data.batches[rows].tolist(),
        },
        "examples": collect_examples(job, choose_profiles(data), data),
    }


def _run_card(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path, "run", verify=False)
    return {
        "sha256": manifest.fingerprint,
        "config": dict(manifest.config),
        "facts": dict(manifest.facts),
        "producer": manifest.producer,
    }


def _umap(cells: np.ndarray, seed: int) -> list[list[float]]:
    import warnings

    from anndata import AnnData

    from okrcell.evaluate.libraries import scanpy

    sc = scanpy()
    graph = AnnData(obsm={"embedding": cells})
    k = min(15, len(cells) - 1)
    sc.pp.neighbors(graph, n_neighbors=k, use_rep="embedding", random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about one thread, which is what makes it repeatable
        sc.tl.umap(graph, random_state=seed, init_pos="random" if len(cells) < 10 else "spectral")
    return [[float(x), float(y)] for x, y in graph.obsm["X_umap"]]


def _plain(value: Any) -> Any:
    """Return JSON values: floats rounded, what is not finite as null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
