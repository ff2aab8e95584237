"""Symmetric InfoNCE, and the same on clean pairs alone: the twins of every comparison."""

from __future__ import annotations

import torch

from okrcell.train.batch import Alignment, Step
from okrcell.train.config import TrainConfig
from okrcell.train.objectives.base import Objective
from okrcell.train.objectives.matching import match_both, match_own

__all__ = ["CleanOracle", "InfoNCE"]


class InfoNCE(Objective):
    """The mean of both directions' cross-entropy with the own partner (Radford et al. 2021).

    With ``bank = true`` the banks enlarge the negatives, which is the twin of ``cra_paper``. It reads
    no reliability. Equal texts in a batch do it no harm: see docs/method.md.
    """

    def forward(self, step: Step) -> Alignment:
        """Return the loss; ``match`` is each pair's mean probability of its own partner."""
        ct, tc = match_both(step)
        loss = -(ct.log_own + tc.log_own).mean() / 2
        return Alignment(loss, {"match": _match(ct.log_own, tc.log_own)})


class CleanOracle(Objective):
    """InfoNCE that knows which pairs were mismatched on purpose: a bound on what any method can do.

    Such pairs are neither anchors nor keys, in the batch and in the bank. The mean is taken over the
    clean pairs of the joint batch; it is 0 where there are none.

    Parameters
    ----------
    clean
        bool [n_pairs].
    """

    clean: torch.Tensor

    def __init__(
        self, config: TrainConfig, n_pairs: int, n_texts: int, *, clean: torch.Tensor
    ) -> None:
        super().__init__(config, n_pairs, n_texts)
        self.register_buffer("clean", clean.clone(), persistent=False)

    def forward(self, step: Step) -> Alignment:
        """Return the loss; ``match`` is that of the clean pairs."""
        clean_N = self.clean[step.pairs_N]
        rows = clean_N[step.own]
        own_n = (clean_N.cumsum(0) - 1)[step.own][rows]
        texts = cells = None
        if step.bank is not None:
            kept = self.clean[step.bank.pairs]
            texts, cells = step.bank.texts[kept], step.bank.cells[kept]
        all_texts, all_cells = step.all_texts_NE[clean_N], step.all_cells_NE[clean_N]
        ct = match_own(step.cells_nE[rows], all_texts, texts, own_n, step.tau)
        tc = match_own(step.texts_nE[rows], all_cells, cells, own_n, step.tau)
        # Every process knows the joint pairs: the mean over processes of these is the joint mean.
        share = clean_N.sum().clamp_min(1) / step.world.size
        loss = -(ct.log_own + tc.log_own).sum() / (2 * share)
        return Alignment(loss, {"match": _match(ct.log_own, tc.log_own)})


def _match(log_ct: torch.Tensor, log_tc: torch.Tensor) -> torch.Tensor:
    return (log_ct.detach().exp() + log_tc.detach().exp()) / 2
