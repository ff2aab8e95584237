"""Match probabilities of each query with its own key, and the complementary term, in few passes.

Both directions of a batch of n rows against M = N + Q keys cost one [n, M] array each, forward and
backward, whatever of it is asked for: plain autograd would keep four for the complementary term.
Rows are worked on a few at a time, so that the element-wise passes stay in the cache.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from okrcell.train.batch import Step

__all__ = ["Match", "match_both", "match_own"]

_CACHED = 1 << 18
"""Elements of [n, M] worked on at a time on the CPU: 1 MiB of float32."""
_ON_DEVICE = 1 << 27
"""The same on an accelerator, where launches cost more than memory traffic saves."""


class Match(NamedTuple):
    """What is known of n queries and their own keys.

    Attributes
    ----------
    log_own
        float [n], nats: log S[i, i], the log-probability of the own key; with gradient.
    others, total
        float [n]: sum_{j != i} tan S[i, j], and the sum over all j, with gradient; empty unless asked
        for.
    log_own_sigma
        float [n]: log S[i, i] at the temperature ``sigma``, without gradient; ``log_own`` where
        ``sigma`` was not given.
    """

    log_own: torch.Tensor
    others: torch.Tensor
    total: torch.Tensor
    log_own_sigma: torch.Tensor

    def complementary(self, omega: torch.Tensor | float) -> torch.Tensor:
        """Return the complementary term [n], sum_{j != i} tan S[i,j] / (sum_k tan S[i,k])^omega.

        OKR-CELL, CCA; CRCL (Qin et al. 2023). The total is at least 1: tan S >= S, which sums to 1.
        """
        return self.others / self.total**omega


def match_own(
    query_nE: torch.Tensor,
    keys_NE: torch.Tensor,
    bank_QE: torch.Tensor | None,
    own_n: torch.Tensor,
    tau: torch.Tensor | float,
    *,
    tangents: bool = False,
    sigma: float | None = None,
) -> Match:
    """Score queries against the joint batch's keys and the bank's: S[i,j] = softmax_j(q_i . k_j / tau).

    Parameters
    ----------
    query_nE, keys_NE
        Unit rows, with gradient where it is wanted.
    bank_QE
        More keys, never an own one, without gradient; or None.
    own_n
        int64 [n]: row of ``keys_NE`` that belongs to each query.
    tau
        Temperature, may carry gradient.
    tangents
        Whether the sums of the complementary term are wanted.
    sigma
        Another temperature at which the own probability is wanted too.
    """
    ratio = None if sigma is None else torch.as_tensor(tau).detach() / sigma
    log_own, others, total, at_sigma = _Match.apply(  # type: ignore[no-untyped-call]
        query_nE / tau, keys_NE, bank_QE, own_n, tangents, ratio
    )
    return Match(log_own, others, total, log_own.detach() if at_sigma is None else at_sigma)


def match_both(
    step: Step, *, tangents: bool = False, sigma: float | None = None
) -> tuple[Match, Match]:
    """Return the matches of this process's rows, cell to text and text to cell, bank included."""
    own_n = torch.arange(step.own.start, step.own.stop, device=step.cells_nE.device)
    texts, cells = (None, None) if step.bank is None else (step.bank.texts, step.bank.cells)
    return (
        match_own(
            step.cells_nE, step.all_texts_NE, texts, own_n, step.tau, tangents=tangents, sigma=sigma
        ),
        match_own(
            step.texts_nE, step.all_cells_NE, cells, own_n, step.tau, tangents=tangents, sigma=sigma
        ),
    )


def _row_blocks(n: int, m: int, device: torch.device) -> list[slice]:
    size = max(1, (_CACHED if device.type == "cpu" else _ON_DEVICE) // max(m, 1))
    return [slice(start, start + size) for start in range(0, n, size)]


class _Match(torch.autograd.Function):
    """log S[i, i] and both sums of t = tan S, with the gradient written out.

    With a and b what the loss asks of the sum over j != i and of the sum over all j, d/dS_j is
    (1 + t_j^2) (a + b) for j != i and (1 + t_i^2) b for i. The gradient of a softmax follows:
    S_j (d/dS_j - sum_k S_k d/dS_k).
    """

    @staticmethod
    def forward(ctx, query_nE, keys_NE, bank_QE, own_n, tangents, ratio):  # type: ignore[no-untyped-def]
        keys = keys_NE if bank_QE is None or not len(bank_QE) else torch.cat([keys_NE, bank_QE])
        s = query_nE @ keys.T
        log_own = s.new_empty(len(s))
        at_sigma = None if ratio is None else torch.empty_like(log_own)
        # sum_{j != i} t_j; t_i; sum_{j != i} S_j (1 + t_j^2)
        others, own_tangent, moment = s.new_empty(3, len(s) if tangents else 0)
        for rows in _row_blocks(len(s), s.shape[1], s.device):
            x, own = s[rows], own_n[rows, None]
            x -= x.amax(dim=1, keepdim=True)
            x_own = x.gather(1, own)[:, 0]
            if at_sigma is not None:
                at_sigma[rows] = x_own * ratio - (x * ratio).exp_().sum(dim=1).log_()
            total = x.exp_().sum(dim=1)
            x /= total[:, None]  # now S
            log_own[rows] = x_own - total.log()
            if not tangents:
                continue
            t = torch.tan(x)  # S is at most 1, far from the pole at pi / 2
            own_tangent[rows] = t.gather(1, own)[:, 0]
            t.scatter_(1, own, 0.0)
            others[rows] = t.sum(dim=1)
            moment[rows] = torch.linalg.vecdot(x, t.square_()) - torch.expm1(log_own[rows])
        ctx.save_for_backward(query_nE, keys, s, own_n, own_tangent, moment)
        ctx.n_keys, ctx.tangents = len(keys_NE), tangents
        if at_sigma is not None:
            ctx.mark_non_differentiable(at_sigma)
        return log_own, others, others + own_tangent, at_sigma

    @staticmethod
    def backward(ctx, d_log, d_others, d_total, _):  # type: ignore[no-untyped-def]
        query_nE, keys, s, own_n, own_tangent, moment = ctx.saved_tensors
        with_query, with_keys = ctx.needs_input_grad[:2]
        # Without a gradient for the query the bank's columns need none at all.
        width = s.shape[1] if with_query else ctx.n_keys
        slope, shift = d_log, d_log
        if ctx.tangents:
            slope = d_others + d_total
            own_slope = d_total * (1 + own_tangent**2)
            s_own = s.gather(1, own_n[:, None])[:, 0]
            shift = d_log + slope * moment + own_slope * s_own
        grad = s.new_empty(len(s), width)
        for rows in _row_blocks(len(s), width, s.device):
            x, own, g = s[rows, :width], own_n[rows, None], grad[rows]
            if ctx.tangents:
                torch.tan(x, out=g).square_().add_(1).mul_(slope[rows, None])
                g.scatter_(1, own, own_slope[rows, None])
                g.sub_(shift[rows, None]).mul_(x)
            else:
                torch.mul(x, -shift[rows, None], out=g)
            g.scatter_add_(1, own, d_log[rows, None])
        d_query = grad @ keys if with_query else None
        d_keys = grad[:, : ctx.n_keys].T @ query_nE if with_keys else None
        return d_query, d_keys, None, None, None, None
