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

__all__ = ["combine", "load_unit", "plain", "save_unit", "unit_name"]

VERSION = 1
"""Raised by hand whenever a task gives other numbers than before."""

_BESIDE = {"tasks", "allow_named_types"}


def unit_name(data: EvalData, task: str, identity: str, config: EvaluateConfig) -> str:
    """Return the file name of a unit."""
    key = {
        "version": VERSION,
        "data": data.sha256,
        "split": data.split,
        "task": task,
        "method": identity,
        "config": config.model_dump(mode="json", exclude=_BESIDE),
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
    """Join the results of one method asked with several seeds.

    Values are means. Draws go round the seeds, so that they hold the chance of resampling and that
    of the seed, and give the interval; where a metric has none, the widest bounds stand.
    """
    if len(parts) == 1:
        return parts[0]
    joined = TaskResult(details=parts[0].details, notes=list(dict.fromkeys(_notes(parts))))
    by_metric: dict[str, list[Row]] = {}
    for part in parts:
        for row in part.rows:
            by_metric.setdefault(row.metric, []).append(row)
    for metric, rows in by_metric.items():
        first, value = rows[0], float(np.mean([row.value for row in rows]))
        draws = _round_robin([part.draws[metric] for part in parts if metric in part.draws])
        if draws is None:
            low, high = (
                f(getattr(row, end) for row in rows)
                for f, end in ((min, "ci_low"), (max, "ci_high"))
            )
        else:
            low, high = interval(draws)
            low, high = min(low, value), max(high, value)
        seed = ",".join(map(str, seeds))
        joined.put(Row(first.task, first.method, metric, value, low, high, first.n, seed), draws)
    return joined


def _round_robin(draws: list[NDArray[np.float64]]) -> NDArray[np.float64] | None:
    if not draws or len({len(one) for one in draws}) > 1:
        return None
    stacked = np.stack(draws)
    at = np.arange(stacked.shape[1])
    mixed: NDArray[np.float64] = stacked[at % len(stacked), at]
    return mixed


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
