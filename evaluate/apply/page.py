"""A map of the annotated cells as one HTML file: hover, legend, colour by type or score, light and dark.

The map is drawn from the principal components of expression, which know neither texts nor answers: where
a predicted type falls apart on it, the answer is doubtful. Its one script is inline and named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from okrcell import __version__
from okrcell.artifacts import atomic_write
from okrcell.console import say
from okrcell.evaluate.apply.cells import Sample
from okrcell.evaluate.apply.labels import Candidates
from okrcell.evaluate.apply.neighbours import expression_basis
from okrcell.evaluate.apply.scores import Answers
from okrcell.evaluate.apply.verdicts import UNKNOWN, Verdicts

__all__ = ["MOST_CELLS", "write_page"]

MOST_CELLS = 5_000
"""More cells are neither told apart by the eye nor laid out in a minute."""

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800")
_SHAPES = ("circle", "square", "triangle", "diamond", "down")
_POLYGONS = {
    "circle": '<circle cx="10" cy="7" r="4.5"',
    "square": '<rect x="6" y="3" width="8" height="8"',
    "triangle": '<path d="M10 1.6 15 10.6H5z"',
    "diamond": '<path d="M10 1.2 15.4 7 10 12.8 4.6 7z"',
    "down": '<path d="M10 12.4 15 3.4H5z"',
}
_LEAST_CELLS = 4
_MOST_MARKERS = 8
_SEED = 0


def write_page(
    page: Path,
    data: Path,
    result: dict[str, Any],
    sample: Sample,
    verdicts: Verdicts,
    answers: Answers,
    candidates: Candidates,
    basis: npt.NDArray[np.float32] | None,
) -> None:
    """Write the page, atomically.

    Parameters
    ----------
    result
        What :func:`okrcell.evaluate.apply.annotate.annotate` returns.
    basis
        float32 [N, P]: principal components of the cells; None where they are not there yet.
    """
    from markupsafe import Markup

    from okrcell.evaluate.figures import scatter
    from okrcell.evaluate.report import environment

    shown = _drawn(sample)
    points = _layout(sample, shown, basis)
    types = _types(result["types"])
    number = {entry["label"]: at for at, entry in enumerate(types)}
    of_cell = np.asarray([number[str(label)] for label in verdicts.labels[shown]], dtype=np.int64)
    for at, entry in enumerate(types):
        entry["at"] = _typical(points, np.flatnonzero(of_cell == at))
    script = (files("okrcell.evaluate") / "templates" / "annotation.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    content = _content(sample, shown, points, of_cell, types, verdicts, answers, candidates)
    static = scatter(
        points.tolist(),
        [types[at]["label"] for at in of_cell],
        [t["label"] for t in types],
        "Cells",
    )
    html = environment().get_template("annotation.html.j2").render(
        title=f"Cell types of {data.name}",
        subtitle=f"{result['cells']:,} cells; {result['candidates']} candidates: {result['candidate_set']}"
        + (f"; unknown below a score of {result['threshold']:.2f}" if result["threshold"] else ""),
        coverage=result["coverage_told"],
        calibration=result["calibration"],
        notes=result["notes"],
        alt=f"Map of {len(shown):,} cells by predicted type",
        how=_how(sample, len(shown)),
        types=types,
        static=static,
        version=__version__,
        run=result["run"],
        script=Markup(script),  # noqa: S704  (our own file)
        script_sha256=digest,
        data=Markup(_safe_json(content)),  # noqa: S704  (nothing in it can end the element)
    )  # fmt: skip
    atomic_write(page, html)


def _drawn(sample: Sample) -> npt.NDArray[np.int64]:
    """Return the cells that the map shows, ascending: those with values, at most 5,000, drawn by a seed."""
    filled = np.flatnonzero(~sample.empty)
    if len(filled) <= MOST_CELLS:
        return filled
    return np.sort(np.random.default_rng(_SEED).choice(filled, MOST_CELLS, replace=False))


def _layout(
    sample: Sample, shown: npt.NDArray[np.int64], basis: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float64]:
    """Return the UMAP of some cells, float64 [n, 2] between 0 and 1000."""
    from okrcell.evaluate.cards import umap

    if len(shown) < _LEAST_CELLS:
        return np.linspace(200, 800, max(len(shown), 1))[: len(shown), None].repeat(2, axis=1)
    found = basis[shown] if basis is not None else expression_basis(sample.cells, shown)
    say(f"Laying out {len(shown):,} cells")
    at = np.asarray(umap(found, _SEED), dtype=np.float64)
    least, span = at.min(axis=0), np.ptp(at, axis=0).max() or 1.0
    offset = (span - np.ptp(at, axis=0)) / 2
    placed: npt.NDArray[np.float64] = np.round(1000 * (at - least + offset) / span)
    return placed


def _types(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from markupsafe import Markup

    found = []
    styled = 0
    for row in summary:
        is_known = row["cell_type"] != UNKNOWN
        colour = _COLOURS[styled % len(_COLOURS)] if is_known else ""
        shape = _SHAPES[(styled // len(_COLOURS) + styled) % len(_SHAPES)] if is_known else "circle"
        styled += is_known
        higher = row.get("markers_higher", [])
        found.append(
            {
                "label": row["cell_type"],
                "term_id": row["term_id"] if is_known else "",
                "cells": row["cells"],
                "share": row["share"],
                "mean_score": row["mean_score"],
                "genes": higher[:_MOST_MARKERS],
                "n_higher": len(higher),
                "usable": row.get("markers_usable"),
                "colour": colour,
                "shape": shape,
                "mark": Markup(f'{_POLYGONS[shape]} fill="{colour or "currentColor"}"/>'),  # noqa: S704
            }
        )
    return found


def _typical(points: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]) -> int:
    """Return the cell nearest to the middle of some cells; -1 for none."""
    if not len(rows):
        return -1
    mine = points[rows]
    return int(rows[np.abs(mine - np.median(mine, axis=0)).sum(axis=1).argmin()])


def _content(
    sample: Sample,
    shown: npt.NDArray[np.int64],
    points: npt.NDArray[np.float64],
    of_cell: npt.NDArray[np.int64],
    types: list[dict[str, Any]],
    verdicts: Verdicts,
    answers: Answers,
    candidates: Candidates,
) -> dict[str, Any]:
    shares = np.rint(100 * answers.probability[shown]).astype(int)
    top = [
        [[int(at), int(share)] for at, share in zip(best, share_of, strict=True)]
        for best, share_of in zip(answers.best[shown], shares, strict=True)
    ]
    batches = sample.batches
    return {
        "x": points[:, 0].astype(int).tolist(),
        "y": points[:, 1].astype(int).tolist(),
        "type": of_cell.tolist(),
        "score": np.rint(100 * verdicts.scores[shown]).astype(int).tolist(),
        "cell": [str(name) for name in sample.header.names[shown]],
        "top": top,
        "labels": list(candidates.labels),
        "broad": [str(name) for name in verdicts.broad[shown]],
        "palette": _COLOURS,
        "batch": [] if batches is None else [str(name) for name in batches[shown]],
        "batch_name": sample.batch_column,
        "types": [{key: t[key] for key in ("label", "colour", "shape", "at")} for t in types],
    }


def _how(sample: Sample, n: int) -> str:
    drawn = "" if n == len(sample) else f" {n:,} of {len(sample):,} cells are drawn."
    return (
        "UMAP of the principal components of expression, which know neither texts nor answers. Numbers are those "
        f"of the legend; press a type to see it alone.{drawn}"
    )


def _safe_json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
