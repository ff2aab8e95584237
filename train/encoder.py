"""The cell tower: a transformer over gene tokens, with the heads of masked gene modelling.

Shape suffixes: B cells, T tokens, D model width, E text width, K bins, Q query width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from okrcell.train.config import TrainConfig
from okrcell.train.tokens import N_SPECIAL, PAD, Tokens

__all__ = ["CellEncoder", "Encoded", "mask_bins"]

_QUERY_DIM = 32


class Encoded(NamedTuple):
    """Output of the tower.

    Attributes
    ----------
    states
        float32 [B, T, D], final states of all tokens.
    cell
        float32 [B, E], unit rows: the projected ``<cls>`` state, comparable with text vectors.
    """

    states: torch.Tensor
    cell: torch.Tensor


def mask_bins(tokens: Tokens, ratio: float, generator: torch.Generator) -> torch.Tensor:
    """Choose the genes to hide: bool [B, T], never ``<cls>`` or padding."""
    draw = torch.rand(tokens.genes.shape, generator=generator)
    return (draw < ratio) & (tokens.genes >= N_SPECIAL)


class _Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feed = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.feed = nn.Sequential(
            nn.Linear(dim, feed_forward), nn.GELU(), nn.Linear(feed_forward, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        b, t, d = x_BTD.shape
        qkv = self.qkv(self.norm_attention(x_BTD)).view(b, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        # No dropout inside attention: it would forbid the fused kernel.
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        x_BTD = x_BTD + self.dropout(self.out(mixed.transpose(1, 2).reshape(b, t, d)))
        hidden: torch.Tensor = x_BTD + self.dropout(self.feed(self.norm_feed(x_BTD)))
        return hidden


class CellEncoder(nn.Module):
    """Gene and bin embeddings, transformer blocks, projector, and the heads of GEP and GEPC.

    Parameters
    ----------
    n_genes
        Size of the vocabulary, special tokens not counted.
    text_dim
        E, width of the text vectors.
    """

    def __init__(self, config: TrainConfig, n_genes: int, text_dim: int) -> None:
        super().__init__()
        dim, blocks, heads, feed_forward = config.shape
        self.n_bins = config.n_bins
        self.mask_bin = config.n_bins + 1
        self.gene = nn.Embedding(n_genes + N_SPECIAL, dim, padding_idx=PAD)
        self.bin = nn.Embedding(config.n_bins + 2, dim)
        self.blocks = nn.ModuleList(
            _Block(dim, heads, feed_forward, config.dropout) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(dim)
        self.projector = nn.Linear(dim, text_dim)
        self.gep = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, config.n_bins))
        self.gepc_cell = nn.Linear(dim, config.n_bins * _QUERY_DIM)
        self.gepc_query = nn.Linear(dim, _QUERY_DIM)
        nn.init.normal_(self.gene.weight, std=0.02)
        nn.init.normal_(self.bin.weight, std=0.02)

    def forward(self, tokens: Tokens, hidden: torch.Tensor | None = None) -> Encoded:
        """Encode a batch.

        Parameters
        ----------
        hidden
            bool [B, T], genes whose value is masked: they read the known genes and themselves, and
            nobody reads them (known/unknown attention of the paper).
        """
        known = tokens.genes != PAD
        bins = tokens.bins
        if hidden is not None:
            known = known & ~hidden
            bins = bins.masked_fill(hidden, self.mask_bin)
        allowed = known[:, None, None, :]
        if hidden is not None:
            itself = torch.eye(known.shape[1], dtype=torch.bool, device=known.device)
            allowed = allowed | itself
        x = self.gene(tokens.genes) + self.bin(bins)
        for block in self.blocks:
            x = block(x, allowed)
        x = self.norm(x)
        return Encoded(x, F.normalize(self.projector(x[:, 0]), dim=-1))

    def gene_loss(
        self, encoded: Encoded, tokens: Tokens, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return GEP and GEPC: cross-entropy of the masked bins, in nats per masked gene.

        GEP predicts a gene's bin from its own final state; GEPC from the cell's ``<cls>`` state, by a
        bilinear product with the gene's query vector (paper, intra-modal objectives).
        """
        if not hidden.any():
            zero = encoded.states.sum() * 0
            return zero, zero
        target = tokens.bins[hidden] - 1
        gep = F.cross_entropy(self.gep(encoded.states[hidden]), target)
        cell_BKQ = self.gepc_cell(encoded.states[:, 0]).view(-1, self.n_bins, _QUERY_DIM)
        query_BTQ = self.gepc_query(self.gene(tokens.genes))
        logits = (query_BTQ @ cell_BKQ.transpose(1, 2))[hidden]
        return gep, F.cross_entropy(logits, target)
