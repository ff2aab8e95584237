"""From the files of runs to the numbers of the page: ``results/summary.json``."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from grid import MAIN, OTHERS, grid, tuned
from measure import CHECKPOINTS
from paired import Estimate, accuracy, difference, macro_f1, mean_of
from results import Kept, load
from sources import DATA, TestCells, test_cells

from okrcell.artifacts import atomic_write

__all__ = ["summarise"]

ORACLE, OURS = "clean_oracle", "cra_plus"
_SECONDARY = (
    "cell to text, right among 5",
    "text to cell, precision at 10",
    "few-shot, prototype",
    "few-shot, logistic",
)
_DETECTION = ("auroc", "precision", "brier", "ece", "repaired")

Group = tuple[str, str, str, str, float]
"""Text, data set, tower, kind of noise, rate."""


def summarise(work: Path, target: Path) -> dict[str, Any]:
    """Summarise the runs that are done, and write it down."""
    sections = {name: load(work, runs) for name, runs in grid().items()}
    plain = [k for name, kept in sections.items() if name != "ablations" for k in kept]
    groups: dict[Group, dict[str, list[Kept]]] = defaultdict(lambda: defaultdict(list))
    for kept in plain:
        r = kept.run
        groups[r.text, r.data, r.tower, r.kind, r.rate][r.title].append(kept)
    lines, differences = [], {}
    for group, arms in groups.items():
        asked = _asked(work, group)
        for arm, runs in arms.items():
            against = {
                rival: {c: difference(runs, arms[rival], c, asked) for c in CHECKPOINTS}
                for rival in ((ORACLE,) if arm != OURS else arms)
                if rival in arms and rival != arm
            }
            differences[group, arm] = against
            lines.append(_line(group, arm, runs, against, asked))
    found = {
        "tuned": tuned(),
        "done": {name: [len(sections[name]), len(runs)] for name, runs in grid().items()},
        "data": _facts(work, {group[:2] for group in groups}),
        "lines": lines,
        "means": list(_means(differences)),
        "ablations": list(_ablations(sections["ablations"], work)),
        "seconds": _seconds([k for kept in sections.values() for k in kept]),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, json.dumps(found, indent=1) + "\n")
    return found


def _asked(work: Path, group: Group) -> TestCells:
    text, data = group[:2]
    return test_cells(work / "stores" / data, work / "jobs" / f"{data}-{text}")


def _line(
    group: Group,
    arm: str,
    runs: Sequence[Kept],
    against: dict[str, dict[str, Estimate | None]],
    asked: TestCells,
) -> dict[str, Any]:
    """Return everything about one arm at one noise."""
    return {
        **dict(zip(("text", "data", "tower", "kind", "rate"), group, strict=True)),
        "arm": arm,
        "seeds": sorted(kept.run.seed for kept in runs),
        "planted": _mean(_share_planted(kept) for kept in runs),
        "validation": _mean(kept.numbers["validation"]["accuracy"] for kept in runs),
        "best epoch": [kept.numbers["validation"]["epoch"] for kept in runs],
        **{
            checkpoint: {
                "accuracy": accuracy(runs, checkpoint, asked).as_json(),
                "macro_f1": macro_f1(runs, checkpoint, asked).as_json(),
                "over seeds": [100 * kept.numbers[checkpoint]["accuracy"] for kept in runs],
                **{name: _mean(k.numbers[checkpoint][name] for k in runs) for name in _SECONDARY},
            }
            for checkpoint in CHECKPOINTS
        },
        "against": {
            rival: {c: e.as_json() for c, e in of.items() if e is not None}
            for rival, of in against.items()
        },
        "detection": _detection(runs),
    }


def _share_planted(kept: Kept) -> float:
    """Return the share of training pairs whose text was changed."""
    return kept.numbers["noise"].get("mismatched", 0) / kept.numbers["pairs"]


def _detection(runs: Sequence[Kept]) -> dict[str, Any] | None:
    found = [kept.numbers["detection"] for kept in runs if kept.numbers["detection"]]
    if not found:
        return None
    numbers: dict[str, Any] = {}
    for name in _DETECTION:
        values = [one[name] for one in found if one[name] is not None]
        if values:
            numbers[name] = {"value": _mean(values), "low": min(values), "high": max(values)}
    edges = np.linspace(0, 1, 11)
    bins = [
        [b for one in found for b in one["bins"] if low <= min(b["mean"], 0.9999) < high]
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    numbers["bins"] = [
        {
            "n": sum(b["n"] for b in some),
            **{
                name: sum(b["n"] * b[name] for b in some) / sum(b["n"] for b in some)
                for name in ("mean", "clean")
            },
        }
        for some in bins
        if some
    ]
    numbers["roc"] = np.mean([one["roc"] for one in found], axis=0).round(4).tolist()
    return numbers


def _means(
    differences: dict[tuple[Group, str], dict[str, dict[str, Estimate | None]]],
) -> Iterable[dict[str, Any]]:
    """Yield the mean over data sets, at 40 % uniform mismatch, of what an arm has over a rival."""
    for arm in (*MAIN, *OTHERS):
        for rival in (ORACLE, *(MAIN if arm == OURS else ())):
            for checkpoint in CHECKPOINTS:
                found = {
                    group[1]: against[rival][checkpoint]
                    for (group, name), against in differences.items()
                    if name == arm and rival in against and group[2:] == ("mlp", "uniform", 0.4)
                }
                known = {data: e for data, e in found.items() if e is not None}
                if len(known) > 1:
                    yield {
                        "arm": arm, "rival": rival, "checkpoint": checkpoint, "data": sorted(known),
                        **mean_of(list(known.values())).as_json(),
                    }  # fmt: skip


def _ablations(runs: Sequence[Kept], work: Path) -> Iterable[dict[str, Any]]:
    """Yield a line per variant and noise."""
    groups: dict[tuple[str, Group], list[Kept]] = defaultdict(list)
    for kept in runs:
        r = kept.run
        groups[r.title, (r.text, r.data, r.tower, r.kind, r.rate)].append(kept)
    whole = {group: found for (title, group), found in groups.items() if title == f"{OURS}: all"}
    for (title, group), found in groups.items():
        asked = _asked(work, group)
        rivals = {ORACLE: {}}
        if group in whole and title.startswith(OURS):
            of = {c: difference(found, whole[group], c, asked) for c in CHECKPOINTS}
            rivals = {f"{OURS}: all": of}
        line = _line(group, title, found, {k: v for k, v in rivals.items() if v}, asked)
        suites = [kept.numbers["suite"] for kept in found if "suite" in kept.numbers]
        line["suite"] = {
            name: {"value": _mean(values), "low": min(values), "high": max(values)}
            for name in (suites[0] if suites else ())
            if (values := [suite[name] for suite in suites if name in suite])
        }
        yield line


def _facts(work: Path, used: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return what each data set is: types, cells and donors of each split."""
    from okrcell.corpus.cells import load_cells, load_profiles

    facts = []
    for data in DATA:
        if not any(data == other for _, other in used):
            continue
        store = work / "stores" / data
        term = {
            row["profile_id"]: row["cell_type_ontology_term_id"]
            for row in load_profiles(store).to_pylist()
        }
        rows = [row for row in load_cells(store).to_pylist() if term[row["profile_id"]]]
        splits = {
            split: {
                "cells": sum(row["split"] == split for row in rows),
                "donors": len(
                    {row["donor"] for row in rows if row["split"] == split and row["donor"]}
                ),
            }
            for split in ("train", "validation", "test")
        }
        n_types = len({term[row["profile_id"]] for row in rows})
        facts.append({"data": data, "types": n_types, "splits": splits})
    return facts


def _seconds(runs: Sequence[Kept]) -> dict[str, float]:
    """Return the median seconds of a run by data set and tower, and hours of all."""
    each: dict[str, list[float]] = defaultdict(list)
    for kept in runs:
        each[f"{kept.run.data}, {kept.run.tower}"].append(kept.numbers["seconds"]["all"])
    medians = {name: float(np.median(values)) for name, values in each.items()}
    return medians | {"hours": sum(sum(values) for values in each.values()) / 3600}


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
