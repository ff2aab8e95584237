"""The processes of a run: one, or as many as torchrun started, with a gather that carries gradients."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

__all__ = ["SINGLE", "World", "world_of"]


class _GatherRows(torch.autograd.Function):
    """Concatenate equal numbers of rows of all processes.

    The backward pass sums over processes what each one's loss asks of these rows. Together with the
    mean that data-parallel training takes over processes this is the gradient of the mean loss.
    """

    @staticmethod
    def forward(ctx, rows_nE: torch.Tensor, rank: int, size: int) -> torch.Tensor:  # type: ignore[no-untyped-def]
        ctx.rank, ctx.n = rank, len(rows_nE)
        parts = [torch.empty_like(rows_nE) for _ in range(size)]
        dist.all_gather(parts, rows_nE.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad_NE: torch.Tensor):  # type: ignore[no-untyped-def]
        total = grad_NE.contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.rank * ctx.n : (ctx.rank + 1) * ctx.n], None, None


@dataclass(frozen=True)
class World:
    """Rank and number of processes.

    Attributes
    ----------
    rank, size
        0 and 1 in a single process.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of all processes in rank order, [n, ...] to [N, ...], with gradient."""
        if self.size == 1:
            return rows
        gathered: torch.Tensor = _GatherRows.apply(  # type: ignore[no-untyped-call]
            rows, self.rank, self.size
        )
        return gathered

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over processes, without gradient; the argument stays as it is."""
        total = values.detach().clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over processes, without gradient."""
        return self.sum(values) / self.size

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over processes, in one message per dtype.

        Training averages once per step by itself, because a step may run the tower several times
        (gradient caching) and trains parameters outside it (temperature, text tower).
        """
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        there = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
        by_kind: dict[torch.dtype, list[torch.Tensor]] = {}
        for parameter, somewhere in zip(trained, self.sum(there).tolist(), strict=True):
            if somewhere:
                if parameter.grad is None:  # every process must send the same number of values
                    parameter.grad = torch.zeros_like(parameter)
                by_kind.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_kind.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            flat /= self.size
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


SINGLE = World()

_PATIENCE = timedelta(hours=3)
"""How long a process waits for the others, for instance while the first looks for neighbours. A process
that dies is noticed by torchrun at once."""


def _fresh_store() -> dict[str, Any]:
    """Return a store for this attempt where torchrun has restarted the processes of one machine.

    torchrun may keep its store over a restart, with the addresses of dead processes in it, and gloo
    would wait for them. The number of restarts tells attempts apart; processes of several machines
    may count differently, so there torchrun must be told not to share its store (docs/train.md).
    """
    env = os.environ
    alone = env.get("LOCAL_WORLD_SIZE") == env["WORLD_SIZE"]
    if not alone or env.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    store = TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False)
    attempt = f"attempt-{env.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    rank, size = int(env["RANK"]), int(env["WORLD_SIZE"])
    return {"store": PrefixStore(attempt, store), "rank": rank, "world_size": size}


@contextmanager
def world_of(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, for the time of a block; alone without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE, **_fresh_store())
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
