"""The objectives by name."""

from __future__ import annotations

from typing import Any

import torch

from okrcell.train.config import TrainConfig
from okrcell.train.distributed import World
from okrcell.train.objectives.base import Objective
from okrcell.train.objectives.cra_paper import CraPaper
from okrcell.train.objectives.crcl import CRCL
from okrcell.train.objectives.elr import EarlyLearning
from okrcell.train.objectives.gce import GeneralisedCrossEntropy
from okrcell.train.objectives.infonce import CleanOracle, InfoNCE
from okrcell.train.objectives.momentum_distill import MomentumDistillation
from okrcell.train.objectives.siglip import SigLIP

__all__ = ["OBJECTIVES", "build_objective"]

OBJECTIVES: dict[str, type[Objective]] = {
    "infonce": InfoNCE,
    "siglip": SigLIP,
    "gce": GeneralisedCrossEntropy,
    "elr": EarlyLearning,
    "crcl": CRCL,
    "momentum_distill": MomentumDistillation,
    "cra_paper": CraPaper,
    "clean_oracle": CleanOracle,
}
"""All but ``cra_plus``, which brings heavy imports and is loaded where it is asked for."""

_TAKES = {
    "elr": ("world",),
    "crcl": ("world",),
    "cra_paper": ("world", "prior"),
    "clean_oracle": ("clean",),
}
"""What a constructor takes besides configuration, n_pairs and n_texts."""


def build_objective(
    config: TrainConfig,
    n_pairs: int,
    n_texts: int,
    world: World,
    *,
    prior: torch.Tensor,
    clean: torch.Tensor,
    **more: Any,
) -> Objective:
    """Return the objective that the configuration names.

    Parameters
    ----------
    n_pairs, n_texts
        Training pairs, and distinct texts.
    prior
        float32 [n_pairs]: reliability of each pair's text, in [0, 1].
    clean
        bool [n_pairs]: false where noise was planted; only ``clean_oracle`` may see it.
    **more
        What ``cra_plus`` takes besides: ``texts`` and ``chances``.

    Raises
    ------
    ConfigError
        The objective needs what another key switches off.
    TrainingError
        Its state would be too large.
    """
    if config.objective == "cra_plus":
        from okrcell.train.objectives.cra_plus import CraPlus

        return CraPlus(config, n_pairs, n_texts, world, prior=prior, **more)
    given: dict[str, Any] = {"world": world, "prior": prior, "clean": clean}
    taken = {name: given[name] for name in _TAKES.get(config.objective, ())}
    return OBJECTIVES[config.objective](config, n_pairs, n_texts, **taken)
