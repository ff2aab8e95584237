"""What every alignment objective is: a module that turns a step into a loss, with state as buffers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from okrcell.train.batch import Alignment, Step
from okrcell.train.config import TrainConfig

__all__ = ["Objective", "log_match"]


class Objective(nn.Module):
    """Base class. Buffers and parameters are checkpointed; parameters are trained.

    An objective computes in the dtype of the vectors it is given (float32 in training) and is called
    outside autocast. Its loss is row-local: a process scores the rows it owns against the keys of the
    joint batch, so that the mean over processes is the loss of the joint batch.

    Parameters
    ----------
    n_pairs
        Number of training pairs.
    n_texts
        T, number of distinct texts.
    """

    def __init__(self, config: TrainConfig, n_pairs: int, n_texts: int) -> None:
        super().__init__()
        self.config, self.n_pairs, self.n_texts = config, n_pairs, n_texts

    def forward(self, step: Step) -> Alignment:
        """Return the loss of this process's rows."""
        raise NotImplementedError

    def start_epoch(self, epoch: int) -> None:
        """Do what is due before the first step of an epoch (1 for the first)."""

    def reliability(self) -> torch.Tensor | None:
        """Return float32 [n_pairs] in [0, 1], or None where none is kept; all processes call it."""
        return None

    def suggestions(self) -> torch.Tensor | None:
        """Return int64 [n_pairs], the text that fits each pair best, or None; all processes call it."""
        return None


def log_match(
    query_nE: torch.Tensor,
    keys_NE: torch.Tensor,
    tau: torch.Tensor | float,
    bank_QE: torch.Tensor | None,
) -> torch.Tensor:
    """Return log S [n, N + Q]: log-softmax of similarities to the joint batch's keys, then the bank's.

    Objectives that need the own partner's probability alone take ``matching.match_own``, which is
    cheaper.
    """
    keys = keys_NE if bank_QE is None or not len(bank_QE) else torch.cat([keys_NE, bank_QE])
    # The short side is divided by the temperature, not the product: one [n, N + Q] array less.
    return F.log_softmax((query_nE / tau) @ keys.T, dim=1)
