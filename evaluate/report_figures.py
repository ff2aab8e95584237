"""The figures of a report: for each task and dataset, in the idiom of the field.

(Over 300 lines: one short function per task, and the few helpers they share.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from okrcell.evaluate import charts, figures
from okrcell.evaluate.figures import Legend, Panel
from okrcell.evaluate.report_data import Dataset, Evaluation, slug, split_words
from okrcell.evaluate.report_names import METRIC_NAMES, metric_name

__all__ = ["Figure", "maps", "task_figures"]

_BIO = ("isolated_labels", "kmeans_nmi", "kmeans_ari", "silhouette_label", "clisi")
_MIXING = ("silhouette_batch", "graph_connectivity", "pcr_comparison")
_BESIDE = ("ilisi", "kbet")
_OVERALL = "overall"
_RADAR, _CURVES = 6, 6
_WAYS = tuple(
    f"{way}, {form}"
    for form in ("strict", "graded", "same type", "ontology-near")
    for way in ("cell to text", "text to cell")
)


@dataclass(frozen=True)
class Figure:
    """Panels with one legend.

    Attributes
    ----------
    name
        For files.
    css
        How the page lays the panels out: ``two`` columns, ``maps``.
    """

    name: str
    panels: Sequence[Panel]
    legend: Legend | None = None
    css: str = ""
    notes: Sequence[str] = field(default_factory=tuple)


def task_figures(ev: Evaluation, task: str, dataset: Dataset, number: int) -> list[Figure]:
    """Return the figures of a task on one dataset; none of what was not measured."""
    found = _TASKS[task](ev, dataset)
    stem = f"{slug(task)}-{number}-{slug(dataset.key)}"
    return [
        Figure(f"{stem}-{figure.name}", figure.panels, figure.legend, figure.css, figure.notes)
        for figure in found
        if figure.panels
    ]


def maps(ev: Evaluation, dataset: Dataset, number: int) -> list[Figure]:
    """Return two UMAPs, by type and by batch, each with the model beside PCA and one legend."""
    umap = dataset.entry.get("umap")
    if not umap or not umap.get("methods"):
        return []
    found = []
    for words, groups in (("type", umap["labels"]), ("batch", umap["batches"])):
        names = sorted(set(groups))
        panels = [
            figures.scatter(points, groups, names, f"{method}, by {words}")
            for method, points in umap["methods"].items()
        ]
        legend = Legend(tuple((name, index) for index, name in enumerate(names)))
        stem = f"umap-{number}-{slug(dataset.key)}-{words}"
        found.append(Figure(stem, panels, legend, "maps"))
    return found


def _values(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    return {
        row["method"]: (row["value"], row["ci_low"], row["ci_high"])
        for row in rows
        if row["metric"] == metric and row["value"] is not None
    }


def _dots(
    ev: Evaluation, key: str, task: str, metrics: Sequence[str], tail: str = ""
) -> list[Panel]:
    rows = ev.of(key, task)
    found = [(metric, _values(rows, metric)) for metric in metrics]
    return [
        figures.dots(values, ev.styles, metric_name(metric) + tail)
        for metric, values in found
        if values
    ]


def _legend(ev: Evaluation, names: Sequence[str], note: str = "") -> Legend:
    return Legend(
        tuple((name, index) for name, index in ev.styles.items() if name in names), True, note
    )


def _main_of(ev: Evaluation, details: Mapping[str, Any], key: str) -> str:
    """Return the main method if it left this detail, else the first that did; may be empty."""
    known = [name for name in ev.methods if details.get(name, {}).get(key)]
    return ev.main if ev.main in known else (known or [""])[0]


def _few(ev: Evaluation, names: Sequence[str], scores: Mapping[str, float], n: int) -> list[str]:
    """Return at most ``n`` of the names: what was asked for, PCA, then the best."""
    asked = [*(ev.details.get("asked") or ()), ev.main, "pca"]
    first = [name for name in dict.fromkeys(asked) if name in names]
    rest = sorted(
        (name for name in names if name not in first),
        key=lambda name: (-scores.get(name, 0.0), name),
    )
    chosen = (first + rest)[:n]
    return [name for name in names if name in chosen]


def _clustering(ev: Evaluation, dataset: Dataset) -> list[Figure]:
    wanted = ("avg_bio (label-free)", "avg_bio (best)", "ari (best)", "ami (best)")
    return [Figure("scores", _dots(ev, dataset.key, "clustering", wanted), css="two")]


def _annotation(ev: Evaluation, dataset: Dataset) -> list[Figure]:
    wanted = (
        "accuracy (chosen)",
        "macro_f1 (chosen)",
        "accuracy (linear)",
        "accuracy (fine-tuned)",
    )
    panels = []
    for key, entry in ((dataset.key, dataset.entry), *dataset.splits):
        tail = f"; {split_words(entry)}" if dataset.splits else ""
        metrics = wanted if key == dataset.key else wanted[:2]
        panels.extend(_dots(ev, key, "annotation", metrics, tail))
    found = [Figure("scores", panels, css="two")]
    details = dataset.details("annotation")
    method = _main_of(ev, details, "confusion")
    if method:
        table = details[method]["confusion"]
        head = {"linear": "linear probe", "knn": "kNN"}.get(details[method].get("head", "linear"))
        title = f"{method}{', ' + head if head else ''}: true type (rows) by predicted"
        found.append(
            Figure("confusion", [figures.heatmap(table["labels"], table["matrix"], title)])
        )
    return found


def _batch(ev: Evaluation, dataset: Dataset) -> list[Figure]:
    values: dict[str, dict[str, float]] = {}
    for row in ev.of(dataset.key, "batch"):
        if row["value"] is not None:
            values.setdefault(row["method"], {})[row["metric"]] = row["value"]
    if not values:
        return []
    for mine in values.values():
        if "avg_bio_b" in mine and "avg_batch" in mine:
            mine[_OVERALL] = 0.6 * mine["avg_bio_b"] + 0.4 * mine["avg_batch"]
    order = sorted(values, key=lambda name: (-values[name].get(_OVERALL, -1.0), name))

    def named(metrics: Sequence[str]) -> list[tuple[str, str]]:
        return [(metric, METRIC_NAMES[metric]) for metric in metrics]

    table = charts.scib_table(
        {name: values[name] for name in order},
        (("Bio conservation", 0, named(_BIO)), ("Batch mixing", 2, named((*_MIXING, *_BESIDE)))),
        (("avg_bio_b", "AvgBIO-B", 0), ("avg_batch", "AvgBATCH", 2), (_OVERALL, "Overall", 7)),
        "Batch correction, indicator by indicator",
    )
    scores = {name: mine.get(_OVERALL, 0.0) for name, mine in values.items()}
    names = [name for name in ev.methods if name in values]
    shown = _few(ev, names, scores, _RADAR)
    axes = (*_BIO, *_MIXING)
    radar = charts.radar(
        {name: [values[name].get(metric) for metric in axes] for name in shown},
        ev.styles,
        [METRIC_NAMES[metric].replace(",", "") for metric in axes],
        "The eight indicators",
    )
    left_out = len(names) - len(shown)
    note = f"{left_out} more methods stand in the table." if left_out else ""
    dots = _dots(ev, dataset.key, "batch", ("avg_bio_b", "avg_batch"))
    return [
        Figure("scib", [table]),
        Figure("radar", [radar, *dots], _legend(ev, shown, note)),
    ]


def _few_shot(ev: Evaluation, dataset: Dataset) -> list[Figure]:
    details = dataset.details("few_shot")
    curves = {name: part["curve"] for name, part in details.items() if part.get("curve")}
    heads = dict.fromkeys(point["head"] for curve in curves.values() for point in curve)
    words = {"prototype": "nearest prototype", "logistic": "logistic head", "linear": "linear head"}
    panels = []
    for head in heads:
        series = {
            name: [(p["k"], p["value"], p["low"], p["high"]) for p in curve if p["head"] == head]
            for name, curve in curves.items()
        }
        panels.append(
            figures.lines(
                {name: points for name, points in series.items() if points},
                ev.styles,
                f"Accuracy, {words.get(head, head)}",
                "labelled cells per type (K)",
            )
        )
    return [Figure("curves", panels, _legend(ev, list(curves)), "two")]


def _zero_shot(ev: Evaluation, dataset: Dataset) -> list[Figure]:
    wanted = ("accuracy (seen)", "accuracy (unseen)", "accuracy (unseen_only)", "accuracy (all)")
    found = [Figure("scores", _dots(ev, dataset.key, "zero_shot", wanted), css="two")]
    details = dataset.details("zero_shot")
    method = _main_of(ev, details, "matrix")
    if method:
        table = details[method]
        unseen = set(table.get("unseen") or ())
        labels = [f"{name} *" if name in unseen else name for name in table["labels"]]
        star = " (* = unseen type)" if unseen else ""
        flow = charts.sankey(labels, table["matrix"], f"{method}: from true to nearest text{star}")
        heat = figures.heatmap(
            labels, table["matrix"], f"{method}: true type (rows) by nearest text{star}"
        )
        found += [Figure("flows", [flow]), Figure("confusion", [heat])]
    panels, names = [], []
    method = _main_of(ev, details, "calibration")
    if method:
        part = details[method]["calibration"]
        told = [f"calibration error {part['ece']:.2f}"] if part.get("ece") is not None else []
        if part.get("temperature") is not None:
            told.append(f"temperature {part['temperature']:.3g}")
        note = ", ".join(told)
        panels.append(charts.reliability(part["bins"], f"Calibration, {method}", note))
    held = {name: part["unknown"] for name, part in details.items() if part.get("unknown")}
    scores = {name: part.get("accuracy") or 0.0 for name, part in held.items()}
    names = _few(ev, [name for name in ev.methods if name in held], scores, _CURVES)
    series = {
        name: [(c, a, None, None) for c, a in held[name]["curve"] if a is not None]
        for name in names
        if held[name].get("curve")
    }
    if series:
        marked = {
            name: (held[name]["coverage"], held[name]["accuracy"])
            for name in series
            if held[name].get("coverage") is not None and held[name].get("accuracy") is not None
        }
        panels.append(
            figures.lines(
                series,
                ev.styles,
                "Accuracy of the cells that are named",
                "share of cells named, the surest first",
                ticks=(0, 0.25, 0.5, 0.75, 1),
                as_percent=True,
                marked=marked,
            )
        )
    legend = (
        _legend(ev, list(series), "Mark: where the rest is called unknown.") if series else None
    )
    return [*found, Figure("confidence", panels, legend, "two")]


def _retrieval(ev: Evaluation, dataset: Dataset) -> list[Figure]:
    details = dataset.details("retrieval")
    panels = []
    curves = {name: part["curve"] for name, part in details.items() if part.get("curve")}
    for way in _WAYS:
        series = {
            name: [(k, y, None, None) for k, y in curve[way]]
            for name, curve in curves.items()
            if curve.get(way)
        }
        if way.endswith("strict") and series:
            for reference in ("ceiling", "chance"):
                points = details.get("reference", {}).get(reference)
                if points:
                    series[reference] = [(k, y, None, None) for k, y in points]
        if series:
            title, ticks = f"Recall at k, {way}", (1, 5, 10, 50, 100)
            panels.append(figures.lines(series, ev.styles, title, "k", log_x=True, ticks=ticks))
    note = "Thin dashed grey, strict only: above, the duplicate ceiling; below, chance."
    return [Figure("recall", panels, _legend(ev, list(curves), note), "two")]


def _robustness(ev: Evaluation, dataset: Dataset) -> list[Figure]:
    details = dataset.details("robustness")
    points = [(name, point) for name, part in details.items() for point in part.get("curves") or ()]
    kinds = dict.fromkeys((point["metric"], point["kind"]) for _, point in points)
    words = {
        "dropout": ("share of genes set to zero", "genes lost"),
        "depth": ("share of molecules kept", "fewer molecules"),
    }
    panels = []
    for metric, kind in kinds:
        series: dict[str, list[tuple[float, float, float | None, float | None]]] = {}
        for name, point in points:
            if (point["metric"], point["kind"]) == (metric, kind) and point["value"] is not None:
                series.setdefault(name, []).append(
                    (point["level"], point["value"], point["low"], point["high"])
                )
        axis, short = words.get(kind, (kind, kind))
        panels.append(
            figures.lines(
                {name: sorted(mine) for name, mine in series.items()},
                ev.styles,
                f"{metric_name(metric)}: {short}",
                axis,
                log_x=kind == "depth",
                as_percent=True,
                ticks=(0, 0.1, 0.2, 0.3, 0.4, 0.5) if kind == "dropout" else (0.1, 0.25, 0.5, 1),
            )
        )
    names = [name for name, _ in points]
    return [Figure("curves", panels, _legend(ev, names), "two")]


_TASKS = {
    "clustering": _clustering,
    "annotation": _annotation,
    "batch": _batch,
    "few_shot": _few_shot,
    "zero_shot": _zero_shot,
    "retrieval": _retrieval,
    "robustness": _robustness,
}
