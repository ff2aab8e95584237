"""Whether a run can say anything of a file: genes that it knows, what missing ones cost, cells far away."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from okrcell.errors import GeneCoverageError
from okrcell.evaluate.apply.cells import Header
from okrcell.evaluate.apply.known import Known

if TYPE_CHECKING:
    from okrcell.evaluate.apply.labels import Candidates
    from okrcell.train.model import CellTextModel

__all__ = ["Coverage", "coverage_of", "distance_notes", "marker_notes", "measurable"]

Vectors = npt.NDArray[np.float32]

LEAST_GENES = 20
"""Fewer known genes tell no cell type from another."""

_WEAK_SHARE = 0.5
_WEAK_LOSS = 0.05
_FAR_QUANTILE = 0.01
_FAR_SHARE = 0.25
_NAMED = 5
_LEAST_MARKERS = 3
_LEAST_LEFT = 5


@dataclass(frozen=True)
class Coverage:
    """How much of what a run reads a file has.

    Attributes
    ----------
    columns, resolved
        Columns of the file, and those that are human genes.
    known, vocabulary
        Genes that the run knows, of how many.
    read, reads
        Genes that the tower reads and the file has, of how many: for the tower ``mlp`` its variable
        genes, else the vocabulary.
    accuracy, full_accuracy
        What validation cells reach with as many genes, drawn at random, and with all; None where the
        run keeps no validation cells.
    by_chance
        What the commonest text alone reaches.
    """

    columns: int
    resolved: int
    known: int
    vocabulary: int
    read: int
    reads: int
    accuracy: float | None
    full_accuracy: float | None
    by_chance: float | None

    @property
    def share(self) -> float:
        """Share of the genes that the tower reads."""
        return self.read / max(self.reads, 1)

    @property
    def is_weak(self) -> bool:
        """Whether answers must be doubted for the genes alone."""
        if self.accuracy is None or self.full_accuracy is None:
            return self.share < _WEAK_SHARE
        return self.accuracy < self.full_accuracy - _WEAK_LOSS

    def sentence(self) -> str:
        """Return the figures for people."""
        what = "variable genes that it reads" if self.reads < self.vocabulary else "genes"
        told = (
            f"{self.resolved:,} of {self.columns:,} columns are human genes; the run knows {self.known:,} "
            f"of them, and finds {self.read:,} of the {self.reads:,} {what} ({self.share:.0%})."
        )
        if self.accuracy is not None and self.full_accuracy is not None:
            told += (
                f" With so many, drawn at random, its validation cells get {self.accuracy:.0%} right "
                f"(with all: {self.full_accuracy:.0%})."
            )
        return told

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for scripts."""
        return {
            "columns": self.columns,
            "human_genes": self.resolved,
            "known_genes": self.known,
            "vocabulary": self.vocabulary,
            "read_genes": self.read,
            "genes_the_tower_reads": self.reads,
            "share": round(self.share, 4),
            "validation_accuracy_with_so_many_genes": self.accuracy,
            "validation_accuracy_with_all_genes": self.full_accuracy,
            "is_weak": self.is_weak,
        }


def coverage_of(header: Header, model: CellTextModel, known: Known | None) -> Coverage:
    """Measure the genes of a file against a run, and refuse a file of which it can say nothing.

    Raises
    ------
    GeneCoverageError
        Fewer than 20 known genes, or so few that validation cells fare hardly better than by chance.
    """
    genes = set(header.genes.gene_ids)
    shared = len(genes.intersection(model.gene_ids))
    reads = model.card.get("variable") or model.gene_ids
    read = len(genes.intersection(reads))
    share = read / max(len(reads), 1)
    found = Coverage(
        columns=len(header.gene_names),
        resolved=len(genes),
        known=shared,
        vocabulary=len(model.gene_ids),
        read=read,
        reads=len(reads),
        accuracy=None if known is None else round(known.accuracy_at(share), 4),
        full_accuracy=None if known is None else round(known.accuracy_at(1.0), 4),
        by_chance=None if known is None else round(known.by_chance, 4),
    )
    hopeless = ""
    if read < LEAST_GENES:
        hopeless = f"{read} of the {len(reads):,} genes that the run reads"
    elif found.accuracy is not None and found.by_chance is not None and found.full_accuracy:
        gain = found.full_accuracy - found.by_chance
        if found.accuracy - found.by_chance < gain / 10:
            hopeless = (
                f"{read} of the {len(reads):,} genes that the run reads ({share:.1%}): with so few it gets "
                f"{found.accuracy:.0%} of its own validation cells right, by chance {found.by_chance:.0%}"
            )
    if hopeless:
        raise GeneCoverageError(
            header.path,
            found=hopeless,
            expected=f"at least {LEAST_GENES} of them, and enough to tell cells apart",
            fix="Use the file before genes were selected, or a layer with all genes (--layer raw); human "
            "data only.",
        )
    return found


def distance_notes(
    cells: Vectors, empty: npt.NDArray[np.bool_], known: Known | None
) -> tuple[list[str], dict[str, float]]:
    """Say whether cells lie far from everything the run was trained on.

    A cell is far where its best cosine with any training text is below that of 99 % of the validation
    cells.

    Returns
    -------
    tuple
        Warnings, and figures.
    """
    filled = cells[~empty]
    if known is None or not len(filled):
        return [], {}
    best = _best(filled, known.texts)
    edge = float(np.quantile(_best(known.cells, known.texts), _FAR_QUANTILE))
    far = float((best < edge).mean())
    figures = {"far_from_training": round(far, 4), "nearest_text_edge": round(edge, 4)}
    if far <= _FAR_SHARE:
        return [], figures
    return [
        f"{far:.0%} of the cells lie further from every training text than 99 % of the run's validation "
        "cells: other tissue, chemistry or types than it was trained on. Doubt the answers, and look at "
        "the markers."
    ], figures


def measurable(
    candidates: Candidates, header: Header, always: Collection[str]
) -> tuple[Candidates, list[str]]:
    """Return the candidates that have three markers among the genes of the file, and what is told of the others.

    Where markers vote, a type with none or few is neither supported nor contradicted, and would get
    the cells that speak against all others.

    Parameters
    ----------
    always
        Cell Ontology ids of types that stay in any case: those that the run was trained on.
    """
    genes = set(header.genes.gene_ids)
    stays = [
        term in always or sum(m.sign > 0 and m.gene_id in genes for m in some) >= _LEAST_MARKERS
        for term, some in zip(candidates.term_ids, candidates.markers, strict=True)
    ]
    if all(stays) or sum(stays) < _LEAST_LEFT:
        return candidates, marker_notes(candidates, header)
    left = [label for label, kept in zip(candidates.labels, stays, strict=True) if not kept]
    some = ", ".join(left[:_NAMED]) + (", ..." if len(left) > _NAMED else "")
    note = (
        f"{len(left)} candidates have fewer than {_LEAST_MARKERS} markers among the genes of the file and are "
        f"left out: {some}."
    )
    left_in = replace(
        candidates,
        labels=tuple(itertools.compress(candidates.labels, stays)),
        term_ids=tuple(itertools.compress(candidates.term_ids, stays)),
        texts=tuple(itertools.compress(candidates.texts, stays)),
        markers=tuple(itertools.compress(candidates.markers, stays)),
    )
    return left_in, [note]


def marker_notes(candidates: Candidates, header: Header) -> list[str]:
    """Say which candidates have no marker among the genes of the file."""
    genes = set(header.genes.gene_ids)
    bare = [
        label
        for label, markers in zip(candidates.labels, candidates.markers, strict=True)
        if markers and not any(marker.sign > 0 and marker.gene_id in genes for marker in markers)
    ]
    if not bare:
        return []
    some = ", ".join(bare[:_NAMED]) + (", ..." if len(bare) > _NAMED else "")
    return [f"No marker of {len(bare)} candidates is among the genes of the file: {some}."]


def _best(cells: Vectors, texts: Vectors) -> Vectors:
    found = [
        (cells[begin : begin + 4096] @ texts.T).max(axis=1) for begin in range(0, len(cells), 4096)
    ]
    return np.concatenate(found)
