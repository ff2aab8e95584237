"""What the neighbours of a pair say about its text: the consensus, and the pair's reliability.

Cells that express alike should carry like texts. A pair whose text is rare among the texts of its
neighbours is doubtful, and the neighbours name better candidates. The neighbours come from expression
alone, never from the trained model, so that a model cannot confirm what it has learnt by heart.

Shape suffixes: N pairs, k neighbours, S texts of a pair's support, T distinct texts.
"""

from __future__ import annotations

import torch

__all__ = ["consensus", "text_support", "updated_prediction"]

_CHUNK = 1 << 16
_FLOOR = 1e-6  # a half precision number holds it; 0 says that a pair has not been predicted yet


@torch.no_grad()
def text_support(
    neighbours: torch.Tensor,
    groups: torch.Tensor,
    rows: torch.Tensor,
    n_texts: int,
    *,
    keep: int,
    debias: bool,
    smoothing: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the texts that a pair's neighbours carry, with their weights; its own text first.

    The weight of a text g is the number of neighbours that carry it, divided, where ``debias``, by
    the number expected of k cells drawn at random plus ``smoothing``::

        w(g) = count(g) / (k f(g) + smoothing)            f(g): share of all pairs with text g

    Frequent texts stand in every neighbourhood, by mismatch alone; the division takes that out. The
    smoothing keeps a text of a handful of pairs from outweighing all others by a single neighbour.

    Parameters
    ----------
    neighbours
        int32 [n_pairs, k]: pairs of similar expression; -1 where a cell has fewer.
    groups
        int64 [n_pairs]: text of each pair.
    rows
        int64 [N]: the pairs asked for.
    keep
        Number of other texts that are kept per pair, those of the highest weight.

    Returns
    -------
    tuple
        int32 [N, S]: S = 1 + min(keep, k) texts; the pair's own, then the others by falling weight,
        filled up with the own. float16 [N, S]: weights, the largest 1 (all 0 without a neighbour);
        0 where filled up.
    """
    k = neighbours.shape[1]
    share = torch.bincount(groups, minlength=n_texts).float() / max(len(groups), 1)
    divisor = k * share + smoothing if debias else torch.ones_like(share)
    size = 1 + min(keep, k)
    texts = torch.empty((len(rows), size), dtype=torch.int32, device=groups.device)
    weights = torch.zeros((len(rows), size), dtype=torch.float16, device=groups.device)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        here = slice(start, start + len(part))
        own = groups[part]
        found = neighbours[part].long()
        around = torch.where(found >= 0, groups[found.clamp_min(0)], n_texts).sort(dim=1).values
        count, is_first = _runs(around)
        known = around < n_texts
        weight = torch.where(is_first & known, count, 0.0)
        weight = weight / divisor[around.clamp_max(n_texts - 1)]
        is_own = around == own[:, None]
        own_weight = torch.where(is_own, weight, 0.0).sum(dim=1)
        weight = torch.where(is_own, 0.0, weight)
        # Equal weights are ordered by text, so that the choice depends on nothing else.
        order = weight.sort(dim=1, descending=True, stable=True).indices[:, : size - 1]
        other = weight.gather(1, order)
        joint = torch.cat([own_weight[:, None], other], dim=1)
        top = joint.amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        weights[here] = (joint / top).half()
        texts[here, 0] = own.int()
        texts[here, 1:] = torch.where(other > 0, around.gather(1, order), own[:, None]).int()
    return texts, weights


def _runs(ordered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return per entry of sorted rows [N, k] the length of its run, right at the run's first entry."""
    n, k = ordered.shape
    place = torch.arange(k, device=ordered.device).expand(n, k)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = torch.where(is_first, place, k)
    after = torch.full_like(starts, k)  # where the next run begins
    after[:, :-1] = starts[:, 1:].flip(1).cummin(dim=1).values.flip(1)
    return (after - place).float(), is_first


def consensus(
    weights_NS: torch.Tensor, running_NS: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the consensus over each pair's support and the reliability of its own text.

    ::

        c(g) = w(g) P(g) / sum of the same over the support       P: running prediction, or 1
        r    = c(own) / max c

    Parameters
    ----------
    weights_NS
        Weights of ``text_support``.
    running_NS
        The model's running prediction at the support; rows of zeros where it made none yet.

    Returns
    -------
    tuple
        float32 [N, S], rows of sum 1, and float32 [N] in [0, 1]. A pair without neighbours keeps its
        own text: r = 1.
    """
    weights = weights_NS.float()
    if running_NS is not None:
        running = running_NS.float()
        seen = (running > 0).any(dim=1, keepdim=True)
        weights = torch.where(seen, weights * running, weights)
    own = torch.zeros_like(weights)
    own[:, 0] = 1.0
    weights = torch.where((weights > 0).any(dim=1, keepdim=True), weights, own)
    reliability = weights[:, 0] / weights.amax(dim=1)
    return weights / weights.sum(dim=1, keepdim=True), reliability


def updated_prediction(
    running_NS: torch.Tensor, predicted_NS: torch.Tensor, momentum: float
) -> torch.Tensor:
    """Return the running mean of predictions after one more; the first one is taken as it is.

    Values below 1e-6 are raised to it, since 0 stands for no prediction.
    """
    running, predicted = running_NS.float(), predicted_NS.float()
    seen = (running > 0).any(dim=1, keepdim=True)
    mean = torch.where(seen, momentum * running + (1 - momentum) * predicted, predicted)
    return mean.clamp_min(_FLOOR).to(running_NS.dtype)
