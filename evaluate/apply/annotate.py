"""Cell types of a file that nobody labelled: candidates, scores, verdicts, and what supports them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from okrcell.artifacts import read_manifest
from okrcell.console import progress
from okrcell.corpus.formats import open_source
from okrcell.evaluate.apply.broad import Classes, classes_of
from okrcell.evaluate.apply.cells import Sample, opened, read_header
from okrcell.evaluate.apply.embed import EMBEDDING
from okrcell.evaluate.apply.encode import encoded
from okrcell.evaluate.apply.gate import distance_notes
from okrcell.evaluate.apply.neighbours import (
    expression_basis,
    graph_of,
    groups_of,
    smooth_within,
)
from okrcell.evaluate.apply.output import check_targets, write_copy, write_tsv
from okrcell.evaluate.apply.scores import Answers, answers_of, votes_of
from okrcell.evaluate.apply.setting import (
    OBS_COLUMNS,
    Request,
    Setting,
    for_uns,
    record_of,
    setting_of,
    value_notes,
)
from okrcell.evaluate.apply.support import support_of
from okrcell.evaluate.apply.verdicts import (
    TSV,
    doubt_notes,
    summary_of,
    support_notes,
    tsv_rows,
    verdicts_of,
)

__all__ = ["annotate", "plan"]

Vectors = npt.NDArray[np.float32]


def plan(run: Path, data: Path, request: Request) -> dict[str, Any]:
    """Say what :func:`annotate` would do, from names and genes alone; writes nothing.

    Raises
    ------
    DataError, LabelError
        As :func:`annotate`, as far as names and genes tell.
    """
    source = open_source(data)
    try:
        header = read_header(source, request.layer, OBS_COLUMNS)
    finally:
        source.close()
    setting = setting_of(run, header, request)
    found = setting.candidates
    return {
        "cells": len(header.names),
        "coverage": setting.coverage.as_dict(),
        "coverage_told": setting.coverage.sentence(),
        "candidate_set": found.name,
        "candidates": [
            {
                "label": label,
                "term_id": term,
                "markers": len(found.markers[at]) if found.markers else 0,
            }
            for at, (label, term) in enumerate(zip(found.labels, found.term_ids, strict=True))
        ],
        "calibration": setting.confidence.about,
        "notes": list(setting.notes),
    }


def annotate(
    run: Path,
    data: Path,
    out: Path,
    request: Request,
    *,
    tsv: Path | None = None,
    page: Path | None = None,
) -> dict[str, Any]:
    """Name the cells of a file, and write a copy with the names and a table.

    The copy has ``obs`` columns ``okrcell_cell_type``, ``okrcell_cell_type_ontology_term_id``,
    ``okrcell_score`` and ``okrcell_broad_type``, ``obsm["X_okrcell"]``, and how it came about in
    ``uns["okrcell"]``.

    Parameters
    ----------
    tsv
        The table, one row per cell; by default beside ``out``.
    page
        HTML file for a map of the cells.

    Returns
    -------
    dict
        Files, figures of the gate, calibration, warnings, and a summary per predicted type.

    Raises
    ------
    DataError, LabelError
        The file, its genes or the labels cannot be used; nothing is written.
    ConfigError
        An output is the input, or somebody else's file.
    """
    tsv = tsv or out.with_suffix(".tsv")
    check_targets(data, out, tsv, page)
    read_manifest(run, "run", verify=False)  # before the cells are read
    with opened(
        data,
        layer=request.layer,
        batch=request.batch,
        columns=OBS_COLUMNS,
        scratch_near=out,
    ) as sample:
        setting = setting_of(run, sample.header, request)
        vectors = encoded(setting.model, sample)
        classes = classes_of(setting.candidates)
        answers, basis = _asked(setting, sample, vectors, request, classes)
        threshold = request.threshold
        if threshold is None and request.unknown:
            threshold = setting.confidence.threshold
        verdicts = verdicts_of(answers, setting.candidates, classes, sample.empty, threshold)
        support = support_of(
            sample.cells,
            np.where(verdicts.is_named, answers.best[:, 0], -1),
            setting.candidates.markers,
        )
        far, figures = distance_notes(vectors, sample.empty, setting.known)
        summary = summary_of(answers, verdicts, setting.candidates, support)
        notes = [
            *setting.notes,
            *value_notes(sample),
            *far,
            *doubt_notes(verdicts, sample.empty, setting.confidence),
            *support_notes(summary, setting.candidates, verdicts),
        ]
        result = {
            "out": str(out),
            "table": str(tsv),
            "run": run.resolve().name,
            "cells": len(sample),
            "cells_without_values": int(sample.empty.sum()),
            "unknown": int((~verdicts.is_named).sum()),
            "values": sample.cells.values,
            "candidate_set": setting.candidates.name,
            "candidates": len(setting.candidates),
            "coverage": setting.coverage.as_dict(),
            "coverage_told": setting.coverage.sentence(),
            "calibration": setting.confidence.about,
            "threshold": verdicts.threshold,
            "types": summary,
            "notes": notes,
        }
        record = {
            **record_of(run, setting.model, setting.coverage, figures),
            "command": "annotate",
            "options": request.as_dict(),
            "candidate_set": setting.candidates.name,
            "candidates": np.asarray(setting.candidates.labels, dtype=object),
            "values": sample.cells.values,
            "calibration": setting.confidence.about,
            "temperature": setting.confidence.temperature,
            "is_calibrated": setting.confidence.is_calibrated,
            "threshold": -1.0 if verdicts.threshold is None else verdicts.threshold,
            "notes": notes,
        }
        if page is not None:
            from okrcell.evaluate.apply.page import write_page

            write_page(page, data, result, sample, verdicts, answers, setting.candidates, basis)
            result["page"] = str(page)
        write_tsv(tsv, TSV, tsv_rows(sample, answers, verdicts, setting.candidates))
        write_copy(
            data, out, obs=verdicts.columns(), obsm={EMBEDDING: vectors}, uns=for_uns(record)
        )
    return result


def _asked(
    setting: Setting, sample: Sample, vectors: Vectors, request: Request, classes: Classes
) -> tuple[Answers, Vectors | None]:
    """Return the answers, and principal components of expression where one group holds all cells."""
    groups = groups_of(sample, request.batch is not None)
    basis = None
    cells = vectors.copy()
    smooth = None
    if request.refine:
        graphs = []
        with progress("Looking for neighbours", len(sample), "cells") as advance:
            for rows in groups:
                found = expression_basis(sample.cells, rows)
                if len(groups) == 1:
                    basis = np.zeros((len(sample), found.shape[1]), dtype=np.float32)
                    basis[rows] = found
                graphs.append(graph_of(found))
                advance(len(rows))
        smooth = smooth_within(groups, graphs)
        smooth(cells)
    with tempfile.TemporaryDirectory(prefix="okrcell-") as scratch:
        votes = None
        if request.vote:
            votes = votes_of(sample.cells, setting.candidates, groups, Path(scratch))
            if votes is not None and smooth is not None:
                smooth(votes)
        answers = answers_of(cells, setting.texts, votes, setting.confidence.temperature, classes)
    return answers, basis
