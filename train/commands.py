"""``okrcell train``: estimate, run, resume; and suspects, what a run thinks of its data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from okrcell import console

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Train a cell-text model."
)

Store = Annotated[Path, typer.Argument(metavar="STORE", help="Store with cells.")]
Descriptions = Annotated[
    Path | None,
    typer.Option(metavar="JOB", help="Enrichment job; not needed with --text-source label."),
]
Objective = Annotated[
    str | None,
    typer.Option(
        help="infonce, siglip, gce, elr, crcl, momentum_distill, cra_paper, cra_plus or clean_oracle."
    ),
]
Preset = Annotated[str | None, typer.Option(help="tiny, small, paper, base or mlp.")]
Source = Annotated[str | None, typer.Option(help="description, label or term.")]
Stage = Annotated[
    str | None,
    typer.Option(help="1: text frozen. 2: its last layer trains. both: one after the other."),
]
Init = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Start from a finished run or a scGPT checkpoint folder."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")]
Epochs = Annotated[int | None, typer.Option(min=1)]
BatchSize = Annotated[int | None, typer.Option(min=2, help="Pairs per step, of all processes.")]
MicroBatch = Annotated[
    int | None, typer.Option(min=0, help="Cells per forward pass, where memory is short; 0: all.")
]
LearningRate = Annotated[float | None, typer.Option(help="Learning rate of the first epoch.")]
Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file; its table 'train' is read.")
]
Seed = Annotated[int | None, typer.Option()]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@app.command()
def run(
    store: Store,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder.")],
    descriptions: Descriptions = None,
    objective: Objective = None,
    preset: Preset = None,
    text_source: Source = None,
    stage: Stage = None,
    init: Init = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    micro_batch: MicroBatch = None,
    lr: LearningRate = None,
    device: Device = None,
    precision: Precision = None,
    config: Config = None,
    seed: Seed = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw an unfinished run of other keys or data away.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and stop.")
    ] = False,
    json: Json = False,
) -> None:
    """Train, or continue a run that was interrupted. Under torchrun: python -m okrcell.train run ..."""
    keys, job = _keys(
        store, descriptions, config, objective=objective, preset=preset, text_source=text_source,
        stage=stage, init=init, epochs=epochs, batch_size=batch_size, micro_batch=micro_batch, lr=lr,
        device=device, precision=precision, seed=seed,
    )  # fmt: skip
    if dry_run:
        from okrcell.train.estimate import describe

        _show("Would train", describe(store, job, keys), json)
        return
    from okrcell.train.loop import train

    _show(f"Run {out}", train(store, job, out, keys, restart=restart), json)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of an interrupted run.")],
    micro_batch: MicroBatch = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Continue RUN with the data and keys it began with."""
    from okrcell.train.loop import continue_run

    changes = {"micro_batch": micro_batch, "device": device}
    chosen = {name: value for name, value in changes.items() if value is not None}
    _show(f"Run {run}", continue_run(run, **chosen), json)


@app.command()
def estimate(
    store: Store,
    descriptions: Descriptions = None,
    objective: Objective = None,
    preset: Preset = None,
    text_source: Source = None,
    stage: Stage = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    micro_batch: MicroBatch = None,
    device: Device = None,
    precision: Precision = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Take a few steps, write nothing, and say what a run will take: time, memory, tokens per second."""
    from okrcell.train import estimate as estimating

    keys, job = _keys(
        store, descriptions, config, objective=objective, preset=preset, text_source=text_source,
        stage=stage, epochs=epochs, batch_size=batch_size, micro_batch=micro_batch, device=device,
        precision=precision,
    )  # fmt: skip
    _show("Would take", estimating.estimate(store, job, keys), json)


@app.command()
def suspects(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Finished run of cra_plus, cra_paper or crcl.")
    ],
    store: Annotated[
        Path | None, typer.Option(metavar="STORE", help="Where the run's store is now.")
    ] = None,
    descriptions: Annotated[
        Path | None, typer.Option(metavar="JOB", help="Where the run's enrichment job is now.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.tsv", help="Write the list; default: print its top."),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many pairs; default 20 printed, all written."),
    ] = None,
    least: Annotated[
        float, typer.Option(min=0, max=1, help="Least score, the chance that the label is wrong.")
    ] = 0.5,
    by_type: Annotated[
        bool, typer.Option("--by-type", help="Print per label how many pairs are distrusted.")
    ] = False,
    json: Json = False,
) -> None:
    """List training pairs whose label the run distrusts, with reasons, for curators."""
    from okrcell.train.suspects import find_suspects, write_tsv

    found = find_suspects(run, store, descriptions)
    listed = found.order(least, top)
    if out is not None:
        write_tsv(out, found.groups + found.rows(listed))
    facts = {**found.facts(), "least": least, "listed": len(listed)}
    types = found.by_type(least)
    if out is not None:
        facts["written"] = str(out)
    shown = found.groups + found.rows(listed[: top or 20]) if out is None else []
    if json:
        console.emit_json({"run": str(run), **facts, "rows": shown, "by_type": types})
        return
    _show(f"Suspects of {run}", facts, as_json=False)
    if by_type:
        columns = ["label", "pairs", "distrusted", "share", "most confused with"]
        rows = [
            [t["label"], str(t["pairs"]), str(t["distrusted"]), f"{t['share']:.1%}", t["most_confused_with"]]
            for t in types
        ]  # fmt: skip
        console.table(
            f"Labels by share of distrusted pairs ({least:g} or more)",
            columns,
            rows,
            frozenset({1, 2, 3}),
        )
    if shown:
        rows = [
            [f"{row['score']:.2f}", row["donor"] or row["batch"] or row["dataset_id"], row["obs_name"]
             or f"all {row['cells']}", row["label"], row["suggested"], row["reason"]]
            for row in shown
        ]  # fmt: skip
        columns = ["score", "donor or batch", "cell", "label", "suggested", "reason"]
        console.table("The most doubtful first", columns, rows, frozenset({0}))


def _keys(
    store: Path, descriptions: Path | None, config: Path | None, **flags: Any
) -> tuple[Any, Path]:
    """Return the configuration and the job, or refuse what cannot be trained on."""
    from okrcell.config import load_config
    from okrcell.corpus.build import open_store
    from okrcell.errors import ConfigError
    from okrcell.train.config import TrainConfig

    open_store(store)
    keys = load_config(TrainConfig, "train", config, flags)
    if keys.text_source == "description" and descriptions is None:
        raise ConfigError(
            "--descriptions",
            found="nothing",
            expected="an enrichment job",
            fix="Name the folder of 'okrcell enrich run', or say --text-source term or label.",
        )
    return keys, descriptions or Path()


def _show(title: str, result: dict[str, Any], as_json: bool) -> None:
    """Print a result, on the first process alone."""
    import os

    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        console.emit_json(result)
        return
    rows = [[name, console.plain(value)] for name, value in result.items()]
    console.table(title, ["", ""], rows)
