"""A cell tower without attention: a small network over variable genes, the honest cheap baseline.

Shape suffixes: B cells, G genes, D width of the network, E width of the shared space.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from okrcell.train.batch import CellInput, DenseCells, TowerOutput
from okrcell.train.config import TrainConfig
from okrcell.train.dropout import Dropout

__all__ = ["MlpEncoder", "standardised"]


class MlpEncoder(nn.Module):
    """Two layers with LayerNorm and GELU over log-normalised values. It predicts no genes.

    ``config.input_dropout`` hides inputs at random: without it this tower memorises its cells. With
    ``config.standardise`` a cell's values are standardised over the genes that its data measured.

    Parameters
    ----------
    n_genes
        G.
    text_dim
        E.
    n_types
        Number of cell types of the linear head ``types``; without it there is none.

    Attributes
    ----------
    state_dim
        D.
    projector
        Linear, D to E.
    types
        Linear, D to ``n_types``, or None.
    """

    def __init__(self, config: TrainConfig, n_genes: int, text_dim: int, n_types: int = 0) -> None:
        super().__init__()
        dim = self.state_dim = config.shape.dim
        self.input_share, self.share = config.input_dropout, config.dropout
        self.standardise = config.standardise
        self.first, self.norm_first = nn.Linear(n_genes, dim), nn.LayerNorm(dim)
        self.second, self.norm_second = nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.projector = nn.Linear(dim, text_dim)
        self.types = nn.Linear(dim, n_types) if n_types else None

    def forward(self, cells: CellInput, *, genes: bool = True) -> TowerOutput:
        """Encode cells.

        Parameters
        ----------
        cells
            :class:`~okrcell.train.batch.DenseCells`; NaN, for genes that were not measured, where
            the tower standardises.
        genes
            Without effect: ``gep`` and ``gepc`` are 0 in any case.
        """
        assert isinstance(cells, DenseCells)
        values_BG = standardised(cells.values) if self.standardise else cells.values
        inputs = Dropout(self.input_share, self.training, values_BG.device)
        inside = Dropout(self.share, self.training, values_BG.device)
        x_BD = F.gelu(self.norm_first(self.first(inputs.drop(values_BG))))
        x_BD = F.gelu(self.norm_second(self.second(inside.drop(x_BD))))
        state_BD = x_BD.float()
        cell_BE = F.normalize(self.projector(state_BD).float(), dim=-1)
        zero = cell_BE.new_zeros(())
        return TowerOutput(cell_BE, state_BD, zero, zero, 0)


def standardised(values_BG: torch.Tensor) -> torch.Tensor:
    """Return each cell's values with mean 0 and deviation 1 over the genes that are not NaN.

    NaN becomes 0, the mean: a gene that was not measured says nothing. What else differs between
    panels and depths, level and spread of all values, is taken out. Equal values become 0.
    """
    measured_BG = ~values_BG.isnan()
    filled_BG = torch.where(measured_BG, values_BG, 0.0)
    n_B1 = measured_BG.sum(dim=1, keepdim=True).clamp_min(1)
    mean_B1 = filled_BG.sum(dim=1, keepdim=True) / n_B1
    centred_BG = torch.where(measured_BG, filled_BG - mean_B1, 0.0)
    spread_B1 = (centred_BG.square().sum(dim=1, keepdim=True) / n_B1).sqrt()
    return centred_BG / spread_B1.clamp_min(1e-6)
