"""The page ``docs/benchmarks/robustness.md``, made of the files in ``results/``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from figures import write_figures
from grid import OTHERS, SEEDS, TUNING_SEEDS
from sources import DATA
from tables import (
    Table,
    ablation_tables,
    accuracy_table,
    detection_table,
    means_table,
    secondary_table,
    swap_table,
    target_table,
    tuning_table,
)
from targets import targets

__all__ = ["write_page"]

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"
FOLDER = "figures"
COMMAND = "python benchmarks/robustness/run.py --data ../shared/data --work FOLDER"


def write_page(work: Path | None, results: Path, docs: Path = DOCS) -> None:
    """Write the page and its figures.

    Parameters
    ----------
    work
        Folder of the runs, to summarise first; None to take the summary as it is.
    results
        Folder of ``summary.json``, ``tuned.json`` and, where there is one, ``closing.md``: what no
        program can say, put at the end of the page.
    """
    path = results / "summary.json"
    if work is not None:
        from summary import summarise

        summarise(work, path)
    found = json.loads(path.read_text())
    tuning_path = results / "tuned.json"
    tuning = json.loads(tuning_path.read_text()) if tuning_path.exists() else {"table": {}}
    lines = found["lines"]
    drawn = write_figures(lines, docs / FOLDER)
    parts = [
        *_head(found),
        *_table(target_table(found)),
        *(f"![{caption}]({FOLDER}/{name})\n\n*{caption}*\n" for name, caption in drawn),
        "## FACS\n",
        *_both(lines, "facs", "mlp"),
        "## Finding the planted mismatches\n",
        *_table(detection_table(lines)),
        "## Other data\n",
        *_other_data(found),
        "## Where it fails\n",
        *_failures(found),
        "## Other objectives, retrieval, few-shot\n",
        *_table(secondary_table(lines)),
        "## Transformer\n",
        *_both(lines, "facs", "tiny"),
        "## Ablations\n",
        *(part for table in ablation_tables(found["ablations"]) for part in _table(table)),
        "## Set-up\n",
        *_setup(found),
        *_table(tuning_table(tuning["table"], tuning.get("chosen", {}))),
    ]
    closing = results / "closing.md"
    if closing.exists():
        parts.append(closing.read_text().rstrip() + "\n")
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "robustness.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def _head(found: dict[str, Any]) -> list[str]:
    done = ", ".join(f"{name} {a} of {b}" for name, (a, b) in found["done"].items())
    return [
        "# Robustness to mismatched pairs\n",
        f"Written by `{COMMAND}`; every figure is from a run of it. A killed call goes on where it was; "
        "`--list` shows what is done.\n",
        "A share of the training pairs gets a wrong text. Each objective is held against its twin that "
        "is trained on the clean pairs only (`clean_oracle`): the same encoder, texts, steps and "
        "regularisation, an own temperature, an own early stop on validation pairs that are as noisy as "
        "training. Differences are in points of zero-shot accuracy, paired by seed and test cell, with "
        "95 % intervals over test cells (over donors where five or more are in the test).\n",
        f"Runs done: {done}.\n",
        "## Targets\n",
        "Set before measuring. *best*: the checkpoint of the epoch that is best on the noisy validation "
        'cells; *last*: the last one. "met" looks at the value, not at the end of the interval.\n',
    ]


def _both(lines: list[dict[str, Any]], data: str, tower: str) -> list[str]:
    """Return the tables of both checkpoints."""
    parts = [
        part
        for checkpoint in ("best", "last")
        for part in _table(accuracy_table(lines, data, tower, checkpoint))
    ]
    return parts or ["No run yet.\n"]


def _other_data(found: dict[str, Any]) -> list[str]:
    parts = _table(means_table(found["means"]))
    for data in ("kang", "onek1k", "gut"):
        parts += _both(found["lines"], data, "mlp")
    return parts


def _failures(found: dict[str, Any]) -> list[str]:
    """Say which targets were missed, and what swaps do."""
    missed = [row for row in targets(found) if any("not met" in cell for cell in row)]
    lines = [
        f"- {what}: {best or last}"
        + (f" (best), {last} (last)" if best and last else "")
        + f"; bar {bar}."
        for what, bar, best, _, last, _ in missed
    ]
    head = (
        f"{len(missed)} of {len(targets(found))} targets are not met at one checkpoint or both"
        + (":\n" if missed else ".\n")
    )
    swaps = _table(swap_table(found["lines"]))
    about = (
        "In a swap the wrong text is the rule for a whole donor and type: cells of that donor that look "
        "alike all say so.\n"
    )
    return [head, *lines, "", *([about, *swaps] if swaps else [])]


def _setup(found: dict[str, Any]) -> list[str]:
    lines = [
        "- **Tower** `mlp`: 2,000 variable genes, two layers of 512, input dropout 0.5, weight decay 0.01, "
        "AdamW at 0.001, batches of 256, 40 epochs (20 on Kang and OneK1K, which have twice the cells). "
        "`tiny`: the small transformer, at most 256 genes a cell, 12 epochs, alignment loss alone.",
        "- **Text** of a pair: label and definition of its Cell Ontology term, by the frozen default "
        "embedder; one text per term. Cells whose label has no term are left out. Candidates of the "
        "zero-shot test: the texts of all types of the file.",
        "- **Noise** is planted in training and validation alike and changes the text of every pair it "
        "touches. *uniform*: any other text. *sibling*: the text of a type that shares a parent in the "
        "Cell Ontology, where there is one; the others stay clean. *donor*: in that share of donors two "
        "types have changed labels. *expression*: that share of each cell's non-zero values is shuffled "
        "among its genes; pairs stay right, so the oracle has the same noise.",
        "- **Gut**: few cells, so that training is enlarged by resampling counts: every epoch each cell is "
        "thinned anew, to between half and all of its molecules; batches of 64, 80 epochs. The mismatch "
        "is drawn per cell and shared by all its resamples, and neighbours are those of the cells as "
        "measured: resamples of a cell cannot vouch for each other.",
        "- **Banks and momentum** only in the objectives that have them (`cra_paper`, `momentum_distill`) "
        "and in the arm named for it: 1,024 entries, momentum 0.99.",
        f"- **Seeds** {', '.join(map(str, SEEDS))}: weights, order and noise. Splits are fixed. Tuning has "
        f"seeds of its own ({', '.join(map(str, TUNING_SEEDS))}) and never looks at test cells.",
        f"- **Other objectives** ({', '.join(OTHERS)}) are run on FACS at 40 %.",
        "- **Retrieval** knows groups: every cell of a text's type is right for it. Few-shot: five "
        "labelled test cells per type, ten draws, the rest to be told.",
        "- **Reliability** is read as the chance that a pair is clean. Precision is that of the n pairs "
        "of the lowest reliability, n being how many were planted. *repaired*: planted pairs whose "
        "suggested type is the right one. Ranges are over seeds.",
    ]
    for fact in found["data"]:
        splits = ", ".join(
            f"{name} {part['cells']:,}" + (f" ({part['donors']} donors)" if part["donors"] else "")
            for name, part in fact["splits"].items()
        )
        lines.append(f"- **{DATA[fact['data']].name}**: {fact['types']} types; cells: {splits}.")
    hours = found["seconds"].get("hours", 0.0)
    medians = ", ".join(f"{k} {v:.0f} s" for k, v in found["seconds"].items() if k != "hours")
    lines.append(f"- **Time**: {hours:.1f} hours of one core in all; median of a run: {medians}.")
    return [*lines, ""]


def _table(table: Table | None) -> list[str]:
    if table is None or not table.rows:
        return []
    return [
        f"**{table.caption}**\n",
        "| " + " | ".join(table.columns) + " |",
        "|" + "---|" * len(table.columns),
        *("| " + " | ".join(row) + " |" for row in table.rows),
        "",
    ]
