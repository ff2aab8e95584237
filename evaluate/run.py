"""Evaluate methods on data: what is finished is kept, what is missing is computed, one folder results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from okrcell.artifacts import (
    atomic_write,
    current_manifest,
    file_sha256,
    read_manifest,
    writing,
)
from okrcell.config import fingerprint
from okrcell.evaluate.assemble import Part, assemble
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.folder import KIND, TIMINGS, UNITS
from okrcell.evaluate.intervals import MIN_DONORS, Bootstrap
from okrcell.evaluate.methods import Method, MethodOutput, NotApplicable
from okrcell.evaluate.rows import TaskResult
from okrcell.evaluate.suite import DataSpec
from okrcell.evaluate.units import combine, load_unit, save_unit, unit_name

__all__ = ["describe", "load", "n_steps", "run"]

_SMALL_TEST = 1000
_UMAP_CELLS = 2000
_UNSUPERVISED = frozenset({"clustering", "batch"})


class Progress(Protocol):
    """Called with the number of steps done and what they were."""

    def __call__(self, n: int = 1, note: str = "") -> None: ...


def describe(
    methods: Sequence[Method], specs: Sequence[DataSpec], out: Path, config: EvaluateConfig
) -> dict[str, Any]:
    """Return what a run would do, without loading a model: the plan of ``--dry-run``."""
    data, missing, known = [], 0, 0
    for spec in specs:
        for number, part in enumerate(load(spec, config, methods)):
            tasks = _tasks(part, spec, config, is_first=number == 0)
            for task, method in _pairs(tasks, methods):
                is_there = (out / UNITS / unit_name(part, task, method.identity, config)).exists()
                known, missing = known + is_there, missing + (not is_there)
            data.append(
                {
                    "dataset": part.dataset,
                    "split": part.split,
                    "tasks": list(tasks),
                    "n_train": len(part.train),
                    "n_validation": len(part.validation),
                    "n_test": len(part.test),
                    "types": len(part.types),
                    "unseen": sorted(part.unseen),
                    "notes": list(part.notes),
                }
            )
    return {
        "data": data,
        "methods": [{"name": method.name, "about": method.about} for method in methods],
        "tasks": list(config.tasks),
        "units_missing": missing,
        "units_finished": known,
        "inputs": _inputs(methods, specs),
        "config_sha256": fingerprint(config),
    }


def run(
    methods: Sequence[Method],
    specs: Sequence[DataSpec],
    out: Path,
    config: EvaluateConfig | None = None,
    *,
    n_asked: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate methods on data, each beside the others.

    Parameters
    ----------
    methods
        From :func:`okrcell.evaluate.specs.parse_methods`; the first ``n_asked`` are those that the
        user asked for, and the very first is the one that the report is about.
    specs
        From :func:`okrcell.evaluate.suite.suite_of`.
    out
        Folder for results, comparisons, details, units and the manifest. Finished units are used
        again; an identical finished evaluation is reused whole.
    progress
        Called after each of the ``n_steps`` steps.

    Returns
    -------
    dict
        ``reused``, ``out``, datasets, methods, tasks, notes.

    Raises
    ------
    DataError
        The data cannot be used or leak, or an embedding is unusable.
    LabelLeakError
        Test cells, or the names of their types, are known where they must not be.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    config = config or EvaluateConfig()
    inputs = _inputs(methods, specs)
    settings = config.model_dump(mode="json")
    manifest = current_manifest(out, KIND, config=settings, inputs=inputs)
    if manifest is not None:
        return {"reused": True, "out": str(out), **manifest.facts}
    clock = _Clock(progress or (lambda n=1, note="": None))
    parts: list[Part] = []
    # All data are looked at before anything is computed: the last one's fault should not cost an hour.
    first = [load(spec, config, methods) for spec in specs[:1]]
    for spec in specs[1:]:
        load(spec, config, methods)
    with writing(out, KIND):
        # Many small problems: threads would cost more than they bring, and change the sums.
        with threadpool_limits(1):
            for spec in specs:
                for number, data in enumerate(
                    first.pop() if first else load(spec, config, methods)
                ):
                    parts.append(_evaluate(data, spec, methods, out, config, number == 0, clock))
        cards = {m.name: _run_card(m) for m in methods if m.runs and m.refines is None}
        facts = assemble(
            out,
            parts,
            [{"name": m.name, "about": m.about, "identity": m.identity} for m in methods]
            + [{"name": "majority", "about": _MAJORITY, "identity": "majority"}],
            [method.name for method in methods[:n_asked]],
            cards,
            config=settings,
            inputs=inputs,
            notes=_notes_of_all(parts),
        )
        atomic_write(out / TIMINGS, json.dumps(clock.seconds, indent=1) + "\n")
    return {"reused": False, "out": str(out), **facts}


_MAJORITY = "always the most frequent type of the train cells"


def load(spec: DataSpec, config: EvaluateConfig, methods: Sequence[Method] = ()) -> list[EvalData]:
    """Read the data of one table of a suite, once per way of splitting."""
    if spec.path.is_dir():
        from okrcell.errors import ConfigError
        from okrcell.evaluate.stores import load_store

        if spec.descriptions is None:
            raise ConfigError(
                f"--data {spec.path}",
                found="a store without descriptions",
                expected="the job that describes its profiles",
                fix="Add --descriptions JOB.",
            )
        return [
            load_store(spec.path, spec.descriptions, allow_named_types=config.allow_named_types)
        ]
    from okrcell.evaluate.tables import load_h5ad

    keys = sorted({method.vectors for method in methods if method.vectors})
    return load_h5ad(spec, config.seed, keys)


def n_steps(methods: Sequence[Method], specs: Sequence[DataSpec]) -> int:
    """Return how often ``run`` calls ``progress``; ways of splitting that are found out count once."""
    return sum(max(len(spec.split), 1) for spec in specs) * (len(methods) + 1)


def _inputs(methods: Sequence[Method], specs: Sequence[DataSpec]) -> dict[str, str]:
    inputs = {f"method {method.name}": method.identity for method in methods}
    for spec in specs:
        about = spec.model_dump_json(exclude={"path", "descriptions", "terms", "texts"})
        read = [about]
        if spec.path.is_dir():
            from okrcell.corpus.cells import cells_fingerprint

            read.append(cells_fingerprint(spec.path))
            if spec.descriptions is not None:
                read.append(read_manifest(spec.descriptions, "job").fingerprint)
        else:
            files = [spec.path, spec.terms, spec.texts]
            read += [file_sha256(f) for f in files if isinstance(f, Path) and f.is_file()]
            read += [repr(sorted(spec.terms.items()))] if isinstance(spec.terms, dict) else []
        inputs[f"data {spec.title}"] = fingerprint(read)
    return inputs


class _Clock:
    """Seconds per step; kept out of every file that a manifest lists."""

    def __init__(self, progress: Callable[..., None]) -> None:
        self.progress, self.last = progress, time.monotonic()
        self.seconds: dict[str, float] = {}

    def took(self, step: str) -> None:
        now = time.monotonic()
        self.seconds[step] = round(self.seconds.get(step, 0.0) + now - self.last, 3)
        self.last = now


def _tasks(
    data: EvalData, spec: DataSpec, config: EvaluateConfig, *, is_first: bool
) -> tuple[str, ...]:
    allowed = spec.tasks or config.tasks
    return tuple(t for t in config.tasks if t in allowed and (is_first or t == "annotation"))


def _pairs(tasks: Sequence[str], methods: Sequence[Method]) -> list[tuple[str, Method]]:
    return [(task, method) for method in methods for task in tasks if task in method.tasks]


def _evaluate(
    data: EvalData,
    spec: DataSpec,
    methods: Sequence[Method],
    out: Path,
    config: EvaluateConfig,
    is_first: bool,
    clock: _Clock,
) -> Part:
    """Compute what is missing for one dataset under one split."""
    from okrcell.evaluate.summary import compared_metrics

    compared = {metric for _, metric in compared_metrics()}
    tasks = _tasks(data, spec, config, is_first=is_first)
    rows = _shown(data, config)
    part = Part(data.dataset, data.split, is_first, data.sha256, _card(data))
    if is_first:
        part.notes = [*data.notes, *_notes(data)]
        part.examples = _examples(spec, data)
        part.umap = {
            "labels": data.labels[rows].tolist(),
            "batches": data.batches[rows].tolist(),
        }
    where = f"{data.dataset} ({data.split})"
    drawn = _drawn(methods) if _UNSUPERVISED & set(tasks) else frozenset()
    before: list[np.ndarray] = []
    shared: dict[str, Any] = {}
    for method in methods:
        mine = [task for task in tasks if task in method.tasks]
        view = unit_name(data, "map" if method.name in drawn else "view", method.identity, config)
        names = {task: unit_name(data, task, method.identity, config) for task in mine}
        for task, name in names.items():
            part.units.setdefault(task, {})[method.name] = name
        part.views[method.name] = view
        lost = [task for task in mine if load_unit(out / UNITS, names[task]) is None]
        if lost or load_unit(out / UNITS, view) is None:
            outputs = _outputs(method, data, config, shared)
            for task in lost:
                results = [_ask(task, o, data, config, before) for o in outputs.found]
                result = combine(results, outputs.seeds) if results else TaskResult()
                save_unit(out / UNITS, names[task], result, compared)
                clock.took(f"{where}: {method.name}, {task}")
            seen = TaskResult(details={"about": method.about}, notes=outputs.notes)
            if outputs.found and outputs.found[0].coverage is not None:
                seen.details["coverage"] = outputs.found[0].coverage
            if method.name in drawn and outputs.found and outputs.found[0].cells is not None:
                seen.details["umap"] = _umap(outputs.found[0].cells[rows], config.seed)
            save_unit(out / UNITS, view, seen, compared)
            clock.took(f"{where}: {method.name}")
        clock.progress(1, note=f"{where}: {method.name}")
    _references(data, tasks, out, config, part, compared)
    clock.progress(1, note=f"{where}: references")
    return part


class _Outputs:
    """What one method makes of the data, once per seed, or why it sits them out."""

    def __init__(self, found: list[MethodOutput], seeds: list[int], notes: list[str]) -> None:
        self.found, self.seeds, self.notes = found, seeds, notes


def _outputs(
    method: Method, data: EvalData, config: EvaluateConfig, shared: dict[str, Any]
) -> _Outputs:
    """Embed the data; a method that refines another takes what that one gave, if it is the last."""
    from dataclasses import replace

    if method.refines is not None and method.refines.name in shared:
        base: _Outputs = shared[method.refines.name]
        found = [replace(o, name=method.name, refined=True) for o in base.found]
        return _Outputs(found, base.seeds, base.notes)
    seeds = list(range(config.seed, config.seed + method.n_seeds))
    try:
        outputs = _Outputs([method.embed(data, seed) for seed in seeds], seeds, [])
    except NotApplicable as reason:
        outputs = _Outputs([], seeds, [str(reason)])
    shared.clear()
    shared[method.name] = outputs
    return outputs


def _ask(
    task: str,
    method: MethodOutput,
    data: EvalData,
    config: EvaluateConfig,
    before: list[np.ndarray],
) -> TaskResult:
    """Run one task for one method."""
    if task in {"zero_shot", "retrieval"} and method.encode_text is None:
        return TaskResult(notes=[f"{method.name} gave no text vectors: {task} was left out."])
    if task == "clustering":
        from okrcell.evaluate.clustering import clustering

        return clustering(method, data, config)
    if task == "annotation":
        from okrcell.evaluate.annotation import annotation

        return annotation(method, data, config)
    if task == "batch":
        from okrcell.evaluate.baselines import pca
        from okrcell.evaluate.batch import batch_correction

        if not before:
            cells = pca(data, config.seed).cells
            assert cells is not None
            before.append(cells)
        return batch_correction(method, before[0], data, config)
    if task == "few_shot":
        from okrcell.evaluate.few_shot import few_shot

        return few_shot(method, data, config)
    if task == "zero_shot":
        from okrcell.evaluate.zero_shot import zero_shot

        return zero_shot(method, data, config)
    if task == "retrieval":
        from okrcell.evaluate.retrieval import retrieval

        return retrieval(method, data, config)
    from okrcell.evaluate.robustness import robustness

    return robustness(method, data, config)


def _references(
    data: EvalData,
    tasks: Sequence[str],
    out: Path,
    config: EvaluateConfig,
    part: Part,
    compared: set[str],
) -> None:
    """Score what needs no method: the most frequent type, and the bounds of strict retrieval."""

    def majority_annotation() -> TaskResult:
        from okrcell.evaluate.annotation import majority

        return majority(data, config)

    def majority_zero_shot() -> TaskResult:
        from okrcell.evaluate.zero_shot import majority_zero_shot as guess

        return guess(data, config)

    def bounds() -> TaskResult:
        from okrcell.evaluate.retrieval import ceiling

        return ceiling(data, config)

    found: Mapping[str, tuple[str, Callable[[], TaskResult]]] = {
        "annotation": ("majority", majority_annotation),
        "zero_shot": ("majority", majority_zero_shot),
        "retrieval": ("reference", bounds),
    }
    for task, (name, make) in found.items():
        if task in tasks:
            unit = unit_name(data, task, name, config)
            if load_unit(out / UNITS, unit) is None:
                save_unit(out / UNITS, unit, make(), compared)
            part.units.setdefault(task, {})[name] = unit


# --- what the report says of the data ------------------------------------------------------------


def _card(data: EvalData) -> dict[str, Any]:
    types, counts = np.unique(data.labels[data.test], return_counts=True)
    return {
        "sha256": data.sha256,
        "n_train": len(data.train),
        "n_validation": len(data.validation),
        "n_test": len(data.test),
        "n_integrated": len(data.integrated),
        "integration": data.integration,
        "n_genes": len(data.matrix.gene_ids),
        "values": str(data.matrix.values),
        "n_profiles": len(data.descriptions),
        "text_kind": data.text_kind,
        "tissue": data.tissue,
        "test_types": {str(k): int(v) for k, v in zip(types, counts, strict=True)},
        "seen": sorted(data.seen),
        "unseen": sorted(data.unseen),
        "batches": sorted({str(name) for name in data.batches[data.integrated]}),
        "donors": len({str(name) for name in data.donors} - {""}),
        "interval_unit": Bootstrap.over(data.donors[data.test], 1, 0).unit,
    }


def _notes(data: EvalData) -> list[str]:
    notes = []
    n = len(data.test)
    if n < _SMALL_TEST:
        notes.append(
            f"{data.dataset}: only {n} test cells: differences of a few points are noise, as the "
            "intervals show."
        )
    if Bootstrap.over(data.donors[data.test], 1, 0).unit == "cells":
        notes.append(
            f"{data.dataset}: intervals resample cells: fewer than {MIN_DONORS} donors are named in the "
            "test split, so they say nothing about new donors."
        )
    if not data.unseen:
        notes.append(
            f"{data.dataset}: every test type occurs in train: zero-shot on unseen types could not be "
            "asked."
        )
    return notes


def _notes_of_all(parts: Sequence[Part]) -> list[str]:
    names = {name for part in parts for name in part.dataset.split("+")}
    if len(names) > 1:
        return []
    return ["One dataset: nothing here shows how a method does on another laboratory's cells."]


def _examples(spec: DataSpec, data: EvalData) -> list[Any]:
    if spec.descriptions is None:
        return []
    from okrcell.evaluate.examples import choose_profiles, collect_examples

    return collect_examples(spec.descriptions, choose_profiles(data), data)


def _run_card(method: Method) -> dict[str, Any]:
    manifest = read_manifest(method.runs[0], "run", verify=False)
    return {
        "sha256": method.checkpoint,
        "config": dict(manifest.config),
        "facts": dict(manifest.facts),
        "producer": manifest.producer,
    }


def _drawn(methods: Sequence[Method]) -> frozenset[str]:
    """Return the methods whose UMAP is drawn: the first that has cells, and PCA."""
    first = next((m.name for m in methods if m.tasks & _UNSUPERVISED), "")
    return frozenset({first, "pca"})


def _shown(data: EvalData, config: EvaluateConfig) -> np.ndarray:
    rows = data.integrated
    if len(rows) > _UMAP_CELLS:
        rows = np.sort(np.random.default_rng(config.seed).permutation(rows)[:_UMAP_CELLS])
    return rows


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
    return [[round(float(x), 3), round(float(y), 3)] for x, y in graph.obsm["X_umap"]]
