"""Pairs that a run distrusts, with reasons, for the curators of an atlas.

The score is the chance that a cell's label is wrong: by the labels of cells of like expression
(:mod:`okrcell.train.doubt`) and, of a run of ``cra_plus``, by what it holds of each pair. The reason
adds how the trained model reads the cell. Labels that other donors or batches dispute as a whole come
first.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from okrcell.artifacts import atomic_write, storage_guard
from okrcell.console import say
from okrcell.corpus.cells import load_profiles
from okrcell.errors import TrainingError
from okrcell.train.checkpoint import load_model
from okrcell.train.data import Pairs
from okrcell.train.doubt import Doubts, detection, doubts, label_counts
from okrcell.train.export import PAIRS
from okrcell.train.graph import components
from okrcell.train.suspect_groups import about_pairs, group_rows
from okrcell.train.trained_on import TrainedOn, trained_on

__all__ = ["COLUMNS", "Suspects", "find_suspects", "write_tsv"]

_Ints = npt.NDArray[np.int64]

COLUMNS = (
    "kind",
    "score",
    "dataset_id",
    "donor",
    "batch",
    "obs_name",
    "cell_uid",
    "cells",
    "label",
    "label_term_id",
    "suggested",
    "suggested_term_id",
    "agree",
    "reason",
)
"""Columns of the list; rows of kind ``group`` come first and have no cell."""

_RATING = ("cra_paper", "cra_plus", "crcl")
_NEIGHBOURS = 30
_ENCODED = 4096


@dataclass(frozen=True)
class Suspects:
    """All pairs of a run with what is thought of them; see :func:`find_suspects`.

    Attributes
    ----------
    pairs
        The training pairs as they were trained on, noise included where it was planted.
    labels, names
        int64 [n]: label that each pair carries, as index into the sorted names.
    term_ids
        CL id of each name, empty where there is none.
    about
        Columns ``dataset_id``, ``donor``, ``batch`` and ``obs_name`` of the pairs.
    counts
        int32 [n, T]: labels of the nearest cells.
    doubts
        Chances and best other labels.
    groups
        Rows of :data:`COLUMNS` of kind ``group``.
    planted
        bool [n]: where noise was planted; never used in a score.
    """

    run: Path
    objective: str
    pairs: Pairs
    labels: _Ints
    names: tuple[str, ...]
    term_ids: tuple[str, ...]
    about: pa.Table
    counts: npt.NDArray[np.int32]
    doubts: Doubts
    groups: list[dict[str, Any]]
    planted: npt.NDArray[np.bool_]
    type_of_text: _Ints

    def facts(self) -> dict[str, Any]:
        """Return counts and, where noise was planted, how well it is found."""
        found: dict[str, Any] = {
            "objective": self.objective,
            "pairs": len(self.labels),
            "estimated_share_wrong": round(self.doubts.share, 4),
            "groups": len(self.groups),
        }
        if self.planted.any():
            found["planted"] = detection(self.doubts.chance, self.planted)
        return found

    def order(self, least: float = 0.0, top: int | None = None) -> _Ints:
        """Return the pairs of at least this score, the most doubtful first."""
        chance = self.doubts.chance
        ordered = np.argsort(-chance, kind="stable")
        return ordered[: int((chance >= least).sum())][:top]

    def rows(self, index: _Ints) -> list[dict[str, Any]]:
        """Return rows of :data:`COLUMNS` of kind ``pair``; the model reads these cells."""
        read, certainty, own = self._read(index)
        about = self.about.take(pa.array(index)).to_pylist()
        uids = self.pairs.uids(index)
        made = []
        for at, pair in enumerate(index.tolist()):
            label, other = int(self.labels[pair]), int(self.doubts.other[pair])
            neighbours = self.counts[pair]
            agree = int(read[at]) == other
            reason = (
                f"{neighbours[other]} of its {neighbours.sum()} nearest cells are '{self.names[other]}', "
                f"{neighbours[label]} are '{self.names[label]}'; the model reads it as "
                f"'{self.names[read[at]]}' with {certainty[at]:.2f}"
                + (f", as its label with {own[at]:.2f}" if read[at] != label else ", its label")
            )
            made.append(
                {
                    "kind": "pair",
                    "score": round(float(self.doubts.chance[pair]), 4),
                    **about[at],
                    "cell_uid": uids[at],
                    "cells": 1,
                    "label": self.names[label],
                    "label_term_id": self.term_ids[label],
                    "suggested": self.names[other],
                    "suggested_term_id": self.term_ids[other],
                    "agree": "yes" if agree else "no",
                    "reason": reason,
                }
            )
        return [{name: row[name] for name in COLUMNS} for row in made]

    def by_type(self, least: float) -> list[dict[str, Any]]:
        """Return per label: pairs, how many are distrusted, their share, and what they resemble."""
        doubted = self.doubts.chance >= least
        rows = []
        for number in np.unique(self.labels).tolist():
            here = self.labels == number
            others = Counter(self.doubts.other[here & doubted].tolist()).most_common(1)
            rows.append(
                {
                    "label": self.names[number],
                    "label_term_id": self.term_ids[number],
                    "pairs": int(here.sum()),
                    "distrusted": int((here & doubted).sum()),
                    "share": round(float(doubted[here].mean()), 4),
                    "most_confused_with": self.names[others[0][0]] if others else "",
                    "of_them": others[0][1] if others else 0,
                }
            )
        return sorted(rows, key=lambda row: (-row["share"], row["label"]))

    @cached_property
    def _model(self) -> Any:
        return load_model(self.run)

    def _read(self, index: _Ints) -> tuple[_Ints, npt.NDArray[Any], npt.NDArray[Any]]:
        """Return what the model takes cells for, with what certainty, and that of their own label."""
        n = len(index)
        if not n:
            return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
        model, pairs = self._model, self.pairs
        texts = model.encode_text(pairs.texts)
        certainty = np.zeros((n, len(self.names)))
        shape = (len(texts), len(self.names))
        of_label = sparse.csr_matrix(
            (np.ones(len(texts)), (np.arange(len(texts)), self.type_of_text)), shape=shape
        )
        for number, cells in enumerate(pairs.matrices):
            mine = np.flatnonzero(pairs.dataset[index] == number)
            for begin in range(0, len(mine), _ENCODED):
                at = mine[begin : begin + _ENCODED]
                part = cells.take(pairs.row[index[at]])
                logits = model.encode_cells(part) @ texts.T / model.card["tau"]
                logits = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
                certainty[at] = (logits / logits.sum(axis=1, keepdims=True)) @ of_label
        read = certainty.argmax(axis=1)
        rows = np.arange(n)
        return read, certainty[rows, read], certainty[rows, self.labels[index]]


def find_suspects(run: Path, store: Path | None = None, job: Path | None = None) -> Suspects:
    """Judge all training pairs of a finished run.

    Parameters
    ----------
    run
        Folder of a run of an objective that rates pairs.
    store, job
        What it was trained on, where that is no longer where training found it.

    Raises
    ------
    TrainingError
        The objective rates no pairs, or there is one label only.
    UserError
        See :func:`okrcell.train.trained_on.trained_on`.
    """
    found = trained_on(Path(run), store, job)
    config, pairs, table = found.config, found.pairs, found.table
    if table["reliability"].null_count:
        raise TrainingError(
            found.run / PAIRS,
            found=f"no reliability of pairs: '{config.objective}' rates none",
            expected=f"a run of {', '.join(_RATING[:-1])} or {_RATING[-1]}",
            fix="Train with --objective cra_plus, which rates pairs by evidence from outside.",
        )
    names = pairs.cell_types
    if len(names) < 2:
        raise TrainingError(
            found.run,
            found="one label for all training cells",
            expected="at least two labels to tell apart",
            fix="Train on cells of more types.",
        )
    planted = ~pairs.clean
    carried = np.zeros((len(pairs.texts), len(names)), dtype=np.int64)
    np.add.at(carried, (found.original.text, found.original.cell_type), 1)
    type_of_text = carried.argmax(axis=1)
    labels = np.where(planted, type_of_text[pairs.text], pairs.cell_type)
    say(f"Comparing {len(labels)} cells with cells of like expression")
    points = components(pairs, config.graph_genes, config.graph_components, seed=config.seed)
    k = config.neighbours or _NEIGHBOURS
    counts = label_counts(points, labels, len(names), k, seed=config.seed)
    rated = (
        config.objective == "cra_plus"
    )  # the others' reliability is no chance, of whatever scale
    judged = _joined(counts, found, labels) if rated else doubts(counts, labels)
    term_of = {
        row["cell_type"]: row["cell_type_ontology_term_id"] or ""
        for row in load_profiles(found.store).to_pylist()
    }
    ids = tuple(term_of.get(name, "") for name in names)
    about = about_pairs(found.store, pairs)
    groups = group_rows(points, labels, about, names, ids, seed=config.seed)
    return Suspects(
        found.run, config.objective, pairs, labels, names, ids, about, counts, judged, groups, planted,
        type_of_text,
    )  # fmt: skip


def _joined(counts: npt.NDArray[np.int32], found: TrainedOn, labels: _Ints) -> Doubts:
    """Return the mean of what ``cra_plus`` and the neighbours say.

    r of ``cra_plus`` is the chance that a text is right, and knows which labels are taken for each
    other; the neighbours' chance expects mistakes of every kind alike and doubts clean data less. Where
    noise was planted, the mean told mismatches at least as well as either, and its calibration lay
    between theirs (docs/train/suspects.md). The reliability of the description, which r is multiplied
    by, says nothing of the label.
    """
    right = found.table["reliability"].to_numpy().astype(np.float64)
    if found.config.reliability_prior:
        right = np.divide(right, found.pairs.prior, out=right, where=found.pairs.prior > 0)
    right = np.clip(right, 0.0, 1.0)
    judged = doubts(counts, labels, right)
    chance = (1.0 - right + judged.chance) / 2
    number = {name: at for at, name in enumerate(found.pairs.cell_types)}
    best = np.array([number.get(name, -1) for name in found.table["suggested"].to_pylist()])
    other = np.where((best >= 0) & (best != labels), best, judged.other)
    return Doubts(chance, other, float(chance.mean()))


def write_tsv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of :data:`COLUMNS` as a TSV with a header; atomically."""
    with storage_guard(path):
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, text.getvalue())
