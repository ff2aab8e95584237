"""The commands ``okrcell evaluate ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from okrcell import console

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Six tasks, with baselines and intervals, become one report."
)

_METRICS = {
    "clustering": (
        "ARI, AMI, NMI, ASW_cell, AvgBIO",
        "Leiden and Louvain over resolutions, best and label-free",
    ),
    "annotation": (
        "accuracy, macro-F1, per type",
        "linear probe, kNN, fine-tuned and own classifiers; by donor, batch, at random",
    ),
    "batch": ("AvgBIO-B, AvgBATCH, their eight indicators, iLISI, kBET", "scib-metrics"),
    "few_shot": ("accuracy, macro-F1", "K cells per type; nearest prototype and logistic head"),
    "zero_shot": (
        "accuracy, macro-F1, top-k, ontology credit, calibration",
        "texts as classes: the data's types, the tissue's, all of the Cell Ontology; 'unknown'",
    ),
    "retrieval": (
        "R@1/5/10, median rank, MRR",
        "cell to text and back; strict with ceiling, graded by text, type, ontology",
    ),
    "robustness": ("accuracy", "genes dropped and depth thinned in the test cells"),
}
_BASELINES = "pca,pca+ridge,pca+ridge-desc,random"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("run")
def run_command(
    methods: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL_OR_SPEC...",
            help="Run folder, pca, random, label-text, obsm:KEY, MODULE:FUNCTION, or a peer; NAME=SPEC names it.",
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            "--data", metavar="DATA", help="Suite (.toml), h5ad file, or store; repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    descriptions: Annotated[
        Path | None, typer.Option("--descriptions", metavar="JOB", help="Texts of a store.")
    ] = None,
    twin: Annotated[
        list[str] | None,
        typer.Option("--twin", metavar="NAME=SPEC", help="Another method to compare with."),
    ] = None,
    baselines: Annotated[
        str, typer.Option("--baselines", help="Comma-separated, or 'none'.")
    ] = _BASELINES,
    peers: Annotated[
        str | None, typer.Option("--peers", help="Comma-separated, or 'all'; see `evaluate tasks`.")
    ] = None,
    grit: Annotated[
        bool, typer.Option("--grit", help="Add a graph-refined twin of every zero-shot method.")
    ] = False,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Comma-separated; default all.")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Number of seeds.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="First seed.")] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="FIELD=COLUMN", help="obs column of cell_type, batch, donor."
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split", help="donor, batch, random or column:NAME, of an h5ad; repeatable."
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder that paths in a suite start from.")
    ] = None,
    allow_named_types: Annotated[
        bool,
        typer.Option("--allow-named-types", help="Descriptions may name the type they describe."),
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file; its table 'evaluate' is read.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Evaluate methods on data, with baselines; continue where an earlier call stopped."""
    from okrcell.config import load_config
    from okrcell.evaluate import run as stage
    from okrcell.evaluate.config import EvaluateConfig
    from okrcell.evaluate.specs import parse_methods
    from okrcell.evaluate.suite import suite_of

    specs, keys = suite_of(
        data,
        descriptions=descriptions,
        columns=_pairs(columns or [], "--map", "cell_type=bulk_labels"),
        split=split or [],
        root=root,
    )
    flags: dict[str, Any] = {
        "tasks": None if tasks is None else tuple(part.strip() for part in tasks.split(",")),
        "seeds": seeds,
        "seed": seed,
        "allow_named_types": allow_named_types or None,
    }
    if keys is not None and config is None:
        given = {name: value for name, value in flags.items() if value is not None}
        settings = keys.replace(**given)
    else:
        settings = load_config(EvaluateConfig, "evaluate", config, flags)
    _pairs(twin or [], "--twin", "infonce=runs/infonce")
    asked = [*methods, *(twin or [])]
    found = parse_methods(asked, settings, extra=[*_peers(peers), *_listed(baselines)], grit=grit)
    if dry_run:
        _show_plan(stage.describe(found, specs, out, settings), as_json)
        return
    with console.progress("Evaluating", stage.n_steps(found, specs), "steps") as advance:
        summary = stage.run(found, specs, out, settings, n_asked=len(asked), progress=advance)
    if summary["reused"]:
        console.say(f"{out}: finished before from the same inputs; reused.")
    _show_results(out, summary, as_json)


@app.command("compare")
def compare_command(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of `evaluate run`.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the comparison.")],
    as_json: Json = False,
) -> None:
    """Put finished evaluations beside each other, with paired tests; nothing is computed anew."""
    from okrcell.evaluate.assemble import merge

    summary = merge(folders, out)
    _show_results(out, {"reused": False, "out": str(out), **summary}, as_json)


@app.command("report")
def report_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of `evaluate run` or `compare`.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML file to write; default DIR/report.html.")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures", help="Folder for figures (SVG, PDF), tables (CSV), methods text."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML file from an evaluation."""
    from okrcell.evaluate.report import export_tables_and_figures, write_report

    page = out or folder / "report.html"
    command = f"okrcell evaluate report {folder}" + (f" --out {out}" if out else "")
    write_report(folder, page, {"commands": [command]})
    written = export_tables_and_figures(folder, _folder(figures)) if figures else []
    if as_json:
        console.emit_json(
            {"report": str(page), "bytes": page.stat().st_size, "files": [str(p) for p in written]}
        )
        return
    console.say(f"wrote {page}")
    if written:
        console.say(f"wrote {len(written)} figures and tables to {figures}")


@app.command("tasks")
def tasks_command(as_json: Json = False) -> None:
    """List the tasks with their metrics, and the methods that can be asked for by name."""
    from okrcell.evaluate.peers import PEERS

    listed = {
        "pca": "50 principal components of log1p counts, fitted on train cells",
        "random": "Gaussian vectors: chance",
        "label-text": "ridge regression from PCA to text vectors of the bare cell type names",
        "pca+ridge-desc": "the same, to vectors of the descriptions",
        **{name: peer.about for name, peer in PEERS.items()},
    }
    if as_json:
        console.emit_json(
            {
                "tasks": [
                    {"task": t, "metrics": metrics, "how": how}
                    for t, (metrics, how) in _METRICS.items()
                ],
                "methods": [{"method": name, "about": about} for name, about in listed.items()],
            }
        )
        return
    rows = [[task, metrics, how] for task, (metrics, how) in _METRICS.items()]
    console.table("Tasks", ["task", "metrics", "how"], rows)
    console.table("Methods", ["method", "what"], [[k, v] for k, v in listed.items()])


def _folder(path: Path) -> Path:
    from okrcell.errors import ConfigError

    if path.exists() and not path.is_dir():
        raise ConfigError(
            f"--figures {path}", found="a file", expected="a folder", fix="Choose another name."
        )
    return path


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip() not in {"", "none"}]


def _peers(text: str | None) -> list[str]:
    if text is None:
        return []
    from okrcell.errors import ConfigError
    from okrcell.evaluate.peers import PEERS

    names = list(PEERS) if text.strip() == "all" else _listed(text)
    for name in names:
        if name not in PEERS:
            raise ConfigError(
                f"--peers {name}",
                found="no peer of this name",
                expected=f"'all', or some of {', '.join(PEERS)}",
                fix="Check the spelling.",
            )
    return names


def _pairs(given: list[str], flag: str, example: str) -> dict[str, str]:
    from okrcell.errors import ConfigError

    pairs: dict[str, str] = {}
    for item in given:
        name, mark, value = item.partition("=")
        if not (name and mark and value) or name in pairs:
            raise ConfigError(
                f"{flag} {item}",
                found="a name given twice" if name in pairs else "no NAME=VALUE",
                expected="NAME=VALUE, every name once",
                fix=f"Write for example {flag} {example}.",
            )
        pairs[name] = value
    return pairs


def _show_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.emit_json(plan)
        return
    rows = [
        [
            entry["dataset"],
            entry["split"],
            str(entry["n_train"]),
            str(entry["n_validation"]),
            str(entry["n_test"]),
            f"{entry['types']} ({len(entry['unseen'])} unseen)",
            ", ".join(entry["tasks"]),
        ]
        for entry in plan["data"]
    ]
    heads = ["data", "split", "train", "validation", "test", "types", "tasks"]
    console.table("Would evaluate", heads, rows, frozenset({2, 3, 4}))
    console.table("Methods", ["method", "what"], [[m["name"], m["about"]] for m in plan["methods"]])
    for note in dict.fromkeys(note for entry in plan["data"] for note in entry["notes"]):
        console.say(f"note: {note}")
    console.say(
        f"{plan['units_missing']} pieces to compute, {plan['units_finished']} are there already."
    )


def _show_results(out: Path, summary: dict[str, Any], as_json: bool) -> None:
    from okrcell.evaluate.summary import headline, load_comparisons, load_results

    lines = headline(load_results(out), load_comparisons(out))
    if as_json:
        console.emit_json({**summary, "headline": lines})
        return
    for note in summary["notes"]:
        console.say(f"note: {note}")
    columns, rows = _headline_rows(lines)
    console.table("Results (95 % intervals)", columns, rows, frozenset(range(2, len(columns))))
    console.say(f"next: okrcell evaluate report {out}")


def _headline_rows(lines: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    from okrcell.evaluate.summary import format_value

    names = list(dict.fromkeys(name for line in lines for name in line["values"]))
    rows = [
        [
            line["task_name"],
            line["metric_name"],
            *(format_value(line["values"].get(name)) for name in names),
        ]
        for line in lines
    ]
    return ["task", "metric", *names], rows
