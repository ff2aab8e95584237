"""The cell tower: a transformer over gene tokens, with the heads of masked gene modelling.

Known tokens never read hidden ones. So the known tokens go through all blocks first, and leave each
block's keys and values; the hidden tokens follow and read those. The final block computes the state
of the known tokens at ``<cls>`` alone.

Shape suffixes: B cells, K known tokens of all cells, H hidden tokens, T either, D width of the model,
E width of the shared space, C bins, Q width of a gene's query, A attention heads, P width of a head.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional as F

from okrcell.train.attention import Lengths, attend, multiply
from okrcell.train.batch import CellInput, PackedCells, TowerOutput
from okrcell.train.config import Shape, TrainConfig
from okrcell.train.dropout import Dropout

__all__ = ["QUERY_DIM", "CellEncoder"]

QUERY_DIM = 32
"""Width of a gene's query in GEPC."""

_N_SPECIAL = 2
_CLS_VALUE, _MASK_VALUE = -2.0, -1.0


class _KeysValues(NamedTuple):
    """What a block's known tokens are read by: two tensors [K, A, P]."""

    keys: torch.Tensor
    values: torch.Tensor


class _Block(nn.Module):
    """Attention to known tokens, and feed-forward; normalised before either (``pre``) or after it."""

    def __init__(self, shape: Shape, norm: str, activation: str) -> None:
        super().__init__()
        dim = shape.dim
        self.pre, self.heads = norm == "pre", shape.heads
        self.norm_attention, self.norm_feed = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.feed = nn.Sequential(
            nn.Linear(dim, shape.feed_forward),
            nn.GELU() if activation == "gelu" else nn.ReLU(),
            nn.Linear(shape.feed_forward, dim),
        )

    def _project(self, x_TD: torch.Tensor, part: slice) -> torch.Tensor:
        """Return some of queries (0), keys (1) and values (2): [T, parts, A, P]."""
        dim = self.out.in_features
        rows = slice(part.start * dim, part.stop * dim)
        projected = F.linear(x_TD, self.qkv.weight[rows], self.qkv.bias[rows])
        parts = part.stop - part.start
        return projected.view(len(x_TD), parts, self.heads, dim // self.heads)

    def known(
        self, x_KD: torch.Tensor, lengths: Lengths, dropout: Dropout
    ) -> tuple[torch.Tensor, _KeysValues]:
        """Return the known tokens after this block, and what others may read of them."""
        read = self.norm_attention(x_KD) if self.pre else x_KD
        query, keys, values = self._project(read, slice(0, 3)).unbind(1)
        mixed = attend(query, keys, values, lengths, lengths)
        return self._rest(x_KD, mixed, dropout), _KeysValues(keys, values)

    def known_cls(
        self, x_KD: torch.Tensor, lengths: Lengths, dropout: Dropout
    ) -> tuple[torch.Tensor, _KeysValues]:
        """As :meth:`known`, with the tokens ``<cls>`` alone after this block, [B, D]."""
        read = self.norm_attention(x_KD) if self.pre else x_KD
        keys, values = self._project(read, slice(1, 3)).unbind(1)
        query = self._project(read.index_select(0, lengths.first), slice(0, 1))[:, 0]
        ones = Lengths(torch.ones_like(lengths.counts), lengths.device)
        mixed = attend(query, keys, values, ones, lengths)
        x_BD = x_KD.index_select(0, lengths.first)
        return self._rest(x_BD, mixed, dropout), _KeysValues(keys, values)

    def hidden(
        self,
        x_HD: torch.Tensor,
        known: _KeysValues,
        lengths: Lengths,
        known_lengths: Lengths,
        dropout: Dropout,
    ) -> torch.Tensor:
        """Return the hidden tokens after this block: they read the known ones only."""
        read = self.norm_attention(x_HD) if self.pre else x_HD
        query = self._project(read, slice(0, 1))[:, 0]
        mixed = attend(query, known.keys, known.values, lengths, known_lengths)
        return self._rest(x_HD, mixed, dropout)

    def _rest(self, x_TD: torch.Tensor, mixed: torch.Tensor, dropout: Dropout) -> torch.Tensor:
        x_TD = dropout.add(x_TD, self.out(mixed.flatten(1)))
        if self.pre:
            return dropout.add(x_TD, self.feed(self.norm_feed(x_TD)))
        x_TD = self.norm_attention(x_TD)
        normed: torch.Tensor = self.norm_feed(dropout.add(x_TD, self.feed(x_TD)))
        return normed


class _Bins(nn.Module):
    """A learnt vector per bin."""

    def __init__(self, n_bins: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_bins + 2, dim).normal_(std=0.02))

    def forward(self) -> torch.Tensor:
        """Return [C + 2, D]: of ``<cls>``, of each bin, and of a hidden value."""
        return self.weight


class _Continuous(nn.Module):
    """Bins read as numbers by a small network (scGPT's ``ContinuousValueEncoder``).

    There are few distinct numbers, so the network sees each once and not once per token.
    """

    numbers: torch.Tensor

    def __init__(self, n_bins: int, dim: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(1, dim), nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        numbers = torch.tensor([_CLS_VALUE, *range(1, n_bins + 1), _MASK_VALUE])
        self.register_buffer("numbers", numbers)

    def forward(self) -> torch.Tensor:
        """Return [C + 2, D]: of ``<cls>``, of each bin, and of a hidden value."""
        table: torch.Tensor = self.linear2(F.relu(self.linear1(self.numbers[:, None])))
        normed: torch.Tensor = self.norm(table)
        return normed


class CellEncoder(nn.Module):
    """Gene and bin embeddings, transformer blocks, projector, and the heads of GEP, GEPC and CLS.

    With ``config.norm`` "post", ``activation`` "relu" and ``values`` "continuous" it is scGPT's
    encoder, gene embeddings normalised as there. There is no dropout inside attention: it would
    forbid the fast kernels.

    Parameters
    ----------
    n_genes
        Size of the vocabulary, special tokens not counted.
    text_dim
        E.
    n_types
        Number of cell types of the linear head ``types``; without it there is none.

    Attributes
    ----------
    config
        What it was built by.
    state_dim
        D.
    projector
        Linear, D to E.
    types
        Linear, D to ``n_types``, or None.
    """

    def __init__(self, config: TrainConfig, n_genes: int, text_dim: int, n_types: int = 0) -> None:
        super().__init__()
        self.config, shape = config, config.shape
        dim = self.state_dim = shape.dim
        self.n_bins, self.mask_bin, self.share = config.n_bins, config.n_bins + 1, config.dropout
        continuous = config.values == "continuous"
        self.gene = nn.Embedding(n_genes + _N_SPECIAL, dim, padding_idx=0)
        self.gene_norm = nn.LayerNorm(dim) if continuous else nn.Identity()
        self.bin = (_Continuous if continuous else _Bins)(config.n_bins, dim)
        self.blocks = nn.ModuleList(
            _Block(shape, config.norm, config.activation) for _ in range(shape.blocks)
        )
        self.norm = nn.LayerNorm(dim) if config.norm == "pre" else nn.Identity()
        self.projector = nn.Linear(dim, text_dim)
        self.gep = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, config.n_bins))
        self.gepc_cell = nn.Linear(dim, config.n_bins * QUERY_DIM)
        self.gepc_query = nn.Linear(dim, QUERY_DIM)
        self.types = nn.Linear(dim, n_types) if n_types else None
        nn.init.normal_(self.gene.weight, std=0.02)

    def forward(self, cells: CellInput, *, genes: bool = True) -> TowerOutput:
        """Encode cells.

        All random draws for known tokens come before those for hidden ones: with the same state of
        torch's generator, ``cell`` is the same whether hidden genes are predicted or not.

        Parameters
        ----------
        cells
            :class:`~okrcell.train.batch.PackedCells`.
        genes
            Whether hidden genes are predicted; without, ``gep`` and ``gepc`` are 0.
        """
        assert isinstance(cells, PackedCells)
        device = cells.known_genes.device
        dropout = Dropout(self.share, self.training, device)
        known = Lengths(cells.known_counts, device)
        table = self.bin()
        if genes:
            # One look-up for both: the gradient of the table is as large as the vocabulary.
            both = self._genes(torch.cat([cells.known_genes, cells.hidden_genes]))
            sizes = [len(cells.known_genes), len(cells.hidden_genes)]
            gene_KD, gene_HD = both.split(sizes)  # type: ignore[no-untyped-call]
        else:
            gene_KD = self._genes(cells.known_genes)
        x_KD = gene_KD + dropout.drop(F.embedding(cells.known_bins, table))
        read: list[_KeysValues] = []
        blocks = cast(list[_Block], list(self.blocks))
        *inner, final = blocks
        for block in inner:
            x_KD, left = block.known(x_KD, known, dropout)
            read.append(left)
        x_BD, left = final.known_cls(x_KD, known, dropout)
        read.append(left)
        state_BD = self.norm(x_BD).float()
        cell_BE = F.normalize(self.projector(state_BD).float(), dim=-1)
        if not genes:
            zero = cell_BE.new_zeros(())
            return TowerOutput(cell_BE, state_BD, zero, zero, 0)
        hidden = Lengths(cells.hidden_counts, device)
        x_HD = gene_HD + dropout.drop(table[self.mask_bin].expand_as(gene_HD))
        for block, left in zip(blocks, read, strict=True):
            x_HD = block.hidden(x_HD, left, hidden, known, dropout)
        target_H = cells.hidden_bins.long() - 1
        gep = F.cross_entropy(self.gep(self.norm(x_HD)).float(), target_H, reduction="sum")
        gepc = self._gepc(state_BD, gene_HD, target_H, hidden)
        return TowerOutput(cell_BE, state_BD, gep, gepc, len(target_H))

    def _genes(self, tokens_T: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.gene_norm(self.gene(tokens_T))
        return rows

    def _gepc(
        self,
        state_BD: torch.Tensor,
        gene_HD: torch.Tensor,
        target_H: torch.Tensor,
        hidden: Lengths,
    ) -> torch.Tensor:
        """Predict hidden bins from the cell: ``<Q e_g, A_k h_0>`` (paper, intra-modal objectives)."""
        cell_BCQ = self.gepc_cell(state_BD).view(-1, self.n_bins, QUERY_DIM)
        query_HQ = self.gepc_query(gene_HD)
        logits_HC = multiply(query_HQ, cell_BCQ.transpose(1, 2), hidden)
        return F.cross_entropy(logits_HC.float(), target_H, reduction="sum")
