"""What passes between the parts of training: cells as packed tokens, steps, banks, losses.

Shape suffixes: B cells, K known tokens of all cells, H hidden tokens, G columns, n pairs of this
process, N pairs of all processes, Q bank entries, E width of the shared space, C candidate texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from okrcell.train.distributed import World

__all__ = [
    "Alignment",
    "Bank",
    "Batch",
    "CellInput",
    "DenseCells",
    "PackedCells",
    "Step",
    "TowerOutput",
]


class PackedCells(NamedTuple):
    """Cells as tokens without padding; the order of a cell's genes carries no meaning.

    Known tokens of all cells stand in one line, hidden ones (masked genes, whose value is to be
    predicted) in another. Known tokens read known tokens; a hidden token reads known ones only.

    Attributes
    ----------
    known_genes
        int32 [K]: each cell begins with ``CLS``, then 2 + index into the vocabulary.
    known_bins
        int32 [K]: 1 to n_bins; 0 at ``CLS``.
    known_counts
        int64 [B] on the CPU: known tokens per cell, at least 1.
    hidden_genes, hidden_bins
        int32 [H]: genes that are masked, and the bins to predict.
    hidden_counts
        int64 [B] on the CPU.
    """

    known_genes: torch.Tensor
    known_bins: torch.Tensor
    known_counts: torch.Tensor
    hidden_genes: torch.Tensor
    hidden_bins: torch.Tensor
    hidden_counts: torch.Tensor

    def __len__(self) -> int:
        return len(self.known_counts)

    def to(self, device: torch.device | str) -> PackedCells:
        """Return a copy with the tokens on a device; the counts stay on the CPU."""
        return PackedCells(
            self.known_genes.to(device, non_blocking=True),
            self.known_bins.to(device, non_blocking=True),
            self.known_counts,
            self.hidden_genes.to(device, non_blocking=True),
            self.hidden_bins.to(device, non_blocking=True),
            self.hidden_counts,
        )

    def rows(self, start: int, stop: int) -> PackedCells:
        """Return the cells ``start`` to ``stop`` (views)."""
        k = slice(int(self.known_counts[:start].sum()), int(self.known_counts[:stop].sum()))
        h = slice(int(self.hidden_counts[:start].sum()), int(self.hidden_counts[:stop].sum()))
        return PackedCells(
            self.known_genes[k],
            self.known_bins[k],
            self.known_counts[start:stop],
            self.hidden_genes[h],
            self.hidden_bins[h],
            self.hidden_counts[start:stop],
        )


class DenseCells(NamedTuple):
    """Cells as rows of log-normalised values, for the ``mlp`` tower.

    Attributes
    ----------
    values
        float32 [B, G]: log1p of counts per 10,000 of the chosen genes.
    """

    values: torch.Tensor

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: torch.device | str) -> DenseCells:
        """Return a copy on a device."""
        return DenseCells(self.values.to(device=device, non_blocking=True))

    def rows(self, start: int, stop: int) -> DenseCells:
        """Return the cells ``start`` to ``stop`` (views)."""
        return DenseCells(self.values[start:stop])


CellInput = PackedCells | DenseCells


@dataclass(frozen=True)
class Batch:
    """One step's share of this process: cells, and int64 [n] indices of pairs and of their texts."""

    cells: CellInput
    pairs: npt.NDArray[np.int64]
    text: npt.NDArray[np.int64]


class TowerOutput(NamedTuple):
    """Output of a cell tower.

    Attributes
    ----------
    cell
        float32 [B, E], unit rows, comparable with text vectors.
    state
        float32 [B, D], the cell's state before the projector.
    gep, gepc
        Scalars: sums (not means) over hidden genes of the cross-entropy of their bins, in nats;
        zero where the tower has no gene heads.
    n_hidden
        Number of hidden genes summed over.
    """

    cell: torch.Tensor
    state: torch.Tensor
    gep: torch.Tensor
    gepc: torch.Tensor
    n_hidden: int


class Bank(NamedTuple):
    """What the momentum towers have seen last, oldest entries overwritten first; no gradient.

    Attributes
    ----------
    cells, texts
        float32 [Q, E], unit rows.
    pairs, groups
        int64 [Q]: index of the pair, and of its text.
    """

    cells: torch.Tensor
    texts: torch.Tensor
    pairs: torch.Tensor
    groups: torch.Tensor


@dataclass(frozen=True)
class Step:
    """What an objective sees of one step.

    Attributes
    ----------
    cells_nE, texts_nE
        This process's unit vectors, with gradient (texts: only where the text tower trains).
    all_cells_NE, all_texts_NE
        Those of all processes in rank order, with gradient; the same tensors in a single process.
    first
        Row of the joint batch at which this process's rows begin.
    pairs_N, groups_N
        int64 [N]: pair and text of each row of the joint batch.
    tau
        Scalar, temperature; carries gradient where it is learnt.
    epoch
        1 for the first.
    progress
        Share of all steps that is done, in [0, 1).
    bank
        None where there is none or it is empty.
    teacher
        Momentum towers' vectors of the joint batch, (cells [N, E], texts [N, E]), or None.
    table_TE
        float32 [T, E]: vectors of all distinct texts, without gradient (frozen text tower), or as of
        the last refresh (where it trains).
    world
        The processes.
    """

    cells_nE: torch.Tensor
    texts_nE: torch.Tensor
    all_cells_NE: torch.Tensor
    all_texts_NE: torch.Tensor
    first: int
    pairs_N: torch.Tensor
    groups_N: torch.Tensor
    tau: torch.Tensor
    epoch: int
    progress: float
    bank: Bank | None
    teacher: tuple[torch.Tensor, torch.Tensor] | None
    table_TE: torch.Tensor
    world: World

    @property
    def own(self) -> slice:
        """Rows of this process in the joint batch."""
        return slice(self.first, self.first + len(self.cells_nE))


@dataclass(frozen=True)
class Alignment:
    """Result of an objective.

    Attributes
    ----------
    loss
        Scalar, nats: the mean over this process's rows, so that the mean over processes is the loss
        of the joint batch.
    log
        Detached numbers for the log, by name: scalars, or vectors [n] of which a histogram is kept.
    """

    loss: torch.Tensor
    log: dict[str, torch.Tensor] = field(default_factory=dict)
