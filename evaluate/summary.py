"""Results in words: headline numbers, who is ahead beyond the intervals, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from okrcell.evaluate.run import MAIN, RESULTS
from okrcell.schemas import read_table

__all__ = [
    "METRIC_NAMES",
    "TASK_NAMES",
    "clear_best",
    "format_value",
    "headline",
    "load_results",
    "metric_name",
    "verdict",
]

Cell = Mapping[str, Any]

TASK_NAMES = {
    "clustering": "Clustering",
    "annotation": "Annotation",
    "batch": "Batch correction",
    "few_shot": "Few-shot annotation",
    "zero_shot": "Zero-shot annotation",
    "retrieval": "Retrieval",
}

METRIC_NAMES = {
    "ari": "ARI",
    "ami": "AMI",
    "nmi": "NMI",
    "asw_cell": "ASW cell",
    "avg_bio": "AvgBIO",
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "top3": "Top-3 accuracy",
    "ontology_credit": "Ontology credit",
    "isolated_labels": "Isolated labels",
    "kmeans_nmi": "KMeans NMI",
    "kmeans_ari": "KMeans ARI",
    "silhouette_label": "Silhouette, label",
    "clisi": "cLISI",
    "silhouette_batch": "Silhouette, batch",
    "graph_connectivity": "Graph connectivity",
    "pcr_comparison": "PCR comparison",
    "ilisi": "iLISI",
    "kbet": "kBET",
    "avg_bio_b": "AvgBIO-B",
    "avg_batch": "AvgBATCH",
    "median_rank": "Median rank (lower is better)",
}

_SCOPE_NAMES = {
    "seen": "seen types",
    "unseen": "unseen types among all",
    "unseen_only": "unseen types among unseen",
    "all": "all types",
    "linear": "linear probe",
    "knn": "kNN",
    "best": "resolution chosen by label",
    "label-free": "label-free resolution",
}

_HEADLINE = (
    ("clustering", "avg_bio (label-free)"),
    ("annotation", "accuracy (linear)"),
    ("annotation", "macro_f1 (linear)"),
    ("batch", "avg_bio_b"),
    ("batch", "avg_batch"),
    ("few_shot", "accuracy (prototype, K=1)"),
    ("few_shot", "accuracy (prototype, K=5)"),
    ("zero_shot", "accuracy (seen)"),
    ("zero_shot", "accuracy (unseen)"),
    ("zero_shot", "macro_f1 (all)"),
    ("retrieval", "R@1 (cell to text, graded)"),
    ("retrieval", "R@10 (cell to text, strict)"),
)
_REFERENCES = frozenset({"duplicate ceiling", "chance"})
_MIXING = frozenset(
    {"avg_batch", "silhouette_batch", "graph_connectivity", "pcr_comparison", "ilisi", "kbet"}
)


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of an evaluation's results table."""
    rows: list[dict[str, Any]] = read_table(folder / RESULTS, "results").to_pylist()
    return rows


def metric_name(metric: str) -> str:
    """Return a metric's name for people: ``accuracy (seen)`` becomes ``Accuracy, seen types``."""
    base, _, scope = metric.partition(" (")
    scope = scope.rstrip(")")
    name = METRIC_NAMES.get(base, base)
    return f"{name}, {_SCOPE_NAMES.get(scope, scope)}" if scope else name


def format_value(cell: Cell | None) -> str:
    """Return ``0.712 [0.66, 0.77]``, or a dash."""
    if cell is None or cell["value"] is None:
        return "–"
    if cell["low"] is None or cell["low"] == cell["high"]:
        return f"{cell['value']:z.3f}"
    return f"{cell['value']:z.3f} [{cell['low']:z.2f}, {cell['high']:z.2f}]"


def headline(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one line per headline number that was measured, with the values of all methods."""
    lines = []
    for task, metric in _HEADLINE:
        values = {
            row["method"]: {
                "value": row["value"],
                "low": row["ci_low"],
                "high": row["ci_high"],
                "n": row["n"],
            }
            for row in rows
            if row["task"] == task and row["metric"] == metric
        }
        if values:
            lines.append(
                {
                    "task": task,
                    "task_name": TASK_NAMES[task],
                    "metric": metric,
                    "metric_name": metric_name(metric),
                    "values": values,
                    "best": clear_best(metric, values),
                }
            )
    return lines


def no_rivals(metric: str) -> frozenset[str]:
    """Return the methods that a metric's winner need not beat.

    Ceilings and chance are references; random vectors mix batches perfectly and know nothing else.
    """
    return _REFERENCES | {"random"} if metric in _MIXING else _REFERENCES


def clear_best(metric: str, values: Mapping[str, Cell]) -> str | None:
    """Return the best method if its interval overlaps with no rival's, else None."""
    sign = -1.0 if metric.startswith("median_rank") else 1.0
    spans = {}
    for name, cell in values.items():
        if name in no_rivals(metric) or cell["value"] is None:
            continue
        ends = [cell[key] if cell[key] is not None else cell["value"] for key in ("low", "high")]
        spans[name] = (
            sign * cell["value"],
            min(sign * e for e in ends),
            max(sign * e for e in ends),
        )
    if len(spans) < 2:
        return None
    best = max(spans, key=lambda name: spans[name][0])
    is_clear = all(spans[best][1] > high for name, (_, _, high) in spans.items() if name != best)
    return best if is_clear else None


def compare(line: Mapping[str, Any], other: str) -> str | None:
    """Say whether the model is ``ahead``, ``behind`` or ``level`` with another method, by intervals."""
    mine, theirs = line["values"].get(MAIN), line["values"].get(other)
    if not mine or not theirs or None in (mine["low"], theirs["low"]):
        return None
    if mine["low"] > theirs["high"]:
        return "ahead"
    return "behind" if theirs["low"] > mine["high"] else "level"


def verdict(
    rows: Sequence[Mapping[str, Any]], data: Mapping[str, Any], twins: Sequence[str]
) -> list[str]:
    """Return sentences that follow from the numbers alone, the good and the bad."""
    lines = [line for line in headline(rows) if MAIN in line["values"]]
    ahead = [line for line in lines if line["best"] == MAIN]
    behind: dict[str, str] = {}
    n_behind = 0
    for line in lines:
        rivals = set(line["values"]) - {MAIN} - no_rivals(line["metric"])
        better = [name for name in sorted(rivals) if compare(line, name) == "behind"]
        if better:
            n_behind += 1
            behind.setdefault(line["task"], _behind_words(line, better))
    total, level = len(lines), len(lines) - len(ahead) - n_behind
    said = [
        f"On {data['n_test']} test cells of {data['dataset']} ({len(data['test_types'])} types, "
        f"{len(data['unseen'])} of them never trained on), {MAIN} is the best method beyond the 95 % "
        f"intervals in {len(ahead)} of {total} headline numbers, behind at least one other in "
        f"{n_behind}, and not to be told apart from the best in {level}."
    ]
    said += _zero_shot_sentence(
        {line["metric"]: line for line in lines if line["task"] == "zero_shot"},
        len(data["test_types"]),
    )
    if ahead:
        won = [f"{line['task_name'].lower()} ({line['metric_name']})" for line in ahead]
        said.append(f"Best in {'; '.join(won)}.")
    if behind:
        said.append(f"Behind in {'; '.join(behind.values())}.")
    for twin in twins:
        known = [how for how in (compare(line, twin) for line in lines) if how]
        if known:
            said.append(
                f"Against {twin}: ahead in {known.count('ahead')}, behind in {known.count('behind')}, "
                f"level in {known.count('level')} of {len(known)} headline numbers."
            )
    return said


def _behind_words(line: Mapping[str, Any], better: Sequence[str]) -> str:
    best = max(better, key=lambda name: line["values"][name]["value"])
    return (
        f"{line['task_name'].lower()} ({line['metric_name']} {line['values'][MAIN]['value']:.2f}; "
        f"{best} {line['values'][best]['value']:.2f})"
    )


def _zero_shot_sentence(zero: Mapping[str, Mapping[str, Any]], n_types: int) -> list[str]:
    parts = []
    for metric, words in (("accuracy (seen)", "seen"), ("accuracy (unseen)", "unseen")):
        values = zero.get(metric, {}).get("values", {})
        if MAIN in values:
            others = {name: cell for name, cell in values.items() if name != MAIN}
            mine = values[MAIN]
            best = max(others, key=lambda name: others[name]["value"]) if others else None
            beside = f"; best other, {best}: {_percent(others[best]['value'])}" if best else ""
            parts.append(
                f"{_percent(mine['value'])} (interval {_percent(mine['low'])} to {_percent(mine['high'])}) "
                f"of the cells of {words} types{beside}"
            )
    if not parts:
        return []
    return [
        f"By text alone it names the right one of {n_types} types for {', and for '.join(parts)}. Seen types "
        "had labelled cells in training; unseen types had none."
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
