"""``okrcell enrich``: plan, run, follow, read and compare the writing of descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from okrcell import console

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Profiles become cited, checked descriptions.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Job = Annotated[Path, typer.Argument(metavar="JOB", help="Folder made by 'okrcell enrich plan'.")]
Status = Annotated[
    list[str] | None,
    typer.Option("--status", help="Only accepted, rejected or failed ones; may be repeated."),
]
_STATUSES = ("accepted", "rejected", "failed")


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
    retrieval: Annotated[
        str | None, typer.Option(help="'facets', or 'paper': its single query.")
    ] = None,
    expression: Annotated[
        bool | None,
        typer.Option(
            "--expression/--no-expression",
            help="Offer what the training cells express. Off for texts of zero-shot tests.",
        ),
    ] = None,
    mask_label: Annotated[
        bool | None, typer.Option("--mask-label", help="Write without names of the cell type.")
    ] = None,
    support: Annotated[
        str | None,
        typer.Option(help="'offline', nli:NAME or judge:PROVIDER:MODEL: who checks sentences."),
    ] = None,
    repair: Annotated[
        bool | None, typer.Option("--repair/--no-repair", help="Ask once more what failed.")
    ] = None,
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
        "retrieval": retrieval,
        "expression": expression,
        "mask_label": mask_label,
        "support": support,
        "repair": repair,
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
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests per minute.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens per minute.")] = None,
    batch_api: Annotated[
        bool, typer.Option("--batch-api", help="Use the provider's Batch API: cheaper, slower.")
    ] = False,
    canary: Annotated[
        bool | None,
        typer.Option("--canary/--no-canary", help="Test the server before the first paid call."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Answer at most this many now.")] = None,
    json: Json = False,
) -> None:
    """Write, check, repair and export the descriptions of JOB; continues where it stopped."""
    from okrcell.enrich import job as jobs
    from okrcell.enrich.asking import How

    try:
        summary = jobs.run(
            job,
            concurrency=concurrency,
            rpm=rpm,
            tpm=tpm,
            canary=canary,
            how=How(limit=limit, batch_api=batch_api),
        )
    except KeyboardInterrupt:
        console.say(f"Stopped; what was in flight is kept. Next: okrcell enrich run {job}")
        raise
    _show("Descriptions", summary, json)
    if summary["reused"]:
        console.say(f"Nothing to do: {job} is finished.")
    elif not summary["finished"]:
        console.say(f"Not finished yet. Next: okrcell enrich run {job}")
    else:
        console.say(f"Read them: okrcell enrich review {job} --html")


@app.command()
def status(job: Job, json: Json = False) -> None:
    """Show how far JOB is, what fails, and what it has cost and will cost."""
    from okrcell.enrich.status import status as look

    _show("Job", look(job), json)


@app.command()
def retry(
    job: Job,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only failures of this kind, as 'status' names it; may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Open failed requests of JOB again; the next run asks them anew, with another seed."""
    from okrcell.enrich import job as jobs

    found = jobs.retry(job, tuple(kind or ()))
    _show("Opened again", found, json)
    if found["opened"]:
        console.say(f"Next: okrcell enrich run {job}")


@app.command()
def export(
    job: Job,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Ends in .jsonl, .tsv or .parquet.")
    ],
    form: Annotated[
        str | None, typer.Option("--format", help="jsonl, tsv or parquet; else by FILE's name.")
    ] = None,
    status: Status = None,
    json: Json = False,
) -> None:
    """Write the descriptions of a finished JOB to one file for other programs."""
    from okrcell.enrich.transfer import export as write

    _show("Export", write(job, out, form=form, statuses=_statuses(status)), json)


@app.command()
def diff(
    job: Job,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Another finished job.")],
    json: Json = False,
) -> None:
    """Compare the descriptions of JOB with those of OTHER, profile by profile."""
    from okrcell.enrich.transfer import diff as compare

    found = compare(job, other)
    if json:
        console.emit_json(found)
        return
    changes = found.pop("changes")
    _show("Difference", found, as_json=False)
    for change in changes:
        was, now = change["was"], change["is"]
        console.table(
            change["original_text"],
            [
                "",
                f"{was['status']} {was['reliability']:.2f} -> {now['status']} {now['reliability']:.2f}",
            ],
            [["-", text] for text in change["gone"]] + [["+", text] for text in change["new"]],
        )


@app.command()
def review(
    job: Job,
    html: Annotated[
        bool, typer.Option("--html", help="Write a page to read in a browser, not the terminal.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page; JOB/review.html if not given."),
    ] = None,
    status: Status = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Show at most this many, the least reliable first.")
    ] = None,
    json: Json = False,
) -> None:
    """Read the descriptions of a finished JOB, each sentence with its evidence and verdict."""
    from okrcell.enrich.review import review_rows, write_review

    wanted = _statuses(status)
    if html:
        found = write_review(job, out or job / "review.html", statuses=wanted, limit=limit)
        _show("Review", found, json)
        return
    shown = review_rows(job, statuses=wanted, limit=limit or 10)
    if json:
        console.emit_json(shown)
        return
    for row in shown:
        title = f"{row['original_text']}  [{row['status']}, reliability {row['reliability']:.2f}]"
        lines = [
            [claim["state"], claim["verdict"], claim["sentence"], ", ".join(claim["documents"])]
            for claim in row["claims"]
        ]
        console.table(
            title, ["state", "verdict", "sentence", "cited"], lines or [["", "", row["reason"], ""]]
        )


def _statuses(given: list[str] | None) -> tuple[str, ...]:
    from okrcell.errors import ConfigError

    for name in given or ():
        if name not in _STATUSES:
            raise ConfigError(
                "--status",
                found=f"'{name}'",
                expected=f"one of {', '.join(_STATUSES)}",
                fix="Correct the flag.",
            )
    return tuple(given or ())


def _show(title: str, summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.emit_json(summary)
        return
    rows = [[key.replace("_", " "), _words(value)] for key, value in summary.items()]
    console.table(title, ["what", "value"], rows)


def _words(value: object) -> str:
    if isinstance(value, dict):
        parts = [
            f"{key.replace('_', ' ')} {_words(n)}"
            if isinstance(n, bool | str)
            else f"{n} {key.replace('_', ' ')}"
            for key, n in value.items()
        ]
        return ", ".join(parts) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
