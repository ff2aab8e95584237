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


class CRCL(Objective):
    """y (-log S[i,i]) + negative_weight sum_{j != i} tan S[i,j] / (sum_k tan S[i,k])^(1 - y).

    Qin et al. 2023 (NeurIPS), both directions added. The label is y = crcl_momentum y_before +
    (1 - crcl_momentum) p, where p is the mean of both directions' own probability, zero where it
    falls below 0.1, without gradient. In the first epoch y is 1 and p is kept, as in the authors'
    code. They restart training with the labels carried over; here a run is one pass of that.
    """

    def __init__(self, config: TrainConfig, n_pairs: int, n_texts: int, world: World) -> None:
        super().__init__(config, n_pairs, n_texts)
        self.state = PairState(n_pairs, {"label": ((), torch.float32)}, world)

    def forward(self, step: Step) -> Alignment:
        """Return the loss; ``label`` is y."""
        ct, tc = match_both(step, tangents=True)
        label_n = self._label(step, (ct.log_own.exp() + tc.log_own.exp()) / 2)
        positive = -(ct.log_own + tc.log_own)
        negative = ct.complementary(1 - label_n) + tc.complementary(1 - label_n)
        loss = (label_n * positive + self.config.negative_weight * negative).mean()
        return Alignment(loss, {"label": label_n})

    @torch.no_grad()
    def _label(self, step: Step, p_n: torch.Tensor) -> torch.Tensor:
        p_N = step.world.gather(p_n.detach())
        if step.epoch <= _WARM_EPOCHS:
            label_N, kept_N = torch.ones_like(p_N), p_N
        else:
            keep = self.config.crcl_momentum
            label_N = keep * self.state.read("label", step.pairs_N) + (1 - keep) * p_N
            label_N = kept_N = torch.where(label_N < _DOUBT, 0.0, label_N)
        if self.training:
            self.state.write("label", step.pairs_N, kept_N)
        return label_N[step.own]

    def reliability(self) -> torch.Tensor:
        """Return float32 [n_pairs]: the labels y as they stand."""
        return self.state.gather("label")
