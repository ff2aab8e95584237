"""Alignment objectives over a batch of pairs: InfoNCE, and the parts of the paper's CRA.

Shape suffixes: N pairs of the batch, M = N + bank entries, E width of the shared space.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from okrcell.train.config import TrainConfig

__all__ = ["cca", "gamma", "infonce", "match_log_probs", "rel_stab", "rel_sym", "sample_weights"]


def match_log_probs(
    query_NE: torch.Tensor, key_NE: torch.Tensor, tau: float, bank_QE: torch.Tensor | None = None
) -> torch.Tensor:
    """Return log S [N, M]: log-softmax of similarities to the batch's keys, then the bank's."""
    keys = key_NE if bank_QE is None or not len(bank_QE) else torch.cat([key_NE, bank_QE])
    return F.log_softmax(query_NE @ keys.T / tau, dim=1)


def infonce(cells_NE: torch.Tensor, texts_NE: torch.Tensor, tau: float) -> torch.Tensor:
    """Return the symmetric InfoNCE loss, the mean of both directions, in nats.

    With a deterministic text encoder, equal texts in a batch make this the multi-positive loss up to
    a constant: see docs/method.md.
    """
    target = torch.arange(len(cells_NE), device=cells_NE.device)
    logits = cells_NE @ texts_NE.T / tau
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def rel_sym(
    cells_NE: torch.Tensor,
    texts_NE: torch.Tensor,
    sigma: float,
    how: str,
    banks: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return Rel_sym [N] in [0, 1]: both directions' probability of the own partner, joined.

    The paper says "high only if both directions match well" and gives no formula; ``how`` is ours.
    """
    cell_bank, text_bank = banks if banks is not None else (None, None)
    with torch.no_grad():
        ct = match_log_probs(cells_NE, texts_NE, sigma, text_bank).diagonal().exp()
        tc = match_log_probs(texts_NE, cells_NE, sigma, cell_bank).diagonal().exp()
    if how == "mean":
        return (ct + tc) / 2
    return torch.minimum(ct, tc) if how == "min" else ct * tc


def rel_stab(q: torch.Tensor, mean: float, std: float, n_sigma: float) -> torch.Tensor:
    """Return Rel_stab [N]: 1, or an RBF of the standardised instability beyond mean + n_sigma std."""
    if std <= 0:
        return torch.ones_like(q)
    z = (q - mean) / std
    return torch.where(z > n_sigma, torch.exp(-(z**2) / 2), torch.ones_like(q))


def cca(
    cells_NE: torch.Tensor,
    texts_NE: torch.Tensor,
    weight_N: torch.Tensor,
    config: TrainConfig,
    banks: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the confidence-aware contrastive loss per pair [N] and its difficulty [N].

    L_pos = -W (log S_ct[i,i] + log S_tc[i,i]);
    L_neg = sum_{j != i} tan S[i,j] / (sum_k tan S[i,k])^omega over both directions;
    CCA = L_pos + 5 L_neg. The difficulty is the mean -log S[i,i] of both directions, detached.
    """
    cell_bank, text_bank = banks if banks is not None else (None, None)
    log_ct = match_log_probs(cells_NE, texts_NE, config.tau, text_bank)
    log_tc = match_log_probs(texts_NE, cells_NE, config.tau, cell_bank)
    own = log_ct.diagonal() + log_tc.diagonal()
    negative = sum(
        (_complementary(log_s.exp(), config.omega) for log_s in (log_ct, log_tc)),
        torch.zeros_like(own),
    )
    return -weight_N * own + config.negative_weight * negative, -own.detach() / 2


def _complementary(s_NM: torch.Tensor, omega: float) -> torch.Tensor:
    tangent = torch.tan(s_NM)  # S is at most 1, far from the pole at pi / 2
    total = tangent.sum(dim=1)
    others = total - tangent.diagonal()
    return others / total.clamp_min(1e-12) ** omega


def gamma(progress: float, config: TrainConfig) -> float:
    """Return the curriculum's threshold at a progress in [0, 1] (paper, PSW), in nats."""
    span = config.gamma_end - config.gamma_start
    return config.gamma_start + span * math.pow(progress, config.gamma_power)


def sample_weights(
    difficulty_N: torch.Tensor, progress: float, config: TrainConfig
) -> torch.Tensor:
    """Return the progressive sample weights [N].

    Early, pairs above gamma are suppressed: exp(gamma - difficulty). Later hard pairs count for more:
    1/2 + difficulty / gamma, at most 2. The paper names the two regimes; these forms are ours, and so
    is the division by their mean: at the start no pair is below gamma (a random one has ln(N + bank)
    nats), and without it nothing would be learnt in the first fifth of the steps.
    """
    threshold = gamma(progress, config)
    if progress < config.hard_after:
        weights = torch.exp((threshold - difficulty_N).clamp_max(0))
    else:
        weights = (0.5 + difficulty_N / threshold).clamp_max(2)
    return weights / weights.mean().clamp_min(torch.finfo(weights.dtype).tiny)
