"""The tables of a report, as data: the page and the CSV files are made of the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from okrcell.evaluate.report_data import Dataset, Evaluation, slug, split_words
from okrcell.evaluate.report_listings import Listing, candidate_table, per_class_table
from okrcell.evaluate.report_names import METRIC_NAMES, metric_name, scope_name
from okrcell.evaluate.summary import (
    REFERENCES,
    cell_of,
    clear_best,
    headline,
)

__all__ = [
    "Values",
    "dataset_summaries",
    "summary_table",
    "task_tables",
]

_FLAT = frozenset({"batch", "few_shot", "robustness"})
"""Tasks whose metrics stand in one table; those of the others are grouped by their scope."""


@dataclass(frozen=True)
class Values:
    """Metrics down, methods across.

    Attributes
    ----------
    name
        For files.
    rows
        ``metric``, ``task`` (empty where the table is of one), ``n``, ``seeds``, ``values`` (method
        to value, low, high), ``best``.
    of
        How many datasets a value is the mean over; 1 for none.
    """

    name: str
    caption: str
    methods: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    of: int = 1
    is_values: bool = True

    def records(self) -> list[list[str]]:
        """Return header and rows for a CSV file."""
        head = ["task", "metric", "n", "seeds"]
        for name in self.methods:
            head += [name, f"{name} low", f"{name} high"]
            head += [f"{name} datasets", f"{name} wins"] if self.of > 1 else []
        found = [[*head, "best"]]
        for row in self.rows:
            line = [row["task"], row["metric"], str(row["n"]), row["seeds"]]
            for name in self.methods:
                cell = row["values"].get(name)
                line += [plain_number(cell, key) for key in ("value", "low", "high")]
                if self.of > 1:
                    line += [str(cell[key]) if cell else "" for key in ("datasets", "wins")]
            found.append([*line, row["best"] or ""])
        return found


def plain_number(cell: Mapping[str, Any] | None, key: str) -> str:
    """Return a value with three digits and an interval with two, as the page shows them."""
    if cell is None or cell[key] is None or cell["value"] is None:
        return ""
    if key != "value" and cell["low"] == cell["high"]:
        return ""
    if abs(cell["value"]) > 1:
        return f"{cell[key]:z.1f}"
    return f"{cell[key]:z.3f}" if key == "value" else f"{cell[key]:z.2f}"


def summary_table(ev: Evaluation) -> Values:
    """Return the headline numbers; over several datasets their means."""
    base = {dataset.key for dataset in ev.datasets}
    rows = [row for row in ev.rows if row["dataset"] in base]
    lines = headline(rows, ev.comparisons, ev.main)
    return _of_lines(ev, "summary", "", lines, rows, len({row["dataset"] for row in rows}))


def dataset_summaries(ev: Evaluation) -> list[tuple[Dataset, Values]]:
    """Return the headline numbers of each dataset."""
    found = []
    for position, dataset in enumerate(ev.datasets, 1):
        rows = [row for row in ev.rows if row["dataset"] == dataset.key]
        lines = headline(rows, ev.comparisons, ev.main)
        name = f"summary-{position}-{slug(dataset.key)}"
        found.append((dataset, _of_lines(ev, name, "", lines, rows, 1)))
    return found


def _of_lines(
    ev: Evaluation,
    name: str,
    caption: str,
    lines: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    of: int,
) -> Values:
    present = {method for line in lines for method in line["values"]}
    return Values(
        name,
        caption,
        [method for method in ev.methods if method in present],
        [
            {
                "task": line["task_name"],
                "metric": line["metric_name"],
                "n": max(cell["n"] for cell in line["values"].values()),
                "seeds": _seeds(
                    row["seed"]
                    for row in rows
                    if (row["task"], row["metric"]) == (line["task"], line["metric"])
                ),
                "values": line["values"],
                "best": line["best"],
            }
            for line in lines
        ],
        of,
    )


def task_tables(ev: Evaluation, task: str, dataset: Dataset, number: int) -> list[Values | Listing]:
    """Return all tables of a task on one dataset, its further splits last."""
    found: list[Values | Listing] = []
    for key, entry in ((dataset.key, dataset.entry), *dataset.splits):
        split = f"split {split_words(entry)}" if dataset.splits and task == "annotation" else ""
        found.extend(_groups(ev, task, key, number, split))
    if task == "annotation":
        found.extend(per_class_table(ev, dataset, number))
    if task == "zero_shot":
        found.extend(candidate_table(dataset, number))
    return found


def _groups(ev: Evaluation, task: str, key: str, number: int, split: str) -> list[Values]:
    mine = ev.of(key, task)
    groups: dict[str, list[dict[str, Any]]] = {}
    for metric in dict.fromkeys(row["metric"] for row in mine):
        asked = [row for row in mine if row["metric"] == metric]
        values = {row["method"]: cell_of(row) for row in asked}
        base, _, scope = metric.partition(" (")
        group = scope.rstrip(")") if task not in _FLAT else ""
        groups.setdefault(group, []).append(
            {
                "task": "",
                "metric": METRIC_NAMES.get(base, base) if group else metric_name(metric),
                "n": max(cell["n"] for cell in values.values()),
                "seeds": _seeds(row["seed"] for row in asked),
                "values": values,
                "best": clear_best(metric, values, ev.decided.get((key, task, metric))),
            }
        )
    tables = []
    for group, part in groups.items():
        present = {name for row in part for name in row["values"]}
        words = scope_name(group)
        words = words if words == "kNN" else words[:1].upper() + words[1:]
        methods = [name for name in (*ev.methods, *sorted(REFERENCES)) if name in present]
        caption = "; ".join(part for part in (words, split) if part)
        stem = "-".join(
            filter(None, (slug(task), str(number), slug(key), slug(group) if group else ""))
        )
        tables.append(Values(stem, caption, methods, part))
    return tables


def _seeds(listed: Iterable[str]) -> str:
    """Return the distinct seeds, ranges joined: ``0-4``."""
    parts = {part.strip() for text in listed for part in text.split(",") if part.strip()}
    numbers = sorted(int(part) for part in parts if part.isdigit())
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [f"{a}" if a == b else f"{a}, {b}" if b == a + 1 else f"{a}–{b}" for a, b in runs]
    return ", ".join([*words, *sorted(part for part in parts if not part.isdigit())])
