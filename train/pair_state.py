"""What an objective remembers of every training pair, shared out over the processes of a run.

Pair p belongs to the process p % world.size, so that a process keeps 1 / size of it, and so that a
block of neighbouring pairs is spread evenly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from okrcell.errors import TrainingError
from okrcell.train.distributed import SINGLE, World

__all__ = ["PairState", "gather_pair_states", "restore_pair_states"]


class PairState(nn.Module):
    """Named values per training pair; each process holds those of its own pairs, zero at first.

    The buffers do not enter ``state_dict``: their shapes depend on the number of processes. A
    checkpoint takes ``full_state``, which does not. For the same reason data-parallel training must
    not broadcast buffers (``DistributedDataParallel(..., broadcast_buffers=False)``).

    Parameters
    ----------
    n_pairs
        Number of training pairs of all processes.
    fields
        Name to (shape per pair, dtype): floating point or integer.
    world
        The processes.
    derived
        The values follow from the run's inputs and are made again when it is resumed: no checkpoint
        holds them.
    """

    def __init__(
        self,
        n_pairs: int,
        fields: Mapping[str, tuple[Sequence[int], torch.dtype]],
        world: World = SINGLE,
        *,
        derived: bool = False,
    ) -> None:
        super().__init__()
        self.derived = derived
        self.n_pairs, self.world, self.names = n_pairs, world, tuple(fields)
        self.n_own = len(range(world.rank, n_pairs, world.size))
        for name, (shape, dtype) in fields.items():
            values = torch.zeros((self.n_own, *shape), dtype=dtype)
            self.register_buffer(f"own_{name}", values, persistent=False)

    def own(self, name: str) -> torch.Tensor:
        """Return this process's values [n_own, ...] in the order of ``shard_pairs``, not copied."""
        return self.get_buffer(f"own_{name}")

    def shard_pairs(self) -> torch.Tensor:
        """Return int64 [n_own]: the pairs that this process keeps, ascending."""
        device = self.own(self.names[0]).device
        return torch.arange(self.n_own, device=device) * self.world.size + self.world.rank

    @torch.no_grad()
    def read(self, name: str, pairs_N: torch.Tensor) -> torch.Tensor:
        """Return the values [N, ...] of some pairs, on every process.

        All processes call it together with the same pairs, those of the joint batch.
        """
        own = self.own(name)
        if self.world.size == 1:
            return own[pairs_N]
        mine = self._is_mine(pairs_N)
        # Half precision is summed as float32: not every backend adds it, and nothing is lost.
        wide = torch.float32 if own.dtype in (torch.float16, torch.bfloat16) else own.dtype
        found = torch.zeros((len(pairs_N), *own.shape[1:]), dtype=wide, device=own.device)
        found[mine] = own[pairs_N[mine] // self.world.size].to(wide)
        return self.world.sum(found).to(own.dtype)

    @torch.no_grad()
    def write(self, name: str, pairs_N: torch.Tensor, values_N: torch.Tensor) -> None:
        """Keep the values of those pairs that belong to this process; the last one of a pair counts.

        Every process is given the joint batch; nothing is sent.
        """
        own = self.own(name)
        if not len(pairs_N):
            return
        # An indexed assignment with repeated indices has no defined order: keep the last of each.
        distinct, place = torch.unique(pairs_N, return_inverse=True)
        rows = torch.arange(len(pairs_N), device=pairs_N.device)
        last = torch.zeros(len(distinct), dtype=torch.int64, device=pairs_N.device)
        last = last.scatter_reduce(0, place, rows, "amax")
        mine = self._is_mine(distinct)
        own[distinct[mine] // self.world.size] = values_N.detach()[last[mine]].to(own.dtype)

    def _is_mine(self, pairs: torch.Tensor) -> torch.Tensor:
        return pairs % self.world.size == self.world.rank

    @torch.no_grad()
    def gather(self, name: str) -> torch.Tensor:
        """Return the values [n_pairs, ...] of all pairs in order; all processes call it together."""
        own = self.own(name)
        if self.world.size == 1:
            return own.clone()
        wide = torch.float32 if own.dtype in (torch.float16, torch.bfloat16) else own.dtype
        full = torch.zeros((self.n_pairs, *own.shape[1:]), dtype=wide, device=own.device)
        full[self.world.rank :: self.world.size] = own.to(wide)
        return self.world.sum(full).to(own.dtype)

    def full_state(self) -> dict[str, torch.Tensor]:
        """Return name to values [n_pairs, ...] on the CPU; all processes call it together."""
        return {name: self.gather(name).cpu() for name in self.names}

    @torch.no_grad()
    def load_full_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take this process's share of a ``full_state``, of a run of any number of processes.

        Raises
        ------
        TrainingError
            Other names, shapes or dtypes than this objective keeps.
        """
        for name in sorted({*self.names, *state}):
            found = _form(state[name]) if name in state else "nothing"
            expected = "nothing"
            if name in self.names:
                own = self.own(name)
                expected = _form(own.new_empty((self.n_pairs, *own.shape[1:]), device="meta"))
            if found != expected:
                raise TrainingError(
                    f"state per pair '{name}'",
                    found=found,
                    expected=expected,
                    fix="Continue with the objective and the data that the run was begun with.",
                )
        for name in self.names:
            self.own(name).copy_(state[name][self.world.rank :: self.world.size])


def _form(values: torch.Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"


def gather_pair_states(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the ``full_state`` of every ``PairState`` inside a module that is not derived.

    The keys are dotted names. All processes call it together.
    """
    return {
        f"{path}.{name}": values
        for path, part in _parts(module)
        for name, values in part.full_state().items()
    }


def restore_pair_states(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load what ``gather_pair_states`` returned, also where there are more or fewer processes now.

    Raises
    ------
    TrainingError
        Other names, shapes or dtypes than the module keeps.
    """
    left = dict(state)
    for path, part in _parts(module):
        start = f"{path}."
        names = [name for name in left if name.startswith(start)]
        part.load_full_state({name.removeprefix(start): left.pop(name) for name in names})
    if left:
        raise TrainingError(
            f"state per pair '{min(left)}'",
            found="values that the objective does not keep",
            expected="the objective that the run was begun with",
            fix="Continue with the configuration of the run.",
        )


def _parts(module: nn.Module) -> list[tuple[str, PairState]]:
    return [
        (path or "pairs", part)
        for path, part in module.named_modules()
        if isinstance(part, PairState) and not part.derived
    ]
