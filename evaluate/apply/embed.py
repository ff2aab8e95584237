"""Vectors of a file's cells by a trained run, written beside the cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from okrcell.evaluate.apply.cells import opened
from okrcell.evaluate.apply.encode import encoded, load_run
from okrcell.evaluate.apply.gate import coverage_of, distance_notes
from okrcell.evaluate.apply.known import known_of
from okrcell.evaluate.apply.output import check_targets, write_copy
from okrcell.evaluate.apply.setting import for_uns, record_of, value_notes, weak_notes

__all__ = ["EMBEDDING", "embed"]

EMBEDDING = "X_okrcell"


def embed(
    run: Path, data: Path, out: Path, *, layer: str = "X", device: str = "auto"
) -> dict[str, Any]:
    """Write a copy of a file with the vectors of its cells in ``obsm["X_okrcell"]``.

    Raises
    ------
    DataError
        The file cannot be used with this run.
    ConfigError
        The output is the input, or somebody else's file.
    """
    check_targets(data, out)
    model = load_run(run, device)
    known = known_of(run, model)
    with opened(data, layer=layer, scratch_near=out) as sample:
        coverage = coverage_of(sample.header, model, known)
        vectors = encoded(model, sample)
        far, figures = distance_notes(vectors, sample.empty, known)
        notes = [*weak_notes(coverage), *value_notes(sample), *far]
        record = {
            **record_of(run, model, coverage, figures),
            "command": "embed",
            "notes": notes,
        }
        write_copy(data, out, obsm={EMBEDDING: vectors}, uns=for_uns(record))
    return {
        "out": str(out),
        "cells": len(vectors),
        "width": int(vectors.shape[1]),
        "cells_without_values": int(sample.empty.sum()),
        "coverage": coverage.as_dict(),
        "coverage_told": coverage.sentence(),
        "notes": notes,
    }
