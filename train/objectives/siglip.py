"""SigLIP: every cell and text of the joint batch is a yes-or-no question of its own."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from okrcell.train.batch import Alignment, Step
from okrcell.train.config import TrainConfig
from okrcell.train.objectives.base import Objective

__all__ = ["SigLIP"]


class SigLIP(Objective):
    """-log sigmoid(z_ij (exp(t') c_i . t_j + b)), summed over j, the mean over i.

    Zhai et al. 2023, arXiv 2303.15343, with its learnt t' = ln 10 and b = -10; ``tau`` is not used.
    z is 1 for matches and -1 else. With ``group_targets`` every cell with the same text is a match;
    without, the own text alone, and copies of it count as wrong, which this loss does not forgive.
    With ``bank = true`` bank texts are asked of cells, and bank cells of texts.
    """

    def __init__(self, config: TrainConfig, n_pairs: int, n_texts: int) -> None:
        super().__init__(config, n_pairs, n_texts)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, step: Step) -> Alignment:
        """Return the loss, the scale exp(t') and the bias."""
        # One block covers both directions: the rows of all processes are all (cell, text) entries.
        loss = self._block(step, step.cells_nE, step.all_texts_NE, None)
        if step.bank is not None:
            loss = loss + self._block(step, step.cells_nE, step.bank.texts, step.bank.groups)
            loss = loss + self._block(step, step.texts_nE, step.bank.cells, step.bank.groups)
        log = {"scale": self.log_scale.detach().exp(), "bias": self.bias.detach().clone()}
        return Alignment(loss, log)

    def _block(
        self,
        step: Step,
        query_nE: torch.Tensor,
        keys_ME: torch.Tensor,
        bank_groups_M: torch.Tensor | None,
    ) -> torch.Tensor:
        logits = (query_nE * self.log_scale.exp()) @ keys_ME.T + self.bias
        if self.config.group_targets:
            groups_M = step.groups_N if bank_groups_M is None else bank_groups_M
            same = step.groups_N[step.own, None] == groups_M
        else:
            same = torch.zeros_like(logits, dtype=torch.bool)
            if bank_groups_M is None:
                same.diagonal(step.first).fill_(True)
        return F.softplus(torch.where(same, -logits, logits)).sum() / len(query_nE)
