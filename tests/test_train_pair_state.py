"""State per pair: shares of processes, repeated pairs, checkpoints across numbers of processes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from okrcell.errors import TrainingError
from okrcell.train.distributed import SINGLE, World
from okrcell.train.pair_state import PairState, gather_pair_states, restore_pair_states

_SPEC = importlib.util.spec_from_file_location(
    "simulated_processes", Path(__file__).parent / "simulated_processes.py"
)
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
simulated = _MODULE.simulated

FIELDS = {
    "running": ((3,), torch.float16),
    "r": ((), torch.float32),
    "seen": ((), torch.int64),
}


def filled(world: World, n_pairs: int = 11) -> PairState:
    state = PairState(n_pairs, FIELDS, world)
    pairs = torch.arange(n_pairs)
    state.write("running", pairs, torch.stack([pairs, pairs / 2, -pairs], 1))
    state.write("r", pairs, pairs / 7)
    state.write("seen", pairs, pairs * 10**12)
    return state


def test_a_single_process_reads_what_it_wrote_and_the_last_of_a_repeated_pair_counts():
    state = PairState(5, FIELDS, SINGLE)
    pairs = torch.tensor([4, 1, 4, 4, 0])
    state.write("r", pairs, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert state.read("r", torch.tensor([0, 1, 2, 4, 4])).tolist() == pytest.approx(
        [0.5, 0.2, 0.0, 0.4, 0.4]
    )
    assert state.shard_pairs().tolist() == [0, 1, 2, 3, 4]
    state.write("r", pairs[:0], torch.zeros(0))
    assert state.read("running", pairs).dtype == torch.float16


@pytest.mark.parametrize("size", [2, 3])
def test_every_process_reads_the_values_of_all_and_keeps_its_share(
    size: int, monkeypatch: pytest.MonkeyPatch
):
    pairs = torch.tensor([10, 3, 3, 0, 7])

    def work(world: World) -> tuple:
        state = filled(world)
        return {n: state.read(n, pairs) for n in FIELDS}, state.shard_pairs(), state.n_own

    expected = filled(SINGLE)
    with simulated(size, monkeypatch) as run:
        results = run(work)
    for values, _, _ in results:
        for name in FIELDS:
            assert torch.equal(values[name], expected.read(name, pairs))
    assert sorted(torch.cat([shard for _, shard, _ in results]).tolist()) == list(range(11))
    assert max(n for *_, n in results) - min(n for *_, n in results) <= 1


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (2, 1)])
def test_a_checkpoint_fits_any_number_of_processes(
    before: int, after: int, monkeypatch: pytest.MonkeyPatch
):
    def save(world: World) -> dict[str, torch.Tensor]:
        return gather_pair_states(nn.ModuleDict({"part": filled(world)}))

    with simulated(before, monkeypatch) as run:
        saved = run(save)
    assert set(saved[0]) == {"part.running", "part.r", "part.seen"}

    def load(world: World) -> dict[str, torch.Tensor]:
        part = PairState(11, FIELDS, world)
        restore_pair_states(nn.ModuleDict({"part": part}), saved[-1])
        return part.full_state()

    with simulated(after, monkeypatch) as run:
        for found in run(load):
            for name, values in filled(SINGLE).full_state().items():
                assert torch.equal(found[name], values)
                assert found[name].dtype == values.dtype


def test_a_state_of_other_pairs_or_another_objective_is_refused():
    full = filled(SINGLE).full_state()
    with pytest.raises(TrainingError, match=r"'r': found float32 \[11\]; expected float32 \[12\]"):
        PairState(12, FIELDS, SINGLE).load_full_state(full)
    with pytest.raises(TrainingError, match="state per pair 'r': found nothing"):
        PairState(11, FIELDS, SINGLE).load_full_state({n: full[n] for n in ("running", "seen")})
    fewer = PairState(11, {name: FIELDS[name] for name in ("running", "r")}, SINGLE)
    with pytest.raises(TrainingError, match=r"'seen': found int64 \[11\]; expected nothing"):
        fewer.load_full_state(full)
    with pytest.raises(TrainingError, match="'other.x': found values that the objective"):
        restore_pair_states(nn.Module(), {"other.x": torch.zeros(1)})


def test_what_can_be_made_again_is_in_no_checkpoint():
    parts = nn.ModuleDict({"kept": filled(SINGLE), "made": PairState(11, FIELDS, derived=True)})
    state = gather_pair_states(parts)
    assert set(state) == {"kept.running", "kept.r", "kept.seen"}
    restore_pair_states(parts, state)


def test_state_dict_leaves_the_shares_out_and_no_pairs_are_fine():
    state = PairState(0, FIELDS, World(1, 2))
    assert not state.state_dict()
    assert state.n_own == 0
    assert state.shard_pairs().tolist() == []
