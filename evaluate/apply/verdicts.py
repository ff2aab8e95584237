"""What each cell is called in the end, and what is told of it: a column, a table, a summary per type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from okrcell.evaluate.apply.broad import Classes
from okrcell.evaluate.apply.cells import Sample
from okrcell.evaluate.apply.confidence import Confidence
from okrcell.evaluate.apply.labels import Candidates
from okrcell.evaluate.apply.scores import TOP, Answers
from okrcell.evaluate.apply.support import Support

__all__ = [
    "TSV",
    "UNKNOWN",
    "Verdicts",
    "doubt_notes",
    "summary_of",
    "support_notes",
    "tsv_rows",
    "verdicts_of",
]

Vectors = npt.NDArray[np.float32]

UNKNOWN = "unknown"
_NAMED = 5
_FEW = 0.5


@dataclass(frozen=True)
class Verdicts:
    """What each cell is called in the end.

    Attributes
    ----------
    is_named
        bool [N]: False for ``unknown``.
    labels, terms
        str [N].
    scores
        float32 [N]: probability of the best candidate; 0 for cells without any value.
    broad
        str [N]: the narrowest class of the Cell Ontology that is sure, ``unknown`` where none is.
    threshold
        Below it a cell is unknown; None where every cell is named.
    """

    is_named: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.str_]
    terms: npt.NDArray[np.str_]
    scores: Vectors
    broad: npt.NDArray[np.str_]
    threshold: float | None

    def columns(self) -> dict[str, Any]:
        """Return the columns of ``obs``."""
        import pandas as pd

        return {
            "okrcell_cell_type": pd.Categorical(self.labels.astype(object)),
            "okrcell_cell_type_ontology_term_id": pd.Categorical(self.terms.astype(object)),
            "okrcell_score": self.scores,
            "okrcell_broad_type": pd.Categorical(self.broad.astype(object)),
        }


def verdicts_of(
    answers: Answers,
    candidates: Candidates,
    classes: Classes,
    empty: npt.NDArray[np.bool_],
    threshold: float | None,
) -> Verdicts:
    """Return the verdict on each cell.

    Parameters
    ----------
    empty
        bool [N]: cells without any value; they are unknown, with score 0.
    threshold
        Least probability of an answer; None names every other cell.
    """
    best = answers.best[:, 0]
    scores = np.where(empty, 0.0, answers.probability[:, 0]).astype(np.float32)
    is_named = ~empty
    if threshold is not None:
        is_named = is_named & (scores >= threshold)
    labels, terms = (
        np.where(is_named, np.asarray(names, dtype=np.str_)[best], other)
        for names, other in (
            (candidates.labels, UNKNOWN),
            (candidates.term_ids, UNKNOWN),
        )
    )
    sure = np.where(empty, -1, answers.broad)
    broad = np.asarray([*classes.labels, UNKNOWN], dtype=np.str_)[sure]  # -1 reads the last
    return Verdicts(is_named, labels, terms, scores, broad, threshold)


def summary_of(
    answers: Answers, verdicts: Verdicts, candidates: Candidates, support: dict[int, Support]
) -> list[dict[str, Any]]:
    """Return a row per predicted type, the most cells first."""
    best = np.where(verdicts.is_named, answers.best[:, 0], -1)
    found, counts = np.unique(best, return_counts=True)
    rows = []
    for at in np.lexsort((found, -counts)):
        number = int(found[at])
        mine = best == number
        row: dict[str, Any] = {
            "cell_type": UNKNOWN if number < 0 else candidates.labels[number],
            "term_id": UNKNOWN if number < 0 else candidates.term_ids[number],
            "cells": int(counts[at]),
            "share": round(float(counts[at] / len(best)), 4),
            "mean_score": round(float(verdicts.scores[mine].mean()), 4),
            "broad_types": dict(Counter(verdicts.broad[mine].tolist()).most_common(_NAMED)),
        }
        if number >= 0:
            held = support[number]
            row |= {
                "markers_usable": held.usable,
                "markers_higher": [
                    {"gene": gene, "source": source, "difference": round(gain, 3)}
                    for gene, source, gain in held.higher
                ],
            }
        rows.append(row)
    return rows


TSV = (
    "cell_id", "okrcell_cell_type", "okrcell_cell_type_ontology_term_id", "okrcell_score", "verdict",
    *(f"{what}_{n}" for n in range(1, TOP + 1) for what in ("label", "term_id", "score")),
    "broad_type", "broad_score",
)  # fmt: skip


def tsv_rows(
    sample: Sample, answers: Answers, verdicts: Verdicts, candidates: Candidates
) -> Iterator[Sequence[object]]:
    """Yield the rows of the table, one per cell, in the order of :data:`TSV`."""
    for row, name in enumerate(sample.header.names):
        top: list[object] = []
        for rank in range(TOP):
            if sample.empty[row] or rank >= answers.best.shape[1]:
                top += ["", "", ""]
                continue
            at = int(answers.best[row, rank])
            top += [
                candidates.labels[at],
                candidates.term_ids[at],
                float(answers.probability[row, rank]),
            ]
        verdict = "no values" if sample.empty[row] else ""
        yield (
            name,
            verdicts.labels[row],
            verdicts.terms[row],
            float(verdicts.scores[row]),
            verdict or ("named" if verdicts.is_named[row] else UNKNOWN),
            *top,
            verdicts.broad[row],
            0.0 if sample.empty[row] else float(answers.broad_probability[row]),
        )


def doubt_notes(
    verdicts: Verdicts, empty: npt.NDArray[np.bool_], confidence: Confidence
) -> list[str]:
    """Say if far fewer cells than validation cells reach the score from which on answers can be relied on."""
    scores = verdicts.scores[~empty]
    if confidence.kept is None or not len(scores) or confidence.accuracy == 1.0:
        return []  # a threshold from answers that are all right means nothing
    share = float((scores >= confidence.threshold).mean())
    if share >= _FEW * confidence.kept:
        return []
    return [
        f"{share:.0%} of the cells reach a score of {confidence.threshold:.2f}, of the run's validation cells "
        f"{confidence.kept:.0%}: many of these cells are of types that the run does not know, or were measured "
        "otherwise. Look at okrcell_broad_type and at the markers before you use the names."
    ]


def support_notes(
    summary: Sequence[dict[str, Any]], candidates: Candidates, verdicts: Verdicts
) -> list[str]:
    """Name the predicted types that no marker supports, though some could."""
    bare = [
        f"{row['cell_type']} ({row['cells']:,} cells)"
        for row in summary
        if row.get("markers_usable", 0) and not row["markers_higher"]
    ]
    if not bare or len(candidates) < 2 or not verdicts.is_named.any():
        return []
    some = ", ".join(bare[:_NAMED]) + (", ..." if len(bare) > _NAMED else "")
    return [f"None of its markers is higher in the cells of: {some}. Doubt these."]
