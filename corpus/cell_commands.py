"""Commands of ``okrcell corpus`` that deal with cells and their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from okrcell import console

__all__ = ["Config", "Json", "Store", "add_cells", "normalise", "profiles"]

Store = Annotated[Path, typer.Argument(metavar="STORE", help="Store folder.")]
Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file; its table 'corpus' is read.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Maps = Annotated[list[str] | None, typer.Option("--map", help="FIELD=COLUMN of obs; repeat.")]
Overrides = Annotated[
    Path | None, typer.Option(help="TSV of decided labels: field, label, term_id.")
]


def normalise(
    store: Store,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS",
            help="TSV with a column 'label' (and tissue or organ, markers), or h5ad.",
        ),
    ],
    field: Annotated[
        str, typer.Option(help="cell_type, tissue, disease, assay, ...")
    ] = "cell_type",
    context: Annotated[
        str | None,
        typer.Option(help="Use what comes with a label: tissue, markers, or tissue,markers."),
    ] = None,
    maps: Maps = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a table to edit and pass as --overrides.")
    ] = None,
    accept_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score that counts as resolved.")
    ] = None,
    config: Config = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per label.")] = False,
) -> None:
    """Map labels to ontology terms: term, score, reason, alternatives."""
    from okrcell.config import load_config
    from okrcell.corpus import label_table
    from okrcell.corpus.build import open_store
    from okrcell.corpus.config import CorpusConfig
    from okrcell.corpus.normalise import read_overrides

    open_store(store)
    keys = load_config(
        CorpusConfig,
        "corpus",
        config,
        {"accept_score": accept_score, "accept_similarity": accept_score},
    )
    decided = read_overrides(overrides) if overrides else {}
    rows = label_table.read_labels(
        data, field, context.split(",") if context else (), console.pairs("--map", maps)
    )
    found = label_table.resolve_rows(
        rows,
        field,
        store=store,
        accept_score=keys.accept(field),
        overrides=decided.get(field),
    )
    if out is not None:
        label_table.write_overrides(out, field, rows, found)
    if json:
        for resolution in found:
            console.emit_json(label_table.as_json(resolution))
        return
    table = [
        [r.label, r.term_id, r.term_label, f"{r.score:.2f}", r.status, r.reason] for r in found
    ]
    columns = ["label", "term", "name", "score", "status", "why"]
    console.table(f"{len(found)} labels of {data.name}", columns, table)
    unresolved = sum(r.status == "unresolved" for r in found)
    if unresolved:
        console.say(
            f"{unresolved} unresolved: decide them in {out} and pass it with --overrides"
            if out
            else f"{unresolved} unresolved: write a table to decide them in with --out FILE.tsv"
        )


def add_cells(
    store: Store,
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DATA]...", help="h5ad, zarr, loom, 10x folder or .h5, or a folder of these."
        ),
    ] = None,
    maps: Maps = None,
    constants: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE for all cells; repeat.")
    ] = None,
    dataset_id: Annotated[str | None, typer.Option(help="Default: the file's stem.")] = None,
    values: Annotated[str | None, typer.Option(help="counts or lognorm; default: detect.")] = None,
    layer: Annotated[str | None, typer.Option(help="X, raw, or a layer.")] = None,
    hold_out: Annotated[
        list[str] | None, typer.Option("--hold-out", help="Cell type kept out of training; repeat.")
    ] = None,
    overrides: Overrides = None,
    hgnc: Annotated[
        Path | None, typer.Option(help="HGNC table (TSV): resolves aliases and previous symbols.")
    ] = None,
    census: Annotated[
        str | None, typer.Option(help="Cells of CELLxGENE Census instead: a value filter.")
    ] = None,
    census_version: Annotated[
        str | None, typer.Option(help="Release of the Census, YYYY-MM-DD.")
    ] = None,
    census_uri: Annotated[
        str | None,
        typer.Option(help="A copy of the Census, or a SOMA collection laid out like it."),
    ] = None,
    config: Config = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the split.")] = None,
    json: Json = False,
) -> None:
    """Add cells: genes resolved, labels mapped to terms, splits assigned."""
    from okrcell.config import fingerprint, load_config
    from okrcell.corpus import cells, formats
    from okrcell.corpus.build import open_store
    from okrcell.corpus.config import CellsConfig, CorpusConfig
    from okrcell.corpus.genes import read_hgnc
    from okrcell.corpus.normalise import read_overrides
    from okrcell.errors import ConfigError

    if bool(data) == (census is not None):
        raise ConfigError(
            "add-cells",
            found="both files and --census" if data else "neither files nor --census",
            expected="files of cells, or a filter for the Census",
            fix="Name one of them.",
        )
    open_store(store)
    flags = {
        "values": values,
        "layer": layer,
        "hold_out": tuple(hold_out) if hold_out else None,
        "seed": seed,
    }
    keys = load_config(CorpusConfig, "corpus", config, flags)
    decided = read_overrides(overrides) if overrides else None
    aliases = read_hgnc(hgnc) if hgnc else None

    def how(name: str) -> Any:
        return load_config(
            CellsConfig,
            "corpus",
            None,
            {
                "columns": console.pairs("--map", maps),
                "constants": console.pairs("--set", constants),
                "dataset_id": name,
            },
        )

    if census is not None:
        from okrcell.corpus.census import add_census

        results = [
            add_census(
                store,
                census,
                census_version,
                keys,
                how(dataset_id or f"census-{census_version}-{fingerprint(census)[:8]}"),
                decided,
                uri=census_uri,
                aliases=aliases,
            )
        ]
    else:
        paths = [path for entry in data or () for path in formats.datasets_in(entry)]
        if dataset_id and len(paths) > 1:
            raise ConfigError(
                "--dataset-id",
                found=f"one name for {len(paths)} files",
                expected="one file",
                fix="Leave it out: each file's stem is its name.",
            )
        names = [dataset_id or console.slug(formats.stem(path)) for path in paths]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ConfigError(
                "add-cells",
                found=f"two files that would both be the dataset '{twice}'",
                expected="names that differ",
                fix="Add them one by one with --dataset-id.",
            )
        results = []
        for path, name in zip(paths, names, strict=True):
            results.append(cells.add_cells(store, path, keys, how(name), decided, aliases))
            if len(paths) > 1:
                console.say(f"{path.name}: {results[-1]['cells']} cells")
    if json:
        console.emit_json(results[0] if len(results) == 1 else results)
    for result in results:
        if not json:
            console.report(result, False, f"Cells of {result['source']}")
        if result["unresolved"]:
            console.say(
                f"{result['dataset_id']}: {len(result['unresolved'])} labels unresolved; list them"
                " with 'okrcell corpus normalise --out FILE.tsv', decide, and pass --overrides"
            )


def profiles(store: Store, json: Json = False) -> None:
    """List the distinct profiles of all cells, with what is still unresolved in each."""
    from okrcell.corpus.build import open_store
    from okrcell.corpus.profiles import profiles_report

    open_store(store)
    found = profiles_report(store)
    if json:
        console.emit_json(found)
        return
    columns = list(found[0]) if found else ["profile"]
    rows = [[console.plain(value) for value in entry.values()] for entry in found]
    console.table(f"{len(found)} profiles of {store}", columns, rows)
