"""Cross-modal Robust Alignment as the paper has it: CMMB, CCA and PSW. Equations: docs/method.md."""

from __future__ import annotations

import math

import torch

from okrcell.train.batch import Alignment, Step
from okrcell.train.config import TrainConfig
from okrcell.train.distributed import World
from okrcell.train.objectives.base import Objective
from okrcell.train.objectives.matching import Match, match_both
from okrcell.train.pair_state import PairState

__all__ = ["CraPaper", "gamma", "rel_stab", "rel_sym", "sample_weights"]


class CraPaper(Objective):
    """CCA x PSW over the bank (OKR-CELL, arXiv 2601.05648v1); each part has a switch.

    State per pair is three float32: how often Rel_sym was recorded, its mean, and the sum of squared
    deviations (Welford). The mean and standard deviation of all pairs' instability are kept as
    running sums: a pass over all pairs at every step would cost more than the loss.

    Parameters
    ----------
    prior
        float32 [n_pairs]: reliability of each pair's text, in [0, 1], which multiplies W.
    """

    prior: torch.Tensor
    spread_sums: torch.Tensor

    def __init__(
        self,
        config: TrainConfig,
        n_pairs: int,
        n_texts: int,
        world: World,
        *,
        prior: torch.Tensor,
    ) -> None:
        super().__init__(config, n_pairs, n_texts)
        prior = prior.float() if config.reliability_prior else torch.ones(n_pairs)
        self.register_buffer("prior", prior.clone(), persistent=False)
        self.state = PairState(n_pairs, {"record": ((3,), torch.float32)}, world)
        # Number of pairs with two records or more; sum of their q; sum of their q^2.
        self.register_buffer("spread_sums", torch.zeros(3, dtype=torch.float64))

    def forward(self, step: Step) -> Alignment:
        """Return the loss; ``reliability`` is W, ``difficulty`` is d in nats."""
        config = self.config
        at_sigma = config.cca and (config.learn_tau or config.sigma != config.tau)
        tangents = config.cca and config.negative_weight > 0
        ct, tc = match_both(
            step,
            tangents=tangents,
            sigma=config.sigma if at_sigma and step.epoch >= config.record_from_epoch else None,
        )
        own = ct.log_own + tc.log_own
        difficulty = -own.detach() / 2
        log = {"difficulty": difficulty}
        weight = self.prior[step.pairs_N[step.own]].to(own.dtype)
        if config.cca:
            weight = weight * self._reliability(step, ct, tc, log)
            loss = -weight * own
            if tangents:
                negative = ct.complementary(config.omega) + tc.complementary(config.omega)
                loss = loss + config.negative_weight * negative
        else:  # the ablation without CCA: plain contrast, still with the bank
            loss = -weight * own / 2
        log["reliability"] = weight
        if config.psw:
            joint = step.world.gather(difficulty)
            curriculum = sample_weights(joint, step.progress, config)[step.own]
            loss = curriculum * loss
            log["curriculum"] = curriculum
        return Alignment(loss.mean(), log)

    @torch.no_grad()
    def _reliability(
        self, step: Step, ct: Match, tc: Match, log: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return V [n] = Rel_sym x Rel_stab of this process's rows, and record Rel_sym."""
        config = self.config
        if step.epoch < config.record_from_epoch:
            return torch.ones_like(ct.log_own)
        symmetric = rel_sym(ct.log_own_sigma.exp(), tc.log_own_sigma.exp(), config.rel_sym)
        log["rel_sym"] = symmetric
        record = self.state.read("record", step.pairs_N)
        value = symmetric
        if step.epoch >= config.stability_from_epoch:
            stable = rel_stab(_spread(record)[step.own], *self._spread_of_all(), config.n_sigma)
            log["rel_stab"] = stable
            value = symmetric * stable.to(symmetric.dtype)
        if self.training:
            # All processes hold the joint batch's records, so all keep the same running sums.
            self._record(step.pairs_N, record, step.world.gather(symmetric).float())
        return value

    def reliability(self) -> torch.Tensor:
        """Return float32 [n_pairs]: mean Rel_sym recorded so far, 1 before the first record."""
        count, mean, _ = self.state.gather("record").unbind(dim=1)
        return torch.where(count > 0, mean, 1.0)

    def _record(self, pairs_N: torch.Tensor, old: torch.Tensor, symmetric_N: torch.Tensor) -> None:
        count, mean, m2 = old.unbind(dim=1)
        delta = symmetric_N - mean
        mean = mean + delta / (count + 1)
        new = torch.stack([count + 1, mean, m2 + delta * (symmetric_N - mean)], dim=1)
        self.state.write("record", pairs_N, new)
        self.spread_sums += _sums(new) - _sums(old)

    def _spread_of_all(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation (n - 1) of q over pairs with two records or more."""
        n, total, squares = self.spread_sums
        mean = total / n.clamp_min(1)
        variance = (squares - n * mean**2) / (n - 1).clamp_min(1)
        # What is left of equal values after the subtraction is rounding.
        variance = torch.where(variance > 1e-12 * mean**2, variance, 0.0)
        return mean, variance.sqrt() * (n >= 2)


def _spread(record: torch.Tensor) -> torch.Tensor:
    """Return q, the standard deviation of a pair's records, float64."""
    count, _, m2 = record.double().unbind(dim=1)
    return (m2 / count.clamp_min(1)).sqrt()


def _sums(record: torch.Tensor) -> torch.Tensor:
    recorded = (record[:, 0] >= 2).double()
    q = _spread(record) * recorded
    return torch.stack([recorded.sum(), q.sum(), (q * q).sum()])


def rel_sym(ct_n: torch.Tensor, tc_n: torch.Tensor, how: str) -> torch.Tensor:
    """Return Rel_sym [n] in [0, 1]: both directions' probability of the own partner, joined.

    The paper says "high only if both directions match well" and gives no formula; ``how`` is ours.
    """
    if how == "mean":
        return (ct_n + tc_n) / 2
    return torch.minimum(ct_n, tc_n) if how == "min" else ct_n * tc_n


def rel_stab(
    q_n: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, n_sigma: float
) -> torch.Tensor:
    """Return Rel_stab [n]: 1, or an RBF of the standardised instability beyond n_sigma deviations.

    ``std`` zero (no spread, or too few pairs recorded) says nothing: all 1.
    """
    z = torch.where(std > 0, (q_n - mean) / std, 0.0)
    return torch.where(z > n_sigma, torch.exp(-(z**2) / 2), 1.0)


def gamma(progress: float, config: TrainConfig) -> float:
    """Return the curriculum's threshold at a progress in [0, 1] (paper, PSW), in nats."""
    span = config.gamma_end - config.gamma_start
    return config.gamma_start + span * math.pow(progress, config.gamma_power)


def sample_weights(
    difficulty_N: torch.Tensor, progress: float, config: TrainConfig
) -> torch.Tensor:
    """Return the progressive sample weights [N] of the joint batch, of mean 1.

    Early, pairs above gamma are suppressed: exp(gamma - difficulty). Later hard pairs count for more:
    1/2 + difficulty / gamma, at most 2. The paper names the two regimes; these forms are ours, and so
    is the division by their mean: at the start no pair is below gamma (a random one has ln(N + bank)
    nats), and without it nothing would be learnt in the first fifth of the steps.
    """
    threshold = gamma(progress, config)
    if progress < config.hard_after:
        excess = (difficulty_N - threshold).clamp_min(0)
        # The division by the mean cancels a common factor; this one keeps all from vanishing.
        weights = torch.exp(excess.min() - excess)
    else:
        weights = (0.5 + difficulty_N / threshold).clamp_max(2)
    return weights / weights.mean()
