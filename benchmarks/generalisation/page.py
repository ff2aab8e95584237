"""Writes docs/benchmarks/generalisation.md and its figure from results/generalisation.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from arms import RECIPE

from okrcell.artifacts import atomic_write
from okrcell.evaluate.figures import dots
from okrcell.evaluate.report_figures import Figure
from okrcell.evaluate.report_pdf import sheet, standalone

__all__ = ["write_page"]

TARGET = 0.15
SHOWN = {
    "naive, mean of files": "naive, mean", "naive, file chosen": "naive, chosen",
    "all files": "all files", "recipe": "recipe", "recipe, learned + graph": "recipe, graph",
    "markers alone": "markers", "markers alone + graph": "markers, graph",
    "recipe, with vote": "recipe, vote", "recipe, with vote + graph": "vote, graph",
}  # fmt: skip
"""Methods of the figure, and what they are called there."""


def write_page(results: Path, page: Path) -> None:
    """Write the page and, beside it, the figure."""
    table = json.loads(results.read_text(encoding="utf-8"))
    figure = page.with_suffix(".svg")
    atomic_write(figure, standalone(sheet(_figure(table))))
    atomic_write(page, "\n".join(_page(table, figure.name)) + "\n")


def _page(table: dict[str, Any], figure: str) -> Iterable[str]:
    studies = [study["name"] for study in table["studies"]]
    yield "# Generalisation: zero-shot on studies that were left out whole"
    yield ""
    yield "Written by `python benchmarks/generalisation/run.py --data DATA --work FOLDER`; every figure is from it."
    yield ""
    yield f"![Accuracy by study and method]({figure})"
    yield ""
    yield from _verdict(table)
    yield from _section(
        "What is asked",
        _lines(
            "study", ["files", "cells", "types", "intervals resample"], table["studies"], _asked
        ),
    )
    yield from _notes(table)
    yield from _section("Arms, each learned alone", _arms(table))
    for title, key in (("Accuracy", "accuracy"), ("Macro-F1", "macro_f1")):
        rows = _by_study(table, studies, lambda row, key=key: _number(row.get(key)), key)
        yield from _section(
            f"{title}, candidates of the study", _table(["method", *studies, "mean"], rows)
        )
    rows = _by_study(table, studies, lambda row: _gain(row.get("gain")), "gain", _gain)
    yield from _section(
        "Points of accuracy above the naive baseline (one file, chosen), paired, with 95 % intervals",
        _table(["method", *studies, "mean"], rows),
    )
    rows = _by_study(table, studies, lambda row: _gain(row.get("gain over best")), None)
    yield from _section(
        "Points above the best single file, chosen with hindsight",
        _table(["method", *studies], [row[:-1] for row in rows]),
    )
    for title, key in (
        ("Accuracy on types that the training files have", "accuracy (seen)"),
        ("Accuracy on types that no training file has", "accuracy (unseen)"),
        ("Right, or an ancestor or descendant of the right type", "kin"),
        ("Accuracy among all Cell Ontology terms of the tissue", "accuracy (open)"),
        ("Ontology credit among all Cell Ontology terms of the tissue", "credit (open)"),
        ("AUROC of unseen types, by the greatest similarity with a trained type", "auroc"),
    ):
        rows = _by_study(table, studies, lambda row, key=key: _number(row.get(key)), None)
        rows = [row for row in rows if any(cell != "–" for cell in row[1:-1])]
        yield from _section(title, _table(["method", *studies], [row[:-1] for row in rows]))


def _arms(table: dict[str, Any]) -> Iterable[str]:
    """Each arm in words; "and" is added to the arm above it, arms of the recipe differ from it in one thing."""
    known = {method["name"]: method for method in table["methods"]}
    rows = []
    for name, about in table["arms"].items():
        method = known.get("naive, file chosen" if name == "naive" else name)
        if method is not None:
            seeds = max(len(row["seeds"]) for row in method["studies"].values())
            rows.append(
                [name, about, seeds, _number(method.get("accuracy")), _gain(method.get("gain"))]
            )
    return _table(["arm", "what it is", "seeds", "mean accuracy", "points above naive"], rows)


def _verdict(table: dict[str, Any]) -> Iterable[str]:
    for name in ("recipe", "recipe, with vote", "recipe, with vote + graph"):
        method = next((m for m in table["methods"] if m["name"] == name), None)
        if method is None or "gain" not in method:
            continue
        above = [s for s, row in method["studies"].items() if row["gain"][1] > 0]
        clear = (
            "on every study"
            if len(above) == len(method["studies"])
            else f"on {', '.join(above) or 'no study'}"
        )
        yield (
            f"- **{name}**: mean accuracy {method['accuracy']:.3f}, {_gain(method['gain'])} points against the naive "
            f"baseline (target: {100 * TARGET:.0f}); interval above zero {clear}."
        )
    yield ""


def _asked(study: dict[str, Any]) -> list[Any]:
    files = ", ".join(f"`{name}`" for name in study["files"])
    return [files, f"{study['cells']:,}", study["types"], f"{study['units']:,} {study['unit']}"]


def _notes(table: dict[str, Any]) -> Iterable[str]:
    names = [study["name"] for study in table["studies"]]
    chosen = ", ".join(f"{study}: `{table['chosen'][study]}`" for study in names)
    arms = ", ".join(f"{study}: {table['chosen'].get(f'{study}, arm', 'none')}" for study in names)
    yield from (
        "- Files of one study share donors, or are the same cells with other genes: a study is left out whole. Cell "
        "lines have no Cell Ontology type, and breast spots are mixtures: neither is asked about; the spots train.",
        "- Types are Cell Ontology terms; labels of one term are one type. A file gives at most 150 cells of a type to "
        "training, and at most 3,000 cells, drawn once, are asked about. All runs take 500 steps.",
        "- *naive*: the tower `mlp`, InfoNCE, name and definition of the Cell Ontology as text, one training file. Which "
        f"file is decided on the other studies only ({chosen}). The mean of all files and the best with hindsight, "
        "which nobody could have chosen, stand beside it.",
        "- The parts of the recipe were sketched on all five studies before these runs. *Arm chosen elsewhere* takes, for each "
        f"study, the arm that does best on the other four, and so shows what choosing costs ({arms}).",
        "- *learned* answers are those of the trained model alone, every cell by itself. *With vote*: the markers of the shipped "
        "table and of the term's own words are asked in the cells' expression, as `okrcell annotate` does. *Graph*: "
        "scores smoothed over the graph of the file's cells, without labels (GRIT); then cells of a file are seen together.",
        "- *marker cells* are synthetic training cells: real backgrounds that express a type's markers by the shipped "
        "table, of all its types. No cell of a left-out study is in them, and a type counts as seen only by real cells.",
        "- Intervals are paired over the same cells and hold the trained models fixed, which are means of the seeds; the mean's "
        "interval takes studies as given.",
        "",
    )


def _by_study(
    table: dict[str, Any],
    studies: Sequence[str],
    show: Callable[[dict[str, Any]], str],
    mean: str | None,
    show_mean: Callable[[Any], str] | None = None,
) -> list[list[str]]:
    rows = []
    for method in table["methods"]:
        if not _is_shown(method["name"]):
            continue
        cells = [show(method["studies"].get(study, {})) for study in studies]
        last = (show_mean or _number)(method.get(mean)) if mean else ""
        if any(cell != "–" for cell in cells):
            rows.append([method["name"], *cells, last])
    return rows


def _is_shown(method: str) -> bool:
    """Say whether a method has a row: of arms other than the recipe, only what they learned alone."""
    base = method
    for switch in (", learned + graph", ", with vote", ", with vote + graph"):
        base = base.removesuffix(switch)
    return base in (method, RECIPE)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _gain(value: Sequence[float] | None) -> str:
    if value is None:
        return "–"
    mean, low, high = (100 * v for v in value)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _section(title: str, lines: Iterable[str]) -> Iterable[str]:
    yield f"## {title}"
    yield ""
    yield from lines
    yield ""


def _lines(
    first: str,
    columns: list[str],
    items: Sequence[dict[str, Any]],
    show: Callable[[Any], list[Any]],
) -> Iterable[str]:
    return _table([first, *columns], [[item["name"], *show(item)] for item in items])


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterable[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"


def _figure(table: dict[str, Any]) -> Figure:
    methods = {method["name"]: method for method in table["methods"]}
    shown = [name for name in SHOWN if name in methods]
    styles = {SHOWN[name]: at for at, name in enumerate(shown)}
    panels = []
    for study in table["studies"]:
        values = {
            SHOWN[name]: tuple(methods[name]["studies"][study["name"]]["interval"])
            for name in shown
            if study["name"] in methods[name]["studies"]
        }
        panels.append(dots(values, styles, f"{study['name']}: {study['types']} types"))
    means = {
        SHOWN[n]: (methods[n]["accuracy"], None, None) for n in shown if "accuracy" in methods[n]
    }
    panels.append(dots(means, styles, "mean of the studies"))
    return Figure("generalisation", panels)
