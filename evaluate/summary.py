"""Results in numbers for people: headline lines, names, and who is clearly ahead of whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from okrcell.evaluate.folder import COMPARISONS, RESULTS
from okrcell.evaluate.report_names import METRIC_NAMES, TASK_NAMES, metric_name
from okrcell.schemas import read_table

__all__ = [
    "METRIC_NAMES",
    "TASK_NAMES",
    "clear_best",
    "compare",
    "compared_metrics",
    "decisions",
    "format_value",
    "headline",
    "is_lower_better",
    "load_comparisons",
    "load_results",
    "metric_name",
    "no_rivals",
]

Cell = Mapping[str, Any]
Row = Mapping[str, Any]
Decided = Mapping[tuple[str, str], int]
"""(method a, method b) to 1 where a is clearly better, -1 where it is clearly worse, 0 for neither."""

_HEADLINE = (
    ("clustering", "avg_bio (label-free)"),
    ("clustering", "ari (best)"),
    ("clustering", "ami (best)"),
    ("annotation", "accuracy (chosen)"),
    ("annotation", "macro_f1 (chosen)"),
    ("annotation", "accuracy (linear)"),
    ("annotation", "accuracy (fine-tuned)"),
    ("batch", "avg_bio_b"),
    ("batch", "avg_batch"),
    ("few_shot", "accuracy (prototype, K=1)"),
    ("few_shot", "accuracy (prototype, K=5)"),
    ("few_shot", "accuracy (prototype, K=9)"),
    ("zero_shot", "accuracy (seen)"),
    ("zero_shot", "accuracy (unseen)"),
    ("zero_shot", "macro_f1 (all)"),
    ("retrieval", "R@1 (cell to text, graded)"),
    ("retrieval", "R@1 (text to cell, graded)"),
    ("retrieval", "R@10 (cell to text, strict)"),
)
REFERENCES = frozenset({"duplicate ceiling", "chance"})
_MIXING = frozenset(
    {"avg_batch", "silhouette_batch", "graph_connectivity", "pcr_comparison", "ilisi", "kbet"}
)
_LOWER = ("median_rank", "ece")
_ALPHA = 0.05


def compared_metrics() -> list[tuple[str, str]]:
    """Return the headline metrics, (task, metric): those for which methods are tested in pairs."""
    return list(_HEADLINE)


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of an evaluation's results table."""
    rows: list[dict[str, Any]] = read_table(folder / RESULTS, "results").to_pylist()
    return rows


def load_comparisons(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of an evaluation's paired tests; none where it holds no such table."""
    path = folder / COMPARISONS
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = read_table(path, "comparisons").to_pylist()
    return rows


def is_lower_better(metric: str) -> bool:
    """Whether small values are good."""
    return metric.startswith(_LOWER)


def format_value(cell: Cell | None) -> str:
    """Return ``0.712 [0.66, 0.77]``, or a dash."""
    if cell is None or cell["value"] is None:
        return "–"
    if cell["low"] is None or cell["high"] is None or cell["low"] == cell["high"]:
        return f"{cell['value']:z.3f}"
    return f"{cell['value']:z.3f} [{cell['low']:z.2f}, {cell['high']:z.2f}]"


def cell_of(row: Row) -> dict[str, Any]:
    """Return the value, the interval and the number of cells of a row of results."""
    return {
        "value": row["value"],
        "low": row["ci_low"],
        "high": row["ci_high"],
        "n": row["n"],
    }


def decisions(comparisons: Sequence[Row]) -> dict[tuple[str, str, str], dict[tuple[str, str], int]]:
    """Return what the paired tests decide, by (dataset, task, metric), both ways round.

    A difference counts where its p, corrected by Holm, is below 0.05.
    """
    found: dict[tuple[str, str, str], dict[tuple[str, str], int]] = {}
    for row in comparisons:
        p, difference = row["p_adjusted"], row["difference"]
        sign = 0
        if p is not None and difference and p < _ALPHA:
            sign = 1 if (difference > 0) != is_lower_better(row["metric"]) else -1
        mine = found.setdefault((row["dataset"], row["task"], row["metric"]), {})
        mine[row["method_a"], row["method_b"]] = sign
        mine[row["method_b"], row["method_a"]] = -sign
    return found


def headline(
    rows: Sequence[Row], comparisons: Sequence[Row] | None = None, main: str | None = None
) -> list[dict[str, Any]]:
    """Return one line per headline number that was measured, with the values of all methods.

    With several datasets a value is the mean over those on which the method was measured
    (``datasets`` says how many, ``wins`` on how many it is clearly the best); it has no interval.
    Further splits of a dataset (``NAME/SPLIT``) do not enter the mean. ``best`` is the method that
    is clearly the best; over several datasets: the one with the highest mean, if it was measured on
    all of them and is clearly the best on more than half. ``main`` is listed first.
    """
    names = base_datasets(rows)
    decided = decisions(comparisons or ())
    lines = []
    for task, metric in _HEADLINE:
        per_dataset: dict[str, dict[str, dict[str, Any]]] = {}
        for row in rows:
            name = row.get("dataset", "")
            if row["task"] == task and row["metric"] == metric and name in names:
                per_dataset.setdefault(name, {})[row["method"]] = cell_of(row)
        if not per_dataset:
            continue
        winners = {
            name: clear_best(metric, values, decided.get((name, task, metric)))
            for name, values in per_dataset.items()
        }
        if len(names) == 1:
            ((name, values),) = per_dataset.items()
            best = winners[name]
        else:
            values, best = _over_datasets(metric, per_dataset, winners)
        if main in values:
            values = {str(main): values[str(main)], **values}
        lines.append(
            {
                "task": task,
                "task_name": TASK_NAMES[task],
                "metric": metric,
                "metric_name": metric_name(metric),
                "values": values,
                "best": best,
            }
        )
    return lines


def base_datasets(rows: Sequence[Row]) -> list[str]:
    """Return the names of the datasets, without further splits of the same data (``NAME/SPLIT``)."""
    names = list(dict.fromkeys(row.get("dataset", "") for row in rows))
    known = set(names)

    def is_split(name: str) -> bool:
        return any(name[:i] in known for i, sign in enumerate(name) if sign == "/")

    return [name for name in names if not is_split(name)]


def _over_datasets(
    metric: str,
    per_dataset: Mapping[str, Mapping[str, Cell]],
    winners: Mapping[str, str | None],
) -> tuple[dict[str, dict[str, Any]], str | None]:
    methods = dict.fromkeys(name for values in per_dataset.values() for name in values)
    means: dict[str, dict[str, Any]] = {}
    for method in methods:
        known = [
            values[method]
            for values in per_dataset.values()
            if method in values and values[method]["value"] is not None
        ]
        means[method] = {
            "value": sum(cell["value"] for cell in known) / len(known) if known else None,
            "low": None,
            "high": None,
            "n": sum(cell["n"] for cell in known),
            "datasets": len(known),
            "wins": sum(winner == method for winner in winners.values()),
        }
    n = len(per_dataset)
    rivals = [
        name
        for name, cell in means.items()
        if cell["datasets"] == n and name not in no_rivals(metric)
    ]
    sign = -1 if is_lower_better(metric) else 1
    best = max(rivals, key=lambda name: sign * means[name]["value"], default=None)
    is_clear = best is not None and means[best]["wins"] * 2 > n
    return means, best if is_clear else None


def no_rivals(metric: str) -> frozenset[str]:
    """Return the methods that a metric's winner need not beat.

    Ceilings and chance are references; random vectors mix batches perfectly and know nothing else.
    """
    return REFERENCES | {"random"} if metric in _MIXING else REFERENCES


def compare(
    metric: str, values: Mapping[str, Cell], a: str, b: str, decided: Decided | None = None
) -> int | None:
    """Return 1 where ``a`` is clearly better than ``b``, -1 where it is clearly worse, else 0.

    By the paired test where there is one; else by intervals that do not overlap. None where either
    was not measured.
    """
    mine, theirs = values.get(a), values.get(b)
    if not mine or not theirs or mine["value"] is None or theirs["value"] is None:
        return None
    if decided and (a, b) in decided:
        return decided[a, b]
    low_a, high_a = _ends(mine)
    low_b, high_b = _ends(theirs)
    sign = -1 if is_lower_better(metric) else 1
    return sign * (int(low_a > high_b) - int(low_b > high_a))


def _ends(cell: Cell) -> tuple[float, float]:
    ends = [cell[key] if cell[key] is not None else cell["value"] for key in ("low", "high")]
    return min(ends), max(ends)


def clear_best(
    metric: str, values: Mapping[str, Cell], decided: Decided | None = None
) -> str | None:
    """Return the method that is clearly better than every rival, else None."""
    rivals = [
        name
        for name, cell in values.items()
        if name not in no_rivals(metric) and cell["value"] is not None
    ]
    if len(rivals) < 2:
        return None
    sign = -1 if is_lower_better(metric) else 1
    best = max(rivals, key=lambda name: sign * values[name]["value"])
    others = [name for name in rivals if name != best]
    wins = all(compare(metric, values, best, name, decided) == 1 for name in others)
    return best if wins else None
