"""Which test cells are looked at by metrics that cost the square of their number.

The choice hangs on the identity of a cell alone, never on its place in a file: the same cells in
another order give the same sample.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData

__all__ = ["neighbour_sample", "shares"]


def neighbour_sample(data: EvalData, config: EvaluateConfig) -> NDArray[np.intp]:
    """Return rows of ``data.integrated``, at most ``config.max_cells``, sorted by cell id.

    With more cells than that: a sample in which every pair of cell type and batch has its
    share (largest remainder), and at least one cell where there is room for it. Within a pair the
    cells come in the order of a hash of seed and cell id.
    """
    order = np.argsort(data.cell_uids[data.integrated], kind="stable")
    whole: NDArray[np.intp] = data.integrated[order]
    if len(whole) <= config.max_cells:
        return whole
    pairs = np.stack([data.labels[whole], data.batches[whole]])
    strata, member, counts = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
    wanted = shares(counts, config.max_cells)
    keys = np.asarray([_key(config.seed, str(uid)) for uid in data.cell_uids[whole]])
    kept = []
    for stratum in range(strata.shape[1]):
        rows = np.flatnonzero(member.ravel() == stratum)
        kept.append(rows[np.argsort(keys[rows], kind="stable")[: wanted[stratum]]])
    sample: NDArray[np.intp] = whole[np.sort(np.concatenate(kept))]
    return sample


def shares(counts: NDArray[np.intp], total: int) -> NDArray[np.intp]:
    """Divide ``total`` seats among groups of ``counts`` cells, int [groups]: largest remainder.

    No group gets more seats than it has cells; each gets one if there are seats enough. With fewer
    seats than groups, the largest groups get one. Ties go to the group that comes first.
    """
    total = min(total, int(counts.sum()))
    quota = counts * (total / counts.sum())
    if total < len(counts):
        order = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")
        return (order < total).astype(np.intp)
    seats: NDArray[np.intp] = np.maximum(np.floor(quota), 1).astype(np.intp)
    while seats.sum() < total:
        room = np.where(seats < counts, quota - seats, -np.inf)
        seats[room.argmax()] += 1
    while seats.sum() > total:  # the seats that small groups got beyond their share
        spare = np.where(seats > 1, seats - quota, -np.inf)
        seats[spare.argmax()] -= 1
    return seats


def _key(seed: int, uid: str) -> str:
    return hashlib.blake2b(f"{seed}:{uid}".encode(), digest_size=8).hexdigest()
