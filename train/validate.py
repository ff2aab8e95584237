"""Validation cells against the distinct texts of training, once per epoch."""

from __future__ import annotations

import numpy as np
import torch

from okrcell.train.data import Pairs
from okrcell.train.loader import read
from okrcell.train.trainer import Trainer

__all__ = ["choose_validation", "validate"]

_CELLS = 128


def choose_validation(validation: Pairs, most: int, seed: int) -> np.ndarray:
    """Return int64: at most ``most`` validation pairs, a draw that is fixed for the run."""
    order = np.random.default_rng([seed, 1]).permutation(len(validation))
    return np.sort(order[:most])


@torch.no_grad()
def validate(trainer: Trainer, validation: Pairs, index: np.ndarray) -> dict[str, float]:
    """Return ``val_loss`` and ``val_accuracy`` of cells against all distinct texts of training.

    The loss is the cross-entropy, in nats, of the cell's own text among all; the accuracy how often
    it is the nearest. Every process computes both, so that all go on from the same numbers.
    """
    trainer.tower.eval()
    table_TE, tau = trainer.text.table(), trainer.passes.tau
    losses, right = [], []
    for a in range(0, len(index), _CELLS):
        rows = index[a : a + _CELLS]
        cells = read(validation, rows, trainer.config, None, 0.0).to(trainer.device)
        with trainer.passes.cast():
            vectors = trainer.tower(cells, genes=False).cell
        logits = vectors.float() @ table_TE.T / tau
        own = torch.from_numpy(validation.text[rows]).to(logits.device)
        losses.append(torch.nn.functional.cross_entropy(logits, own, reduction="none").cpu())
        right.append((logits.argmax(dim=1) == own).cpu())
    trainer.tower.train()
    return {
        "val_loss": float(torch.cat(losses).double().mean()),
        "val_accuracy": float(torch.cat(right).double().mean()),
    }
