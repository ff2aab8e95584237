"""The page of the default model: command, card, files, figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sources import CAP

from okrcell.artifacts import atomic_write
from okrcell.train.config import TrainConfig

__all__ = ["write_page"]

_HEAD = """# The default model

One command, files that anyone can get, a few minutes on two cores. Weights are not part of the repository.

```sh
make default-model                    # the 700 blood cells that scanpy ships, and cells made of markers
make default-model DATA=folder        # the labelled development files too: the model of this page
okrcell annotate default-model/run my_cells.h5ad --out annotated.h5ad
```

Written by `benchmarks/default_model/run.py`; keys in `examples/default_model.toml`. Why they are what they are, and how such
a model travels to studies that it never saw: [generalisation](benchmarks/generalisation.md).
"""


def write_page(path: Path, metrics: dict[str, Any], keys: TrainConfig) -> None:
    """Write the page from the figures of a run."""
    run = metrics["run"]
    seconds = metrics["seconds"].get("training")
    lines = [
        _HEAD,
        "## Card",
        "",
        f"- A `{keys.preset}` tower of {run['parameters']:,} parameters over {keys.hvgs:,} variable genes, aligned with "
        f"`{keys.embedder}` by `{keys.objective}`; texts: name and definition of each type in the Cell Ontology.",
        f"- {run['pairs']:,} training cells with {run['texts']} distinct texts, "
        f"{metrics['marker_cells']:,} of them made of markers (`okrcell.corpus.marker_cells`); {run['steps']:,} steps"
        + (f", trained in {seconds} s." if seconds else "."),
        f"- Fingerprint of the run: `{run['fingerprint'][:16]}`. Every training cell is in its `seen_cells.parquet`;",
        "  `okrcell evaluate` refuses them.",
        "- For human cells. A label is a suggestion: types that no text describes are given another's name, and "
        "organs that are not below were seen as markers alone.",
        "- The weights derive from the files below, some of which are under the GPL-3, and from the text model; their "
        "licences apply.",
        "",
        "## Trained on",
        "",
        f"Do not test on these files: of each, seven tenths trained the model. At most {CAP} cells of a type were taken.",
        "",
        "| file | sha256 | licence | cells: train, validation, test | split |",
        "|---|---|---|---|---|",
    ]
    for file in metrics["files"]:
        splits = ", ".join(str(file["splits"].get(s, 0)) for s in ("train", "validation", "test"))
        lines.append(
            f"| {file['origin']} | `{file['sha256']}` | {file['licence']} | {splits} | {file['split_rule']} |"
        )
    lines += [
        "",
        "## Figures",
        "",
        "Held-out cells of the same files: other donors where the file names three or more, else other cells of the "
        "same donors, which is easier. A cell may be called any type of its file. Accuracy with 95 % interval of a "
        "bootstrap over cells, and macro-F1. *similarity* is the learned one alone; *with markers* adds the vote of "
        "marker genes; *annotate* smooths over similar cells too, and is what the command does. How it travels to "
        "studies that it never saw is another measurement: [generalisation](benchmarks/generalisation.md).",
        "",
        "| file | cells | types | donors | similarity | with markers | annotate | macro-F1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in metrics["held_out"]:
        figures = [
            f"{row[arm]['accuracy']:.3f} ({row[arm]['low']:.2f}-{row[arm]['high']:.2f})"
            for arm in ("similarity", "with markers", "annotate")
        ]
        lines.append(
            f"| {row['dataset']} | {row['cells']} | {row['types']} | {row['donors'] or ''} | "
            + " | ".join(figures)
            + f" | {row['annotate']['macro_f1']:.3f} |"
        )
    n = len(metrics["held_out"])
    means = [
        sum(row[arm]["accuracy"] for row in metrics["held_out"]) / n
        for arm in ("similarity", "with markers", "annotate")
    ]
    f1 = sum(row["annotate"]["macro_f1"] for row in metrics["held_out"]) / n
    lines.append("| mean | | | | " + " | ".join(f"{m:.3f}" for m in means) + f" | {f1:.3f} |")
    change = 100 * (means[2] - means[0])
    lines += [
        "",
        f"On files like those that it was trained on, markers and smoothing change the mean accuracy by {change:+.1f} "
        "points; they are there for studies that it never saw. `okrcell annotate --no-markers --no-refine` leaves them out. "
        "Breast spots are mixtures of cells, and their labels uncertain.",
        "",
        "## Another model",
        "",
        "Copy `examples/default_model.toml`, change keys, and train on a store of your own: "
        "`okrcell train run store --out run --config my.toml`. No descriptions and no language model are needed "
        '(`text_source = "term"`). Cells made of markers are added to a store by '
        "`okrcell.corpus.marker_cells.write_marker_cells` and `okrcell corpus add-cells`.",
    ]
    atomic_write(path, "\n".join(lines).rstrip() + "\n")
