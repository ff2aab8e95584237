"""Finished pieces of an evaluation, one file each: a task, a method, a dataset under one split.

A file's name is the hash of all that its content depends on, so a run that was killed continues, and
one with a further method computes that method alone.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from okrcell.artifacts import atomic_write
from okrcell.config import fingerprint
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.intervals import interval
from okrcell.evaluate.rows import Row, TaskResult

__all__ = ["BESIDE", "combine", "load_unit", "plain", "save_unit", "unit_name"]

VERSION = 2
"""Raised by hand whenever a task gives other numbers than before."""

_FEW = 100
BESIDE = {"tasks", "allow_named_types"}


def unit_name(data: EvalData, task: str, identity: str, config: EvaluateConfig) -> str:
    """Return the file name of a unit."""
    key = {
        "version": VERSION,
        "data": data.sha256,
        "split": data.split,
        "task": task,
        "method": identity,
        "config": config.model_dump(mode="json", exclude=BESIDE),
    }
    return f"{task}-{fingerprint(key)[:24]}.json"


def save_unit(folder: Path, name: str, result: TaskResult, compared: Collection[str]) -> None:
    """Write a unit; draws are kept for the metrics in ``compared``, as float32."""
    content = {
        "rows": [asdict(row) for row in result.rows],
        "draws": {
            metric: base64.b64encode(draws.astype("<f4").tobytes()).decode()
            for metric, draws in sorted(result.draws.items())
            if metric in compared
        },
        "units": {m: n for m, n in sorted(result.units.items()) if m in compared},
        "details": result.details,
        "notes": result.notes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / name, json.dumps(plain(content), indent=0, sort_keys=True) + "\n")


def load_unit(folder: Path, name: str) -> TaskResult | None:
    """Read a unit; None where it is not there, or is not whole."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        return TaskResult(
            rows=[Row(**{**row, **_numbers(row)}) for row in content["rows"]],
            draws={
                metric: np.frombuffer(base64.b64decode(draws), "<f4").astype(np.float64)
                for metric, draws in content["draws"].items()
            },
            units={metric: int(n) for metric, n in content["units"].items()},
            details=content["details"],
            notes=content["notes"],
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {
        key: float("nan") if row[key] is None else float(row[key])
        for key in ("value", "ci_low", "ci_high")
    }


def combine(parts: list[TaskResult], seeds: list[int]) -> TaskResult:
    """Join the results of one method asked with several seeds: values are means over them.

    The draws of the mean hold both kinds of chance: they are the mean of the seeds' draws, plus the
    standard error of a mean over these seeds, drawn at random and widened by Student's t. Few draws
    (the jackknife of the batch task) are stretched to the joint standard error instead. A metric that
    some seeds lack is the mean of those that have it.
    """
    if len(parts) == 1:
        return parts[0]
    joined = TaskResult(details=parts[0].details, notes=list(dict.fromkeys(_notes(parts))))
    found: dict[str, list[tuple[int, TaskResult, Row]]] = {}
    for seed, part in zip(seeds, parts, strict=True):
        for row in part.rows:
            found.setdefault(row.metric, []).append((seed, part, row))
    for metric, entries in found.items():
        rows = [row for _, _, row in entries]
        first, values = rows[0], np.asarray([row.value for row in rows])
        value = float(values.mean())
        draws = [part.draws[metric] for _, part, _ in entries if metric in part.draws]
        mixed = _mixed(values, draws, metric)
        if mixed is None:
            low, high = min(row.ci_low for row in rows), max(row.ci_high for row in rows)
        else:
            low, high = _around(value, mixed, rows)
        listed = ",".join(str(seed) for seed, _, _ in entries)
        row = Row(first.task, first.method, metric, value, low, high, first.n, listed)
        joined.put(row, mixed, entries[0][1].units.get(metric))
    return joined


def _mixed(
    values: NDArray[np.float64], draws: list[NDArray[np.float64]], metric: str
) -> NDArray[np.float64] | None:
    """Return the draws of the mean over seeds, or None where not all seeds have as many."""
    from scipy.stats import t

    n = len(values)
    if len(draws) != n or len({len(one) for one in draws}) > 1:
        return None
    inside = np.mean([one - value for one, value in zip(draws, values, strict=True)], axis=0)
    if n == 1:
        return np.asarray(values[0] + inside)
    between = float(values.std(ddof=1)) / math.sqrt(n)
    between *= float(t.ppf(0.975, n - 1)) / 1.96
    if len(inside) < _FEW:
        own = float(np.nanstd(inside, ddof=1))
        stretch = math.hypot(own, between) / own if own > 0 else 1.0
        return np.asarray(values.mean() + inside * stretch)
    rng = np.random.default_rng(list(metric.encode()))
    return np.asarray(values.mean() + inside + between * rng.standard_normal(len(inside)))


def _around(value: float, draws: NDArray[np.float64], rows: list[Row]) -> tuple[float, float]:
    """Return the interval of the mean; within [0, 1] where those of the seeds are."""
    if len(draws) < _FEW:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(draws) - 1) * np.nanstd(draws, ddof=1))
        low, high = value - half, value + half
    else:
        low, high = interval(draws)
        low, high = min(low, value), max(high, value)
    if all(0 <= row.ci_low and row.ci_high <= 1 for row in rows):
        low, high = max(low, 0.0), min(high, 1.0)
    return low, high


def _notes(parts: list[TaskResult]) -> list[str]:
    return [note for part in parts for note in part.notes]


def plain(value: Any) -> Any:
    """Return JSON values: floats rounded, what is not finite as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value
