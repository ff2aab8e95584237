"""The cell towers by configuration."""

from __future__ import annotations

from okrcell.train.config import TrainConfig
from okrcell.train.encoder import CellEncoder
from okrcell.train.mlp import MlpEncoder

__all__ = ["Tower", "build_tower"]


Tower = CellEncoder | MlpEncoder
"""Either is called as ``tower(cells, genes=True) -> TowerOutput`` and has ``state_dim`` (D), ``projector``
(Linear, D to E) and ``types`` (Linear, D to the number of cell types, for the loss CLS, or None)."""


def build_tower(config: TrainConfig, n_genes: int, text_dim: int, n_types: int = 0) -> Tower:
    """Build the tower of ``config.preset``, its weights drawn from torch's generator.

    Parameters
    ----------
    n_genes
        Genes of the vocabulary; for ``mlp``, the variable genes that it reads.
    text_dim
        E, width of the text vectors.
    n_types
        Cell types of the head ``types``; 0 for none.
    """
    kind = MlpEncoder if config.preset == "mlp" else CellEncoder
    return kind(config, n_genes, text_dim, n_types)
