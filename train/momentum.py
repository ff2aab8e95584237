"""Momentum towers and their banks: the coupled momentum memory bank (CMMB) of OKR-CELL.

Slow copies of the towers follow the trained ones by exponential moving average; what they make of
each batch goes into two queues, which give the contrast more negatives than a batch holds.

A step goes: ``update``, ``encode`` (teacher and keys), the loss with ``bank``, backward, optimiser,
``push``. The bank of a step therefore never holds the step's own batch.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from okrcell.train.batch import Bank, CellInput, PackedCells
from okrcell.train.config import TrainConfig

if TYPE_CHECKING:
    from okrcell.train.text import TextTower

__all__ = ["Momentum", "reveal"]


class Momentum(nn.Module):
    """Slow copies of the towers, and the queues they fill (He et al. 2020; Li et al. 2021, ALBEF).

    Everything is in ``state_dict``. In a run of several processes all keep the same copies and queues:
    ``checksum`` tells.

    Parameters
    ----------
    config
        Keys ``bank_size``, ``momentum`` and ``momentum_view``: "full" encodes the known and the hidden
        genes of a cell together, "masked" the known ones alone, which is cheaper.
    tower
        The cell tower that is trained.
    text_tower
        A frozen one is shared, one that trains is copied too.
    text_dim
        E, width of the shared space.
    """

    bank_cells: torch.Tensor
    bank_texts: torch.Tensor
    bank_pairs: torch.Tensor
    bank_groups: torch.Tensor
    bank_state: torch.Tensor

    def __init__(
        self, config: TrainConfig, tower: nn.Module, text_tower: TextTower, text_dim: int
    ) -> None:
        super().__init__()
        self.config = config
        self.tower = copy.deepcopy(tower).requires_grad_(requires_grad=False).eval()
        self.text_tower: nn.Module | None = None
        # In a tuple, so that a shared tower is no part of this module's state.
        self._shared = (text_tower,)
        if text_tower.trainable:
            self.text_tower = text_tower.momentum_copy().requires_grad_(requires_grad=False).eval()
        size = config.bank_size
        self.register_buffer("bank_cells", torch.zeros(size, text_dim))
        self.register_buffer("bank_texts", torch.zeros(size, text_dim))
        self.register_buffer("bank_pairs", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("bank_groups", torch.zeros(size, dtype=torch.int64))
        # Next slot, and slots filled; mirrored as numbers, which need no wait for the device.
        self.register_buffer("bank_state", torch.zeros(2, dtype=torch.int64))
        self._next = self._filled = 0
        self.register_load_state_dict_post_hook(_read_state)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self, tower: nn.Module, text_tower: TextTower) -> None:
        """Move the copies towards the trained towers: slow <- m slow + (1 - m) trained."""
        self._follow(self.tower, tower)
        if self.text_tower is not None:
            self._follow(self.text_tower, text_tower)

    def _follow(self, slow: nn.Module, fast: nn.Module) -> None:
        pairs = zip(slow.parameters(), fast.parameters(), strict=True)
        # What does not train is equal already, and may be shared storage.
        moving = [(s, f.detach()) for s, f in pairs if f.requires_grad]
        if moving:
            ours, theirs = zip(*moving, strict=True)
            torch._foreach_lerp_(list(ours), list(theirs), 1 - self.config.momentum)
        for ours_, theirs_ in zip(slow.buffers(), fast.buffers(), strict=True):
            if ours_.data_ptr() != theirs_.data_ptr():
                ours_.copy_(theirs_)

    @torch.no_grad()
    def encode(self, cells: CellInput, groups_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the copies' unit vectors, float [n, E] of cells and of texts, without dropout.

        Parameters
        ----------
        groups_n
            int64 [n]: text of each cell.
        """
        if self.config.momentum_view == "full" and isinstance(cells, PackedCells):
            cells = reveal(cells)
        texts_of = self.text_tower if self.text_tower is not None else self._shared[0]
        return self.tower(cells, genes=False).cell, texts_of(groups_n)

    @torch.no_grad()
    def reset(self, tower: nn.Module, text_tower: TextTower) -> None:
        """Make the copies equal to the towers and empty the queues, as at the start of a run."""
        self.tower.load_state_dict(tower.state_dict())
        if self.text_tower is not None:
            for slow, fast in zip(
                self.text_tower.parameters(), text_tower.parameters(), strict=True
            ):
                slow.copy_(fast)
        for queue in (self.bank_cells, self.bank_texts, self.bank_pairs, self.bank_groups):
            queue.zero_()
        self.bank_state.zero_()
        self._next = self._filled = 0

    def train(self, mode: bool = True) -> Momentum:
        """Do nothing: the copies never drop out."""
        return self

    @torch.no_grad()
    def push(
        self,
        cells_NE: torch.Tensor,
        texts_NE: torch.Tensor,
        pairs_N: torch.Tensor,
        groups_N: torch.Tensor,
    ) -> None:
        """Queue the joint batch in rank order, over the oldest entries, in place.

        Call it after the backward pass, which may still need what is overwritten. Of a batch larger
        than the bank the last entries stay.
        """
        size = self.config.bank_size
        n = min(len(cells_NE), size)
        first = min(n, size - self._next)  # up to the end of the queue; the rest from its start
        for bank, values in (
            (self.bank_cells, cells_NE),
            (self.bank_texts, texts_NE),
            (self.bank_pairs, pairs_N),
            (self.bank_groups, groups_N),
        ):
            last = values[len(values) - n :]
            bank[self._next : self._next + first] = last[:first]
            bank[: n - first] = last[first:]
        self._next = (self._next + n) % size
        self._filled = min(size, self._filled + n)
        self.bank_state[0], self.bank_state[1] = self._next, self._filled

    def bank(self) -> Bank | None:
        """Return the filled part of the queues, or None; views, which the next ``push`` changes."""
        if not self._filled:
            return None
        full = slice(0, self._filled)
        return Bank(
            self.bank_cells[full],
            self.bank_texts[full],
            self.bank_pairs[full],
            self.bank_groups[full],
        )

    @torch.no_grad()
    def checksum(self) -> torch.Tensor:
        """Return int64 [1]: a sum over the bits of queues and copies, in order, to compare processes."""
        total = torch.zeros(1, dtype=torch.int64, device=self.bank_state.device)
        for values in (*self.parameters(), *self.buffers()):
            flat = values.detach().reshape(len(values) if values.dim() else 1, -1).contiguous()
            if not flat.numel():
                continue
            bits = flat.view(torch.uint8) if flat.element_size() % 4 else flat.view(torch.int32)
            rows = bits.sum(dim=1, dtype=torch.int64)
            # Rows and tensors count by their place; the sum wraps around, which does no harm.
            place = torch.arange(1, len(rows) + 1, device=rows.device)
            total = total * 31 + (rows * place).sum().to(total.device)
        return total


def _read_state(module: nn.Module, _: Any) -> None:
    assert isinstance(module, Momentum)
    module._next, module._filled = module.bank_state.tolist()


def reveal(cells: PackedCells) -> PackedCells:
    """Return the cells with their hidden genes among the known ones, after them within each cell."""
    device = cells.known_genes.device
    known, hidden = cells.known_counts.to(device), cells.hidden_counts.to(device)
    n_known, n_hidden = len(cells.known_genes), len(cells.hidden_genes)
    before = hidden.cumsum(0) - hidden
    at_known = torch.arange(n_known, device=device)
    at_known += torch.repeat_interleave(before, known, output_size=n_known)
    at_hidden = torch.arange(n_hidden, device=device)
    at_hidden += torch.repeat_interleave(known.cumsum(0), hidden, output_size=n_hidden)
    genes = cells.known_genes.new_empty(n_known + n_hidden)
    bins = cells.known_bins.new_empty(n_known + n_hidden)
    genes[at_known], genes[at_hidden] = cells.known_genes, cells.hidden_genes
    bins[at_known], bins[at_hidden] = cells.known_bins, cells.hidden_bins
    return PackedCells(
        genes,
        bins,
        cells.known_counts + cells.hidden_counts,
        cells.hidden_genes[:0],
        cells.hidden_bins[:0],
        torch.zeros_like(cells.hidden_counts),
    )
