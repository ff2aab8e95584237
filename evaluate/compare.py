"""Paired tests between methods: the same resamples, subtracted draw by draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from okrcell.evaluate.intervals import standard_error
from okrcell.evaluate.rows import TaskResult
from okrcell.schemas import TABLES

__all__ = ["compare_pairs", "holm", "paired_p", "to_comparisons"]

_NOT_TESTED = frozenset({"duplicate ceiling", "chance", "reference", "majority", "random"})
"""Bounds and floors stand beside every number; testing against them would only add comparisons."""


def compare_pairs(
    dataset: str, task: str, results: Mapping[str, TaskResult], metrics: Iterable[str]
) -> list[dict[str, Any]]:
    """Return one entry per metric and pair of methods that both have draws of it.

    ``p_adjusted`` is left out here: it depends on all data, see :func:`to_comparisons`.
    """
    found = []
    for metric in metrics:
        known = {
            name: ({row.metric: row for row in result.rows}.get(metric), result.draws[metric])
            for name, result in results.items()
            if metric in result.draws and name not in _NOT_TESTED
        }
        names = [name for name, (row, _) in known.items() if row is not None]
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                (a, draws_a), (b, draws_b) = known[first], known[second]
                assert a is not None
                assert b is not None
                if len(draws_a) != len(draws_b) or a.n != b.n:
                    continue
                difference = a.value - b.value
                units = min(results[name].units.get(metric, a.n) for name in (first, second))
                p, half = paired_p(
                    difference, draws_a - draws_b, units, is_jackknife=task == "batch"
                )
                found.append(
                    {
                        "dataset": dataset,
                        "task": task,
                        "metric": metric,
                        "method_a": first,
                        "method_b": second,
                        "difference": difference,
                        "ci_low": difference - half,
                        "ci_high": difference + half,
                        "p": p,
                        "n": a.n,
                    }
                )
    return found


def paired_p(
    difference: float, draws: NDArray[np.float64], n_units: int, *, is_jackknife: bool = False
) -> tuple[float, float]:
    """Return a two-sided p value and the half width of the 95 % interval of a difference.

    The differences over the resamples tell their standard error; the ratio is held against Student's
    t with the degrees of freedom of ``n_units`` (cells, donors or texts), or of the subsamples of a
    jackknife. Where the draws do not vary, the two methods differ by the same amount on every
    resample: p is then that of a sign test over units that all point one way, or 1 where there is no
    difference.
    """
    from scipy.stats import t

    defined = draws[np.isfinite(draws)]
    if not math.isfinite(difference) or len(defined) < 2 or n_units < 2:
        return float("nan"), float("nan")
    if is_jackknife:
        error, freedom = float(defined.std(ddof=1)), len(defined) - 1
    else:
        error, freedom = standard_error(draws, n_units), min(len(defined), n_units) - 1
    if error < 1e-12:
        return (1.0 if abs(difference) < 1e-12 else 2.0 * 0.5 ** min(n_units, 1000)), 0.0
    half = float(t.ppf(0.975, freedom)) * error
    return float(2 * t.sf(abs(difference) / error, freedom)), half


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's method; those that are not defined stay so.

    Valid under any dependence between the tests.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return [float(value) for value in adjusted]


def to_comparisons(pairs: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the table ``comparisons``; the correction is over all pairs and data of one metric."""
    rows = [dict(pair) for pair in pairs]
    families: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(rows):
        families.setdefault((row["task"], row["metric"]), []).append(number)
    for members in families.values():
        for number, value in zip(members, holm([rows[i]["p"] for i in members]), strict=True):
            rows[number]["p_adjusted"] = value
    for row in rows:
        for key in ("difference", "ci_low", "ci_high", "p", "p_adjusted"):
            row[key] = float(f"{row[key]:.9g}") if math.isfinite(row[key]) else None
    return pa.Table.from_pylist(rows, schema=TABLES["comparisons"].schema)
