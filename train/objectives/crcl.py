"""CRCL: active complementary loss, weighted by a label per pair that refines itself."""

from __future__ import annotations

import torch

from okrcell.train.batch import Alignment, Step
from okrcell.train.config import TrainConfig
from okrcell.train.distributed import World
from okrcell.train.objectives.base import Objective
from okrcell.train.objectives.matching import match_both
from okrcell.train.pair_state import PairState

__all__ = ["CRCL"]

_WARM_EPOCHS = 1
_DOUBT = 0.1
"""Labels below this count as zero."""
_NONE = -1.0
"""A pair that has no label yet."""


class CRCL(Objective):
    """y (-log S[i,i]) + negative_weight sum_{j != i} tan S[i,j] / (sum_k tan S[i,k])^(1 - y).

    Qin et al. 2023 (NeurIPS), both directions added. The label is y = crcl_momentum y_before +
    (1 - crcl_momentum) p, where p is the mean of both directions' own probability, zero where it
    falls below 0.1, without gradient. A text that n pairs of the batch share can give each at most
    1 / n: there p is taken n times, at most 1 (ours; with distinct texts it is theirs). In the first
    epoch, and for a pair that it left out, y is 1 and p is kept, as in the authors' code. They restart training with the labels carried over; here a run is one pass of that.
    """

    def __init__(self, config: TrainConfig, n_pairs: int, n_texts: int, world: World) -> None:
        super().__init__(config, n_pairs, n_texts)
        self.state = PairState(n_pairs, {"label": ((), torch.float32)}, world)
        self.state.own("label").fill_(_NONE)

    def forward(self, step: Step) -> Alignment:
        """Return the loss; ``reliability`` is y."""
        ct, tc = match_both(step, tangents=True)
        label_n = self._label(step, (ct.log_own.exp() + tc.log_own.exp()) / 2)
        positive = -(ct.log_own + tc.log_own)
        negative = ct.complementary(1 - label_n) + tc.complementary(1 - label_n)
        loss = (label_n * positive + self.config.negative_weight * negative).mean()
        return Alignment(loss, {"reliability": label_n})

    @torch.no_grad()
    def _label(self, step: Step, p_n: torch.Tensor) -> torch.Tensor:
        _, text_N, copies = torch.unique(step.groups_N, return_inverse=True, return_counts=True)
        p_N = (step.world.gather(p_n.detach()) * copies[text_N]).clamp_max(1)
        before_N = self.state.read("label", step.pairs_N).to(p_N.dtype)
        keep = self.config.crcl_momentum
        later_N = keep * before_N + (1 - keep) * p_N
        later_N = torch.where(later_N < _DOUBT, 0.0, later_N)
        fresh_N = (before_N == _NONE) | (step.epoch <= _WARM_EPOCHS)
        label_N = torch.where(fresh_N, 1.0, later_N)
        kept_N = torch.where(fresh_N, p_N, later_N)
        if self.training:
            self.state.write("label", step.pairs_N, kept_N)
        return label_N[step.own]

    def reliability(self) -> torch.Tensor:
        """Return float32 [n_pairs]: the labels y as they stand, 1 for pairs that have none yet."""
        label = self.state.gather("label")
        return torch.where(label == _NONE, 1.0, label)
