"""Rows of the results table, and what a task hands back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from okrcell.evaluate.intervals import Bootstrap, Metric, interval
from okrcell.schemas import TABLES

__all__ = ["Row", "TaskResult", "measured", "to_table"]


@dataclass(frozen=True)
class Row:
    """One number: value, 95 % interval (NaN where none can be given), cells behind it, seeds."""

    task: str
    method: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int
    seed: str


@dataclass
class TaskResult:
    """Rows for the results table, details for the report, and what the reader must be told."""

    rows: list[Row] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def measured(task: str, method: str, metric: str, of: Metric, boot: Bootstrap) -> Row:
    """Return the row of a metric of weights: its value on the cells as they are, and its interval."""
    value = float(of(np.ones((1, boot.n)))[0])
    low, high = interval(boot.apply(of))
    if low == high == value and value in {0.0, 1.0}:
        # Resampling cannot see what never happened: the exact binomial bound can.
        units = boot.n if boot.donors is None else len(np.unique(boot.donors))
        reach = 1 - 0.025 ** (1 / units)
        low, high = (0.0, reach) if value == 0.0 else (1 - reach, 1.0)
    return Row(task, method, metric, value, low, high, boot.n, str(boot.seed))


def to_table(rows: Sequence[Row], dataset: str, data_sha256: str, runs: dict[str, str]) -> pa.Table:
    """Return the results table; ``runs`` maps methods to the sha256 of their checkpoint.

    ``seconds`` stays empty: the table must not depend on the clock. The times of a run are kept
    beside it in ``timings.json``.
    """

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return pa.Table.from_pylist(
        [
            {
                "dataset": dataset,
                "task": row.task,
                "method": row.method,
                "metric": row.metric,
                "value": number(row.value),
                "ci_low": number(row.ci_low),
                "ci_high": number(row.ci_high),
                "n": row.n,
                "seed": row.seed,
                "seconds": None,
                "data_sha256": data_sha256,
                "checkpoint_sha256": runs.get(row.method, ""),
            }
            for row in rows
        ],
        schema=TABLES["results"].schema,
    )
