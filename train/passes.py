"""The forward and backward passes of one step: at once, in parts with cached gradients, or accumulated.

All randomness of a pass is a function of (seed, step, process, part).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from okrcell.train.batch import Alignment, CellInput, PackedCells, Step, TowerOutput
from okrcell.train.config import TrainConfig
from okrcell.train.distributed import World
from okrcell.train.momentum import Momentum
from okrcell.train.objectives.base import Objective
from okrcell.train.text import TextTower
from okrcell.train.towers import Tower

__all__ = ["PARTS", "Kept", "Moment", "Passes"]

PARTS = ("gep", "gepc", "cls", "align")
"""The losses of a step, in nats."""

Kept = tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]
"""Vectors [n, E] of cells and texts without gradient, and the objective's numbers."""


@dataclass(frozen=True)
class Moment:
    """Where a step stands.

    Attributes
    ----------
    number, epoch
        Both from 0.
    progress
        Share of all steps that is done.
    joint
        int64 [N] each: pairs and texts of the joint batch.
    keys
        Momentum towers' vectors of the joint batch, or None.
    """

    number: int
    epoch: int
    progress: float
    joint: tuple[torch.Tensor, torch.Tensor]
    keys: tuple[torch.Tensor, torch.Tensor] | None


class Passes:
    """What is run in a step.

    Parameters
    ----------
    tower, text, objective, momentum
        Built for the same configuration, on ``device``.
    types
        int64 [n_pairs] on the device: cell type of each pair, for the loss CLS.
    precision
        ``fp32`` or ``bf16``, of the towers; the objective is always in float32.
    """

    def __init__(
        self,
        config: TrainConfig,
        tower: Tower,
        text: TextTower,
        objective: Objective,
        momentum: Momentum | None,
        types: torch.Tensor,
        world: World,
        device: str,
        precision: Literal["fp32", "bf16"],
    ) -> None:
        self.config, self.world, self.device = config, world, device
        self.tower, self.text, self.objective, self.momentum = tower, text, objective, momentum
        self.types: torch.Tensor = types
        self.precision: Literal["fp32", "bf16"] = precision
        self.log_tau = nn.Parameter(
            torch.tensor(math.log(config.tau), device=device), requires_grad=config.learn_tau
        )

    def cast(self) -> AbstractContextManager[None]:
        """Return the context of the towers' arithmetic."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def tau(self) -> torch.Tensor:
        """Temperature; where it is learnt, a step leaves it between 0.01 and 0.5."""
        return self.log_tau.exp()

    def run(
        self, cells: CellInput, pairs: torch.Tensor, groups: torch.Tensor, moment: Moment
    ) -> tuple[torch.Tensor, Kept]:
        """Run all forward and backward passes of a step; gradients are left on the parameters.

        Returns
        -------
        tuple
            float32 [4], the loss parts of this process, whose mean over processes is the joint batch's;
            and the vectors and numbers for the log.
        """
        if len(self.spans(cells)) == 1:
            return self._whole(cells, pairs, groups, moment)
        if self.config.grad_cache:
            return self._cached(cells, pairs, groups, moment)
        return self._accumulated(cells, pairs, groups, moment)

    def weights(self) -> np.ndarray:
        """Return float64 [4]: the weights of the loss parts."""
        config = self.config
        return np.array(
            [config.gep_weight, config.gepc_weight, config.cls_weight, config.align_weight]
        )

    def spans(self, cells: CellInput) -> list[tuple[int, int]]:
        """Return the first and last row of each part of a batch that is run at once."""
        size = self.config.micro_batch or len(cells)
        return [(a, min(a + size, len(cells))) for a in range(0, len(cells), size)]

    def _seed(self, number: int, micro: int = 0) -> None:
        stream = [self.config.seed, number, self.world.rank, micro]
        torch.manual_seed(int(np.random.SeedSequence(stream).generate_state(1)[0]))

    def _tower(self, cells: CellInput, *, genes: bool) -> TowerOutput:
        with self.cast():
            out: TowerOutput = self.tower(cells, genes=genes)
        return out._replace(cell=out.cell.float())

    def _texts(self, groups: torch.Tensor) -> torch.Tensor:
        with self.cast():
            vectors: torch.Tensor = self.text(groups)
        return vectors.float()

    def _with_genes(self) -> bool:
        return bool(self.config.gep_weight or self.config.gepc_weight)

    def _gene_parts(
        self, out: TowerOutput, pairs: torch.Tensor, joint_hidden: float, joint_cells: int
    ) -> torch.Tensor:
        """Return [GEP, GEPC, CLS]; their mean over processes is the joint batch's mean."""
        scale = self.world.size / max(joint_hidden, 1.0)
        wrong = out.gep.new_zeros(()).float()
        if self.tower.types is not None:
            logits = self.tower.types(out.state).float()
            wrong = F.cross_entropy(logits, self.types[pairs], reduction="sum")
        types = wrong * self.world.size / joint_cells
        return torch.stack([(out.gep * scale).float(), (out.gepc * scale).float(), types])

    def _align(
        self,
        cells_nE: torch.Tensor,
        texts_nE: torch.Tensor,
        moment: Moment,
    ) -> Alignment:
        step = Step(
            cells_nE=cells_nE,
            texts_nE=texts_nE,
            all_cells_NE=self.world.gather(cells_nE),
            all_texts_NE=self.world.gather(texts_nE),
            first=self.world.rank * len(cells_nE),
            pairs_N=moment.joint[0],
            groups_N=moment.joint[1],
            tau=self.tau,
            epoch=moment.epoch + 1,
            progress=moment.progress,
            bank=self.momentum.bank() if self.momentum is not None else None,
            teacher=moment.keys,
            table_TE=self.text.table(),
            world=self.world,
        )
        alignment: Alignment = self.objective(step)
        return alignment

    def _joint_hidden(self, cells: CellInput) -> float:
        if not self._with_genes() or not isinstance(cells, PackedCells):
            return 0.0
        if self.world.size == 1:
            return float(len(cells.hidden_genes))
        return float(
            self.world.sum(torch.tensor(float(len(cells.hidden_genes)), device=self.device))
        )

    def _whole(
        self, cells: CellInput, pairs: torch.Tensor, groups: torch.Tensor, moment: Moment
    ) -> tuple[torch.Tensor, Kept]:
        """One forward and one backward pass over the batch."""
        hidden = self._joint_hidden(cells)
        self._seed(moment.number)
        out = self._tower(cells, genes=self._with_genes())
        texts = self._texts(groups)
        genes = self._gene_parts(out, pairs, hidden, self.world.size * len(cells))
        alignment = self._align(out.cell, texts, moment)
        parts = torch.cat([genes, alignment.loss.float()[None]])
        self._backward(parts)
        return parts.detach(), (out.cell.detach(), texts.detach(), alignment.log)

    def _backward(self, parts: torch.Tensor) -> None:
        weights = torch.from_numpy(self.weights()).to(parts)
        # A part of weight zero may be undefined (no gene, no type): leave it out of the graph.
        chosen = weights.nonzero().flatten()
        (parts[chosen] @ weights[chosen]).backward()  # type: ignore[no-untyped-call]

    def _cached(
        self,
        cells: CellInput,
        pairs: torch.Tensor,
        groups: torch.Tensor,
        moment: Moment,
    ) -> tuple[torch.Tensor, Kept]:
        """Gradient caching (Gao et al. 2021, arXiv 2101.06983): the contrast of the whole batch.

        The first pass encodes known tokens alone and keeps nothing but the vectors; the loss gives
        their gradient; the second pass runs each part again, with gene losses, and feeds that
        gradient in. The same seed per part gives both passes the same dropout.
        """
        hidden = self._joint_hidden(cells)
        spans = self.spans(cells)
        found = []
        with torch.no_grad():
            for micro, (a, b) in enumerate(spans):
                self._seed(moment.number, micro)
                found.append(self._tower(cells.rows(a, b), genes=False).cell)
        leaf = torch.cat(found).requires_grad_()
        texts = self._texts(groups)
        alignment = self._align(leaf, texts, moment)
        (self.config.align_weight * alignment.loss).backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        total = torch.zeros(len(PARTS), device=leaf.device)
        total[3] = alignment.loss.detach()
        weights = torch.from_numpy(self.weights()[:3]).to(leaf)
        chosen = weights.nonzero().flatten()
        for micro, (a, b) in enumerate(spans):
            self._seed(moment.number, micro)
            out = self._tower(cells.rows(a, b), genes=self._with_genes())
            genes = self._gene_parts(out, pairs[a:b], hidden, self.world.size * len(cells))
            through = (out.cell * leaf.grad[a:b]).sum()
            (through + genes[chosen] @ weights[chosen]).backward()  # type: ignore[no-untyped-call]
            total[:3] += genes.detach()
        return total, (leaf.detach(), texts.detach(), alignment.log)

    def _accumulated(
        self,
        cells: CellInput,
        pairs: torch.Tensor,
        groups: torch.Tensor,
        moment: Moment,
    ) -> tuple[torch.Tensor, Kept]:
        """Plain accumulation: each part is a contrast of its own (and of the bank)."""
        hidden = self._joint_hidden(cells)
        total = torch.zeros(len(PARTS), device=pairs.device)
        vectors, wording = [], []
        log: dict[str, torch.Tensor] = {}
        for micro, (a, b) in enumerate(self.spans(cells)):
            self._seed(moment.number, micro)
            out = self._tower(cells.rows(a, b), genes=self._with_genes())
            texts = self._texts(groups[a:b])
            genes = self._gene_parts(out, pairs[a:b], hidden, self.world.size * len(cells))
            alignment = self._align(out.cell, texts, self._part(moment, a, b, len(cells)))
            share = alignment.loss.float()[None] * ((b - a) / len(cells))
            parts = torch.cat([genes, share])
            self._backward(parts)
            total += parts.detach()
            vectors.append(out.cell.detach())
            wording.append(texts.detach())
            log = alignment.log
        return total, (torch.cat(vectors), torch.cat(wording), log)

    def _part(self, moment: Moment, a: int, b: int, n: int) -> Moment:
        """Return the moment of the rows a to b of every process."""
        rows = torch.cat([torch.arange(a, b) + n * rank for rank in range(self.world.size)])
        rows = rows.to(moment.joint[0].device)
        keys = None if moment.keys is None else (moment.keys[0][rows], moment.keys[1][rows])
        joint = (moment.joint[0][rows], moment.joint[1][rows])
        return Moment(moment.number, moment.epoch, moment.progress, joint, keys)
