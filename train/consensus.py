r"""How likely it is that a pair's text is right: the evidence, weighed by what the pairs agree on.

For every pair some kinds of text are in question, its own first. Each source of evidence f says something
of each of them; none has read the pair's own text. They are pooled, and the text that the pair carries
is a noisy witness beside them::

    P_i(k) = softmax_k sum_f b_f f_i(k)                     evidence alone
    Q_i(k) ~ P_i(k) A[k, own_i]^w                           with the pair's own text, Q of sum 1

A[k, o] is the chance that a cell of kind k carries a text of kind o. The weights b and the table A are
what makes the texts that all pairs carry most likely (expectation-maximisation; Dawid and Skene 1979
without repeated witnesses, b by Newton's steps): so a source is worth what it has shown to be worth on
these data, and kinds that are often taken for each other are told from kinds that are never. Nothing is
learnt from clean labels; there are none. In that fit w = 1; what is returned counts the witness by its
``witness``: the evidence was learnt from these texts, so that at 1 what they say is counted twice.

Shape suffixes: N pairs, S kinds in question, F sources, K kinds.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["weigh"]

_ROUNDS = 15
_FIRST_WEIGHT = 0.5
_FIRST_KEPT = 0.8
_PSEUDO = 2.0
"""Pairs of every kind that are taken to carry texts at random, so that no chance is 0."""
_RIDGE = 1e-3
_CHUNK = 1 << 18


@torch.no_grad()
def weigh(
    evidence_NSF: torch.Tensor,
    kinds_NS: torch.Tensor,
    valid_NS: torch.Tensor,
    n_kinds: int,
    *,
    witness: float,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return float32 [N, S], Q of the kinds in question, and the facts of the fit.

    Parameters
    ----------
    evidence_NSF
        float32, log likelihoods up to a constant per pair and source.
    kinds_NS
        int64; the own kind stands first.
    valid_NS
        bool: false where there is no further kind; the first is always valid.
    witness
        w in [0, 1]; at 0 the pair's own text is not asked.

    Returns
    -------
    tuple
        Rows of sum 1, 0 where not valid; ``weights``, b per source, and ``kept``, the mean of A[k, k]
        over pairs.
    """
    n, _, n_sources = evidence_NSF.shape
    own_N = kinds_NS[:, 0]
    share_K = torch.bincount(own_N, minlength=n_kinds).double() / max(n, 1)
    table = torch.eye(n_kinds, dtype=torch.float64) * _FIRST_KEPT + (1 - _FIRST_KEPT) * share_K
    b = torch.full((n_sources,), _FIRST_WEIGHT, dtype=torch.float64)
    cells = (kinds_NS * n_kinds + own_N[:, None]).reshape(-1)
    posterior = torch.zeros(kinds_NS.shape)
    for round_ in range(_ROUNDS + 1):
        is_last = round_ == _ROUNDS
        slope = torch.zeros_like(b)
        curve = torch.zeros(n_sources, n_sources, dtype=torch.float64)
        seen = torch.zeros(n_kinds * n_kinds, dtype=torch.float64)
        for begin in range(0, n, _CHUNK):
            part = slice(begin, begin + _CHUNK)
            f, valid = evidence_NSF[part], valid_NS[part]
            p = (f @ b.float()).masked_fill(~valid, -torch.inf).softmax(1)
            said = table[kinds_NS[part], own_N[part, None]].float()
            q = torch.where(valid, p * (said**witness if is_last else said), 0.0)
            q /= q.sum(1, keepdim=True)
            if is_last:
                posterior[part] = q
                continue
            at = cells[begin * kinds_NS.shape[1] :][: q.numel()]
            seen += torch.bincount(at, q.reshape(-1).double(), minlength=len(seen))
            # What the sources say on average under Q and under P; and how it varies under P.
            mean = torch.einsum("ns,nsf->nf", p, f)
            slope += (torch.einsum("ns,nsf->nf", q, f) - mean).double().sum(0)
            curve += (torch.einsum("ns,nsf,nsg->fg", p, f, f) - mean.T @ mean).double()
        if is_last:
            break
        counted = seen.view(n_kinds, n_kinds) + _PSEUDO * share_K
        table = counted / counted.sum(1, keepdim=True)
        b = _stepped(b, slope / n, curve / n)
    kept = float((table.diagonal() * share_K).sum())
    return posterior, {"weights": [round(float(w), 4) for w in b], "kept": round(kept, 4)}


def _stepped(b: torch.Tensor, slope: torch.Tensor, curve: torch.Tensor) -> torch.Tensor:
    """Return the weights after a step of Newton's, held to 0.25 each and never negative."""
    ridge = 2 * _RIDGE * torch.eye(len(b), dtype=b.dtype)
    step = torch.linalg.solve(curve + ridge, slope - 2 * _RIDGE * b)
    stepped: torch.Tensor = (b + step.clamp(-0.25, 0.25)).clamp_min(0.0)
    return stepped
