"""How likely a label is wrong, judged by cells of like expression: for lists that curators read.

Only expression and the labels of other cells are read here; no trained model is. A pair never votes on
itself.

Shape suffixes: N pairs, P components, T labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from okrcell.train.graph import nearest

__all__ = [
    "Doubts",
    "detection",
    "doubted_groups",
    "doubts",
    "is_exchange",
    "label_counts",
    "unit_shares",
]

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]

_SMOOTHING = 0.1  # neighbours that every label is given beforehand
_FLOOR = 0.003  # chance that a label never has less of
_TRUST = 0.25  # exponent of what the objective thinks of a pair
_ROUNDS = 100
_BLOCK = 4096

_UNITS, _CELLS = 16, 2000  # units that are asked, and cells of each
_NEAR = 10
_LEAST_CELLS, _LEAST_SHARE, _MARGIN = 10, 0.5, 0.2


def label_counts(
    points: npt.NDArray[np.float32], labels: _Ints, n_labels: int, k: int, *, seed: int
) -> npt.NDArray[np.int32]:
    """Return int32 [N, T]: how many of a pair's k nearest others carry each label.

    Parameters
    ----------
    points
        float32 [N, P], rows of length 1: what likeness is measured in, by cosine.
    """
    found, _ = nearest(points, k, seed=seed)
    counts = np.zeros((len(labels), n_labels), dtype=np.int32)
    rows = np.arange(len(labels))
    for column in found.T:
        there = column >= 0
        np.add.at(counts, (rows[there], labels[column[there]]), 1)
    return counts


@dataclass(frozen=True)
class Doubts:
    """What is thought of every pair.

    Attributes
    ----------
    chance
        float64 [N]: chance that the pair's label is wrong.
    other
        int64 [N]: the label that fits best among all others.
    share
        Estimated share of wrong labels among all pairs.
    """

    chance: _Floats
    other: _Ints
    share: float


def doubts(
    counts: npt.NDArray[np.int32], labels: _Ints, reliability: _Floats | None = None
) -> Doubts:
    """Return the chance that each label is wrong, by Bayes' rule.

    Let q(g) be the chance that a cell is of label g by its neighbours, and e the share of labels that
    are wrong, each other label being as likely. Neighbours have wrong labels too, so that of k of them
    ``k ((1 - e) q(g) + e (1 - q(g)) / (T - 1))`` carry g, which is solved for q. Then::

        chance = e u / (e u + (1 - e) v)        v = q(own),  u = (1 - v) / (T - 1)

    e is what makes it the mean of all chances, found by iteration. Where the objective rates pairs,
    the odds of the own label are first multiplied by the fourth root of its reliability: the two see
    the same cell and are no independent witnesses.

    The model of uniform mistakes is the weak point: where a label is mistaken for one sibling alone,
    chances are too low, though their order holds.

    Parameters
    ----------
    counts
        int32 [N, T] of :func:`label_counts`.
    reliability
        float64 [N] in [0, 1].
    """
    n, n_labels = counts.shape
    rows = np.arange(n)
    seen = counts.sum(axis=1, keepdims=True)
    observed = (counts + _SMOOTHING) / (seen + _SMOOTHING * n_labels)
    trust = np.ones(n) if reliability is None else np.clip(reliability, 1e-4, 1.0) ** _TRUST
    spread = max(n_labels - 1, 1)
    share, chance = 0.2, np.zeros(n)
    likely = observed
    for _ in range(_ROUNDS):
        by_chance = share / spread
        likely = np.maximum((observed - by_chance) / (1 - share - by_chance), _FLOOR)
        likely = likely / likely.sum(axis=1, keepdims=True)
        own = likely[rows, labels]
        own = own * trust / (1 - own + own * trust)
        wrong = share * (1 - own) / spread
        chance = wrong / (wrong + (1 - share) * own)
        # Beyond (T - 1) / T the wrong label would be the likelier one, and nothing could be solved.
        found = float(np.clip(chance.mean(), 1e-4, 0.9 * spread / (spread + 1)))
        if abs(found - share) < 1e-6:
            break
        share = found
    others = likely.copy()
    others[rows, labels] = -1.0
    return Doubts(chance, others.argmax(axis=1), share)


# --- groups ------------------------------------------------------------------------------------


def unit_shares(
    points: npt.NDArray[np.float32], labels: _Ints, units: _Ints, n_labels: int, *, seed: int
) -> _Floats:
    """Return float64 [N, T]: how the other units (donors or batches) would label each cell.

    Every other unit that has the pair's own label has one vote, split as the labels of the 10 cells
    of it that are nearest: a large unit that is wrong as a whole must not outvote the others. At
    most 16 units are asked, the largest, and 2,000 cells of each.

    Returns
    -------
    ndarray
        Rows sum to 1; rows of 0 where no other unit has the own label, or the unit is unknown.
    """
    rng = np.random.default_rng([seed, 3])
    sizes = np.bincount(units[units >= 0], minlength=1)
    total = np.zeros((len(labels), n_labels))
    voters = np.zeros(len(labels))
    for unit in np.argsort(-sizes, kind="stable")[:_UNITS]:
        cells = np.flatnonzero(units == unit)
        if not len(cells):
            continue
        cells = np.sort(rng.permutation(cells)[:_CELLS])
        keys = torch.from_numpy(points[cells]).T
        knows = np.bincount(labels[cells], minlength=n_labels) >= min(3, len(cells))
        asked = np.flatnonzero((units >= 0) & (units != unit) & knows[labels])
        for begin in range(0, len(asked), _BLOCK):
            rows = asked[begin : begin + _BLOCK]
            near = (torch.from_numpy(points[rows]) @ keys).topk(min(_NEAR, len(cells)), dim=1)
            votes = labels[cells[near.indices.numpy()]]
            place = np.repeat(rows, votes.shape[1])
            np.add.at(total, (place, votes.ravel()), 1 / votes.shape[1])
            voters[rows] += 1
    shares: _Floats = total / np.maximum(voters, 1)[:, None]
    return shares


def doubted_groups(
    shares: _Floats, labels: _Ints, units: _Ints
) -> list[tuple[int, int, int, int, float]]:
    """Return the groups, all cells of one label in one unit, whose label the other units dispute.

    A cell is disputed where another label has at least .2 more of the votes than its own. A group of
    ten cells or more is listed if half of them are disputed in favour of one and the same label:
    this is what exchanged donors, or an exchanged pair of labels, look like.

    Parameters
    ----------
    shares
        float64 [N, T] of :func:`unit_shares`.

    Returns
    -------
    list
        Unit, label, other label, number of cells, share of them that is disputed in its favour; the
        highest share first, of equal ones the larger group.
    """
    rows = np.arange(len(labels))
    judged = (units >= 0) & (shares.sum(axis=1) > 0)
    best = shares.argmax(axis=1)
    disputed = judged & (shares[rows, best] >= shares[rows, labels] + _MARGIN)
    found = []
    n_labels = shares.shape[1]
    key = np.where(judged, units * n_labels + labels, -1)
    for group in np.unique(key[key >= 0]).tolist():
        cells = np.flatnonzero(key == group)
        if len(cells) < _LEAST_CELLS:
            continue
        towards = np.bincount(best[cells[disputed[cells]]], minlength=n_labels)
        share = towards.max() / len(cells)
        if share >= _LEAST_SHARE:
            unit, label = divmod(group, n_labels)
            found.append((unit, label, int(towards.argmax()), len(cells), float(share)))
    return sorted(found, key=lambda g: (-g[4], -g[3], g[0], g[1]))


def is_exchange(groups: Sequence[tuple[int, int, int, int, float]]) -> list[bool]:
    """Return for each group whether the same unit has the counterpart: the two labels exchanged."""
    moves = {(unit, label, other) for unit, label, other, _, _ in groups}
    return [(unit, other, label) in moves for unit, label, other, _, _ in groups]


def detection(chance: npt.NDArray[np.float64], planted: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return how well planted noise is found: for measurements, never for scores.

    ``precision_at_planted`` is the share of planted ones among as many of the highest chances,
    ``calibration_error`` the mean gap of chance and truth over ten bins (ECE).
    """
    from scipy.stats import rankdata

    n, rest = int(planted.sum()), int((~planted).sum())
    top = np.argsort(-chance, kind="stable")[:n]
    above = rankdata(chance)[planted].sum() - n * (n + 1) / 2
    gap, bins = 0.0, np.minimum((chance * 10).astype(int), 9)
    for number in range(10):
        here = bins == number
        if here.any():
            gap += here.mean() * abs(chance[here].mean() - planted[here].mean())
    return {
        "pairs": n,
        "precision_at_planted": round(float(planted[top].mean()), 4),
        "auroc": round(float(above / (n * rest)), 4) if rest else float("nan"),
        "calibration_error": round(float(gap), 4),
    }
