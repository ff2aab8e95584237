"""Every CPU baseline but scVI on the shipped suite: means, each dataset, and where the time goes.

python benchmarks/evaluate/suite.py --data ../shared/data --out suite.json
python benchmarks/evaluate/suite.py --data ../shared/data --work FOLDER --out suite.json

With --work the evaluation is kept there: killed, it continues, and its report can be read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from output import publish

PEERS = "hvg-pca,harmony,celltypist,logistic-hvg,genept"
METHODS = ("majority", "random")
ROOT = Path(__file__).parents[2]
BAR_MINUTES = 40
SHOWN = (
    ("clustering", "avg_bio (label-free)"),
    ("annotation", "accuracy (linear)"),
    ("annotation", "accuracy (own)"),
    ("batch", "avg_bio_b"),
    ("batch", "avg_batch"),
    ("few_shot", "accuracy (prototype, K=5)"),
    ("zero_shot", "accuracy (all)"),
    ("zero_shot", "accuracy (unseen)"),
    ("zero_shot", "ontology_credit (all, all CL)"),
    ("retrieval", "R@1 (cell to text, graded)"),
    ("robustness", "accuracy (linear, 50 % of genes lost)"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of development data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="where the evaluation is kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch) / "evaluation"
        command = [sys.executable, "-m", "okrcell", "evaluate", "run", "pca"]
        command += ["--data", str(ROOT / "suites" / "cells.toml"), "--peers", PEERS, "--grit"]
        command += ["--root", str(arguments.data / "cells"), "--out", str(work)]
        subprocess.run(command, check=True)
        publish(page(work), arguments.out)


def page(work: Path) -> dict[str, Any]:
    from okrcell.evaluate.summary import headline, load_comparisons, load_results, metric_name

    rows, comparisons = load_results(work), load_comparisons(work)
    details = json.loads((work / "details.json").read_text())
    timings = json.loads((work / "timings.json").read_text())
    datasets = [entry for entry in details["datasets"] if "/" not in entry["label"]]
    n_cells = sum(
        e["data"]["n_train"] + e["data"]["n_validation"] + e["data"]["n_test"] for e in datasets
    )
    lines = headline(rows, comparisons)
    methods = list(dict.fromkeys(name for line in lines for name in line["values"]))
    means = [
        [
            f"{line['task_name']}: {line['metric_name']}",
            *(_mean(line["values"].get(name), line["best"] == name, line) for name in methods),
        ]
        for line in lines
    ]
    tables = [
        {
            "caption": f"Means over datasets ({len(datasets)} files of seven studies, {n_cells:,} labelled cells). In "
            "brackets: of how many files, where not of all that the line has",
            "columns": ["number", *methods],
            "rows": means,
        },
        _per_dataset(rows, metric_name),
        _times(timings),
    ]
    n_pairs = len(comparisons)
    n_clear = sum(c["p_adjusted"] is not None and c["p_adjusted"] < 0.05 for c in comparisons)
    total = sum(timings.values()) / 60
    return {
        "title": "Every CPU baseline on the shipped suite",
        "command": "python benchmarks/evaluate/run.py --data ../shared/data --only suite",
        "tables": tables,
        "notes": [
            f"{total:.1f} minutes in all (bar: {BAR_MINUTES}), one process, five seeds.",
            f"Bold: clearly the best, by the rule in docs/method.md. {n_clear} of {n_pairs} pairs of methods differ with a "
            "p below 0.05 after Holm's correction.",
            "No method here was trained on other data; there is no trained okrcell model in this table.",
            *details["notes"],
        ],
    }


def _mean(cell: dict[str, Any] | None, is_best: bool, line: dict[str, Any]) -> str:
    if cell is None or cell["value"] is None:
        return "–"
    text = f"{cell['value']:.3f}" if cell["value"] <= 1 else f"{cell['value']:.0f}"
    most = max(other.get("datasets", 1) for other in line["values"].values())
    few = f" ({cell['datasets']})" if cell.get("datasets", most) < most else ""
    return f"**{text}**{few}" if is_best else f"{text}{few}"


def _per_dataset(rows: list[dict[str, Any]], metric_name: Any) -> dict[str, Any]:
    """Return the best method of each dataset beside PCA, with intervals, for a few numbers."""
    found: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        if (row["task"], row["metric"]) in SHOWN and row["value"] is not None:
            found[row["dataset"], row["task"], row["metric"]][row["method"]] = row
    lines = []
    for (dataset, task, metric), values in found.items():
        rivals = {n: r for n, r in values.items() if n not in {"majority", "random"}}
        if not rivals:
            continue
        best = max(rivals, key=lambda name: rivals[name]["value"])
        floor = max(
            (values[n] for n in METHODS if n in values), key=lambda r: r["value"], default=None
        )
        lines.append(
            [
                dataset,
                f"{task}: {metric_name(metric)}",
                rivals[best]["n"],
                f"{best} {_with_interval(rivals[best])}",
                _with_interval(values["pca"]) if "pca" in values else "–",
                f"{floor['method']} {floor['value']:.3f}" if floor else "–",
            ]
        )
    columns = ["data (and split)", "number", "cells", "highest", "pca", "floor"]
    return {"caption": "Each dataset: highest value, PCA, floor", "columns": columns, "rows": lines}


def _with_interval(row: dict[str, Any]) -> str:
    if row["ci_low"] is None:
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"


def _times(timings: dict[str, float]) -> dict[str, Any]:
    by_task: dict[str, float] = defaultdict(float)
    by_method: dict[str, float] = defaultdict(float)
    for step, seconds in timings.items():
        method, _, task = step.split(": ", 1)[1].partition(", ")
        by_task[task or "maps"] += seconds
        by_method[method] += seconds
    rows = [["task", name, f"{s:.0f}"] for name, s in sorted(by_task.items(), key=lambda x: -x[1])]
    rows += [
        ["method", name, f"{s:.0f}"] for name, s in sorted(by_method.items(), key=lambda x: -x[1])
    ]
    return {
        "caption": "Where the time goes (embedding counts with the first task of a method)",
        "columns": ["by", "which", "seconds"],
        "rows": rows,
    }


if __name__ == "__main__":
    main()
