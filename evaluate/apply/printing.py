"""What ``okrcell annotate``, ``find`` and ``embed`` print for people: tables on stdout, the rest on stderr."""

from __future__ import annotations

from typing import Any

import typer

from okrcell import console

__all__ = ["show_annotation", "show_cells", "show_description", "show_plan", "tell"]

_SHOWN_MARKERS = 4
_SHOWN_CELLS = 20
_SHOWN_CANDIDATES = 12


def show_annotation(result: dict[str, Any]) -> None:
    """Print the summary of an annotation."""
    tell(result["coverage_told"], result["notes"])
    console.say(result["calibration"])
    title = (
        f"{result['cells']:,} cells; {result['candidates']} candidates: {result['candidate_set']}"
    )
    if result["threshold"] is not None:
        title += f"; unknown below {result['threshold']:.2f}"
    console.table(
        title,
        [
            "cell type",
            "term",
            "cells",
            "share",
            "mean score",
            "markers that are higher (of usable)",
        ],
        [_type_row(row) for row in result["types"]],
        frozenset({2, 3, 4}),
    )
    for row in result["types"]:
        if row["cell_type"] == "unknown" and row["cells"] > result["cells_without_values"]:
            told = ", ".join(f"{name} {n:,}" for name, n in row["broad_types"].items())
            console.say(f"Unknown cells, by the narrowest class that is sure: {told}.")
    for note in _sources(result["types"]):
        console.say(note)
    written = [result["out"], result["table"], *([result["page"]] if "page" in result else [])]
    console.say(f"wrote {', '.join(written)}")


def tell(coverage: str, notes: list[str]) -> None:
    """Print what a file has of a run's genes, and what the user must know."""
    console.say(coverage)
    for note in notes:
        console.say(f"note: {note}")


def _type_row(row: dict[str, Any]) -> list[str]:
    markers = row.get("markers_higher")
    told = ""
    if markers is not None:
        some = ", ".join(f"{m['gene']}{_mark(m['source'])}" for m in markers[:_SHOWN_MARKERS])
        told = f"{some or 'none'} ({len(markers)} of {row['markers_usable']})"
        if not row["markers_usable"]:
            told = "no marker known or measured"
    return [
        row["cell_type"],
        row["term_id"],
        f"{row['cells']:,}",
        f"{100 * row['share']:.1f} %",
        f"{row['mean_score']:.2f}",
        told,
    ]


def _mark(source: str) -> str:
    """Return a sign behind a gene that something else than the shipped table names."""
    if source.startswith("okrcell:markers"):
        return ""
    return "*" if source.startswith("CL:") else "+"


def _sources(rows: list[dict[str, Any]]) -> list[str]:
    marks = {
        _mark(m["source"]) for row in rows for m in row.get("markers_higher", [])[:_SHOWN_MARKERS]
    }
    told = {"*": "named by the Cell Ontology", "+": "from your markers or texts"}
    some = [f"{mark} {words}" for mark, words in told.items() if mark in marks]
    return [f"Markers: okrcell's table; {'; '.join(some)}."] if some else []


def show_plan(plan: dict[str, Any], as_json: bool) -> None:
    """Print what an annotation would choose from."""
    if as_json:
        console.emit_json(plan)
        return
    tell(plan["coverage_told"], plan["notes"])
    console.say(plan["calibration"])
    rows = [[c["label"], c["term_id"], str(c["markers"])] for c in plan["candidates"]]
    title = f"Would name {plan['cells']:,} cells; {len(rows)} candidates: {plan['candidate_set']}"
    if len(rows) > 400:
        left = len(rows) - _SHOWN_CANDIDATES
        rows = [*rows[:_SHOWN_CANDIDATES], [f"... and {left} more", "", ""]]
    console.table(title, ["label", "term", "markers"], rows, frozenset({2}))


def show_cells(result: dict[str, Any]) -> None:
    """Print the cells that were found."""
    tell(result["coverage_told"], result["notes"])
    cells = result["cells"]
    names = [
        name
        for name in (cells[0] if cells else {})
        if name not in {"rank", "cell_id", "score", "cosine"}
    ]
    rows = [
        [
            str(c["rank"]),
            c["cell_id"],
            f"{c['score']:.2f}",
            f"{c['cosine']:.3f}",
            *(c[name] for name in names),
        ]
        for c in cells[:_SHOWN_CELLS]
    ]
    if len(cells) > _SHOWN_CELLS:
        rows.append(["", f"... and {len(cells) - _SHOWN_CELLS} more", *[""] * (2 + len(names))])
    title = f'{len(cells)} of {result["asked"]:,} cells nearest to "{result["text"][:60]}"'
    console.table(title, ["", "cell", "score", "cosine", *names], rows, frozenset({0, 2, 3}))
    for name, values in result["made_of"].items():
        told = ", ".join(
            f"{v['value']} {v['share']:.0%} (in the file {v['share_of_file']:.0%})" for v in values
        )
        console.say(f"{name}: {told}")
    if "table" in result:
        console.say(f"wrote {result['table']}")


def show_description(found: dict[str, Any]) -> None:
    """Print descriptions, sentence by sentence, with numbered references."""
    tell(found["coverage_told"], found["notes"])
    if found["obs"]:
        console.say(f"{found['cell_id']}: {console.plain(found['obs'])}")
    for number, entry in enumerate(found["descriptions"], 1):
        typer.echo(f"\n{number}. {entry['title']}  (cosine {entry['score']:.3f})")
        listed: dict[str, int] = {}
        for claim in entry["claims"]:
            refs = []
            for passage in claim["evidence"]:
                told = _passage(passage)
                refs.append(listed.setdefault(told, len(listed) + 1))
            cited = f" [{', '.join(map(str, dict.fromkeys(refs)))}]" if refs else ""
            doubt = f" ({claim['verdict']})" if claim["verdict"] not in {"", "supported"} else ""
            typer.echo(f"   {claim['sentence']}{cited}{doubt}")
        if not entry["claims"]:
            typer.echo(f"   {entry['text']}")
        for told, at in listed.items():
            typer.echo(f"   [{at}] {told}")


def _passage(passage: dict[str, Any]) -> str:
    parts = [str(passage["doc_id"] or passage["snippet_id"])]
    if passage["section"]:
        parts.append(str(passage["section"]))
    quote = " ".join(str(passage["quote"] or "").split())
    return ", ".join(parts) + (f': "{quote[:200]}"' if quote else "")
