"""cra_plus against its equations written out in float64, its switches, and the cases that break it."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from okrcell.train import graph
from okrcell.train.batch import Bank, Step
from okrcell.train.config import TrainConfig
from okrcell.train.distributed import SINGLE, World
from okrcell.train.objectives.cra_plus import CraPlus
from okrcell.train.objectives.soft_targets import (
    Targets,
    candidate_texts,
    candidate_vectors,
    contrast,
    contrast_columns,
)
from okrcell.train.pair_state import gather_pair_states

_SPEC = importlib.util.spec_from_file_location(
    "simulated_processes", Path(__file__).parent / "simulated_processes.py"
)
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
simulated = _MODULE.simulated

N_PAIRS, N_TEXTS, N, DIM, K = 24, 7, 8, 5, 3


def unit(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn((n, DIM), generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=1)


def random_pairs(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Text of each pair, its reliability, the texts in question and their chances."""
    rng = np.random.default_rng(seed)
    groups = torch.from_numpy(rng.integers(0, N_TEXTS, N_PAIRS))
    groups[:N_TEXTS] = torch.arange(N_TEXTS)
    prior = torch.from_numpy(rng.uniform(0.3, 1, N_PAIRS).astype(np.float32))
    others = (
        groups[:, None]
        + torch.from_numpy(
            rng.permuted(np.tile(np.arange(1, N_TEXTS), (N_PAIRS, 1)), axis=1)[:, :K]
        )
    ) % N_TEXTS
    chances = torch.from_numpy(rng.dirichlet([1.5, 1, 1, 1], N_PAIRS).astype(np.float32))
    texts = torch.cat([groups[:, None], others], 1).int()
    texts[4, 3], chances[4, 3] = groups[4], 0.0  # filled up with the own text
    return groups, prior, texts, chances / chances.sum(1, keepdim=True)


GROUPS, PRIOR, TEXTS, CHANCES = random_pairs()
TABLE = unit(N_TEXTS, 1)
PAIRS = torch.tensor([3, 11, 0, 20, 5, 5 + N_TEXTS, 17, 9])
TEACHER = (unit(N, 7), unit(N, 8))


def a_bank(n: int = 9) -> Bank:
    pairs = torch.arange(n) * 5 % N_PAIRS
    return Bank(unit(n, 3), TABLE[GROUPS[pairs]], pairs, GROUPS[pairs])


def a_step(
    cells: torch.Tensor,
    *,
    world: World = SINGLE,
    pairs: torch.Tensor = PAIRS,
    groups: torch.Tensor = GROUPS,
    texts: torch.Tensor | None = None,
    tau: float = 0.2,
    epoch: int = 3,
    progress: float = 0.5,
    bank: Bank | None = None,
    teacher: tuple[torch.Tensor, torch.Tensor] | None = None,
    table: torch.Tensor = TABLE,
) -> Step:
    n = len(cells) // world.size
    own = slice(world.rank * n, (world.rank + 1) * n)
    texts = table[groups[pairs]] if texts is None else texts
    return Step(
        cells_nE=cells[own], texts_nE=texts[own], all_cells_NE=cells, all_texts_NE=texts,
        first=own.start, pairs_N=pairs, groups_N=groups[pairs], tau=torch.tensor(tau),
        epoch=epoch, progress=progress, bank=bank, teacher=teacher, table_TE=table, world=world,
    )  # fmt: skip


def build(world: World = SINGLE, prior: torch.Tensor = PRIOR, **keys: object) -> CraPlus:
    config = TrainConfig(**({"objective": "cra_plus", "curriculum_q": 0.0} | keys))
    return CraPlus(config, N_PAIRS, N_TEXTS, world, prior=prior, texts=TEXTS, chances=CHANCES)


def some_targets(bank: Bank | None, *, repaired: bool, seed: int = 5) -> Targets:
    """Random targets: the own text and two others, one of them a filler of share 0."""
    rng = np.random.default_rng(seed)
    own = GROUPS[PAIRS]
    other = (own + torch.from_numpy(rng.integers(1, N_TEXTS, N))) % N_TEXTS
    shares = torch.from_numpy(rng.dirichlet([1, 1], N).astype(np.float32))
    if not repaired:
        shares[:, 1] = 0
    texts = torch.stack([own, other, own], 1)
    shares = torch.cat([shares, torch.zeros(N, 1)], 1)
    in_bank = None
    if bank is not None:
        in_bank = torch.from_numpy(rng.uniform(0.1, 1, len(bank.pairs)).astype(np.float32))
    return Targets(texts, shares, in_bank)


# --- the equations, one number at a time -------------------------------------------------------


def log_softmax(values: list[torch.Tensor], at: int) -> torch.Tensor:
    top = max(float(v.detach()) for v in values)
    return values[at] - top - torch.stack([(v - top).exp() for v in values]).sum().log()


def loss_of(target: dict[int, float], values: list[torch.Tensor], q: float) -> torch.Tensor:
    """Weight of the target times (entropy + Tsallis' relative entropy) of it scaled to sum 1."""
    weight, total = sum(target.values()), torch.zeros((), dtype=torch.float64)
    for at, share in target.items():
        if share <= 0:
            continue
        y = share / weight
        log_p = log_softmax(values, at)
        if q == 0:
            total = total - y * log_p
        else:
            total = total + y * (1 - (log_p.exp() / y) ** q) / q - y * math.log(y)
    return weight * total


def literal_groups(
    step: Step, targets: Targets, candidates: list[int], vectors: torch.Tensor, q: float
) -> tuple[list[torch.Tensor], torch.Tensor]:
    tau, cells = float(step.tau), step.all_cells_NE
    wanted = [
        {g: sum(float(s) for h, s in zip(t, y, strict=True) if h == g) for g in set(t)}
        for t, y in zip(targets.texts_NS.tolist(), targets.shares_NS.double(), strict=True)
    ]
    to_text = []
    for i in range(len(cells)):
        values = [cells[i] @ vectors[c] / tau for c in range(len(candidates))]
        to_text.append(loss_of({candidates.index(g): y for g, y in wanted[i].items()}, values, q))
    to_cell = torch.zeros((), dtype=torch.float64)
    for c, g in enumerate(candidates):
        values = [vectors[c] @ cell / tau for cell in cells]
        target = {j: wanted[j].get(g, 0.0) for j in range(len(cells))}
        mass = sum(target.values())
        if step.bank is not None:
            for e in range(len(step.bank.pairs)):
                r = float(targets.bank_Q[e])
                values.append(vectors[c] @ step.bank.cells[e] / tau + math.log(r))
                if int(step.bank.groups[e]) == g:
                    target[len(cells) + e] = r
        scale = sum(target.values())
        if mass and g in step.groups_N.tolist():
            scaled = {j: y / scale for j, y in target.items()}
            to_cell = to_cell + mass * loss_of(scaled, values, q)
    return to_text, to_cell / len(cells)


def literal_columns(
    step: Step, targets: Targets, q: float
) -> tuple[list[torch.Tensor], torch.Tensor]:
    tau, groups, n = float(step.tau), step.groups_N.tolist(), len(step.pairs_N)
    want = np.zeros((n, n))
    for i in range(n):
        found = [
            (g, float(y), s == 0)
            for s, (g, y) in enumerate(
                zip(targets.texts_NS[i].tolist(), targets.shares_NS[i], strict=True)
            )
        ]
        all_of_it = sum(y for _, y, _ in found)
        here = sum(y for g, y, _ in found if g in groups)
        for g, y, is_own in found:
            columns = [i] if is_own else [j for j in range(n) if groups[j] == g]
            for j in columns:
                want[i, j] += y * all_of_it / here / len(columns)
    losses: list[list[torch.Tensor]] = []
    for queries, keys, in_bank, target in (
        (step.cells_nE, step.all_texts_NE, step.bank and step.bank.texts, want),
        (step.texts_nE, step.all_cells_NE, step.bank and step.bank.cells, want.T),
    ):
        losses.append([])
        for i in range(n):
            values = [queries[i] @ key / tau for key in keys]
            for e in range(0 if in_bank is None else len(in_bank)):
                values.append(queries[i] @ in_bank[e] / tau + math.log(float(targets.bank_Q[e])))
            row = {j: float(y) for j, y in enumerate(target[i])}
            losses[-1].append(loss_of(row, values, q) if sum(row.values()) else values[0] * 0)
    return losses[0], torch.stack(losses[1]).mean()


def with_gradients(loss: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=True)]


def assert_same(found: list, expected: list, tolerance: float = 1e-6) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("q", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("banked", [False, True])
@pytest.mark.parametrize("repaired", [False, True])
def test_both_forms_of_the_loss_are_their_equations(q: float, banked: bool, repaired: bool):
    cells, texts = unit(N, 2).requires_grad_(), TABLE.clone().requires_grad_()
    bank = a_bank() if banked else None
    targets = some_targets(bank, repaired=repaired)
    step = a_step(cells, texts=texts[GROUPS[PAIRS]], bank=bank)
    every = torch.arange(N_TEXTS)
    vectors = candidate_vectors(step, every)
    to_text, to_cell = contrast(step, targets, every, vectors, q)
    batch = set(GROUPS[PAIRS].tolist())
    rows = torch.stack([texts[g] if g in batch else TABLE[g] for g in range(N_TEXTS)])
    slow_text, slow_cell = literal_groups(step, targets, every.tolist(), rows, q)
    assert_same(
        with_gradients(to_text.mean() + to_cell, cells, texts),
        with_gradients(torch.stack(slow_text).mean() + slow_cell, cells, texts),
    )
    to_text, to_cell = contrast_columns(step, targets, q)
    slow_text, slow_cell = literal_columns(step, targets, q)
    assert_same(
        with_gradients(to_text.mean() + to_cell, cells, texts),
        with_gradients(torch.stack(slow_text).mean() + slow_cell, cells, texts),
    )


@pytest.mark.parametrize("most", [2, 5, 6])
def test_of_many_texts_those_of_the_batch_and_its_targets_are_candidates(most: int):
    bank = a_bank()
    targets = some_targets(bank, repaired=True)
    step = a_step(unit(N, 2), bank=bank)
    chosen = candidate_texts(step, targets, most)
    needed = {*GROUPS[PAIRS].tolist(), *targets.texts_NS[targets.shares_NS > 0].tolist()}
    assert needed <= set(chosen.tolist())
    assert len(chosen) == max(most, len(needed))
    assert torch.equal(chosen, candidate_texts(step, targets, most))
    assert torch.equal(chosen, chosen.unique())
    to_text, to_cell = contrast(step, targets, chosen, candidate_vectors(step, chosen), 0.0)
    slow = literal_groups(step, targets, chosen.tolist(), TABLE[chosen], 0.0)
    assert_same([to_text.mean(), to_cell], [torch.stack(slow[0]).mean(), slow[1]])


# --- the objective -----------------------------------------------------------------------------


def infonce(cells: torch.Tensor, texts: torch.Tensor, tau: float) -> torch.Tensor:
    logits = cells @ texts.T / tau
    target = torch.arange(len(cells))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


@pytest.mark.parametrize("grouped", [False, True])
def test_without_doubt_it_is_infonce(grouped: bool):
    made = build(consensus=False, group_targets=grouped, reliability_prior=False)
    cells = unit(N_TEXTS, 2).requires_grad_()
    pairs = torch.arange(N_TEXTS)  # every text once: groups are pairs
    step = a_step(cells, pairs=pairs)
    assert_same(
        with_gradients(made(step).loss, cells), with_gradients(infonce(cells, TABLE, 0.2), cells)
    )


def test_without_doubt_it_is_the_multi_positive_loss():
    made = build(consensus=False, reliability_prior=False)
    bank = a_bank()
    cells = unit(N, 2).requires_grad_()
    own = GROUPS[PAIRS]
    to_text = torch.log_softmax(cells @ TABLE.T / 0.2, 1)[torch.arange(N), own]
    log_p = torch.log_softmax(TABLE[own] @ torch.cat([cells, bank.cells]).T / 0.2, 1)
    same = (own[:, None] == torch.cat([own, bank.groups])[None]).double()
    to_cell = (log_p * same).sum(1) / same.sum(1)
    assert_same(
        with_gradients(made(a_step(cells, bank=bank)).loss, cells),
        with_gradients(-(to_text.mean() + to_cell.mean()) / 2, cells),
    )


@pytest.mark.parametrize("epoch", [2, 3])
@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("prior", [False, True])
def test_targets_are_the_chances_of_the_texts_in_question(epoch: int, repair: bool, prior: bool):
    made = build(repair=repair, reliability_prior=prior, repair_from_epoch=3)
    bank = a_bank()
    targets, log = made._targets(a_step(unit(N, 2), epoch=epoch, bank=bank))
    trusted = PRIOR if prior else torch.ones(N_PAIRS)
    expected = CHANCES.half().float() if epoch >= 3 else torch.eye(1 + K)[:1].repeat(N_PAIRS, 1)
    if not repair:
        expected = torch.cat([expected[:, :1], torch.zeros(N_PAIRS, K)], 1)
    own = expected[:, 0] * trusted
    expected = torch.cat([own[:, None], expected[:, 1:]], 1)
    torch.testing.assert_close(targets.shares_NS, expected[PAIRS])
    torch.testing.assert_close(targets.bank_Q, own[bank.pairs])
    torch.testing.assert_close(log["reliability"], own[PAIRS])
    assert torch.equal(targets.texts_NS, TEXTS[PAIRS].long())


def test_what_it_says_of_pairs():
    made = build()
    torch.testing.assert_close(made.reliability(), CHANCES[:, 0].half().float() * PRIOR)
    best = TEXTS.gather(1, CHANCES.half().argmax(1, keepdim=True)).squeeze(1)
    assert torch.equal(made.suggestions(), best.long())
    plain = build(consensus=False)
    torch.testing.assert_close(plain.reliability(), PRIOR)
    assert torch.equal(plain.suggestions(), GROUPS)


@pytest.mark.parametrize("off", ["group_targets", "consensus", "repair", "reliability_prior"])
def test_every_part_is_a_switch(off: str):
    cells = unit(N, 2)
    losses = []
    for made in (build(curriculum_q=0.5), build(curriculum_q=0.5, **{off: False})):
        losses.append(float(made(a_step(cells, epoch=3, bank=a_bank())).loss))
    assert losses[0] != pytest.approx(losses[1], abs=1e-6)
    plain = build(curriculum_q=0.0)
    assert float(plain(a_step(cells, epoch=3, bank=a_bank())).loss) != pytest.approx(losses[0])


CASES = {
    "one pair": {"pairs": PAIRS[:1]},
    "all texts the same": {"pairs": torch.nonzero(GROUPS[0] == GROUPS).flatten()},
    "one pair many times": {"pairs": PAIRS[:1].repeat(4)},
    "all cells the same": {"same": True},
    "empty bank": {"bank": a_bank(0)},
    "cold": {"tau": 1e-4},
    "hot": {"tau": 1e4},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("trusted", [0.0, 1.0])
def test_what_breaks_losses_does_not_break_this_one(case: str, grouped: bool, trusted: float):
    keys = dict(CASES[case])
    pairs = keys.pop("pairs", PAIRS)
    made = build(
        prior=torch.full((N_PAIRS,), trusted),
        group_targets=grouped,
        curriculum_q=0.9,
        repair_from_epoch=3,
    )
    leaf = unit(len(pairs), 2).float()
    if keys.pop("same", False):
        leaf = leaf[:1].repeat(len(pairs), 1)
    leaf = leaf.requires_grad_()
    table = TABLE.float()
    bank = Bank(*(x.float() if x.is_floating_point() else x for x in keys.pop("bank", a_bank())))
    for epoch in (1, 3, 4):
        made.start_epoch(epoch)
        found = made(a_step(leaf, pairs=pairs, epoch=epoch, table=table, bank=bank, **keys))
        (gradient,) = torch.autograd.grad(found.loss, leaf)
        assert torch.isfinite(found.loss)
        assert torch.isfinite(gradient).all()
        assert all(torch.isfinite(values).all() for values in found.log.values())
        if trusted == 0 and epoch == 1:
            assert float(found.loss.detach()) == 0
            assert not gradient.any()


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("size", [2, 4])
def test_processes_equal_one(grouped: bool, size: int, monkeypatch: pytest.MonkeyPatch):
    keys = {"group_targets": grouped, "curriculum_q": 0.5, "candidates": 5}

    def work(world: World) -> tuple:
        made, results = build(world, **keys), []
        for epoch in (1, 3, 4):
            made.start_epoch(epoch)
            cells, texts = unit(N, epoch).requires_grad_(), TABLE.clone().requires_grad_()
            step = a_step(
                cells, texts=texts[GROUPS[PAIRS]], world=world, epoch=epoch,
                bank=a_bank(), teacher=TEACHER,
            )  # fmt: skip
            results.append(with_gradients(made(step).loss, cells, texts))
        return results, made.reliability(), made.suggestions(), gather_pair_states(made)

    alone = work(SINGLE)
    with simulated(size, monkeypatch) as run:
        found = run(work)
    for epoch, expected in enumerate(alone[0]):
        mean = [
            torch.stack(list(parts)).mean(0)
            for parts in zip(*(f[0][epoch] for f in found), strict=True)
        ]
        assert_same(mean, expected)
    for _, r, suggested, state in found:
        torch.testing.assert_close(r, alone[1])
        assert torch.equal(suggested, alone[2])
        assert state == alone[3] == {}  # all of it follows from the inputs


# --- the graph ---------------------------------------------------------------------------------


def clustered(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, 12))
    rows = centres[rng.integers(0, 20, n)] + 0.4 * rng.standard_normal((n, 12))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_exact_neighbours_are_the_nearest_others():
    vectors = clustered(1500)
    vectors[7] = vectors[3]
    found, similar = graph.nearest(vectors, 10, seed=0)
    products = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(products, -np.inf)
    best = -np.sort(-products, axis=1)[:, :10]
    np.testing.assert_allclose(similar, best, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(products, found, 1), best, atol=1e-5)
    assert found.dtype == np.int32
    assert not (found == np.arange(1500)[:, None]).any()
    assert found[7, 0] == 3


def test_the_index_finds_nearly_all_and_the_same_twice():
    vectors = clustered(6000)
    exact, _ = graph.nearest(vectors, 15, seed=0)
    found, similar = graph.nearest(vectors, 15, seed=0, exact=False)
    shared = [len(np.intersect1d(a, b)) for a, b in zip(exact, found, strict=True)]
    assert np.mean(shared) / 15 > 0.95
    assert not (found == np.arange(6000)[:, None]).any()
    assert (np.diff(similar, axis=1) <= 0).all()
    assert np.array_equal(found, graph.nearest(vectors, 15, seed=0, exact=False)[0])


def test_few_cells_have_few_neighbours():
    for n in (0, 1, 3):
        found, similar = graph.nearest(clustered(n), 5, seed=0)
        assert found.shape == similar.shape == (n, 5)
        assert ((found >= 0).sum(1) == max(n - 1, 0)).all()
        assert np.isneginf(similar[found < 0]).all()
