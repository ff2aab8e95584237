"""Processes as threads, for tests of what several processes compute together.

Loaded by path: the folder of tests is no package.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from okrcell.train import distributed
from okrcell.train.distributed import World


def in_threads(size: int, work: Callable[[int], Any], barrier: threading.Barrier) -> list[Any]:
    """Run `work(rank)` in a thread per rank; return the results in order, raise the first error."""
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def one(rank: int) -> None:
        try:
            results[rank] = work(rank)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


@contextmanager
def simulated(size: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Give `run(work)`, which calls work(world) once per rank and returns the results in order."""
    barrier, slots = threading.Barrier(size), [torch.empty(0)] * size
    rank_of = threading.local()

    def shared(values: torch.Tensor) -> list[torch.Tensor]:
        slots[rank_of.rank] = values.detach().clone()
        barrier.wait()
        found = list(slots)
        barrier.wait()
        return found

    def all_reduce(total: torch.Tensor) -> None:
        with torch.no_grad():
            total.copy_(torch.stack(shared(total)).sum(0))

    def all_gather(parts: list[torch.Tensor], values: torch.Tensor) -> None:
        for part, found in zip(parts, shared(values), strict=True):
            part.copy_(found)

    def run(work: Callable[[World], Any]) -> list[Any]:
        def one(rank: int) -> Any:
            rank_of.rank = rank
            return work(World(rank, size))

        return in_threads(size, one, barrier)

    with monkeypatch.context() as patch:
        patch.setattr(distributed.dist, "all_reduce", all_reduce)
        patch.setattr(distributed.dist, "all_gather", all_gather)
        yield run
