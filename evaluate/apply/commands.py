"""The commands that a biologist wants: ``okrcell embed``, ``okrcell annotate``, ``okrcell find``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from okrcell import console
from okrcell.evaluate.apply.printing import (
    show_annotation,
    show_cells,
    show_description,
    show_plan,
    tell,
)

__all__ = ["annotate", "embed", "find"]

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of `okrcell train run`.")]
Data = Annotated[Path, typer.Argument(metavar="DATA", help="h5ad file of cells.")]
Layer = Annotated[str, typer.Option("--layer", help="Matrix to read: X, raw, or a layer.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def embed(
    run: Run,
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", help="h5ad file to write: a copy with the vectors.")
    ],
    layer: Layer = "X",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Encode the cells of DATA by a trained run: a copy of the file with obsm["X_okrcell"]."""
    from okrcell.evaluate.apply.embed import embed as stage

    result = stage(run, data, out, layer=layer, device=device)
    if json:
        console.emit_json(result)
        return
    tell(result["coverage_told"], result["notes"])
    console.say(
        f"wrote {out}: obsm['X_okrcell'], {result['cells']:,} cells x {result['width']} numbers"
    )


def annotate(
    run: Run,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="h5ad file to write: a copy with the cell types."),
    ] = None,
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            help="What to choose from: 'tissue', 'run' (the types it was trained on), 'all-cl', or a TSV "
            "with label, and optionally term_id and description.",
        ),
    ] = "tissue",
    tissue: Annotated[
        str | None,
        typer.Option(
            "--tissue", help="Tissue of the cells, such as blood; default: what obs says."
        ),
    ] = None,
    unknown: Annotated[
        bool,
        typer.Option("--unknown", help="Call cells 'unknown' below a calibrated score."),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="Call cells 'unknown' below this score instead."),
    ] = None,
    markers: Annotated[
        Path | None,
        typer.Option(
            "--markers",
            help="TSV of your own marker genes: term_id or label, positive, and optionally negative.",
        ),
    ] = None,
    no_markers: Annotated[
        bool, typer.Option("--no-markers", help="The learnt similarity alone decides.")
    ] = False,
    refine: Annotated[
        bool,
        typer.Option("--refine/--no-refine", help="Smooth scores over cells of like expression."),
    ] = True,
    batch: Annotated[
        str | None,
        typer.Option(
            "--batch", metavar="KEY", help="obs column: compare cells within a batch only."
        ),
    ] = None,
    layer: Layer = "X",
    tsv: Annotated[
        Path | None,
        typer.Option("--tsv", help="Table to write, a row per cell; default: --out with .tsv."),
    ] = None,
    umap: Annotated[
        Path | None, typer.Option("--umap", metavar="PAGE", help="HTML page with a map to write.")
    ] = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show genes, candidates and calibration, and stop.")
    ] = False,
    json: Json = False,
) -> None:
    """Name the cells of DATA without any labels: types, Cell Ontology ids, calibrated scores, markers."""
    from okrcell.errors import ConfigError
    from okrcell.evaluate.apply.annotate import annotate as stage
    from okrcell.evaluate.apply.annotate import plan
    from okrcell.evaluate.apply.setting import Request

    request = Request(
        labels=labels, tissue=tissue, unknown=unknown, threshold=threshold, markers=markers,
        vote=not no_markers, refine=refine, layer=layer, batch=batch, device=device,
    )  # fmt: skip
    if dry_run:
        show_plan(plan(run, data, request), json)
        return
    if out is None:
        raise ConfigError(
            "--out",
            found="nothing",
            expected="a name for the copy of the file with the cell types",
            fix="Say for example --out annotated.h5ad, or --dry-run to look first.",
        )
    result = stage(run, data, out, request, tsv=tsv, page=umap)
    if json:
        console.emit_json(result)
        return
    show_annotation(result)


def find(
    run: Run,
    data: Data,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What to look for, in English.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of cells.")] = 50,
    describe: Annotated[
        str | None,
        typer.Option(
            "--describe", metavar="CELL", help="The other way: texts nearest to this cell."
        ),
    ] = None,
    job: Annotated[
        Path | None,
        typer.Option("--job", help="Enrichment job with the texts; default: the run's own."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="TSV file for the cells.")] = None,
    show: Annotated[
        list[str] | None,
        typer.Option("--show", metavar="COLUMN", help="obs column to show; repeatable."),
    ] = None,
    no_markers: Annotated[
        bool, typer.Option("--no-markers", help="The learnt similarity alone decides.")
    ] = False,
    layer: Layer = "X",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Find the cells of DATA that a sentence describes; or, with --describe, what describes a cell."""
    from okrcell.errors import ConfigError
    from okrcell.evaluate.apply import find as stage

    if (text is None) == (describe is None):
        raise ConfigError(
            "TEXT",
            found="nothing to look for" if text is None else "a text beside --describe",
            expected="a text, or --describe CELL",
            fix='Write for example okrcell find RUN DATA "cytotoxic T cells".',
        )
    if describe is not None:
        found = stage.describe(run, data, describe, job=job, layer=layer, device=device)
        if json:
            console.emit_json(found)
        else:
            show_description(found)
        return
    assert text is not None
    result = stage.find(
        run,
        data,
        text,
        k,
        out=out,
        show=show or (),
        markers=not no_markers,
        layer=layer,
        device=device,
    )
    if json:
        console.emit_json(result)
        return
    show_cells(result)
