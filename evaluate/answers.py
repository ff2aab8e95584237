"""Answers to a zero-shot question, read off scores in chunks, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.intervals import (
    Bootstrap,
    f1_of_counts,
    of_tables,
    type_counts,
    weighted_mean,
)
from okrcell.evaluate.methods import Vectors
from okrcell.evaluate.rows import TaskResult

__all__ = ["Answers", "Rows", "add_answers", "nearest", "read"]

Rows = NDArray[np.intp]

_CHUNK = 2048


@dataclass(frozen=True)
class Answers:
    """What was said of each cell.

    Attributes
    ----------
    best
        The nearest candidate, int [n]; the first one of equals.
    place
        Place of the right candidate, int [n], from 0; equals stand in the order of candidates.
    """

    best: Rows
    place: Rows


def nearest(cells: Vectors, vectors: Vectors, right: Rows) -> Answers:
    """Return the nearest of many candidates for each cell, without a matrix of all scores.

    Parameters
    ----------
    cells, vectors
        Unit rows [n, D] and [C, D].
    right
        The right candidate of each cell, int [n].
    """
    parts = [
        read(cells[start : start + _CHUNK] @ vectors.T, right[start : start + _CHUNK])
        for start in range(0, len(cells), _CHUNK)
    ]
    return Answers(*(np.concatenate([getattr(p, key) for p in parts]) for key in ("best", "place")))


def read(scores: Vectors, right: Rows) -> Answers:
    """Return the answers of scores [n, C]; ``right`` is the right candidate of each cell, int [n]."""
    own = scores[np.arange(len(scores)), right][:, None]
    before = np.arange(scores.shape[1]) < right[:, None]
    ahead = scores > own
    ahead |= (scores == own) & before
    return Answers(scores.argmax(axis=1), np.count_nonzero(ahead, axis=1))


def add_answers(
    result: TaskResult,
    name: str,
    variant: str,
    found: Answers,
    said: Rows,
    truth: Rows,
    credit: NDArray[np.float64],
    top: list[int],
    boot: Bootstrap,
) -> None:
    """Add accuracy, macro-F1, credit and top-k; ``said`` and ``truth`` number the same types."""
    counts = type_counts(truth, said, int(truth.max()) + 1)
    metrics = {
        "accuracy": weighted_mean((found.place == 0).astype(float)),
        "macro_f1": of_tables(counts, f1_of_counts),
        "ontology_credit": weighted_mean(credit),
    } | {f"top{k}": weighted_mean((found.place < k).astype(float)) for k in top}
    for metric, of in metrics.items():
        result.measure("zero_shot", name, f"{metric} ({variant})", of, boot)
