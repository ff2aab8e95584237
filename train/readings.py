"""What a linear reading of expression says of each cell type, with the cell's own pair left out.

Every type is a Gaussian in principal components of expression, with a mean of its own and one common
covariance: Fisher's linear discriminant. A cell is read by means that it took no part in, so that a
wrong pair cannot vouch for itself; thousands of cells share a mean, so that the mismatches among them
average out. No trained model is involved.

Shape suffixes: N pairs, P components, K kinds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["Readings", "fit_readings", "log_likelihoods"]

_SHRINKAGE = 0.1
"""Share of the covariance that is a multiple of the identity: few cells tell many components badly."""

_NEVER = -1e4
"""Log likelihood of a kind that no other pair has."""


class Readings(NamedTuple):
    """The points, turned and scaled so that the covariance within kinds is the identity, and the means.

    Attributes
    ----------
    points_NP
        float32.
    means_KP
        float32.
    counts_K
        float32: pairs of each kind.
    """

    points_NP: torch.Tensor
    means_KP: torch.Tensor
    counts_K: torch.Tensor


def fit_readings(scores_NP: torch.Tensor, kinds_N: torch.Tensor, n_kinds: int) -> Readings:
    """Fit means and the common covariance.

    Parameters
    ----------
    scores_NP
        float32, principal components.
    kinds_N
        int64, kind of each pair's text.
    """
    x, n = scores_NP.double(), len(scores_NP)
    counts = torch.bincount(kinds_N, minlength=n_kinds).double()
    sums = torch.zeros(n_kinds, x.shape[1], dtype=torch.float64).index_add_(0, kinds_N, x)
    means = sums / counts.clamp_min(1)[:, None]
    within = (x.T @ x - (means.T * counts) @ means) / max(n, 1)
    size = float(within.diagonal().mean())
    floor = _SHRINKAGE * max(size, 1e-12) * torch.eye(len(within), dtype=torch.float64)
    whiten = torch.linalg.cholesky(torch.linalg.inv((1 - _SHRINKAGE) * within + floor))
    return Readings((x @ whiten).float(), (means @ whiten).float(), counts.float())


def log_likelihoods(found: Readings, rows: slice, kinds_n: torch.Tensor) -> torch.Tensor:
    """Return float32 [n, K] of some pairs, up to a constant per pair.

    The likelihood is predictive: a mean of c pairs is known to 1 / c of the covariance. The pair's own
    kind is judged without it; where it has no other pair, nothing speaks against it: it gets the
    pair's best value. Kinds without a pair get -10,000.
    """
    x = found.points_NP[rows]
    counts, p = found.counts_K, x.shape[1]
    squares = (x * x).sum(1)[:, None] - 2 * x @ found.means_KP.T
    squares += (found.means_KP * found.means_KP).sum(1)
    result = _predictive(squares, counts, p)
    result[:, counts == 0] = _NEVER
    own = counts[kinds_n]
    # Without the pair, the mean moves away from it by the factor c / (c - 1).
    factor = own / (own - 1).clamp_min(1)
    at = squares.gather(1, kinds_n[:, None]).squeeze(1) * factor * factor
    without = _predictive(at, own - 1, p)
    others = result.scatter(1, kinds_n[:, None], -torch.inf).amax(1).clamp_min(_NEVER)
    without = torch.where(own > 1, without, others)
    return result.scatter_(1, kinds_n[:, None], without[:, None])


def _predictive(squares: torch.Tensor, counts: torch.Tensor, p: int) -> torch.Tensor:
    wider = 1 + 1 / counts.clamp_min(1)
    return -0.5 * (squares / wider + p * wider.log())
