"""``okrcell enrich``: plan, run and follow the writing of descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from okrcell import console

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Profiles become cited, checked descriptions.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Job = Annotated[Path, typer.Argument(metavar="JOB", help="Folder made by 'okrcell enrich plan'.")]


@app.command()
def plan(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Store with cells and knowledge.")],
    out: Annotated[Path, typer.Option("--out", metavar="JOB", help="The job's folder.")],
    writer: Annotated[
        str | None,
        typer.Option(help="'extractive' (offline) or PROVIDER:MODEL, such as openai:gpt-4o-mini."),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(help="Root of an OpenAI-compatible server, such as http://host:8000/v1."),
    ] = None,
    words: Annotated[int | None, typer.Option(help="Length of a description.")] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Stop before the job costs more USD.")
    ] = None,
    price_in: Annotated[float | None, typer.Option(help="USD per million tokens read.")] = None,
    price_out: Annotated[float | None, typer.Option(help="USD per million tokens written.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file; its table 'enrich' is read.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed sent to the model.")] = None,
    json: Json = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate only; write nothing.")
    ] = False,
) -> None:
    """Gather evidence for every profile of STORE and say what its descriptions will take."""
    from okrcell.config import load_config
    from okrcell.enrich import job as jobs
    from okrcell.enrich.config import EnrichConfig

    flags = {
        "writer": writer,
        "base_url": base_url,
        "words": words,
        "max_cost_usd": max_cost,
        "price_in": price_in,
        "price_out": price_out,
        "seed": seed,
    }
    summary = jobs.plan(
        store, out, load_config(EnrichConfig, "enrich", config, flags), dry_run=dry_run
    )
    _show("Plan", summary, json)
    if summary["reused"]:
        console.say(f"Nothing to do: {out} is finished and nothing it was made from has changed.")
    elif not dry_run:
        console.say(f"Next: okrcell enrich run {out}")


@app.command()
def run(
    job: Job,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Calls in flight.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Answer at most this many now.")] = None,
    json: Json = False,
) -> None:
    """Write, check and export the descriptions of JOB; continues where it stopped."""
    from okrcell.enrich import job as jobs

    summary = jobs.run(job, concurrency=concurrency, limit=limit)
    _show("Descriptions", summary, json)
    if summary["reused"]:
        console.say(f"Nothing to do: {job} is finished.")
    elif not summary["finished"]:
        console.say(f"Not finished yet. Next: okrcell enrich run {job}")


@app.command()
def status(job: Job, json: Json = False) -> None:
    """Show how far JOB is and what it has cost."""
    from okrcell.enrich import job as jobs

    _show("Job", jobs.status(job), json)


def _show(title: str, summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.emit_json(summary)
        return
    rows = [[key.replace("_", " "), _words(value)] for key, value in summary.items()]
    console.table(title, ["what", "value"], rows)


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{n} {key.replace('_', ' ')}" for key, n in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
