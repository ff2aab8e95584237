"""``okrcell corpus``: knowledge in, knowledge out, and the upkeep of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from okrcell import console
from okrcell.corpus import cell_commands
from okrcell.corpus.cell_commands import Config, Json, Store

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Build a store: ontologies, literature, cells, search."
)

EmbedderName = Annotated[
    str | None, typer.Option(help="minilm, a model folder, or openai:MODEL. Default: minilm.")
]


def _config(config: Path | None, **flags: Any) -> Any:
    from okrcell.config import load_config
    from okrcell.corpus.config import CorpusConfig

    return load_config(CorpusConfig, "corpus", config, flags)


@app.command()
def init(
    store: Store,
    source: Annotated[
        Path | None, typer.Option("--from", help="Archive made by 'okrcell corpus export'.")
    ] = None,
) -> None:
    """Make an empty store, or one from an exported archive."""
    if source is None:
        from okrcell.corpus.build import init_store

        init_store(store)
    else:
        from okrcell.corpus.importing import import_store

        import_store(source, store)
    console.say(f"{store}: ready")


@app.command("add-ontology")
def add_ontology(
    store: Store,
    ontologies: Annotated[
        list[str] | None,
        typer.Argument(
            help="cl, uberon, mondo, hsapdv, pato, efo, hancestro (they come with okrcell; none "
            "named: all), or FILE.obo, .owl, .json, also .gz."
        ),
    ] = None,
    terms: Annotated[
        str, typer.Option(help="'all' live terms, or those the store's 'profiles' use.")
    ] = "all",
    json: Json = False,
) -> None:
    """Add ontology terms; a file takes the place of the ontology that comes with okrcell."""
    from okrcell.corpus.terms import add_ontologies
    from okrcell.errors import ConfigError

    if terms not in {"all", "profiles"}:
        raise ConfigError(
            "--terms", found=f"'{terms}'", expected="'all' or 'profiles'", fix="Correct the flag."
        )
    result = add_ontologies(store, ontologies or [], "profiles" if terms == "profiles" else "all")
    shown = {"reused": result["reused"], **result["ontologies"]}
    console.report(result if json else shown, json, "Ontologies")


@app.command("add-literature")
def add_literature(
    store: Store,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files or folders: PubMed XML, PMC JATS XML, JSON lines, Markdown, text; also .gz."
        ),
    ] = None,
    pubmed: Annotated[
        str | None,
        typer.Option(help="A PubMed query; the key is read from NCBI_API_KEY."),
    ] = None,
    most: Annotated[int, typer.Option("--max", min=1, help="Most records of a query.")] = 1000,
    source: Annotated[
        str | None, typer.Option(help="Name to search these documents by. Default: their format.")
    ] = None,
    email: Annotated[
        str | None, typer.Option(help="Your address, which NCBI asks for with queries.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what a query finds; fetch and write nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Add articles and notes as documents; files that the store has are not read again."""
    from okrcell.corpus import literature
    from okrcell.corpus.build import open_store
    from okrcell.errors import ConfigError

    if bool(files) == (pubmed is not None) or (dry_run and not pubmed):
        raise ConfigError(
            "add-literature",
            found="both files and --pubmed" if files and pubmed else "neither files nor --pubmed",
            expected="files or folders, or a query (which alone takes --dry-run)",
            fix="Name one of them.",
        )
    open_store(store)
    if pubmed is not None:
        from okrcell.corpus import pubmed as service

        if dry_run:
            console.report(
                service.plan_pubmed(pubmed, most, email=email), json, "PubMed would give"
            )
            return
        result = service.add_pubmed(store, pubmed, most, email=email, source=source)
    else:
        result = literature.add_literature(store, files or [], source=source)
    console.report(result, json, "Documents")


@app.command()
def build(
    store: Store, embedder: EmbedderName = None, config: Config = None, json: Json = False
) -> None:
    """Chunk, embed and index; only what is new is embedded."""
    from okrcell.corpus.build import build as run

    console.report(run(store, _config(config, embedder=embedder)), json, "Knowledge")


@app.command()
def rebuild(
    store: Store, embedder: EmbedderName = None, config: Config = None, json: Json = False
) -> None:
    """Make the search index again from the tables; the same tables give the same results."""
    from okrcell.corpus.build import rebuild as run

    console.report(run(store, _config(config, embedder=embedder)), json, "Index")


@app.command()
def search(
    store: Store,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Number of snippets.")] = 10,
    mode: Annotated[str, typer.Option(help="hybrid, dense or lexical.")] = "hybrid",
    source: Annotated[
        str | None, typer.Option(help="Restrict to sources, such as cl,pubmed.")
    ] = None,
    embedder: EmbedderName = None,
    json: Json = False,
) -> None:
    """Search the snippets of a built store."""
    from dataclasses import asdict

    from okrcell.corpus.build import open_store
    from okrcell.corpus.embedder import load_embedder
    from okrcell.corpus.knowledge import open_knowledge, parse_mode

    open_store(store)
    wanted = parse_mode(mode)
    knowledge = open_knowledge(store, load_embedder(embedder or "minilm"))
    sources = source.split(",") if source else None
    found = knowledge.search(text, k=k, sources=sources, mode=wanted)
    knowledge.close()
    if json:
        console.emit_json([asdict(snippet) for snippet in found])
        return
    rows = [[f"{s.score:.4f}", s.doc_id, s.section, s.text] for s in found]
    console.table(f"{len(found)} snippets", ["score", "document", "section", "text"], rows)


app.command("normalise")(cell_commands.normalise)
app.command("add-cells")(cell_commands.add_cells)
app.command("profiles")(cell_commands.profiles)


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


@app.command()
def verify(store: Store, json: Json = False) -> None:
    """Check that all parts of a store fit together, down to every snippet, vector and cell."""
    from okrcell.corpus.build import open_store
    from okrcell.corpus.upkeep import verify as check

    open_store(store)
    findings = check(store)
    if json:
        console.emit_json([vars(finding) for finding in findings])
    else:
        rows = [["ok" if f.ok else "wrong", f.part, f.check, f.detail, f.remedy] for f in findings]
        console.table(f"Store {store}", ["", "part", "check", "found", "do this"], rows)
    if not all(f.ok for f in findings):
        raise typer.Exit(2)


@app.command()
def export(
    store: Store,
    out: Annotated[Path, typer.Option("--out", help="Archive to write (.zip).")],
    cells: Annotated[bool, typer.Option("--cells", help="Put the cells in as well.")] = False,
    json: Json = False,
) -> None:
    """Write the store's tables into one archive; 'corpus init --from' reads it back."""
    from okrcell.corpus.build import open_store
    from okrcell.corpus.exchange import export_store

    open_store(store)
    console.report(export_store(store, out, include_cells=cells), json, f"Archive {out.name}")
