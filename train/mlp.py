"""A cell tower without attention: a small network over variable genes, the honest cheap baseline.

Shape suffixes: B cells, G genes, D width of the network, E width of the shared space.
"""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from okrcell.train.batch import CellInput, DenseCells, TowerOutput
from okrcell.train.config import TrainConfig
from okrcell.train.dropout import Dropout

__all__ = ["MlpEncoder"]


class MlpEncoder(nn.Module):
    """Two layers with LayerNorm and GELU over log-normalised values. It predicts no genes.

    ``config.input_dropout`` hides inputs at random: without it this tower memorises its cells.

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
        self.first, self.norm_first = nn.Linear(n_genes, dim), nn.LayerNorm(dim)
        self.second, self.norm_second = nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.projector = nn.Linear(dim, text_dim)
        self.types = nn.Linear(dim, n_types) if n_types else None

    def forward(self, cells: CellInput, *, genes: bool = True) -> TowerOutput:
        """Encode cells.

        Parameters
        ----------
        cells
            :class:`~okrcell.train.batch.DenseCells`.
        genes
            Without effect: ``gep`` and ``gepc`` are 0 in any case.
        """
        assert isinstance(cells, DenseCells)
        values_BG = cells.values
        inputs = Dropout(self.input_share, self.training, values_BG.device)
        inside = Dropout(self.share, self.training, values_BG.device)
        x_BD = F.gelu(self.norm_first(self.first(inputs.drop(values_BG))))
        x_BD = F.gelu(self.norm_second(self.second(inside.drop(x_BD))))
        state_BD = x_BD.float()
        cell_BE = F.normalize(self.projector(state_BD).float(), dim=-1)
        zero = cell_BE.new_zeros(())
        return TowerOutput(cell_BE, state_BD, zero, zero, 0)
