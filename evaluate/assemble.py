"""From finished units to the folder that is read: results, comparisons, details, manifest last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from okrcell.artifacts import atomic_write, commit, invalidate, read_manifest, writing
from okrcell.errors import ConfigError, ManifestError
from okrcell.evaluate.compare import compare_pairs, to_comparisons
from okrcell.evaluate.config import TASKS
from okrcell.evaluate.folder import COMPARISONS, DETAILS, KIND, RESULTS, UNITS
from okrcell.evaluate.rows import Row, TaskResult, to_table
from okrcell.evaluate.summary import compared_metrics
from okrcell.evaluate.units import BESIDE, load_unit, plain
from okrcell.schemas import write_table

__all__ = ["Part", "assemble", "merge"]

_OWN_NAMES = frozenset({"majority", "reference"})


@dataclass
class Part:
    """One dataset under one split.

    Attributes
    ----------
    card
        What the report says of the data.
    units
        Task to method to file of the unit.
    views
        Method to file of its view: what it is on these data, and its UMAP.
    """

    dataset: str
    split: str
    is_first: bool
    sha256: str
    card: dict[str, Any]
    units: dict[str, dict[str, str]] = field(default_factory=dict)
    views: dict[str, str] = field(default_factory=dict)
    examples: list[Any] = field(default_factory=list)
    umap: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Name in the results: with the split for all but the first."""
        return self.dataset if self.is_first else f"{self.dataset}/{self.split}"


def assemble(
    out: Path,
    parts: Sequence[Part],
    methods: Sequence[Mapping[str, str]],
    asked: Sequence[str],
    checkpoints: Mapping[str, Any],
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Write all files of the folder but the units, which are there; return the manifest's facts.

    Parameters
    ----------
    methods
        ``name``, ``about`` and ``identity`` of each, in the order of the report.
    """
    rows: list[tuple[str, str, Row]] = []
    pairs: list[dict[str, Any]] = []
    described, used, said = [], set(), list(notes)
    wanted: dict[str, list[str]] = {}
    for task, metric in compared_metrics():
        wanted.setdefault(task, []).append(metric)
    for part in parts:
        tasks: dict[str, Any] = {}
        local: list[str] = list(part.notes)
        for task in [task for task in TASKS if task in part.units]:
            results: dict[str, TaskResult] = {}
            for method, name in part.units[task].items():
                result = _loaded(out, name)
                if method not in _OWN_NAMES:
                    result.rows = [replace(row, method=method) for row in result.rows]
                results[method] = result
                used.add(name)
                local += result.notes
            _drop_lonely(results)
            for result in results.values():
                rows += [(part.label, part.sha256, row) for row in result.rows]
            tasks[task] = {
                name: result.details for name, result in results.items() if result.details
            }
            pairs += compare_pairs(part.label, task, results, wanted.get(task, ()))
        card, points = dict(part.card), {}
        for method, name in part.views.items():
            view = _loaded(out, name)
            used.add(name)
            local += view.notes
            if view.details.get("coverage") is not None:
                card.setdefault("gene_coverage", {})[method] = view.details["coverage"]
            if view.details.get("umap"):
                points[method] = view.details["umap"]
        described.append(
            {
                "dataset": part.dataset,
                "split": part.split,
                "label": part.label,
                "data": card,
                "tasks": tasks,
                "examples": part.examples,
                "notes": list(dict.fromkeys(local)),
                "units": part.units,
                "views": part.views,
                **({"umap": {**part.umap, "methods": points}} if points else {}),
            }
        )
        said += local
    shas = {name: card["sha256"] for name, card in checkpoints.items()}
    invalidate(out)
    n_rows = write_table(out / RESULTS, "results", to_table(rows, shas))
    n_pairs = write_table(out / COMPARISONS, "comparisons", to_comparisons(pairs))
    details = {
        "methods": [dict(method) for method in methods],
        "asked": list(asked),
        "checkpoints": dict(checkpoints),
        "datasets": described,
        "notes": list(dict.fromkeys(said)),
    }
    atomic_write(out / DETAILS, json.dumps(plain(details), indent=1, sort_keys=True) + "\n")
    facts = {
        "datasets": [part.label for part in parts],
        "methods": [method["name"] for method in methods],
        "n_test": sum(int(part.card["n_test"]) for part in parts if part.is_first),
        "tasks": [task for task in TASKS if any(task in part.units for part in parts)],
        "notes": details["notes"],
    }
    files: dict[str, int | None] = {RESULTS: n_rows, COMPARISONS: n_pairs, DETAILS: None}
    files |= {f"{UNITS}/{name}": None for name in sorted(used)}
    commit(out, KIND, config=config, inputs=inputs, files=files, facts=facts)
    return facts


def _drop_lonely(results: Mapping[str, TaskResult]) -> None:
    """Leave out floors of metrics that no method has: of fine-tuning, where nothing was fine-tuned."""
    asked = {
        row.metric
        for name, result in results.items()
        if name not in _OWN_NAMES
        for row in result.rows
    }
    if "majority" in results:
        floor = results["majority"]
        floor.rows = [row for row in floor.rows if row.metric in asked]


def merge(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Put finished evaluations beside each other, as if they had been one; nothing is computed anew.

    Datasets are the same where their content is. A method that two folders have under one name
    stays one where its identity is the same, else the later one gets the folder's name behind it.

    Raises
    ------
    ManifestError
        A folder is not a finished evaluation.
    ConfigError
        Folders whose keys differ: their resamples are not the same, so nothing can be paired.
    """
    parts: dict[tuple[str, str, str], Part] = {}
    methods: dict[str, dict[str, str]] = {}
    checkpoints: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    asked: list[str] = []
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise ConfigError(
            f"--out {out}",
            found="one of the evaluations that are compared",
            expected="another folder",
            fix="Choose a new folder for the comparison.",
        )
    read = [(folder, read_manifest(folder, KIND)) for folder in folders]
    for folder, manifest in read:
        _check_keys(manifest.config, read[0][1].config, folder, folders[0])
    first_config = _compared_keys(read[0][1].config)
    with writing(out, KIND):
        for folder, manifest in read:
            details = json.loads((folder / DETAILS).read_text(encoding="utf-8"))
            names = _names(details, methods, folder)
            for entry in details["methods"]:
                name = names[entry["name"]]
                methods.setdefault(name, {**entry, "name": name})
                if entry["name"] in details["checkpoints"]:
                    checkpoints.setdefault(name, details["checkpoints"][entry["name"]])
            asked += [names[name] for name in details["asked"] if names[name] not in asked]
            inputs[f"evaluation {len(inputs) + 1}, {folder.name}"] = manifest.fingerprint
            for entry in details["datasets"]:
                _take(entry, names, parts, folder, out)
        ordered = [*asked, *(name for name in methods if name not in asked)]
        return assemble(
            out,
            list(parts.values()),
            [methods[name] for name in ordered],
            asked,
            checkpoints,
            config=first_config,
            inputs=inputs,
            notes=[],
        )


def _compared_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in BESIDE}


def _check_keys(
    config: Mapping[str, Any], other: Mapping[str, Any], folder: Path, first: Path
) -> None:
    mine, theirs = _compared_keys(config), _compared_keys(other)
    differ = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
    if differ:
        raise ConfigError(
            f"evaluation {folder}",
            found=f"other values of {', '.join(differ)} than in {first}",
            expected="evaluations with the same keys: their resamples must be the same",
            fix="Evaluate again with one configuration.",
        )


def _names(
    details: Mapping[str, Any], known: Mapping[str, Mapping[str, str]], folder: Path
) -> dict[str, str]:
    names: dict[str, str] = {}
    for entry in details["methods"]:
        base, number = entry["name"], 1
        name = base
        while name in known and known[name].get("identity") != entry.get("identity"):
            where = folder.resolve().name
            name = f"{base} ({where})" if number == 1 else f"{base} ({where} {number})"
            number += 1
        names[base] = name
    return names


def _take(
    entry: Mapping[str, Any],
    names: Mapping[str, str],
    parts: dict[tuple[str, str, str], Part],
    folder: Path,
    out: Path,
) -> None:
    """Add one dataset of a folder, and copy its units."""
    sha256 = str(entry["data"]["sha256"])
    key = (entry["dataset"], entry["split"], sha256)
    if key not in parts:
        same = [k for k in parts if k[0] == key[0] and k[2] != sha256 and k[1] == key[1]]
        if same:
            raise ConfigError(
                f"evaluation {folder}",
                found=f"other cells or labels under the name {entry['dataset']} than before",
                expected="one content for one name",
                fix="Evaluate both on the same file, or give the data another name.",
            )
        card = {k: v for k, v in entry["data"].items() if k != "gene_coverage"}
        parts[key] = Part(
            entry["dataset"],
            entry["split"],
            "/" not in entry["label"],
            sha256,
            card,
            examples=entry["examples"],
            umap={k: v for k, v in entry.get("umap", {}).items() if k != "methods"},
        )
    part = parts[key]
    if not part.umap:
        part.umap = {k: v for k, v in entry.get("umap", {}).items() if k != "methods"}
    for task, units in entry["units"].items():
        for method, name in units.items():
            part.units.setdefault(task, {})[names.get(method, method)] = name
            _copy(folder, out, name)
    for method, name in entry["views"].items():
        part.views[names.get(method, method)] = name
        _copy(folder, out, name)


def _copy(folder: Path, out: Path, name: str) -> None:
    target = out / UNITS / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, (folder / UNITS / name).read_bytes())


def _loaded(out: Path, name: str) -> TaskResult:
    result = load_unit(out / UNITS, name)
    if result is None:
        raise ManifestError(
            out / UNITS / name,
            found="a piece of the evaluation that is gone or damaged",
            expected="the file as it was written",
            fix="Run `okrcell evaluate run` again: it computes what is missing.",
        )
    return result
