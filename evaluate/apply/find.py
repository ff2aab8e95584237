"""Cells of a file by a sentence: the nearest ones, what they are, and whether the answer can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from okrcell.corpus.ontology import names
from okrcell.errors import ConfigError, LabelError
from okrcell.evaluate.apply.cells import Sample, opened
from okrcell.evaluate.apply.describe import describe_vector
from okrcell.evaluate.apply.encode import encoded, load_run
from okrcell.evaluate.apply.gate import coverage_of, distance_notes
from okrcell.evaluate.apply.known import known_of
from okrcell.evaluate.apply.labels import trained_types
from okrcell.evaluate.apply.output import check_target, write_tsv
from okrcell.evaluate.apply.query import checked_text, doubts_of
from okrcell.evaluate.apply.ranking import fit_of, query_of, strangers, support_doubts
from okrcell.evaluate.apply.setting import value_notes, weak_notes

__all__ = ["describe", "find"]

Vectors = npt.NDArray[np.float32]

_SHOWN = (
    "okrcell_cell_type", "cell_type", "celltype", "CellType", "author_cell_type", "leiden", "louvain",
    "cluster", "tissue", "disease", "batch", "donor_id", "donor", "sample",
)  # fmt: skip
_MOST_COLUMNS = 4
_MOST_VALUES = 5


def find(
    run: Path,
    data: Path,
    text: str,
    k: int = 50,
    *,
    out: Path | None = None,
    show: Sequence[str] = (),
    markers: bool = True,
    layer: str = "X",
    device: str = "auto",
) -> dict[str, Any]:
    """Return the k cells that fit a text best.

    Columns of ``obs`` are shown beside them and never used.

    Parameters
    ----------
    out
        TSV file for the cells.
    show
        Columns to show; by default up to four with usual names.
    markers
        Whether markers of the types and genes that the text names have a say.

    Raises
    ------
    ConfigError
        An empty or enormous text, k below 1, or an output that is somebody else's.
    DataError
        The file cannot be used with this run.
    """
    text = checked_text(text)
    if k < 1:
        raise ConfigError("-k", found=str(k), expected="at least 1", fix="Correct it.")
    if out is not None:
        _check_out(out, data)
    model = load_run(run, device)
    known = known_of(run, model)
    own = trained_types(run)
    query = query_of(text, model, own, markers=markers)
    texts = [query.background, *([known.texts] if known is not None else [])]
    with opened(data, layer=layer, columns=[*_SHOWN, *show]) as sample:
        coverage = coverage_of(sample.header, model, known)
        columns = _columns(sample, show)
        vectors = encoded(model, sample)
        filled = np.flatnonzero(~sample.empty)
        fit, cosine = fit_of(query, vectors, sample)[filled], vectors[filled] @ query.vector
        order = np.argsort(-fit, kind="stable")[:k]
        rows = filled[order]
        far, _ = distance_notes(vectors, sample.empty, known)
        notes = [
            *doubts_of(text, query.vector, np.concatenate(texts), fit, len(order)),
            *strangers(query, own),
            *support_doubts(query, sample, rows),
            *weak_notes(coverage),
            *value_notes(sample),
            *far,
        ]
        obs = sample.header.obs.iloc[rows]
        cells = [
            {
                "rank": rank,
                "cell_id": str(sample.header.names[row]),
                "score": round(float(fit[at]), 4),
                "cosine": round(float(cosine[at]), 4),
                **{name: str(obs[name].iloc[rank - 1]) for name in columns},
            }
            for rank, (row, at) in enumerate(zip(rows, order, strict=True), 1)
        ]
        made_of = {name: _made_of(sample, name, rows, filled) for name in columns}
    if out is not None:
        write_tsv(
            out,
            ("cell_id", "okrcell_rank", "okrcell_score", "cosine", *columns),
            [
                (c["cell_id"], c["rank"], c["score"], c["cosine"], *(c[name] for name in columns))
                for c in cells
            ],
        )
    return {
        "text": text,
        "cells": cells,
        "asked": len(filled),
        "named_types": [{"term_id": term, "label": names(term)[0]} for term in query.types],
        "markers": [m.symbol for m in query.markers if m.sign > 0],
        "made_of": made_of,
        "coverage_told": coverage.sentence(),
        "notes": notes,
        **({"table": str(out)} if out is not None else {}),
    }


def describe(
    run: Path,
    data: Path,
    cell: str,
    *,
    job: Path | None = None,
    n: int = 3,
    layer: str = "X",
    device: str = "auto",
) -> dict[str, Any]:
    """Return the descriptions nearest to a cell, with the passages they cite.

    Parameters
    ----------
    job
        Enrichment job with the descriptions; by default the one the run was trained on.

    Raises
    ------
    LabelError
        No cell of this name, or one without any value.
    """
    model = load_run(run, device)
    known = known_of(run, model)
    with opened(data, layer=layer, columns=_SHOWN) as sample:
        coverage = coverage_of(sample.header, model, known)
        row = _row_of(sample, cell)
        if sample.empty[row]:
            raise LabelError(
                f"{data} cell '{cell}'",
                found="no value above zero",
                expected="a cell with expression",
                fix="Choose another cell.",
            )
        vector = model.encode_cells(sample.cells.take(np.asarray([row])))[0]
        columns = _columns(sample, ())
        told = {name: str(sample.header.obs[name].iloc[row]) for name in columns}
    found = describe_vector(run, model, vector, job, n)
    return {
        "cell_id": cell,
        "obs": told,
        **found,
        "coverage_told": coverage.sentence(),
        "notes": [*found["notes"], *weak_notes(coverage)],
    }


def _check_out(out: Path, data: Path) -> None:
    if out.resolve() == data.resolve():
        raise ConfigError(
            out,
            found="the input",
            expected="another name: the input is never changed",
            fix="Choose another path with --out.",
        )
    check_target(out)


def _columns(sample: Sample, show: Sequence[str]) -> list[str]:
    """Return the columns to show: those asked for, else up to four usual ones with more than one value."""
    obs = sample.header.obs
    if missing := [name for name in show if name not in obs.columns]:
        from okrcell.errors import MissingColumnError

        raise MissingColumnError(
            f"{sample.header.path} obs",
            found=f"no column '{missing[0]}'",
            expected=f"one of {', '.join(sample.header.columns) or 'none: obs is empty'}",
            fix="Correct --show.",
        )
    if show:
        return list(dict.fromkeys(show))
    return [name for name in _SHOWN if name in obs.columns and obs[name].nunique() > 1][
        :_MOST_COLUMNS
    ]


def _made_of(
    sample: Sample, column: str, rows: npt.NDArray[np.int64], filled: npt.NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Return the commonest values of a column among the found cells, and how common they are in the file."""
    values = sample.header.obs[column].astype(str)
    here, everywhere = Counter(values.iloc[rows]), Counter(values.iloc[filled])
    return [
        {
            "value": value,
            "cells": count,
            "share": round(count / len(rows), 4),
            "share_of_file": round(everywhere[value] / len(filled), 4),
        }
        for value, count in sorted(here.items(), key=lambda item: (-item[1], item[0]))[
            :_MOST_VALUES
        ]
    ]


def _row_of(sample: Sample, cell: str) -> int:
    found = np.flatnonzero(np.asarray(sample.header.names == cell))
    if not len(found):
        some = ", ".join(map(str, sample.header.names[:2]))
        raise LabelError(
            f"{sample.header.path} obs_names",
            found=f"no cell '{cell}'",
            expected=f"the name of one of its {len(sample):,} cells, such as {some}",
            fix="Copy the name from the table of 'okrcell annotate' or 'okrcell find'.",
        )
    return int(found[0])
