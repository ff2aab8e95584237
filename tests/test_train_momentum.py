"""Momentum towers and banks: following, queueing, what is encoded, what a checkpoint holds."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from okrcell.train.batch import DenseCells, PackedCells, TowerOutput
from okrcell.train.config import TrainConfig
from okrcell.train.momentum import Momentum, reveal
from okrcell.train.objectives.matching import match_own

E = 6


class Tower(nn.Module):
    """A cell is the mean of its known tokens; dropout, and a buffer, as a real tower may have."""

    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(64, E)
        self.bin = nn.Embedding(9, E)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, cells, *, genes=True):
        if isinstance(cells, DenseCells):
            state = cells.values @ self.token.weight[: cells.values.shape[1]]
        else:
            owner = torch.repeat_interleave(torch.arange(len(cells)), cells.known_counts)
            values = self.token(cells.known_genes) * self.bin(cells.known_bins)
            state = torch.zeros(len(cells), E).index_add(0, owner, values)
        state = self.drop(state)
        zero = state.new_zeros(())
        return TowerOutput(F.normalize(state, dim=1), state, zero, zero, 0)


class Words(nn.Module):
    """A text tower: a table, frozen or not, with one part that never trains."""

    def __init__(self, trainable):
        super().__init__()
        self.trainable = trainable
        self.words = nn.Embedding(4, E)
        self.base = nn.Parameter(torch.ones(E), requires_grad=False)
        self.requires_grad_(trainable)
        self.base.requires_grad_(False)

    def forward(self, groups):
        return F.normalize(self.words(groups) * self.base, dim=1)

    def momentum_copy(self):
        made = Words(True)
        made.load_state_dict(self.state_dict())
        return made


def cells_of(known, hidden):
    def line(values):
        return torch.tensor([x for row in values for x in row], dtype=torch.int32)

    return PackedCells(
        line(known),
        line([[g % 9 for g in row] for row in known]),
        torch.tensor([len(row) for row in known]),
        line(hidden),
        line([[g % 9 for g in row] for row in hidden]),
        torch.tensor([len(row) for row in hidden]),
    )


@pytest.fixture
def made():
    torch.manual_seed(0)
    tower, text = Tower(), Words(True)
    config = TrainConfig(bank_size=5, momentum=0.75)
    return Momentum(config, tower, text, E), tower, text


def batch(n, seed):
    generator = torch.Generator().manual_seed(seed)
    cells, texts = torch.randn(2, n, E, generator=generator)
    pairs = torch.arange(n) + 100 * seed
    return F.normalize(cells, dim=1), F.normalize(texts, dim=1), pairs, pairs + 1000


# --- towers ------------------------------------------------------------------------------------


def test_copies_follow_by_exponential_moving_average(made):
    momentum, tower, text = made
    before = momentum.tower.token.weight.clone(), momentum.text_tower.words.weight.clone()
    with torch.no_grad():
        tower.token.weight += 1
        text.words.weight -= 2
        tower.seen += 7
    momentum.update(tower, text)
    assert torch.allclose(momentum.tower.token.weight, before[0] + 0.25)
    assert torch.allclose(momentum.text_tower.words.weight, before[1] - 0.5)
    assert torch.equal(momentum.text_tower.base, torch.ones(E))
    assert momentum.tower.seen.item() == 7  # buffers are copied whole
    assert not any(p.requires_grad for p in momentum.parameters())
    momentum.reset(tower, text)
    assert torch.equal(momentum.tower.token.weight, tower.token.weight)
    assert torch.equal(momentum.text_tower.words.weight, text.words.weight)


def test_encoding_has_no_dropout_and_no_gradient(made):
    momentum, tower, text = made
    momentum.train()
    tower.train()
    cells = cells_of([[1, 2], [1, 5, 6]], [[3], []])
    groups = torch.tensor([2, 0])
    first, second = momentum.encode(cells, groups), momentum.encode(cells, groups)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
        assert torch.allclose(a.norm(dim=1), torch.ones(2))
    assert torch.equal(first[1], text(groups))
    assert tower.training
    assert not momentum.tower.training


def test_a_frozen_text_tower_is_shared():
    tower, text = Tower(), Words(False)
    momentum = Momentum(TrainConfig(), tower, text, E)
    assert momentum.text_tower is None
    assert not any("words" in name for name in momentum.state_dict())
    with torch.no_grad():
        text.words.weight += 1
    groups = torch.tensor([1, 3])
    dense = DenseCells(torch.rand(2, 5))
    momentum.update(tower, text)
    cells, texts = momentum.encode(dense, groups)
    assert torch.equal(texts, text(groups))
    assert torch.equal(cells, tower.eval()(dense).cell)


def test_the_view_is_full_or_masked():
    tower, text = Tower(), Words(False)
    known, hidden = [[1, 2], [1], [1, 5, 6]], [[3, 4], [9], []]
    cells = cells_of(known, hidden)
    groups = torch.tensor([0, 1, 2])
    together = cells_of([k + h for k, h in zip(known, hidden, strict=True)], [[], [], []])
    for view, same in (("full", together), ("masked", cells)):
        momentum = Momentum(TrainConfig(momentum_view=view), tower, text, E)
        found = momentum.encode(cells, groups)[0]
        assert torch.allclose(found, tower.eval()(same).cell, atol=1e-6)


def test_revealing_puts_hidden_genes_behind_the_known_of_each_cell():
    rng = np.random.default_rng(0)
    known = [[1, *rng.integers(2, 60, n).tolist()] for n in (3, 0, 5, 1)]
    hidden = [rng.integers(2, 60, n).tolist() for n in (0, 2, 4, 1)]
    seen = reveal(cells_of(known, hidden))
    expected = cells_of([k + h for k, h in zip(known, hidden, strict=True)], [[]] * 4)
    for a, b in zip(seen, expected, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
    nothing = reveal(cells_of([[1], [1]], [[], []]))
    assert nothing.known_genes.tolist() == [1, 1]


# --- banks -------------------------------------------------------------------------------------


def test_the_bank_is_a_queue_in_order(made):
    momentum = made[0]
    assert momentum.bank() is None
    sent = [batch(n, seed) for seed, n in enumerate((2, 2, 3, 5, 4), start=1)]
    everything = [torch.cat(parts) for parts in zip(*sent, strict=True)]
    count = 0
    for parts in sent:
        momentum.push(*parts)
        count += len(parts[0])
        kept = min(count, 5)
        bank = momentum.bank()
        assert len(bank.pairs) == kept
        # The entry of number k stands in slot k modulo the size, so the oldest is overwritten first.
        numbers = torch.arange(count - kept, count)
        for found, values in zip(bank, everything, strict=True):
            assert torch.equal(found[numbers % 5], values[numbers])
    assert momentum.bank_state.tolist() == [count % 5, 5]


def test_of_a_batch_larger_than_the_bank_the_last_entries_stay(made):
    momentum = made[0]
    parts = batch(12, 1)
    momentum.push(*parts)
    assert sorted(momentum.bank().pairs.tolist()) == parts[2][-5:].tolist()
    momentum.push(*batch(1, 2))
    assert parts[2][-5].item() not in momentum.bank().pairs.tolist()  # the oldest went


def test_views_of_the_bank_last_until_the_backward_pass_is_done(made):
    momentum = made[0]
    momentum.push(*batch(3, 1))
    query = torch.randn(2, E, requires_grad=True)
    bank = momentum.bank()
    assert bank.texts.data_ptr() == momentum.bank_texts.data_ptr()  # nothing is copied
    loss = match_own(query, torch.randn(2, E), bank.texts, torch.arange(2), 0.1).log_own.sum()
    loss.backward()
    momentum.push(*batch(5, 2))
    assert torch.isfinite(query.grad).all()


def test_a_checkpoint_holds_everything(made):
    momentum, tower, text = made
    momentum.push(*batch(4, 1))
    with torch.no_grad():
        tower.token.weight += 1
    momentum.update(tower, text)
    other = Momentum(momentum.config, Tower(), Words(True), E)
    assert other.checksum() != momentum.checksum()
    other.load_state_dict(momentum.state_dict())
    assert other.checksum() == momentum.checksum()
    for one in (momentum, other):
        one.push(*batch(3, 2))
    assert other.checksum() == momentum.checksum()
    assert torch.equal(other.bank().pairs, momentum.bank().pairs)
    other.reset(tower, text)
    assert other.bank() is None
    assert not other.bank_cells.any()


def test_checksums_tell_processes_apart(made):
    momentum = made[0]
    momentum.push(*batch(4, 1))
    first = momentum.checksum()
    assert first.dtype == torch.int64
    assert first == momentum.checksum()
    with torch.no_grad():
        momentum.bank_cells[[0, 1]] = momentum.bank_cells[[1, 0]]
    assert momentum.checksum() != first  # the order counts
    with torch.no_grad():
        momentum.bank_cells[[0, 1]] = momentum.bank_cells[[1, 0]]
        momentum.tower.token.weight[0, 0] += 1e-6
    assert momentum.checksum() != first
