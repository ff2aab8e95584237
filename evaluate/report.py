"""One self-contained HTML file from an evaluation: readable on a phone, on paper and in the dark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from okrcell import __version__
from okrcell.artifacts import atomic_write, read_manifest
from okrcell.evaluate import figures
from okrcell.evaluate.config import TASKS
from okrcell.evaluate.run import DETAILS, KIND, MAIN
from okrcell.evaluate.summary import (
    METRIC_NAMES,
    TASK_NAMES,
    clear_best,
    headline,
    load_results,
    metric_name,
    verdict,
)

__all__ = ["write_report"]

Details = Mapping[str, Any]

_PACKAGES = (
    "numpy",
    "torch",
    "scikit-learn",
    "scanpy",
    "scib-metrics",
    "igraph",
    "anndata",
)
_REFERENCES = ("duplicate ceiling", "chance")
_ASKED = {
    "clustering": "Do groups found in the embedding agree with the cell types?",
    "annotation": "How well do simple classifiers, fitted on train cells, read types off the frozen embedding?",
    "batch": "Is technical origin gone while cell types stay apart?",
    "few_shot": "With K labelled cells per type, how many of the others are named right?",
    "zero_shot": "By text alone: is the nearest text that of the right type?",
    "retrieval": "Is a cell's own text found among all texts, and a text's cell among all cells?",
}
_READ = {
    "clustering": "Leiden over a range of resolutions. “Chosen by label” takes the resolution that agrees best "
    "with the labels, as the paper does: it looks at the answer. “Label-free” takes the one with the best "
    "silhouette of its clusters. AvgBIO is the mean of ARI, NMI and ASW cell.",
    "annotation": "Only test cells of types that occur in train. Logistic regression "
    "(C = 1) on the scaled embedding, and kNN.",
    "batch": "AvgBIO-B is the mean of the first five indicators, AvgBATCH of the next three; iLISI and kBET "
    "stand beside them. PCR comparison is 0 for pca by definition. random mixes batches perfectly and "
    "knows no biology: read both columns. Intervals: delete-d jackknife over subsamples.",
    "few_shot": "Support and query cells come from the test split and are disjoint. Intervals hold 95 % of "
    "the episodes.",
    "zero_shot": "Candidates are the texts of all types. “Unseen among all” is the honest question; “unseen "
    "among unseen” leaves out the seen candidates and is easier: naming one type for all cells scores its "
    "share. Ontology credit is 1 / (1 + d), d being the "
    "is-a steps in the Cell Ontology between the true and the predicted type.",
    "retrieval": "Strict: only the cell's own copy of a text is right, although cells with the same "
    "description share it; the duplicate ceiling is the most that any method can reach. Graded: any cell "
    "with the same text is right. Ties count by expectation.",
}


def write_report(eval_dir: Path, out_html: Path, context: Mapping[str, Any] | None = None) -> None:
    """Write the report of an evaluation folder.

    Parameters
    ----------
    context
        What only the caller knows; all keys are optional. ``title`` and ``subtitle`` (str);
        ``warnings`` and ``commands`` (lists of str); ``data_card``, ``gene_coverage`` and
        ``versions`` (mappings to text or numbers); ``mapping_rows`` (list of mappings with the
        columns of the ``mappings`` table).

    Raises
    ------
    ManifestError
        The folder is not a finished evaluation.
    """
    context = context or {}
    manifest = read_manifest(eval_dir, KIND)
    details: Details = json.loads((eval_dir / DETAILS).read_text(encoding="utf-8"))
    rows = load_results(eval_dir)
    names = [entry["name"] for entry in details["methods"]]
    styles = {name: index for index, name in enumerate(names)}
    twins = [name for name in details["runs"] if name != MAIN]
    lines = headline(rows)
    out_html.parent.mkdir(parents=True, exist_ok=True)
    page = _environment().get_template("report.html.j2")
    html = page.render(
        title=context.get("title", "okrcell evaluation"),
        subtitle=context.get("subtitle", ""),
        main=MAIN,
        data=details["data"],
        run=details["runs"][MAIN],
        runs=details["runs"],
        verdict=verdict(rows, details["data"], twins),
        warnings=list(dict.fromkeys([*context.get("warnings", ()), *details["notes"]])),
        summary={
            "methods": [name for name in names if any(name in line["values"] for line in lines)],
            "lines": lines,
        },
        tasks=[
            {
                "id": task,
                "name": TASK_NAMES[task],
                "asked": _ASKED[task],
                "read": [_READ[task], *_remarks(task, details)],
                "tables": _tables(task, rows, names),
                "figures": _FIGURES[task](details, styles, rows),
            }
            for task in TASKS
            if task in details["tasks"] and any(row["task"] == task for row in rows)
        ],
        methods=details["methods"],
        umaps=_umaps(details),
        examples=[_example(number, entry) for number, entry in enumerate(details["examples"], 1)],
        data_card=context.get("data_card", {}),
        mapping_rows=context.get("mapping_rows", []),
        gene_coverage=context.get("gene_coverage", {}),
        commands=context.get("commands", []),
        versions={**_versions(), **context.get("versions", {})},
        inputs=manifest.inputs,
        files={name: entry["sha256"] for name, entry in manifest.files.items()},
        config=manifest.config,
    )
    atomic_write(out_html, html)


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("okrcell.evaluate", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _tables(task: str, rows: Sequence[Details], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the task's full tables: metrics down, methods across; long tasks in groups."""
    mine = [row for row in rows if row["task"] == task]
    groups: dict[str, list[dict[str, Any]]] = {}
    for metric in dict.fromkeys(row["metric"] for row in mine):
        values = {
            row["method"]: {
                "value": row["value"],
                "low": row["ci_low"],
                "high": row["ci_high"],
                "n": row["n"],
            }
            for row in mine
            if row["metric"] == metric
        }
        base, _, scope = metric.partition(" (")
        group = scope.rstrip(")") if task not in {"batch", "few_shot"} else ""
        groups.setdefault(group, []).append(
            {
                "metric": METRIC_NAMES.get(base, base) if group else metric_name(metric),
                "n": max(cell["n"] for cell in values.values()),
                "values": values,
                "best": clear_best(metric, values),
            }
        )
    tables = []
    for group, part in groups.items():
        present = {name for row in part for name in row["values"]}
        caption = metric_name(f"x ({group})").removeprefix("x, ") if group else ""
        tables.append(
            {
                "caption": caption if caption == "kNN" else caption[:1].upper() + caption[1:],
                "methods": [name for name in (*names, *_REFERENCES) if name in present],
                "rows": part,
            }
        )
    return tables


def _remarks(task: str, details: Details) -> list[str]:
    """Return what the reader should know of this task on these data."""
    mine = details["tasks"][task]
    if task == "clustering":
        part = mine[MAIN]["label-free"]
        return [
            f"Label-free, {MAIN}: resolutions {', '.join(f'{r:g}' for r in part['resolution'])} gave "
            f"{', '.join(map(str, part['n_clusters']))} clusters for {mine[MAIN]['n_types']} types."
        ]
    if task == "batch":
        sizes = [f"{name or '(none)'}: {n} cells" for name, n in mine[MAIN]["batches"].items()]
        return [f"Batches as the data name them: {'; '.join(sizes)}."]
    if task == "few_shot":
        return [
            f"K = {k}: left out for too few cells: {', '.join(names)}."
            for k, names in mine[MAIN]["dropped"].items()
            if names
        ]
    if task == "retrieval":
        return [f"{mine[MAIN]['n_folds']} fold(s) of {mine[MAIN]['fold']} pairs."]
    return []


def _values(
    rows: Sequence[Details], task: str, metric: str
) -> dict[str, tuple[float, float, float]]:
    return {
        row["method"]: (row["value"], row["ci_low"], row["ci_high"])
        for row in rows
        if row["task"] == task and row["metric"] == metric and row["value"] is not None
    }


def _panels(
    task: str, metrics: Sequence[str], styles: Mapping[str, int], rows: Sequence[Details]
) -> list[Any]:
    found = [(metric, _values(rows, task, metric)) for metric in metrics]
    return [figures.dots(values, styles, metric_name(metric)) for metric, values in found if values]


def _clustering(details: Details, styles: Mapping[str, int], rows: Sequence[Details]) -> list[Any]:
    return _panels("clustering", ("avg_bio (label-free)", "avg_bio (best)"), styles, rows)


def _annotation(details: Details, styles: Mapping[str, int], rows: Sequence[Details]) -> list[Any]:
    panels = _panels("annotation", ("accuracy (linear)", "macro_f1 (linear)"), styles, rows)
    table = details["tasks"]["annotation"][MAIN]["confusion"]
    return [
        *panels,
        figures.heatmap(
            table["labels"], table["matrix"], f"{MAIN}, linear probe: true type by predicted"
        ),
    ]


def _batch(details: Details, styles: Mapping[str, int], rows: Sequence[Details]) -> list[Any]:
    return _panels("batch", ("avg_bio_b", "avg_batch", "ilisi", "kbet"), styles, rows)


def _few_shot(details: Details, styles: Mapping[str, int], rows: Sequence[Details]) -> list[Any]:
    curves = {
        name: part["curve"]
        for name, part in details["tasks"]["few_shot"].items()
        if part.get("curve")
    }
    panels: list[Any] = []
    for head, words in (("prototype", "nearest prototype"), ("logistic", "logistic head")):
        series = {
            name: [(p["k"], p["value"], p["low"], p["high"]) for p in curve if p["head"] == head]
            for name, curve in curves.items()
        }
        panels.append(
            figures.lines(series, styles, f"Accuracy, {words}", "labelled cells per type (K)")
        )
    shown = [name for name in styles if name in curves]
    return [*panels, _legend(shown, styles)]


def _zero_shot(details: Details, styles: Mapping[str, int], rows: Sequence[Details]) -> list[Any]:
    wanted = ("accuracy (seen)", "accuracy (unseen)", "accuracy (unseen_only)")
    panels = _panels("zero_shot", wanted, styles, rows)
    table = details["tasks"]["zero_shot"][MAIN]
    labels = [f"{name} *" if name in table["unseen"] else name for name in table["labels"]]
    title = f"{MAIN}: true type by nearest text (* = unseen type)"
    return [*panels, figures.heatmap(labels, table["matrix"], title)]


def _retrieval(details: Details, styles: Mapping[str, int], rows: Sequence[Details]) -> list[Any]:
    found = details["tasks"]["retrieval"]
    panels = []
    for way in (
        "cell to text, strict",
        "text to cell, strict",
        "cell to text, graded",
        "text to cell, graded",
    ):
        series = {
            name: [(k, y, None, None) for k, y in part["curve"][way]]
            for name, part in found.items()
            if "curve" in part
        }
        if way.endswith("strict"):
            for reference in ("ceiling", "chance"):
                series[reference] = [(k, y, None, None) for k, y in found["reference"][reference]]
        title = f"Recall at k, {way}"
        panels.append(
            figures.lines(series, styles, title, "k", log_x=True, ticks=(1, 5, 10, 50, 100))
        )
    shown = [name for name in styles if name in found]
    return [
        *panels,
        _legend(
            shown,
            styles,
            "Thin dashed grey, strict only: above, the duplicate ceiling; below, chance.",
        ),
    ]


_FIGURES = {
    "clustering": _clustering,
    "annotation": _annotation,
    "batch": _batch,
    "few_shot": _few_shot,
    "zero_shot": _zero_shot,
    "retrieval": _retrieval,
}


def _legend(names: Sequence[str], styles: Mapping[str, int], note: str = "") -> Any:
    return figures.legend([(name, styles[name]) for name in names], is_line=True, note=note)


def _umaps(details: Details) -> list[dict[str, Any]]:
    """Return two figures, by type and by batch, each with the model beside PCA and one legend."""
    umap = details["umap"]
    found = []
    for words, groups in (("cell type", umap["labels"]), ("batch", umap["batches"])):
        names = sorted(set(groups))
        found.append(
            {
                "words": words,
                "panels": [
                    figures.scatter(points, groups, names, f"{method}, by {words}")
                    for method, points in umap["methods"].items()
                ],
                "legend": figures.legend([(name or "(none)", i) for i, name in enumerate(names)]),
            }
        )
    return found


def _example(number: int, entry: Details) -> dict[str, Any]:
    """Number the evidence of one description and mark the quotes in it."""
    evidence: dict[tuple[str, str], dict[str, Any]] = {}
    sentences = []
    for claim in entry["claims"]:
        refs = []
        for snippet in claim["evidence"]:
            key = snippet["snippet_id"], snippet["quote"]
            if key not in evidence:
                position = len(evidence) + 1
                evidence[key] = {**snippet, "number": position, "id": f"e{number}-{position}"}
            refs.append(evidence[key])
        sentences.append({**claim, "refs": refs})
    return {**entry, "sentences": sentences, "evidence": list(evidence.values())}


def _versions() -> dict[str, str]:
    found = {"okrcell": __version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
