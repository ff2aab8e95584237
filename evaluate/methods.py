"""What is compared: every method gives vectors for cells, and for texts where it knows any.

Cell vectors are float32 [N, D] for all cells of the data. Text vectors are unit rows of the same D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from okrcell.corpus.type_texts import type_text
from okrcell.evaluate.config import Task
from okrcell.evaluate.data import EvalData, Strings

if TYPE_CHECKING:
    from okrcell.corpus.shards import CellMatrix

__all__ = [
    "Method",
    "MethodOutput",
    "NotApplicable",
    "as_float32",
    "cell_text",
    "unit",
]

Vectors = NDArray[np.float32]
TextSource = Literal["description", "label", "term"]


class NotApplicable(Exception):
    """A method cannot be asked about these data; the message says why, for the report."""


@dataclass(frozen=True)
class MethodOutput:
    """One method's view of the data.

    Attributes
    ----------
    name
        Unique in an evaluation; the name in the results table.
    cells
        Float32 [N, D], or None for a classifier that has no embedding.
    about
        One sentence for the report.
    encode_text
        Texts to unit rows [n, D], or None for a method that knows no text.
    texts
        Which text stands for a type: its profiles' descriptions, or the bare label.
    encode_cells
        Other cells with the same genes and values to float32 [n, D], by what was learnt from the
        train cells; None where a method cannot (robustness is then not asked).
    predicted
        Labels [N] by the method's own classifier, which saw labels of train cells only; None where
        it has none.
    finetune
        Data and a seed to labels [n_test] of the test cells, by the whole network trained further on
        the labels of the train cells; None for what is not a network.
    known_texts
        The only texts that can be encoded; None where any can.
    coverage
        Share of the data's genes that a trained model knows.
    used_labels
        Its vectors of train cells know their labels: clustering and batch correction then look at the
        test cells alone.
    refined
        Zero-shot scores are smoothed over a neighbour graph of the test cells (GRIT).
    votes
        ``beside``: marker genes of the candidates vote beside the zero-shot scores; ``alone``: there
        is nothing but their vote, and neither cells nor texts have vectors.
    """

    name: str
    cells: Vectors | None
    about: str
    encode_text: Callable[[list[str]], Vectors] | None = None
    texts: TextSource = "description"
    encode_cells: Callable[[CellMatrix], Vectors] | None = None
    predicted: Strings | None = None
    finetune: Callable[[EvalData, int], Strings] | None = None
    known_texts: frozenset[str] | None = None
    coverage: float | None = None
    used_labels: bool = False
    refined: bool = False
    votes: Literal["", "beside", "alone"] = ""


@dataclass(frozen=True)
class Method:
    """A method that can be asked about any data; asking may be dear, so it is done late.

    Attributes
    ----------
    name
        Unique in an evaluation.
    identity
        Changes whenever its answers would: part of the key under which results are kept.
    about
        One sentence for the report.
    tasks
        What it can be asked.
    embed
        Data and a seed to what it makes of them.
    n_seeds
        How many seeds to ask it with: 1 for what does not depend on chance.
    checkpoint
        Sha256 of the trained run (or runs, joined by commas), empty for others.
    runs
        Folders of trained runs.
    vectors
        The ``obsm`` key that it reads, empty for others.
    refines
        The method whose zero-shot scores this one smooths or adds votes to, else None.
    derive
        What that method made of the data to what this one makes of them.
    """

    name: str
    identity: str
    about: str
    tasks: frozenset[Task]
    embed: Callable[[EvalData, int], MethodOutput]
    n_seeds: int = 1
    checkpoint: str = ""
    runs: tuple[Path, ...] = ()
    vectors: str = ""
    refines: Method | None = None
    derive: Callable[[MethodOutput], MethodOutput] = lambda output: output


def cell_text(data: EvalData, row: int, texts: TextSource) -> str:
    """Return the text that stands for a cell."""
    label = str(data.labels[row])
    if texts == "label":
        return label
    if texts == "term":
        return type_text(label, data.term_ids.get(label, ""))
    return data.descriptions[str(data.profile_ids[row])]


def unit(rows: Vectors) -> Vectors:
    """Scale rows to length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Vectors = (rows / np.maximum(length, 1e-12)).astype(np.float32)
    return scaled


def as_float32(values: NDArray[np.floating]) -> Vectors:
    """Return contiguous float32."""
    return np.ascontiguousarray(values, dtype=np.float32)
