"""Evaluate methods on data: what is finished is kept, what is missing is computed, one folder results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
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
from okrcell.evaluate.asking import Outputs, ask, outputs_of, references
from okrcell.evaluate.assemble import Part, assemble
from okrcell.evaluate.cards import card_of, drawn, examples, notes_of, run_card, shown_cells, umap
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.folder import KIND, TIMINGS, UNITS
from okrcell.evaluate.methods import Method
from okrcell.evaluate.rows import TaskResult
from okrcell.evaluate.suite import DataSpec
from okrcell.evaluate.units import combine, load_unit, save_unit, unit_name

__all__ = ["describe", "load", "n_steps", "run"]


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
    from okrcell.evaluate.libraries import one_thread

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
        with one_thread():
            for spec in specs:
                for number, data in enumerate(
                    first.pop() if first else load(spec, config, methods)
                ):
                    parts.append(_evaluate(data, spec, methods, out, config, number == 0, clock))
        cards = {m.name: run_card(m) for m in methods if m.runs and m.refines is None}
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
    rows = shown_cells(data, config)
    part = Part(data.dataset, data.split, is_first, data.sha256, card_of(data))
    if is_first:
        part.notes = [*data.notes, *notes_of(data)]
        part.examples = examples(spec, data)
        part.umap = {
            "labels": data.labels[rows].tolist(),
            "batches": data.batches[rows].tolist(),
        }
    where = f"{data.dataset} ({data.split})"
    maps = drawn(methods, tasks)
    before: list[np.ndarray] = []
    shared: dict[str, Outputs] = {}
    for method in methods:
        mine = [task for task in tasks if task in method.tasks]
        if not mine:
            clock.progress(1, note=f"{where}: {method.name}")
            continue
        view = unit_name(data, "map" if method.name in maps else "view", method.identity, config)
        names = {task: unit_name(data, task, method.identity, config) for task in mine}
        for task, name in names.items():
            part.units.setdefault(task, {})[method.name] = name
        part.views[method.name] = view
        lost = [task for task in mine if load_unit(out / UNITS, names[task]) is None]
        if lost or load_unit(out / UNITS, view) is None:
            outputs = outputs_of(method, data, config, shared)
            for task in lost:
                results = [ask(task, o, data, config, before) for o in outputs.found]
                result = combine(results, outputs.seeds) if results else TaskResult()
                save_unit(out / UNITS, names[task], result, compared)
                clock.took(f"{where}: {method.name}, {task}")
            seen = TaskResult(details={"about": method.about}, notes=outputs.notes)
            if outputs.found and outputs.found[0].coverage is not None:
                seen.details["coverage"] = outputs.found[0].coverage
            if method.name in maps and outputs.found and outputs.found[0].cells is not None:
                seen.details["umap"] = umap(outputs.found[0].cells[rows], config.seed)
            save_unit(out / UNITS, view, seen, compared)
            clock.took(f"{where}: {method.name}")
        clock.progress(1, note=f"{where}: {method.name}")
    for about, (name, make) in references(data, config).items():
        if about in tasks:
            unit = unit_name(data, about, name, config)
            if load_unit(out / UNITS, unit) is None:
                save_unit(out / UNITS, unit, make(), compared)
            part.units.setdefault(about, {})[name] = unit
    clock.progress(1, note=f"{where}: references")
    return part


def _notes_of_all(parts: Sequence[Part]) -> list[str]:
    names = {name for part in parts for name in part.dataset.split("+")}
    if len(names) > 1:
        return []
    return ["One dataset: nothing here shows how a method does on another laboratory's cells."]
