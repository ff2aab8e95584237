"""The report of an evaluation folder, on folders that look like real ones, and on hostile names."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

from okrcell.artifacts import commit, writing
from okrcell.errors import ManifestError
from okrcell.evaluate import charts, figures
from okrcell.evaluate.export import export_tables_and_figures
from okrcell.evaluate.figures import Legend, style_of
from okrcell.evaluate.folder import COMPARISONS, DETAILS, KIND, RESULTS
from okrcell.evaluate.report import write_report
from okrcell.evaluate.report_data import clean, datasets_of, load_evaluation, notes, slug
from okrcell.evaluate.report_figures import Figure
from okrcell.evaluate.report_listings import comparison_table
from okrcell.evaluate.report_pdf import sheet, standalone, write_pdf
from okrcell.evaluate.report_tables import summary_table
from okrcell.evaluate.report_verdict import verdict
from okrcell.evaluate.summary import (
    clear_best,
    compare,
    compared_metrics,
    format_value,
    headline,
    load_results,
    metric_name,
)
from okrcell.evaluate.words import limits, methods_paragraph
from okrcell.schemas import TABLES, write_table

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'single'"
METHODS = (
    ("okrcell", "trained with cra_plus on descriptions"),
    ("pca", "50 principal components of log-normalised counts"),
    ("harmony", "Harmony on 50 principal components"),
    ("obsm:X_scGPT", "the embedding X_scGPT of the file"),
    ("pca+ridge", "ridge regression from PCA to texts"),
    ("random", "random unit vectors"),
    ("majority", "always the most frequent type of the train cells"),
)
_TYPES = (
    *("CD4-positive, alpha-beta T cell", "B cell", "classical monocyte", "natural killer cell"),
    *("dendritic cell", "plasma cell", "platelet", "gamma-delta T cell"),
)
_SKILL = {
    "okrcell": 0.82,
    "harmony": 0.7,
    "pca": 0.68,
    "obsm:X_scGPT": 0.6,
    "pca+ridge": 0.6,
    "random": 0.15,
    "majority": 0.2,
}
_TEXTS = ("okrcell", "pca+ridge", "random")
_CURVE_K = (1, 2, 5, 10, 20, 50, 100)
_INDICATORS = (
    *("isolated_labels", "kmeans_nmi", "kmeans_ari", "silhouette_label", "clisi"),
    *("silhouette_batch", "graph_connectivity", "pcr_comparison", "ilisi", "kbet"),
    *("avg_bio_b", "avg_batch"),
)


def _metrics() -> list[tuple[str, str]]:
    found = [
        ("clustering", f"{metric} ({how})")
        for how in ("best", "label-free")
        for metric in ("ari", "ami", "nmi", "asw_cell", "avg_bio")
    ]
    found += [
        ("annotation", f"{m} ({h})") for h in ("linear", "knn") for m in ("accuracy", "macro_f1")
    ]
    found += [("batch", metric) for metric in _INDICATORS]
    found += [
        ("few_shot", f"{metric} ({head}, K={k})")
        for k in (1, 5, 9, 20)
        for head in ("prototype", "logistic")
        for metric in ("accuracy", "macro_f1")
    ]
    found += [
        ("zero_shot", f"{metric} ({scope})")
        for scope in ("all", "seen", "unseen", "unseen_only")
        for metric in ("accuracy", "macro_f1", "ontology_credit", "top3")
    ]
    found += [("zero_shot", "ece (all, calibrated)"), ("zero_shot", "accuracy (all, all CL)")]
    found += [
        ("retrieval", f"{metric} ({way} to {to}, {form})")
        for way, to in (("cell", "text"), ("text", "cell"))
        for form in ("strict", "graded")
        for metric in ("R@1", "R@5", "R@10", *(("median_rank", "MRR") if form == "strict" else ()))
    ]
    found += [("robustness", f"accuracy (linear, {x} % of genes lost)") for x in (10, 30, 50)]
    return found


def _asked(task: str, method: str) -> bool:
    if task in {"zero_shot", "retrieval"}:
        return method in _TEXTS or (task == "zero_shot" and method == "majority")
    if method == "majority":
        return task == "annotation"
    return method != "pca+ridge" and not (task == "robustness" and method.startswith("obsm"))


def _value(rng: np.random.Generator, metric: str, skill: float) -> float:
    if metric.startswith("median_rank"):
        return float(np.round(40 * (1.1 - skill) + rng.random(), 1))
    if metric.startswith("ece"):
        return float(0.3 * (1 - skill))
    hard = 0.25 if "strict" in metric or "unseen)" in metric else 0.05
    return float(np.clip(skill - hard * rng.random(), 0.01, 0.99))


def _matrix(rng: np.random.Generator, n: int, skill: float) -> list[list[int]]:
    sizes = np.maximum(1, (400 / (1 + np.arange(n))).astype(int))
    table = np.stack(
        [
            rng.multinomial(size, [skill if i == j else (1 - skill) / (n - 1) for j in range(n)])
            for i, size in enumerate(sizes)
        ]
    )
    return [[int(count) for count in row] for row in table]


def _curve(start: float) -> list[list[float]]:
    return [[k, round(min(1.0, start * k**0.6), 6)] for k in _CURVE_K]


def _details(
    rng: np.random.Generator, methods: list[str], types: list[str], n_cells: int, batches: list[str]
) -> dict[str, Any]:
    n, unseen = len(types), types[-1:]
    skills = {name: _SKILL.get(name, 0.5) for name in methods}
    tasks: dict[str, Any] = {
        "clustering": {
            name: {
                "best": {"resolution": [0.4], "n_clusters": [n]},
                "label-free": {"resolution": [0.3, 0.4], "n_clusters": [n - 1, n]},
                "n_types": n,
            }
            for name in methods
            if _asked("clustering", name)
        },
        "annotation": {
            name: {
                "head": "linear",
                "confusion": {"labels": types[:-1], "matrix": _matrix(rng, n - 1, skill)},
                "per_class": [
                    {"type": t, "n": 20, "precision": 0.8, "recall": 0.7, "f1": None if i else 0.75}
                    for i, t in enumerate(types[:-1])
                ],
            }
            for name, skill in skills.items()
            if _asked("annotation", name)
        },
        "batch": {name: {"batches": dict.fromkeys(batches, 50)} for name in methods},
        "few_shot": {
            name: {
                "curve": [
                    {"head": head, "k": k, "value": v, "low": v - 0.06, "high": min(1, v + 0.05)}
                    for head in ("prototype", "logistic")
                    for k in (1, 5, 9, 20)
                    for v in (skill * (1 - 0.4 / k),)
                ],
                "dropped": {"20": types[-2:]},
            }
            for name, skill in skills.items()
            if _asked("few_shot", name)
        },
        "zero_shot": {
            name: {
                "labels": types,
                "unseen": unseen,
                "matrix": _matrix(rng, n, skill),
                "calibration": {
                    "temperature": 0.0713,
                    "ece": 0.3 * (1 - skill),
                    "bins": [
                        {
                            "confidence": c,
                            "accuracy": min(1.0, c * skill + 0.1),
                            "n": int(10 + 90 * c),
                        }
                        for c in (0.15, 0.35, 0.55, 0.75, 0.93)
                    ],
                },
                "unknown": {
                    "threshold": 0.42,
                    "coverage": 0.7,
                    "accuracy": min(1.0, skill + 0.08),
                    "curve": [[c / 20, min(1.0, skill + 0.2 * (1 - c / 20))] for c in range(1, 21)],
                },
                "open": {
                    "Cell Ontology, blood": {
                        "n_candidates": 312,
                        "top_wrong": [[types[0], types[1], 12], [types[1], types[2], 4]],
                    },
                    "Cell Ontology, all": {"n_candidates": 3300, "top_wrong": []},
                },
            }
            for name, skill in skills.items()
            if name in _TEXTS
        },
        "retrieval": {
            **{
                name: {
                    "curve": {
                        f"{a} to {b}, {form}": _curve(skill * (0.05 if form == "strict" else 0.4))
                        for a, b in (("cell", "text"), ("text", "cell"))
                        for form in ("strict", "graded", "same type")
                    },
                    "fold": 1000,
                    "n_folds": 2,
                }
                for name, skill in skills.items()
                if name in _TEXTS
            },
            "reference": {"ceiling": _curve(0.08), "chance": _curve(0.001)},
        },
        "robustness": {
            name: {
                "curves": [
                    {
                        "kind": kind,
                        "metric": "accuracy (linear)",
                        "level": level,
                        "value": skill * keep,
                        "low": skill * keep - 0.03,
                        "high": skill * keep + 0.03,
                    }
                    for kind, level, keep in (
                        *(("dropout", x, 1 - 0.5 * x) for x in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
                        *(("depth", x, 0.6 + 0.4 * x) for x in (0.1, 0.25, 0.5, 1.0)),
                    )
                ]
            }
            for name, skill in skills.items()
            if _asked("robustness", name)
        },
    }
    code = rng.integers(n, size=n_cells)
    centres = rng.normal(size=(n, 2)) * 8
    return {
        "tasks": tasks,
        "umap": {
            "methods": {
                name: np.round(centres[code] + rng.normal(size=(n_cells, 2)), 3).tolist()
                for name in dict.fromkeys((methods[0], "pca"))
            },
            "labels": [types[i] for i in code],
            "batches": [batches[i % len(batches)] for i in range(n_cells)],
        },
    }


def _example(label: str, bad: str) -> dict[str, Any]:
    evidence = {
        "snippet_id": "0123456789abcdef01234567",
        "source": "cl",
        "doc_id": "CL:0000623",
        "section": "",
        "quote": "kills target cells",
        "parts": [f"{bad} A cell that ", "kills target\ncells", " on sight."],
    }
    claims = [
        {"sentence": f"It kills. {bad}", "verdict": verdict, "evidence": [evidence]}
        for verdict in ("supported", "unsupported")
    ]
    return {
        **{"label": label, "is_unseen": True, "status": "accepted", "writer": "extractive"},
        **{"reliability": 0.91, "screen_cosine": 0.8, "leaked_names": [bad], "text": f"It {bad}."},
        "claims": claims,
    }


def make_folder(
    tmp_path: Path,
    n_datasets: int = 1,
    methods: tuple[tuple[str, str], ...] = METHODS,
    *,
    n_types: int = 8,
    n_cells: int = 300,
    comparisons: bool = True,
    trained: bool = True,
    bad: str = "plain",
    names: tuple[str, ...] = ("pbmc", "gut", "pancreas"),
    config: dict[str, Any] | None = None,
) -> Path:
    """Write a finished evaluation; ``bad`` stands wherever data, texts or people name something."""
    rng = np.random.default_rng(0)
    types = [*_TYPES, *(f"cell type {i} of the long list" for i in range(n_types))][:n_types]
    types[0] = bad if bad != "plain" else types[0]
    batches = ["V2", "V3", bad]
    known = [name for name, _ in methods]
    rows, tests, datasets = [], [], []
    for d in range(n_datasets):
        dataset = names[d] if d < len(names) else f"dataset-{d}"
        shift = rng.normal() * 0.03
        for task, metric in _metrics():
            values = {
                m: _value(rng, metric, _SKILL.get(m, 0.4 + 0.02 * known.index(m)) + shift)
                for m in known
                if _asked(task, m)
            }
            wide = 2.0 if metric.startswith("median_rank") else 0.04
            for m, value in values.items():
                ends = (value - wide, value + wide) if m != "majority" else (value, value)
                rows.append((dataset, task, m, metric, value, *ends))
                if d == 0 and task == "annotation":
                    rows.append(
                        (f"{dataset}/random", task, m, metric, min(1.0, value + 0.05), *ends)
                    )
            if (task, metric) in compared_metrics():
                listed = list(values)
                for i, a in enumerate(listed):
                    for b in listed[i + 1 :]:
                        diff = values[a] - values[b]
                        p = 0.0001 if abs(diff) > 0.08 else 0.2
                        tests.append(
                            (
                                dataset,
                                task,
                                metric,
                                a,
                                b,
                                diff,
                                diff - 0.05,
                                diff + 0.05,
                                p,
                                min(1, 4 * p),
                            )
                        )
        if d == 0:
            reference = ("retrieval", "duplicate ceiling", "R@10 (cell to text, strict)", 0.9)
            rows.append((dataset, *reference, 0.9, 0.9))
        facts = {
            "sha256": f"{d:064x}",
            "n_train": 1400,
            "n_validation": 120,
            "n_test": 700 if d == 0 else 2400,
            "n_integrated": 2220,
            "integration": "all" if d else "test",
            "n_genes": 18708,
            "values": "counts",
            "n_profiles": 2 * n_types,
            "text_kind": "description",
            "test_types": dict(zip(types, range(n_types, 0, -1), strict=True)),
            "seen": types[:-1],
            "unseen": types[-1:] if d == 0 else [],
            "batches": batches,
            "donors": 3 if d == 0 else 12,
            "interval_unit": "cells" if d == 0 else "donors",
            "tissue": "blood" if d == 0 else bad,
            "gene_coverage": {"okrcell": 0.93},
        }
        first = {
            **{"dataset": dataset, "split": "donor", "data": facts},
            **_details(rng, known, types, n_cells, batches),
            "examples": [_example(types[0], bad)] if trained else [],
            "notes": [f"Two labels differ in blanks alone: '{bad}'."],
        }
        datasets.append(first)
        if d == 0:
            datasets.append({"dataset": dataset, "split": "random", "data": facts, "tasks": {}})
    details = {
        "methods": [{"name": name, "about": about} for name, about in methods],
        "asked": known[:1],
        "checkpoints": {
            known[0]: {
                "sha256": "a" * 64,
                "config": {"objective": "cra_plus", "text_source": "description"},
                "facts": {"steps": 2400},
                "producer": "0.1.0",
            }
        }
        if trained
        else {},
        "datasets": datasets,
        "notes": ["Clustering sees a sample of 3,000 cells."],
    }
    results = [
        {
            **dict(
                zip(
                    ("dataset", "task", "method", "metric", "value", "ci_low", "ci_high"),
                    row,
                    strict=True,
                )
            ),
            **{"n": 700, "seed": "0,1,2" if row[2] == "random" else "0", "seconds": None},
            **{"data_sha256": "0" * 64, "checkpoint_sha256": ""},
        }
        for row in rows
    ]
    out = tmp_path / "evaluation"
    with writing(out, KIND):
        schema = TABLES["results"].schema
        files: dict[str, int | None] = {
            RESULTS: write_table(
                out / RESULTS, "results", pa.Table.from_pylist(results, schema=schema)
            )
        }
        if comparisons:
            columns = [name for name in TABLES["comparisons"].schema.names if name != "n"]
            found = [{**dict(zip(columns, row, strict=True)), "n": 700} for row in tests]
            table = pa.Table.from_pylist(found, schema=TABLES["comparisons"].schema)
            files[COMPARISONS] = write_table(out / COMPARISONS, "comparisons", table)
        (out / DETAILS).write_text(json.dumps(details), encoding="utf-8")
        files[DETAILS] = None
        settings = {
            **{"seed": 0, "seeds": 5, "bootstrap": 1000, "episodes": 20, "shots": [1, 5, 9, 20]},
            **{"resolutions": [0.1, 1.0, 2.0], "n_neighbors": 15, "fold": 1000, "max_cells": 3000},
            **{"dropout": [0.1, 0.5], "thinning": [0.5], "tasks": ["clustering"]},
        }
        commit(out, KIND, config=config or settings, inputs={f"cells {bad}": "b" * 64}, files=files)
    return out


CONTEXT = {
    "title": "Toy evaluation",
    "subtitle": "Simulated cells",
    "warnings": ["The batches are synthetic."],
    "commands": ["okrcell evaluate run okrcell --data suite.toml --out evaluation"],
    "data_card": {"source": "simulated", HOSTILE: HOSTILE},
    "gene_coverage": {"resolved": "40 of 40"},
    "versions": {"CL": "2026-03-26"},
    "mapping_rows": [
        {
            **{
                "field": "cell_type",
                "label": HOSTILE,
                "term_id": "CL:0000236",
                "term_label": "B cell",
            },
            **{"score": 1.0, "reason": "label", "n_cells": 30},
        },
        {"field": "tissue", "label": "nowhere", "term_id": None, "score": None, "reason": None},
    ],
    "planted": [
        {
            "objective": name,
            "rate": rate,
            "accuracy": 0.9 - rate,
            "low": 0.85 - rate,
            "high": 0.95 - rate,
        }
        for name in ("cra_plus", HOSTILE)
        for rate in (0.0, 0.4)
    ],
}
NASTY = (
    HOSTILE
    + "  "
    + "\u202egnp.exe \x01 $\\frac{a}{b}$ 免疫細胞 é 𝔘 "
    + "averyveryverylongnamewithoutanyblank" * 5
    + " "
)
NASTY_METHODS = ((NASTY, NASTY), *METHODS[1:])


def page_of(folder: Path, tmp_path: Path, context: dict[str, Any] | None = None) -> str:
    write_report(folder, tmp_path / "web" / "report.html", context)
    return (tmp_path / "web" / "report.html").read_text(encoding="utf-8")


def test_curves_of_wrong_labels_are_drawn_where_the_caller_has_them(tmp_path: Path) -> None:
    toy = make_folder(tmp_path / "toy")
    assert 'id="planted"' not in page_of(toy, tmp_path)
    page = page_of(toy, tmp_path, CONTEXT)
    section = page[page.index('id="planted"') :].split("</section>")[0]
    assert "40 %" in section
    assert "0.500" in section
    assert HOSTILE not in section


# --- numbers and words -----------------------------------------------------------------------


def _row(
    method: str,
    value: float,
    low: float,
    high: float,
    metric: str = "accuracy (seen)",
    dataset: str = "d",
) -> dict[str, Any]:
    return {
        **{"dataset": dataset, "task": "zero_shot", "method": method, "metric": metric},
        **{"value": value, "ci_low": low, "ci_high": high, "n": 50, "seed": "0"},
    }


def _test(
    a: str, b: str, difference: float, p: float, metric: str = "accuracy (seen)", dataset: str = "d"
) -> Any:
    return {
        **{"dataset": dataset, "task": "zero_shot", "metric": metric, "method_a": a, "method_b": b},
        **{
            "difference": difference,
            "ci_low": 0.0,
            "ci_high": 0.0,
            "p": p,
            "p_adjusted": p,
            "n": 50,
        },
    }


def test_without_tests_the_best_is_claimed_beyond_the_intervals() -> None:
    clear = headline([_row("okrcell", 0.8, 0.7, 0.9), _row("pca", 0.5, 0.4, 0.6)])
    close = headline([_row("okrcell", 0.8, 0.7, 0.9), _row("pca", 0.65, 0.6, 0.75)])
    assert (clear[0]["best"], close[0]["best"]) == ("okrcell", None)
    assert clear[0]["values"]["pca"] == {"value": 0.5, "low": 0.4, "high": 0.6, "n": 50}
    low = {"a": {"value": 3, "low": 2, "high": 4}, "b": {"value": 9, "low": 8, "high": 10}}
    assert clear_best("median_rank (x)", low) == clear_best("ece (all)", low) == "a"
    mixing = {
        "m": {"value": 0.5, "low": 0.4, "high": 0.6},
        "random": {"value": 0.9, "low": 0.9, "high": 0.9},
    }
    assert clear_best("accuracy (all)", mixing) == "random"
    assert clear_best("avg_batch", {**mixing, "p": {"value": 0.1, "low": 0.1, "high": 0.1}}) == "m"


def test_paired_tests_overrule_intervals() -> None:
    rows = [_row("a", 0.8, 0.7, 0.9), _row("b", 0.75, 0.65, 0.85), _row("c", 0.2, 0.1, 0.3)]
    assert headline(rows)[0]["best"] is None
    tests = [_test("b", "a", -0.05, 0.01)]  # c was not tested: its interval lies apart
    assert headline(rows, tests)[0]["best"] == "a"
    assert headline(rows, [_test("b", "a", -0.05, 0.06)])[0]["best"] is None
    assert headline(rows, [_test("a", "c", 0.6, 0.5), *tests])[0]["best"] is None
    assert list(headline(rows, tests, "c")[0]["values"]) == ["c", "a", "b"]


def test_lower_is_better_for_ranks() -> None:
    values = {"a": {"value": 3, "low": 1, "high": 9}, "b": {"value": 9, "low": 2, "high": 10}}
    assert compare("median_rank (x)", values, "a", "b") == 0
    assert compare("median_rank (x)", values, "a", "b", {("a", "b"): 1}) == 1
    assert compare("median_rank (x)", values, "a", "none") is None


def test_over_datasets_the_best_wins_on_more_than_half() -> None:
    def rows(thirds: tuple[float, float, float]) -> list[dict[str, Any]]:
        return [
            row
            for name, value in zip("xyz", thirds, strict=True)
            for row in (
                _row("a", value, value - 0.05, value + 0.05, dataset=name),
                _row("b", 0.5, 0.45, 0.55, dataset=name),
            )
        ]

    two = headline(rows((0.8, 0.8, 0.5)))[0]
    assert two["best"] == "a"
    assert (two["values"]["a"]["wins"], two["values"]["a"]["datasets"]) == (2, 3)
    assert two["values"]["a"]["value"] == pytest.approx(0.7)
    assert headline(rows((0.9, 0.5, 0.5)))[0]["best"] is None
    fewer = [row for row in rows((0.8, 0.8, 0.8)) if (row["method"], row["dataset"]) != ("a", "z")]
    assert headline(fewer)[0]["best"] is None  # its mean is over other datasets
    further = [*rows((0.8, 0.8, 0.8)), _row("a", 0.1, 0.0, 0.2, dataset="x/random")]
    assert headline(further)[0]["values"]["a"]["value"] == pytest.approx(0.8)


def test_values_print_with_their_interval() -> None:
    assert format_value({"value": 0.7123, "low": 0.65, "high": 0.78}) == "0.712 [0.65, 0.78]"
    assert format_value({"value": -0.0001, "low": None, "high": None}) == "0.000"
    assert format_value(None) == "–"
    assert metric_name("accuracy (all, tissue CL)").startswith("Accuracy, all types, among Cell")


def test_the_verdict_says_what_is_worse(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, comparisons=False)
    said = " ".join(verdict(load_evaluation(folder)))
    assert "beyond the 95 % intervals in" in said
    assert "On 700 test cells of pbmc (8 types, 1 of them without train cells), okrcell" in said
    assert "By text alone it names the right one of 8 types for " in said
    shutil.rmtree(folder)
    methods = (METHODS[5], *METHODS[:3])  # random is the main method: it loses
    folder = make_folder(tmp_path, methods=methods, trained=False)
    said = " ".join(verdict(load_evaluation(folder)))
    assert "random is the best method by paired tests, corrected for their number, in 0 of" in said
    assert "Behind in clustering (AvgBIO, label-free resolution 0.1" in said


def test_methods_and_limits_follow_from_the_facts(tmp_path: Path) -> None:
    ev = load_evaluation(make_folder(tmp_path, 2))
    told = methods_paragraph(ev, {"numpy": "2.0"})
    for words in (
        "on 2 datasets: pbmc (1,400 training, 120 validation and 700 test cells",
        "split by donor, for annotation also at random)",
        "Leiden and Louvain on the graph of 15 neighbours at resolutions 0.1 to 2",
        "over cells or donors",
        "1,000 resamples",
        "Holm",
        "seeds 0 to 4",
        "K = 1, 5, 9 and 20",
        "numpy 2.0.",
    ):
        assert words in told
    said = " ".join(limits(ev))
    assert "Fewer than 1,000 test cells in pbmc:" in said
    assert "Every test type occurs in training in gut" in said
    assert "One dataset" not in said
    assert "One training of okrcell" in said


# --- figures ---------------------------------------------------------------------------------


def test_styles_are_distinct_for_all_types_of_a_large_atlas() -> None:
    assert len({style_of(index)[:2] for index in range(80)}) == 80


def test_a_map_of_many_types_carries_numbers() -> None:
    names = [f"type {i:02d}" for i in range(68)]
    points = np.random.default_rng(0).normal(size=(680, 2))
    drawn = figures.scatter(points.tolist(), names * 10, names, "map")
    assert drawn.body.count("lab") == 68
    assert Legend(tuple((name, i) for i, name in enumerate(names))).label(67) == "68 type 67"
    assert len(drawn.body) < 680 * 60
    one = figures.scatter([[1.0, 2.0]], ["a"], ["a", "b"], "one cell")
    assert "nan" not in one.body
    assert figures.scatter([], [], [], "none").width == 340


def test_a_confusion_of_many_types_stays_small() -> None:
    matrix = np.diag(np.arange(68)) + np.eye(68, k=1, dtype=int)
    drawn = figures.heatmap([f"t{i}" for i in range(68)], matrix.tolist(), "confusion")
    assert drawn.width < 760
    assert len(drawn.names) == 68
    assert len(drawn.__html__()) < 40_000


def test_alluvials_fold_small_types_and_keep_all_cells() -> None:
    matrix = (np.eye(30, dtype=int) * np.arange(30, 0, -1)[:, None]).tolist()
    matrix[0][29] = 5
    drawn = charts.sankey([f"t{i}" for i in range(30)], matrix, "flows").body
    assert "16 other types" in drawn
    folded = sum(range(1, 17))
    assert f"  {folded}<" in drawn
    assert f"  {folded + 5}<" in drawn
    assert charts.sankey(["a", "b"], [[0, 0], [0, 0]], "nothing").height > 0


def test_texts_are_cut_to_their_room_and_escaped() -> None:
    drawn = figures.dots({HOSTILE * 3: (0.5, 0.4, 0.6)}, {}, "title")
    assert "<script" not in drawn.body
    assert "…" in drawn.body
    ElementTree.fromstring(standalone(drawn))


# --- the page --------------------------------------------------------------------------------


def test_the_report_is_complete_and_repeatable(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    html = page_of(folder, tmp_path, CONTEXT)
    for words in (
        *("Toy evaluation", "synthetic", "pca+ridge", "duplicate ceiling", "unsupported"),
        *("CL:0000236", "<mark>kills target\ncells</mark>", "Per type: okrcell, linear probe"),
        *("Bio conservation", "Candidate sets", "0.001", "split at random"),
        *("For a paper", "obsm:X_scGPT", "below a confidence of 0.42"),
    ):
        assert words in html, words
    for task in load_evaluation(folder).tasks:
        assert f'<section id="{task}">' in html
    assert "http" not in html.replace("http-equiv", "")
    assert "<script" not in html
    assert html == page_of(folder, tmp_path, CONTEXT)
    assert {row["task"] for row in load_results(folder)} == set(load_evaluation(folder).tasks)


def test_names_from_data_are_never_markup(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, 2, NASTY_METHODS, bad=NASTY, names=(NASTY, "b/c"))
    html = page_of(folder, tmp_path, CONTEXT)
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert 'alert(1)</script> & "quotes"' not in html
    assert "\u202e" not in html
    assert "\x01" not in html
    assert "␣" in html  # the blank at the end is seen
    for path in export_tables_and_figures(folder, tmp_path / "figures", ["svg"]):
        assert path.stat().st_size > 0
        if path.suffix == ".svg":
            ElementTree.fromstring(path.read_text(encoding="utf-8"))
    assert "<script" not in (tmp_path / "figures" / "methods.md").read_text(encoding="utf-8")


def test_a_report_of_little_is_a_report(tmp_path: Path) -> None:
    """No model, no tests, no maps, no details, one metric."""
    row = {
        **_row("pca", 0.5, 0.4, 0.6, "avg_batch"),
        **{"task": "batch", "seconds": None, "data_sha256": "", "checkpoint_sha256": ""},
    }
    details = {
        "methods": [{"name": "pca", "about": "components"}],
        "datasets": [{"dataset": "d", "split": "random", "data": {}, "tasks": {}}],
    }
    out = tmp_path / "evaluation"
    with writing(out, KIND):
        table = pa.Table.from_pylist([row], schema=TABLES["results"].schema)
        write_table(out / RESULTS, "results", table)
        (out / DETAILS).write_text(json.dumps(details), encoding="utf-8")
        commit(out, KIND, config={}, inputs={}, files={RESULTS: 1, DETAILS: None})
    assert "AvgBATCH" in page_of(out, tmp_path)
    written = export_tables_and_figures(out, tmp_path / "figures")
    assert {path.suffix for path in written} == {".svg", ".pdf", ".csv", ".md"}
    assert len(set(written)) == len(written)
    again = export_tables_and_figures(out, tmp_path / "again")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]
    with pytest.raises(ManifestError):
        write_report(tmp_path / "none", tmp_path / "x.html")


def test_ten_datasets_and_twelve_methods_stay_small(tmp_path: Path) -> None:
    more = tuple((f"method-{i}", "another") for i in range(5))
    folder = make_folder(tmp_path, 10, (*METHODS, *more), n_types=30, n_cells=2000)
    assert len(page_of(folder, tmp_path)) < 6_000_000
    ev = load_evaluation(folder)
    shown = comparison_table(ev, 400)
    assert shown is not None
    assert 0 < len(shown.rows) < len(ev.comparisons)


# --- files -----------------------------------------------------------------------------------


def test_figures_and_tables_as_files(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    written = export_tables_and_figures(folder, tmp_path / "one", ["svg"])
    names = {path.name for path in written}
    assert {"umap-1-pbmc-type.svg", "zero-shot-1-pbmc-flows.svg", "batch-1-pbmc-scib.svg"} <= names
    assert {"summary.csv", "comparisons.csv", "methods.md", "types-1-pbmc.csv"} <= names
    assert len(names) == len(written)
    rows = list(csv.reader(io.StringIO((tmp_path / "one" / "summary.csv").read_text("utf-8"))))
    assert rows[0][:7] == ["task", "metric", "n", "seeds", "okrcell", "okrcell low", "okrcell high"]
    assert len(rows) == 1 + len(summary_table(load_evaluation(folder)).rows)
    code = (
        "import sys; from pathlib import Path\n"
        "from okrcell.evaluate.export import export_tables_and_figures as export\n"
        "export(Path(sys.argv[1]), Path(sys.argv[2]), ['svg'])"
    )
    subprocess.run([sys.executable, "-c", code, folder, tmp_path / "two"], check=True)
    for path in written:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_pdfs_embed_their_fonts_and_carry_no_date(tmp_path: Path) -> None:
    panel = figures.dots({"$a_b$ 免疫": (0.5, 0.4, 0.6)}, {}, "title with $math$")
    legend = Legend((("name", 0), ("other", 1)), True, "a note")
    write_pdf(sheet(Figure("f", [panel, panel, panel], legend)), tmp_path / "f.pdf")
    content = (tmp_path / "f.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"CreationDate" not in content
    assert b"/FontFile2" in content


def test_spreadsheets_are_given_no_formulas(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, bad="=cmd|' /C calc'!A0")
    export_tables_and_figures(folder, tmp_path / "out", [])
    for path in (tmp_path / "out").glob("*.csv"):
        for row in csv.reader(io.StringIO(path.read_text("utf-8"))):
            assert not any(field.startswith(("=", "@")) for field in row), path.name


def test_notes_are_told_once_with_their_datasets(tmp_path: Path) -> None:
    ev = load_evaluation(make_folder(tmp_path, 2))
    path = tmp_path / "evaluation" / DETAILS
    assert notes(ev, ["first"])[:2] == ["first", "Clustering sees a sample of 3,000 cells."]
    content = json.loads(path.read_text("utf-8"))
    content["datasets"][0]["notes"] = ["pbmc: only 700 test cells.", "shared"]
    content["datasets"][2]["notes"] = ["shared", "sample"]
    content["notes"] = ["pbmc: only 700 test cells.", "shared", "sample", "run"]
    changed = dataclasses.replace(ev, details=content, datasets=datasets_of(content["datasets"]))
    assert notes(changed) == ["run", "pbmc: only 700 test cells.", "shared", "gut: sample"]


def test_further_splits_belong_to_their_dataset() -> None:
    entries = [
        {"dataset": "a", "split": "random", "label": "a/random"},
        {"dataset": "a", "split": "donor", "label": "a"},
        {"dataset": "b", "split": "batch"},
        {"dataset": "b", "split": "random"},
    ]
    found = datasets_of(entries)
    assert [(d.key, [key for key, _ in d.splits]) for d in found] == [
        ("a", ["a/random"]),
        ("b", ["b/random"]),
    ]


def test_names_become_safe_file_names() -> None:
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("免疫") == "x"
    assert clean({"a ": ["\ud800", 1, None]}) == {"a␣": ["\ufffd", 1, None]}


# --- in a browser ----------------------------------------------------------------------------


@pytest.fixture
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    program = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if program is None:
        pytest.skip("no Chromium: install it with `apt-get install chromium`")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=flags)
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["one", "hostile", "large"])
def test_the_report_in_a_browser(kind: str, tmp_path: Path, browser: Any) -> None:
    folder = {
        "one": lambda: make_folder(tmp_path),
        "hostile": lambda: make_folder(tmp_path, 2, NASTY_METHODS, bad=NASTY, names=(NASTY, "b/c")),
        "large": lambda: make_folder(tmp_path, 3, n_types=68),
    }[kind]()
    page_of(folder, tmp_path, CONTEXT)
    page = tmp_path / "web" / "report.html"
    for width in (1280, 400):
        for scheme in ("light", "dark"):
            tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said: list[str] = []
            asked: list[str] = []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto(page.as_uri())
            # The page has no script; its policy allows none, and neither does opening by hand.
            for place in tab.locator("details > summary").all():
                if place.is_visible() and not place.evaluate("e => e.parentElement.open"):
                    place.click()
            assert tab.locator("details:not([open])").count() == 0
            assert said == []
            assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.locator("svg[role=img]").count() >= 15
            tab.locator("sup a").first.click()
            assert tab.evaluate("document.querySelector(':target') !== null")
            tab.close()
