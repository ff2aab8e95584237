"""Commands of the corpus stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from okrcell import console

app = typer.Typer(
    no_args_is_help=True, help="Build a store: ontologies, literature, cells, search."
)

Store = Annotated[Path, typer.Argument(help="Store folder.")]
Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file; its table 'corpus' is read.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def _config(config: Path | None, **flags: Any) -> Any:
    from okrcell.config import load_config
    from okrcell.corpus.config import CorpusConfig

    return load_config(CorpusConfig, "corpus", config, flags)


def _report(result: dict[str, Any], as_json: bool, title: str) -> None:
    if as_json:
        console.emit_json(result)
        return
    rows = [[name, console.plain(value)] for name, value in result.items() if name != "reused"]
    if result.get("reused"):
        title += " (unchanged, reused)"
    console.table(title, ["", ""], rows)


@app.command()
def init(store: Store) -> None:
    """Make an empty store."""
    from okrcell.corpus.build import init_store

    init_store(store)
    console.say(f"{store}: ready")


@app.command("add-ontology")
def add_ontology(
    store: Store,
    names: Annotated[
        list[str], typer.Argument(help="cl, uberon, mondo, hsapdv, pato, efo, hancestro.")
    ],
    terms: Annotated[
        str, typer.Option(help="'all' live terms, or those the store's 'profiles' use.")
    ] = "all",
    json: Json = False,
) -> None:
    """Add terms of the bundled ontologies."""
    from okrcell.corpus.build import add_ontologies
    from okrcell.errors import ConfigError

    if terms not in {"all", "profiles"}:
        raise ConfigError(
            "--terms", found=f"'{terms}'", expected="'all' or 'profiles'", fix="Correct the flag."
        )
    result = add_ontologies(store, names, "profiles" if terms == "profiles" else "all")
    _report(
        result if json else {"reused": result["reused"], **result["ontologies"]}, json, "Ontologies"
    )


@app.command("add-literature")
def add_literature(
    store: Store,
    folder: Annotated[Path, typer.Argument(help="Folder of Markdown or text notes.")],
    json: Json = False,
) -> None:
    """Add a folder of notes as documents."""
    from okrcell.corpus.build import add_notes

    _report(add_notes(store, folder), json, "Documents")


@app.command("add-cells")
def add_cells(
    store: Store,
    data: Annotated[Path, typer.Argument(help="An h5ad file.")],
    maps: Annotated[
        list[str] | None, typer.Option("--map", help="FIELD=COLUMN of obs; repeat.")
    ] = None,
    constants: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE for all cells; repeat.")
    ] = None,
    dataset_id: Annotated[str | None, typer.Option(help="Default: the file's stem.")] = None,
    values: Annotated[str | None, typer.Option(help="counts or lognorm; default: detect.")] = None,
    layer: Annotated[str | None, typer.Option(help="X, raw, or a layer.")] = None,
    hold_out: Annotated[
        list[str] | None, typer.Option("--hold-out", help="Cell type kept out of training; repeat.")
    ] = None,
    overrides: Annotated[
        Path | None, typer.Option(help="TSV of decided labels: field, label, term_id.")
    ] = None,
    config: Config = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the split.")] = None,
    json: Json = False,
) -> None:
    """Add the cells of an h5ad: genes resolved, labels mapped to terms, splits assigned."""
    from okrcell.config import load_config
    from okrcell.corpus import cells
    from okrcell.corpus.build import open_store
    from okrcell.corpus.config import CellsConfig
    from okrcell.corpus.normalise import read_overrides

    open_store(store)
    how = load_config(
        CellsConfig,
        "corpus",
        None,
        {
            "columns": console.pairs("--map", maps),
            "constants": console.pairs("--set", constants),
            "dataset_id": dataset_id or console.slug(data.stem),
        },
    )
    keys = _config(
        config,
        values=values,
        layer=layer,
        hold_out=tuple(hold_out) if hold_out else None,
        seed=seed,
    )
    decided = read_overrides(overrides) if overrides else None
    result = cells.add_cells(store, data, keys, how, decided)
    _report(result, json, f"Cells of {data.name}")
    for label in result["unresolved"]:
        console.say(f"unresolved {label}: decide it in a table and pass --overrides")


@app.command()
def build(
    store: Store,
    embedder: Annotated[str | None, typer.Option(help="minilm, or a model folder.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Chunk, embed and index; only what is new is embedded."""
    from okrcell.corpus.build import build as run

    _report(run(store, _config(config, embedder=embedder)), json, "Knowledge")


@app.command()
def search(
    store: Store,
    text: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Number of snippets.")] = 10,
    mode: Annotated[str, typer.Option(help="hybrid, dense or lexical.")] = "hybrid",
    source: Annotated[
        str | None, typer.Option(help="Restrict to sources, such as cl,notes.")
    ] = None,
    embedder: Annotated[str, typer.Option(help="minilm, or a model folder.")] = "minilm",
    json: Json = False,
) -> None:
    """Search the snippets of a built store."""
    from dataclasses import asdict

    from okrcell.corpus.build import open_store
    from okrcell.corpus.embedder import load_embedder
    from okrcell.corpus.knowledge import open_knowledge, parse_mode

    open_store(store)
    wanted = parse_mode(mode)
    knowledge = open_knowledge(store, load_embedder(embedder))
    sources = source.split(",") if source else None
    found = knowledge.search(text, k=k, sources=sources, mode=wanted)
    knowledge.close()
    if json:
        console.emit_json([asdict(snippet) for snippet in found])
        return
    rows = [[f"{s.score:.4f}", s.doc_id, s.section, s.text] for s in found]
    console.table(f"{len(found)} snippets", ["score", "document", "section", "text"], rows)


@app.command()
def status(store: Store, json: Json = False) -> None:
    """Say what a store holds, after checking every file against its manifest."""
    from okrcell.corpus.build import status as describe

    result = describe(store)
    if json:
        console.emit_json(result)
        return
    rows = [[name, entry["state"], console.plain(entry["facts"])] for name, entry in result.items()]
    console.table(f"Store {store}", ["part", "state", "holds"], rows)
