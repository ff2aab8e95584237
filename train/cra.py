"""State of the paper's Cross-modal Robust Alignment between steps: momentum tower, banks, stability.

Everything here is a buffer of one module, so that a checkpoint holds it whole.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from okrcell.train import losses
from okrcell.train.config import TrainConfig
from okrcell.train.encoder import CellEncoder
from okrcell.train.tokens import Tokens

__all__ = ["CrossModalRobustAlignment"]


class CrossModalRobustAlignment(nn.Module):
    """CMMB + CCA + PSW of arXiv 2601.05648v1; each part has a switch in the configuration.

    Parameters
    ----------
    prior_N
        float32 [n_pairs]: reliability of each training pair's text, in [0, 1], by which W_pos is
        multiplied. Per-pair state is four float32 values.
    text_dim
        E, width of the shared space.
    """

    cell_bank: torch.Tensor
    text_bank: torch.Tensor
    bank_state: torch.Tensor
    prior: torch.Tensor
    count: torch.Tensor
    mean: torch.Tensor
    m2: torch.Tensor

    def __init__(
        self, config: TrainConfig, encoder: CellEncoder, prior_N: torch.Tensor, text_dim: int
    ) -> None:
        super().__init__()
        self.config = config
        self.momentum_encoder = copy.deepcopy(encoder).requires_grad_(requires_grad=False).eval()
        self.register_buffer("cell_bank", torch.zeros(config.bank_size, text_dim))
        self.register_buffer("text_bank", torch.zeros(config.bank_size, text_dim))
        self.register_buffer("bank_state", torch.zeros(2, dtype=torch.int64))  # next slot, filled
        self.register_buffer("prior", prior_N.clone())
        for name in ("count", "mean", "m2"):  # Welford sums of Rel_sym per pair
            self.register_buffer(name, torch.zeros(len(prior_N)))

    def forward(
        self,
        cells_NE: torch.Tensor,
        texts_NE: torch.Tensor,
        pairs_N: torch.Tensor,
        *,
        epoch: int,
        progress: float,
    ) -> torch.Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        pairs_N
            int64 [N], index of each pair among all training pairs.
        epoch
            1 for the first.
        progress
            Share of all steps that is done, in [0, 1].
        """
        config, banks = self.config, self._banks()
        if config.cca:
            weight = self._reliability(cells_NE, texts_NE, pairs_N, epoch, banks)
            loss, difficulty = losses.cca(cells_NE, texts_NE, weight, config, banks)
        else:  # the ablation without CCA: plain contrast, still with the bank
            plain = config.replace(negative_weight=0.0)
            prior_N = self.prior[pairs_N]
            loss, difficulty = losses.cca(cells_NE, texts_NE, prior_N, plain, banks)
            loss = loss / 2
        if config.psw:
            loss = losses.sample_weights(difficulty, progress, config) * loss
        return loss.mean()

    @torch.no_grad()
    def after_step(self, encoder: CellEncoder, tokens: Tokens, texts_NE: torch.Tensor) -> None:
        """Update the momentum tower and push the batch into the banks, in order, in place."""
        if not self.config.bank:
            return
        for slow, fast in zip(
            self.momentum_encoder.parameters(), encoder.parameters(), strict=True
        ):
            slow.lerp_(fast, 1 - self.config.momentum)
        size = self.config.bank_size
        cells_NE = self.momentum_encoder(tokens).cell[-size:]
        start, filled = self.bank_state.tolist()
        slots = (start + torch.arange(len(cells_NE), device=cells_NE.device)) % size
        self.cell_bank[slots], self.text_bank[slots] = cells_NE, texts_NE[-size:]
        self.bank_state[0] = (start + len(cells_NE)) % size
        self.bank_state[1] = min(size, filled + len(cells_NE))

    def _banks(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        filled = int(self.bank_state[1])
        if not self.config.bank or not filled:
            return None
        # The next update writes into the banks in place: hand out copies to the graph.
        return self.cell_bank[:filled].clone(), self.text_bank[:filled].clone()

    @torch.no_grad()
    def _reliability(
        self,
        cells_NE: torch.Tensor,
        texts_NE: torch.Tensor,
        pairs_N: torch.Tensor,
        epoch: int,
        banks: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """Return W_pos = prior x Rel_sym x Rel_stab [N], and record Rel_sym."""
        config = self.config
        symmetric = losses.rel_sym(cells_NE, texts_NE, config.sigma, config.rel_sym, banks)
        weight = symmetric if epoch >= config.record_from_epoch else torch.ones_like(symmetric)
        if epoch >= config.stability_from_epoch:
            spread = torch.sqrt(self.m2 / self.count.clamp_min(1))
            seen = spread[self.count >= 2]
            if len(seen) >= 2:
                mean, std = float(seen.mean()), float(seen.std())
                weight = weight * losses.rel_stab(spread[pairs_N], mean, std, config.n_sigma)
        if epoch >= config.record_from_epoch:
            self.count[pairs_N] += 1
            delta = symmetric - self.mean[pairs_N]
            self.mean[pairs_N] += delta / self.count[pairs_N]
            self.m2[pairs_N] += delta * (symmetric - self.mean[pairs_N])
        return weight * self.prior[pairs_N]
