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
        "Leiden over resolutions, best and label-free",
    ),
    "annotation": ("accuracy, macro-F1", "linear probe and kNN on the frozen embedding"),
    "batch": ("AvgBIO-B, AvgBATCH, their eight indicators, iLISI, kBET", "scib-metrics"),
    "few_shot": ("accuracy, macro-F1", "K cells per type; nearest prototype and logistic head"),
    "zero_shot": (
        "accuracy, macro-F1, top-3, ontology credit",
        "texts as classes; seen and unseen",
    ),
    "retrieval": (
        "R@1/5/10, median rank, MRR",
        "cell to text and back; strict with ceiling, graded",
    ),
}

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Finished run folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("run")
def run_command(
    run: RunArgument,
    data: Annotated[Path, typer.Option("--data", metavar="STORE", help="Store with the cells.")],
    descriptions: Annotated[
        Path, typer.Option("--descriptions", metavar="JOB", help="Job with the descriptions.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    twin: Annotated[
        list[str] | None,
        typer.Option("--twin", metavar="NAME=RUN", help="Another run to compare with."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Comma-separated; default all six.")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Number of seeds.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="First seed.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file; its table 'evaluate' is read.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Evaluate a run, and twins of it, on the test cells of a store."""
    from okrcell.config import load_config
    from okrcell.evaluate import run as stage
    from okrcell.evaluate.config import EvaluateConfig

    flags: dict[str, Any] = {
        "tasks": tuple(name.strip() for name in tasks.split(",")) if tasks else None,
        "seeds": seeds,
        "seed": seed,
    }
    settings = load_config(EvaluateConfig, "evaluate", config, flags)
    twins = _twins(twin or [])
    if dry_run:
        plan = stage.describe(run, data, descriptions, settings, twins)
        if as_json:
            console.emit_json(plan)
        else:
            rows = [[key, ", ".join(plan[key])] for key in ("tasks", "methods")]
            console.table("Would evaluate", ["what", "which"], rows)
        return
    with console.progress(
        "Evaluating", stage.n_steps(settings, 1 + len(twins)), "steps"
    ) as advance:
        summary = stage.run(run, data, descriptions, out, settings, twins=twins, progress=advance)
    if summary["reused"]:
        console.say(f"{out}: finished before from the same inputs; reused.")
    for note in summary["notes"]:
        console.say(f"note: {note}")
    if as_json:
        console.emit_json({**summary, "headline": _headline_json(out)})
        return
    columns, rows = _headline_rows(out)
    console.table("Results (95 % intervals)", columns, rows, frozenset(range(2, len(columns))))


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of `evaluate run`.")],
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")],
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML file from an evaluation."""
    from okrcell.evaluate.report import write_report

    write_report(folder, out, {"commands": [f"okrcell evaluate report {folder} --out {out}"]})
    if as_json:
        console.emit_json({"report": str(out), "bytes": out.stat().st_size})
    else:
        console.say(f"wrote {out}")


@app.command("tasks")
def tasks_command(as_json: Json = False) -> None:
    """List the six tasks and their metrics."""
    if as_json:
        console.emit_json(
            [{"task": t, "metrics": metrics, "how": how} for t, (metrics, how) in _METRICS.items()]
        )
        return
    rows = [[task, metrics, how] for task, (metrics, how) in _METRICS.items()]
    console.table("Tasks", ["task", "metrics", "how"], rows)


def _twins(given: list[str]) -> dict[str, Path]:
    from okrcell.errors import ConfigError

    twins: dict[str, Path] = {}
    for item in given:
        name, mark, path = item.partition("=")
        if not (name and mark and path) or name in twins:
            raise ConfigError(
                f"--twin {item}",
                found="a name given twice" if name in twins else "no NAME=RUN",
                expected="NAME=RUN, every name once",
                fix="Write for example --twin infonce=runs/infonce.",
            )
        twins[name] = Path(path)
    return twins


def _headline_json(out: Path) -> list[dict[str, Any]]:
    from okrcell.evaluate.summary import headline, load_results

    return headline(load_results(out))


def _headline_rows(out: Path) -> tuple[list[str], list[list[str]]]:
    from okrcell.evaluate.summary import format_value, headline, load_results

    lines = headline(load_results(out))
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
