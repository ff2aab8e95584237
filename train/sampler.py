"""Which pairs are read at a step: a pure function of (seed, epoch, step), cut into equal shares."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from okrcell.errors import ConfigError, TrainingError

__all__ = ["WINDOW_BLOCKS", "Sampler", "shuffle_quality"]

_Ints = npt.NDArray[np.int64]
_Order = npt.NDArray[Any]

WINDOW_BLOCKS = 1024
"""Blocks that are pooled and shuffled together where ``block`` is above 1."""

_MOST_BATCHES = 200


class Sampler:
    """Order of an epoch.

    With ``block`` 1 it is a permutation of all pairs. Above 1, blocks of so many neighbouring pairs
    are permuted, pooled in windows of up to 1,024 blocks, and the pairs of a window are shuffled: at
    any time only a window's share of the files is read, in runs of ``block`` cells. How close this
    comes to a full permutation depends on how the cells lie in the files: see
    :func:`shuffle_quality`.

    Parameters
    ----------
    n_pairs
        At least 1.
    batch_size
        Pairs of a step, all processes together; fewer pairs make one batch of all.
    block
        At least 1.

    Attributes
    ----------
    size
        Pairs of a step.
    steps_per_epoch
        The remainder of an epoch is left out; the next epoch shuffles anew.

    Raises
    ------
    TrainingError
        There is no pair.
    """

    def __init__(self, n_pairs: int, batch_size: int, seed: int, block: int = 1) -> None:
        if n_pairs < 1:
            raise TrainingError(
                "training pairs",
                found="none",
                expected="at least one pair of cell and text",
                fix="Check the splits of the store and the accepted descriptions.",
            )
        self.n_pairs, self.batch_size, self.seed, self.block = n_pairs, batch_size, seed, block
        self.size = min(batch_size, n_pairs)
        self.steps_per_epoch = n_pairs // self.size
        # Two epochs, since those who read ahead are in the next one already.
        self._orders: dict[int, _Order] = {}
        self._lock = threading.Lock()

    def rows(self, epoch: int, step: int, rank: int = 0, world: int = 1) -> _Ints:
        """Return int64 [n]: the pairs of one process at a step of an epoch.

        The shares of all processes in rank order are the rows of one process alone.

        Parameters
        ----------
        epoch
            0 for the first.
        step
            0 to ``steps_per_epoch`` - 1, within the epoch.

        Raises
        ------
        ConfigError
            The batch does not divide by the number of processes.
        """
        share = self.share(world)
        begin = step * self.size + rank * share
        return self._order(epoch)[begin : begin + share].astype(np.int64)

    def share(self, world: int) -> int:
        """Return the pairs of a step that each of ``world`` processes reads.

        Raises
        ------
        ConfigError
            The batch does not divide by the number of processes.
        """
        if self.size % world:
            below, above = self.size // world * world, (self.size // world + 1) * world
            fits = [size for size in (below, above) if 0 < size <= self.n_pairs]
            raise ConfigError(
                "batch_size",
                found=f"{self.size} pairs per step for {world} processes",
                expected=f"a multiple of {world}",
                fix=f"Set it to {' or '.join(map(str, fits))}."
                if fits
                else f"Use at most {self.n_pairs} processes: there are no more pairs.",
            )
        return self.size // world

    def _order(self, epoch: int) -> _Order:
        with self._lock:
            if epoch not in self._orders:
                while len(self._orders) > 1:
                    del self._orders[max(self._orders, key=lambda known: abs(known - epoch))]
                self._orders[epoch] = self._shuffled(epoch)
            return self._orders[epoch]

    def _shuffled(self, epoch: int) -> _Order:
        rng = np.random.default_rng([self.seed, epoch])
        kind: Any = np.int32 if self.n_pairs + self.block < 2**31 else np.int64
        order: _Order = np.arange(0, self.n_pairs, self.block, dtype=kind)
        rng.shuffle(order)
        if self.block == 1:
            return order
        n_windows = -(-len(order) // WINDOW_BLOCKS)
        order = (order[:, None] + np.arange(self.block, dtype=kind)).ravel()
        order = order[order < self.n_pairs]  # the last block may be short
        for window in np.array_split(order, n_windows):  # views, of equal size
            rng.shuffle(window)
        return order


def shuffle_quality(sampler: Sampler, labels: _Ints, epoch: int = 0) -> float:
    """Return how mixed batches are: 1 as by a full permutation, 0 if each holds one label only.

    It is the mean entropy of the labels within a batch, divided by that of batches of the same size
    from a full permutation. Up to 200 batches, evenly spaced, are looked at.

    Parameters
    ----------
    labels
        int64 [n_pairs], for instance the dataset, donor or cell type of each pair; -1 is a label
        like any other.
    """
    full = Sampler(sampler.n_pairs, sampler.size, sampler.seed)
    steps = np.unique(
        np.linspace(0, sampler.steps_per_epoch - 1, _MOST_BATCHES).round().astype(np.int64)
    ).tolist()
    mixed, best = (
        float(np.mean([_entropy(labels[one.rows(epoch, step)]) for step in steps]))
        for one in (sampler, full)
    )
    return mixed / best if best else 1.0


def _entropy(labels: _Ints) -> float:
    """Return the entropy of the labels' frequencies, in nats."""
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(share * np.log(share)).sum())
