"""The command ``okrcell``: groups per stage, the quickstart, the doctor, and errors to exit codes.

Only typer and light modules are imported here; every command imports what it needs when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from okrcell import __version__, console
from okrcell.corpus.commands import app as corpus_app
from okrcell.enrich.commands import app as enrich_app
from okrcell.evaluate.apply import commands as applied
from okrcell.evaluate.commands import app as evaluate_app
from okrcell.train.commands import app as train_app

__all__ = ["app", "main"]

app = typer.Typer(
    name="okrcell",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Cell-language foundation models from single-cell RNA-seq and open-world knowledge.",
)
app.add_typer(corpus_app, name="corpus")
app.add_typer(enrich_app, name="enrich")
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")
app.command()(applied.embed)
app.command()(applied.annotate)
app.command()(applied.find)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"okrcell {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("quickstart-out"),
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file; default: the one that ships.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and stop.")
    ] = False,
    json: Json = False,
) -> None:
    """Run the whole chain on 700 real blood cells: corpus, enrich, train, evaluate, report."""
    from okrcell import quickstart as chain

    if dry_run:
        result = chain.plan(out, config, seed)
    else:
        result = chain.run(out, config, seed)
    if json:
        console.emit_json(result)
    elif dry_run:
        console.table(
            f"Would write {out}", ["stage", "what"], [[k, str(v)] for k, v in result.items()]
        )
    else:
        columns, rows = chain.summary_rows(result)
        console.table(
            "Six tasks, test cells only",
            columns,
            rows,
            right=frozenset(range(2, len(columns))),
        )
        typer.echo(f"Report: {result['report']}")


@app.command()
def doctor(
    folder: Annotated[Path, typer.Option("--out", help="Folder you mean to write to.")] = Path(),
    json: Json = False,
) -> None:
    """Check Python, torch, the text model, the ontologies, free space and extras."""
    from okrcell.doctor import check

    checks = check(folder)
    if json:
        console.emit_json([vars(entry) for entry in checks])
    else:
        rows = [[c.state, c.name, c.found, c.fix] for c in checks]
        console.table("okrcell doctor", ["", "what", "found", "fix"], rows)
    if any(c.state == "wrong" for c in checks):
        raise typer.Exit(2)


def main() -> None:
    """Run the command line."""
    console.run(app)


if __name__ == "__main__":
    main()
