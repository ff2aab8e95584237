"""Generalised cross-entropy: between InfoNCE (q near 0) and the robust mean absolute error (q = 1)."""

from __future__ import annotations

import torch

from okrcell.train.batch import Alignment, Step
from okrcell.train.objectives.base import Objective
from okrcell.train.objectives.matching import match_both

__all__ = ["GeneralisedCrossEntropy"]


class GeneralisedCrossEntropy(Objective):
    """(1 - p^q) / q of the own partner's probability p, the mean of both directions.

    Zhang & Sabuncu 2018, arXiv 1805.07836. The gradient is that of cross-entropy times p^q, so pairs
    that do not match count for less. ``gce_q`` is q.
    """

    def forward(self, step: Step) -> Alignment:
        """Return the loss; ``match`` is each pair's mean probability of its own partner."""
        q = self.config.gce_q
        logs = torch.stack([match.log_own for match in match_both(step)])
        loss = -torch.expm1(q * logs).mean() / q
        return Alignment(loss, {"match": logs.detach().exp().mean(dim=0)})
