"""Batches read ahead by threads, in the order of steps.

Threads are enough: nearly all of the work is done inside numpy, which lets other threads run. What
a step reads is a function of (seed, step) alone, so neither the number of threads nor the step at
which a run was resumed changes a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from okrcell.corpus.shards import CellMatrix
from okrcell.errors import InternalError
from okrcell.train.augment import augmented
from okrcell.train.batch import Batch, CellInput, DenseCells, PackedCells
from okrcell.train.config import TrainConfig
from okrcell.train.data import Pairs
from okrcell.train.distributed import SINGLE, World
from okrcell.train.sampler import Sampler
from okrcell.train.tokens import concatenate, tokenise
from okrcell.train.variable import dense, with_variable

__all__ = ["Loader", "epoch_key", "mask_ratio", "read"]

_Ints = npt.NDArray[np.int64]
_TOKENS, _RATIO = 1, 2
_AHEAD = 2


class Loader:
    """Yield ``(step, Batch)`` for the steps ``start`` to ``stop`` - 1, counted over all epochs.

    Threads (``config.workers``; 0 reads in line) hold up to two batches each in store. Their errors
    are raised where the batch would have been yielded. Leaving the loop early ends them.

    Parameters
    ----------
    pairs
        Training pairs. The preset ``mlp`` chooses its variable genes here, if they are not chosen.
    sampler
        Made for ``len(pairs)``.
    world
        This process reads its share of each batch.
    """

    def __init__(
        self,
        pairs: Pairs,
        config: TrainConfig,
        sampler: Sampler,
        world: World = SINGLE,
        *,
        start: int,
        stop: int,
    ) -> None:
        self.pairs = (
            with_variable(pairs, config.hvgs, markers=config.marker_genes)
            if config.preset == "mlp"
            else pairs
        )
        self.config, self.sampler, self.world = config, sampler, world
        self.start, self.stop = start, stop
        self._pin = torch.cuda.is_available() and config.device != "cpu"

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Generator[tuple[int, Batch]]:
        steps = range(self.start, self.stop)
        if not self.config.workers:
            yield from ((step, self.batch(step)) for step in steps)
            return
        waiting: deque[tuple[int, Future[Batch]]] = deque()
        pool = ThreadPoolExecutor(self.config.workers, thread_name_prefix="okrcell-loader")
        try:
            for step in steps:
                waiting.append((step, pool.submit(self.batch, step)))
                if len(waiting) >= _AHEAD * self.config.workers:
                    yield _oldest(waiting)
            while waiting:
                yield _oldest(waiting)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """Read one step's share of this process."""
        epoch, at = divmod(step, self.sampler.steps_per_epoch)
        index = self.sampler.rows(epoch, at, self.world.rank, self.world.size)
        key = epoch_key(self.config.seed, epoch)
        cells = read(self.pairs, index, self.config, key, mask_ratio(self.config, step))
        if self._pin:
            cells = _pinned(cells)
        return Batch(cells, index, self.pairs.text[index])


def _oldest(waiting: deque[tuple[int, Future[Batch]]]) -> tuple[int, Batch]:
    step, future = waiting.popleft()
    return step, future.result()


def read(
    pairs: Pairs, index: _Ints, config: TrainConfig, key: int | None = None, ratio: float = 0.0
) -> CellInput:
    """Read some pairs' cells, in the order of ``index``.

    Parameters
    ----------
    index
        int64 [n].
    key
        What chooses, hides and thins genes, see :func:`epoch_key`; None (inference) leaves the cells
        as they are.
    ratio
        Share of genes to hide.

    Raises
    ------
    InternalError
        The preset is ``mlp`` and nobody has chosen the variable genes.
    """
    dataset = pairs.dataset[index]
    numbers = np.unique(dataset)
    members = [np.flatnonzero(dataset == number) for number in numbers]
    found = [
        (pairs.matrices[number], pairs.row[index[at]])
        for number, at in zip(numbers, members, strict=True)
    ]
    if key is not None:
        found = [
            augmented(cells, rows, index[at], key, config)
            for (cells, rows), at in zip(found, members, strict=True)
        ]
    if config.preset == "mlp":
        return _read_dense(pairs, found, numbers, members, config)
    parts = [
        tokenise(
            cells,
            rows,
            pairs.columns[number],
            n_bins=config.n_bins,
            max_genes=config.max_genes,
            key=key,
            ids=index[at],
            mask_ratio=ratio,
        )
        for (cells, rows), number, at in zip(found, numbers, members, strict=True)
    ]
    joined = concatenate(parts)
    return joined if len(parts) < 2 else _reordered(joined, np.argsort(np.concatenate(members)))


def _read_dense(
    pairs: Pairs,
    found: list[tuple[CellMatrix, _Ints]],
    numbers: _Ints,
    members: list[_Ints],
    config: TrainConfig,
) -> DenseCells:
    if pairs.variable is None:
        raise InternalError(
            "preset 'mlp'",
            found="pairs without variable genes",
            expected="pairs from with_variable, or loaded like such pairs",
            fix="Call okrcell.train.variable.with_variable on the training pairs first.",
        )
    n_cells = sum(map(len, members))
    values = np.zeros((n_cells, len(pairs.variable)), dtype=np.float32)
    for (cells, rows), number, at in zip(found, numbers, members, strict=True):
        values[at] = dense(
            cells, rows, pairs.columns[number], pairs.variable, missing=config.missing_value
        )
    return DenseCells(torch.from_numpy(values))


def epoch_key(seed: int, epoch: int) -> int:
    """Return what the random choices of an epoch's tokens depend on; the same for all processes."""
    return _drawn(seed, _TOKENS, epoch)


def mask_ratio(config: TrainConfig, step: int) -> float:
    """Return the share of genes to hide at a step: one of ``mask_ratios``, with equal chances."""
    ratios = config.mask_ratios
    return ratios[_drawn(config.seed, _RATIO, step) % len(ratios)]


def _drawn(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def _reordered(cells: PackedCells, order: _Ints) -> PackedCells:
    """Return the cells in another order: int64 [B], the place of each one now."""
    known, n_known = _moved(cells.known_counts.numpy(), order)
    hidden, n_hidden = _moved(cells.hidden_counts.numpy(), order)
    return PackedCells(
        _taken(cells.known_genes, known),
        _taken(cells.known_bins, known),
        torch.from_numpy(n_known),
        _taken(cells.hidden_genes, hidden),
        _taken(cells.hidden_bins, hidden),
        torch.from_numpy(n_hidden),
    )


def _moved(counts: _Ints, order: _Ints) -> tuple[_Ints, _Ints]:
    """Return the place now of each token of the new order, and the new counts."""
    begins = (np.cumsum(counts) - counts)[order]
    moved = counts[order]
    at = np.repeat(begins - (np.cumsum(moved) - moved), moved)
    at += np.arange(len(at))
    return at, moved


def _taken(tokens: torch.Tensor, at: _Ints) -> torch.Tensor:
    return torch.from_numpy(tokens.numpy().take(at))


def _pinned(cells: CellInput) -> CellInput:
    """Return the cells in page-locked memory, which a device reads without waiting."""
    if isinstance(cells, DenseCells):
        return DenseCells(cells.values.pin_memory())
    return PackedCells(*(field.pin_memory() for field in cells))
