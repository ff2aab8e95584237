"""Commands of the train stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from okrcell import console

app = typer.Typer(no_args_is_help=True, help="Train a cell-text model.")


@app.callback()
def _group() -> None:
    """Keep 'run' a subcommand while it is the only one."""


@app.command()
def run(
    store: Annotated[Path, typer.Argument(help="Store folder.")],
    out: Annotated[Path, typer.Option(help="Run folder.")],
    descriptions: Annotated[
        Path | None, typer.Option(help="Enrichment job; not needed with --text-source label.")
    ] = None,
    objective: Annotated[str | None, typer.Option(help="infonce or cra_paper.")] = None,
    preset: Annotated[str | None, typer.Option(help="tiny, small, paper or base.")] = None,
    text_source: Annotated[str | None, typer.Option(help="description or label.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(min=2)] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the first epoch.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file; its table 'train' is read.")
    ] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and stop.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout.")
    ] = False,
) -> None:
    """Train, or continue a run that was interrupted."""
    from okrcell.config import load_config
    from okrcell.corpus.build import open_store
    from okrcell.errors import ConfigError
    from okrcell.train.config import TrainConfig

    open_store(store)
    flags = {
        "objective": objective,
        "preset": preset,
        "text_source": text_source,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
    }
    keys = load_config(TrainConfig, "train", config, flags)
    if keys.text_source == "description" and descriptions is None:
        raise ConfigError(
            "--descriptions",
            found="nothing",
            expected="an enrichment job",
            fix="Name the folder of 'okrcell enrich run', or say --text-source label.",
        )
    from okrcell.train.loop import describe, train

    job = descriptions or Path()
    if dry_run:
        result = describe(store, job, keys)
    else:
        result = train(store, job, out, keys)
    if json:
        console.emit_json(result)
        return
    title = "Would train" if dry_run else f"Run {out}"
    rows = [[name, console.plain(value)] for name, value in result.items()]
    console.table(title, ["", ""], rows)
