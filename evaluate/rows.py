"""Rows of the results table, and what a task hands back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from okrcell.evaluate.intervals import Bootstrap, Metric, with_exact_bound
from okrcell.schemas import TABLES

__all__ = ["Row", "TaskResult", "to_table"]


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
    """What a task found for one method.

    Attributes
    ----------
    rows
        For the results table.
    draws
        Metric to float64 [draws], its value on the resamples; the same resamples for every method,
        so that differences between methods can be tested draw by draw. Not every metric has them.
    units
        Metric to how many units (cells, donors, texts) were resampled for its draws.
    details
        For the report; JSON values.
    notes
        What the reader must be told.
    """

    rows: list[Row] = field(default_factory=list)
    draws: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    units: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def measure(self, task: str, method: str, metric: str, of: Metric, boot: Bootstrap) -> None:
        """Add a metric of weights: its value on the cells as they are, and its interval.

        Draws of macro-F1 are centred on the value: types that vanish from a resample raise it.
        """
        value = float(of(np.ones((1, boot.n)))[0])
        draws = boot.apply(of)
        if metric.startswith("macro_f1") and np.isfinite(draws).any():
            draws = np.clip(draws - np.nanmean(draws) + value, 0.0, 1.0)
        low, high = with_exact_bound(value, boot.interval(value, draws), boot.n_units)
        row = Row(task, method, metric, value, low, high, boot.n, str(boot.seed))
        self.put(row, draws, boot.n_units)

    def put(
        self, row: Row, draws: NDArray[np.float64] | None = None, n_units: int | None = None
    ) -> None:
        """Add a row, with its value on the resamples of ``n_units`` units where it has one."""
        self.rows.append(row)
        if draws is not None:
            self.draws[row.metric] = draws
            self.units[row.metric] = row.n if n_units is None else n_units


def to_table(rows: Sequence[tuple[str, str, Row]], checkpoints: dict[str, str]) -> pa.Table:
    """Return the results table of (dataset, sha256 of the data, row).

    ``checkpoints`` maps methods to the sha256 of what they were read from. ``seconds`` stays empty:
    the table must not depend on the clock. The times of a run are kept beside it in
    ``timings.json``.
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
                "checkpoint_sha256": checkpoints.get(row.method, ""),
            }
            for dataset, data_sha256, row in rows
        ],
        schema=TABLES["results"].schema,
    )
