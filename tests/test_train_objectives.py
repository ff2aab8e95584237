"""Every objective and each of its switches against slow, literal equations in float64."""

import importlib.util
import math
import sys
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from okrcell.errors import ConfigError, TrainingError
from okrcell.train.batch import Bank, Step
from okrcell.train.config import OBJECTIVES as NAMES
from okrcell.train.config import TrainConfig
from okrcell.train.distributed import SINGLE, World
from okrcell.train.objectives import cra_paper
from okrcell.train.objectives.base import log_match
from okrcell.train.objectives.matching import match_own
from okrcell.train.objectives.registry import OBJECTIVES, build_objective
from okrcell.train.pair_state import gather_pair_states, restore_pair_states


def beside(name):
    """Load a module of this folder, which is no package."""
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


slow, processes = beside("slow_objectives"), beside("simulated_processes")

N_PAIRS, N_TEXTS, DIM = 12, 5, 4


def unit(n, seed, dim=DIM):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, dim, dtype=torch.float64, generator=generator)
    return torch.nn.functional.normalize(values, dim=1)


@dataclass
class Given:
    """One joint batch as tensors."""

    cells: torch.Tensor
    texts: torch.Tensor
    pairs: torch.Tensor
    groups: torch.Tensor
    tau: float = 0.2
    bank: Bank | None = None
    table: torch.Tensor = field(default_factory=lambda: unit(N_TEXTS, 50))
    teacher: tuple[torch.Tensor, torch.Tensor] | None = None

    def __post_init__(self):
        if self.teacher is None:
            n = len(self.cells)
            self.teacher = unit(n, 60), unit(n, 61)

    def literal(self):
        bank = self.bank or Bank(*(torch.zeros(0),) * 4)
        return slow.Case(
            self.cells.tolist(), self.texts.tolist(), self.tau,
            self.pairs.tolist(), self.groups.tolist(),
            bank.cells.tolist(), bank.texts.tolist(), bank.pairs.tolist(), bank.groups.tolist(),
            self.table.tolist(), self.teacher[0].tolist(), self.teacher[1].tolist(),
        )  # fmt: skip

    def step(self, epoch=1, progress=0.1, world=SINGLE, cells=None, texts=None):
        cells = self.cells if cells is None else cells
        texts = self.texts if texts is None else texts
        n = len(cells) // world.size
        own = slice(world.rank * n, (world.rank + 1) * n)
        alone = world.size == 1
        return Step(
            cells_nE=cells if alone else cells[own],
            texts_nE=texts if alone else texts[own],
            all_cells_NE=cells,
            all_texts_NE=texts,
            first=own.start,
            pairs_N=self.pairs,
            groups_N=self.groups,
            tau=torch.tensor(self.tau, dtype=cells.dtype),
            epoch=epoch,
            progress=progress,
            bank=self.bank,
            teacher=self.teacher,
            table_TE=self.table,
            world=world,
        )

    def float(self):
        bank = self.bank
        if bank is not None:
            bank = Bank(bank.cells.float(), bank.texts.float(), bank.pairs, bank.groups)
        teacher = tuple(x.float() for x in self.teacher)
        return replace(
            self, cells=self.cells.float(), texts=self.texts.float(), bank=bank,
            table=self.table.float(), teacher=teacher,
        )  # fmt: skip


def a_bank(q=3):
    return Bank(unit(q, 3), unit(q, 4), torch.tensor([7, 2, 9][:q]), torch.tensor([0, 1, 3][:q]))


def given(name):
    pairs, groups = torch.tensor([3, 0, 5, 8]), torch.tensor([2, 0, 0, 1])
    cells, texts = unit(4, 1), unit(N_TEXTS, 2)[groups]
    plain = Given(cells, texts, pairs, groups, bank=a_bank())
    if name == "one pair":
        return Given(cells[:1], texts[:1], pairs[:1], groups[:1], bank=a_bank())
    if name == "one pair alone":
        return Given(cells[:1], texts[:1], pairs[:1], groups[:1])
    if name == "all texts the same":
        return replace(plain, texts=texts[:1].repeat(4, 1), groups=torch.zeros_like(groups))
    if name == "all cells the same":
        return replace(plain, cells=cells[:1].repeat(4, 1))
    if name == "bank empty":
        return replace(plain, bank=None)
    if name == "perfect":
        return replace(plain, cells=texts.clone())
    return plain


CASES = [
    "plain", "one pair", "one pair alone", "all texts the same", "all cells the same", "bank empty",
    "perfect",
]  # fmt: skip
PRIOR = [0.0, 0.3, 1.0, 0.8, 0.5, 0.6, 0.1, 0.9, 0.7, 0.2, 0.4, 1.0]
CLEAN = [True, True, False, True, True, False, True, True, True, True, True, True]
RECORDS = {0: [0.2, 0.5], 3: [0.1, 0.8], 5: [0.3, 0.32], 8: [0.4], 9: [0.2, 0.2], 11: [0.6, 0.61]}
LABELS = {0: 0.02, 3: 0.9, 5: 0.4, 8: 0.0}
TARGETS = {0: [0.2, 0.1, 0.1, 0.1, 0.1], 5: [0.0, 0.5, 0.0, 0.0, 0.2]}

INFONCE = {"infonce": {}, "infonce, bank": {"bank": True}, "clean_oracle": {}}
OTHERS = {
    "siglip": {},
    "siglip, own only": {"group_targets": False},
    "gce": {},
    "gce, q 1": {"gce_q": 1.0},
    "gce, small q": {"gce_q": 0.05},
    "elr": {},
    "elr, weight 0": {"elr_weight": 0.0},
    "crcl": {},
    "crcl, epoch 1": {"negative_weight": 1.0, "crcl_momentum": 0.3},
    "momentum_distill": {},
    "momentum_distill, alpha 0": {"distill_alpha": 0.0},
    "momentum_distill, alpha 1": {"distill_alpha": 1.0},
}
CRA = {
    "cra_paper": {},
    "cra_paper, epoch 1": {},
    "cra_paper, epoch 2": {"rel_sym": "min"},
    "cra_paper, late": {"omega": 1.0},
    "cra_paper, stability": {"n_sigma": 0.5, "rel_sym": "product"},
    "cra_paper, sigma": {"sigma": 0.05},
    "cra_paper, sigma is tau": {"sigma": None},
    "cra_paper, omega 0": {"omega": 0.0},
    "cra_paper, lambda 0": {"negative_weight": 0.0},
    "cra_paper, no cca": {"cca": False},
    "cra_paper, no psw": {"psw": False},
    "cra_paper, neither": {"psw": False, "cca": False},
    "cra_paper, no prior": {"reliability_prior": False},
}
VARIANTS = INFONCE | OTHERS | CRA


def moment(name):
    """Epoch and progress at which a variant is tried."""
    if "epoch 1" in name:
        return 1, 0.01
    if "epoch 2" in name:
        return 2, 0.15
    return (5, 0.9) if "late" in name or "alpha 1" in name else (4, 0.15)


def build(name, world=SINGLE, prior=None, tau=0.2, **keys):
    keys = {"objective": name.partition(",")[0], "tau": tau, **VARIANTS.get(name, {}), **keys}
    if keys.get("sigma", 1) is None:
        keys["sigma"] = tau
    config = TrainConfig(**keys)
    prior = torch.tensor(PRIOR if prior is None else prior)
    made = build_objective(config, N_PAIRS, N_TEXTS, world, prior=prior, clean=torch.tensor(CLEAN))
    remember(made)
    return made


def remember(objective):
    """Give an objective a past: records, labels and targets of some pairs."""
    pairs = torch.arange(N_PAIRS)
    name = objective.config.objective
    if name == "cra_paper":
        rows = torch.zeros(N_PAIRS, 3)
        for pair, values in RECORDS.items():
            rows[pair] = torch.tensor(
                [len(values), sum(values) / len(values), len(values) * slow.spread(values) ** 2]
            )
        objective.state.write("record", pairs, rows)
        objective.spread_sums.copy_(cra_paper._sums(rows))
    elif name == "crcl":
        labels = torch.tensor([LABELS.get(int(p), -1.0) for p in pairs])
        objective.state.write("label", pairs, labels)
    elif name == "elr":
        rows = torch.tensor([TARGETS.get(int(p), [0.0] * N_TEXTS) for p in pairs])
        objective.state.write("target", pairs, rows)


def equation(name, objective, case, at, prior=PRIOR):
    """The slow loss of a variant."""
    config = objective.config
    epoch, progress = moment(name)
    match config.objective:
        case "infonce":
            return slow.infonce(case)
        case "clean_oracle":
            return slow.clean_oracle(case, CLEAN)
        case "siglip":
            scale, bias = math.exp(objective.log_scale.item()), objective.bias.item()
            return slow.siglip(case, scale, bias, config.group_targets)
        case "gce":
            return slow.gce(case, config.gce_q)
        case "elr":
            return slow.elr(case, at, config.elr_weight, config.elr_momentum, TARGETS)
        case "crcl":
            weight, keep = config.negative_weight, config.crcl_momentum
            return slow.crcl(case, at, weight, keep, LABELS, epoch)
        case "momentum_distill":
            alpha = config.distill_alpha * min(1.0, progress * config.epochs)
            return slow.momentum_distill(case, alpha)
    return slow.cra_paper(
        case, at, config, prior=prior, records=RECORDS, epoch=epoch, progress=progress
    )


def check(name, data, prior=None, gradients=True):
    objective = build(name, prior=prior, tau=data.tau)
    prior = PRIOR if prior is None else prior
    epoch, progress = moment(name)
    cells, texts = data.cells.clone().requires_grad_(), data.texts.clone().requires_grad_()
    loss = objective(data.step(epoch, progress, cells=cells, texts=texts)).loss
    case = data.literal()
    # Per-pair state is float32, so what is weighed by it agrees to that.
    expected = equation(name, objective, case, case, prior)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)
    if loss.requires_grad:
        loss.backward()
    if not gradients:
        return
    step = min(max(1e-4 * data.tau, 1e-7), 1e-4)
    for what, leaf in (("cells", cells), ("texts", texts)):
        found = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        numeric = torch.zeros_like(leaf)
        for i in range(leaf.shape[0]):
            for e in range(leaf.shape[1]):
                high, low = (
                    equation(name, objective, case.moved(what, i, e, by), case, prior)
                    for by in (step, -step)
                )
                numeric[i, e] = (high - low) / (2 * step)
        scale = max(1e-3, numeric.abs().max().item(), 1e-9 * abs(expected) / step)
        assert torch.allclose(found, numeric, rtol=1e-4, atol=3e-5 * scale), what


# --- values and gradients ----------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", VARIANTS)
def test_an_objective_is_its_equation(name, case):
    check(name, given(case))


@pytest.mark.parametrize("name", VARIANTS)
def test_at_extreme_temperatures_too(name):
    for tau in (1e-3, 10.0):
        check(name, replace(given("plain"), tau=tau), gradients=tau > 1)


@pytest.mark.parametrize("name", CRA)
def test_reliability_may_be_zero_everywhere(name):
    check(name, given("plain"), prior=[0.0] * N_PAIRS)


@pytest.mark.parametrize("tau", [1e-3, 10.0])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", VARIANTS)
def test_float32_stays_finite_at_extreme_temperatures(name, case, tau):
    data = replace(given(case), tau=tau).float()
    objective = build(name, tau=tau)
    if name.startswith("siglip"):
        with torch.no_grad():
            objective.log_scale.fill_(-math.log(tau))
    cells, texts = data.cells.clone().requires_grad_(), data.texts.clone().requires_grad_()
    result = objective(data.step(*moment(name), cells=cells, texts=texts))
    assert result.loss.dtype == torch.float32
    assert torch.isfinite(result.loss)
    result.loss.backward()
    for leaf in (cells, texts):
        assert leaf.grad is None or torch.isfinite(leaf.grad).all()
    for values in result.log.values():
        assert torch.isfinite(values).all()
        assert not values.requires_grad


def test_learnt_numbers_have_gradients():
    """tau where it is learnt, and SigLIP's scale and bias."""
    data = replace(given("plain"), table=unit(N_TEXTS, 2))
    for name in ("infonce", "cra_paper, late", "gce", "elr, weight 0"):
        objective = build(name, sigma=0.07)
        tau = torch.tensor(data.tau, dtype=torch.float64, requires_grad=True)
        objective(replace(data.step(*moment(name)), tau=tau)).loss.backward()
        high, low = (
            equation(name, objective, replace_tau(data, by), replace_tau(data, 0), PRIOR)
            for by in (1e-6, -1e-6)
        )
        if name.startswith("cra"):  # W and the curriculum read tau as well, without gradient
            high, low = (
                equation(name, objective, replace_tau(data, by), data.literal(), PRIOR)
                for by in (1e-6, -1e-6)
            )
        assert tau.grad.item() == pytest.approx((high - low) / 2e-6, rel=1e-4)
    objective = build("siglip").double()
    assert objective.log_scale.item() == pytest.approx(math.log(10))
    assert objective.bias.item() == -10
    objective(data.step()).loss.backward()
    case, scale = data.literal(), math.exp(objective.log_scale.item())
    rise = slow.siglip(case, scale * math.exp(1e-6), -10, True) - slow.siglip(
        case, scale * math.exp(-1e-6), -10, True
    )
    assert objective.log_scale.grad.item() == pytest.approx(rise / 2e-6, rel=1e-4)
    rise = slow.siglip(case, scale, -10 + 1e-6, True) - slow.siglip(case, scale, -10 - 1e-6, True)
    assert objective.bias.grad.item() == pytest.approx(rise / 2e-6, rel=1e-4)


def replace_tau(data, by):
    return replace(data, tau=data.tau + by).literal()


def test_matching_passes_gradcheck_with_parts_frozen():
    """Whichever of query and keys is frozen, with a bank, at rows in the middle of the batch."""
    own = torch.tensor([1, 2])
    for query_grad, keys_grad in ((True, True), (True, False), (False, True)):
        query = unit(2, 1).requires_grad_(query_grad)
        keys = unit(4, 2).requires_grad_(keys_grad)
        tau = torch.tensor(0.3, dtype=torch.float64)

        def run(q, k, tau=tau):
            found = match_own(q, k, unit(3, 3), own, tau, tangents=True, sigma=0.1)
            return found.log_own, found.complementary(0.5), found.others, found.total

        assert torch.autograd.gradcheck(run, (query, keys))
    log_s = log_match(unit(2, 1), unit(4, 2), tau, unit(3, 3))
    found = match_own(unit(2, 1), unit(4, 2), unit(3, 3), own, tau, sigma=0.1)
    assert torch.allclose(found.log_own, log_s.gather(1, own[:, None])[:, 0])
    at_sigma = log_match(unit(2, 1), unit(4, 2), 0.1, unit(3, 3))
    assert torch.allclose(found.log_own_sigma, at_sigma.gather(1, own[:, None])[:, 0])
    assert not found.log_own_sigma.requires_grad


def test_rows_in_many_blocks_are_rows_in_one(monkeypatch):
    from okrcell.train.objectives import matching

    def run():
        query, keys = unit(7, 1).requires_grad_(), unit(9, 2).requires_grad_()
        found = match_own(query, keys, unit(3, 3), torch.arange(7), 0.3, tangents=True, sigma=0.1)
        (found.log_own.sum() + found.complementary(0.5).sum()).backward()
        return (*found, query.grad, keys.grad)

    whole = run()
    monkeypatch.setattr(matching, "_CACHED", 25)
    assert all(torch.equal(a, b) for a, b in zip(whole, run(), strict=True))


def test_equal_texts_are_harmless_to_infonce():
    """docs/method.md, section 4: the diagonal loss is the multi-positive one up to a constant."""
    data = given("all texts the same")
    leaf = data.cells.clone().requires_grad_()
    build("infonce")(replace(data, bank=None).step(cells=leaf)).loss.backward()
    logits = data.texts @ leaf.T / data.tau
    text_to_cell = torch.nn.functional.cross_entropy(logits, torch.arange(4)) / 2
    (other,) = torch.autograd.grad(text_to_cell, leaf)
    assert torch.allclose(leaf.grad, other)  # the cell-to-text half has no gradient at all


def test_an_oracle_without_clean_pairs_asks_nothing():
    config = TrainConfig(objective="clean_oracle")
    nobody = torch.zeros(N_PAIRS, dtype=torch.bool)
    oracle = build_objective(config, N_PAIRS, N_TEXTS, SINGLE, prior=torch.ones(12), clean=nobody)
    data = given("plain")
    cells = data.cells.clone().requires_grad_()
    loss = oracle(data.step(cells=cells)).loss
    assert loss == 0
    loss.backward()
    assert not cells.grad.any()


# --- state over several steps ------------------------------------------------------------------


def batches(steps, size=4):
    """Steps over all pairs, three per epoch."""
    groups_of = torch.arange(N_PAIRS) % N_TEXTS
    for at in range(steps):
        order = torch.randperm(N_PAIRS, generator=torch.Generator().manual_seed(at // 3))
        pairs = order[(at % 3) * size : (at % 3 + 1) * size]
        groups = groups_of[pairs]
        cells = torch.nn.functional.normalize(
            unit(N_TEXTS, 2)[groups] + 0.7 * unit(size, 100 + at), dim=1
        )
        yield (
            at // 3 + 1,
            at / steps,
            Given(
                cells,
                unit(N_TEXTS, 2)[groups],
                pairs,
                groups,
                bank=a_bank(),
                table=unit(N_TEXTS, 2),
            ),
        )


@pytest.mark.parametrize("keys", [{}, {"n_sigma": 0.5}, {"rel_sym": "min", "sigma": 0.2}])
def test_records_and_stability_over_epochs(keys):
    config = TrainConfig(objective="cra_paper", tau=0.2, **keys)
    objective = build_objective(
        config, N_PAIRS, N_TEXTS, SINGLE, prior=torch.tensor(PRIOR), clean=torch.tensor(CLEAN)
    )
    records, unstable = {}, 0
    for epoch, progress, data in batches(18):
        case = data.literal()
        expected = slow.cra_paper(
            case, case, config, prior=PRIOR, records=records, epoch=epoch, progress=progress
        )
        result = objective(data.step(epoch, progress))
        assert result.loss.item() == pytest.approx(expected, rel=1e-4)
        unstable += int((result.log.get("rel_stab", torch.ones(1)) < 1).sum())
        records = slow.record(case, config, records, epoch)
    assert {len(values) for values in records.values()} == {5}
    kept = objective.state.gather("record")
    q = torch.tensor([slow.spread(records[p]) for p in range(N_PAIRS)])
    assert torch.allclose((kept[:, 2] / kept[:, 0]).sqrt(), q, atol=1e-5)
    mean, std = objective._spread_of_all()
    assert mean.item() == pytest.approx(q.mean().item(), rel=1e-4)
    assert std.item() == pytest.approx(q.std().item(), rel=1e-3)
    assert (unstable > 0) == (config.n_sigma < 1)


def test_labels_refine_themselves_and_targets_follow():
    config = TrainConfig(objective="crcl", crcl_momentum=0.2)
    crcl = build_objective(config, N_PAIRS, N_TEXTS, SINGLE, prior=torch.ones(12), clean=None)
    elr = build_objective(
        config.replace(objective="elr"), N_PAIRS, N_TEXTS, SINGLE, prior=torch.ones(12), clean=None
    )
    labels, targets = {}, {}
    for epoch, progress, plain in batches(9):
        # Pair 3 points away from its text: its label falls to zero.
        sign = 1 - 2.0 * (plain.pairs == 3)
        data = replace(plain, cells=plain.cells * sign[:, None])
        case = data.literal()
        y, kept = slow.crcl_labels(case, config.crcl_momentum, labels, epoch)
        result = crcl(data.step(epoch, progress))
        assert result.log["reliability"].tolist() == pytest.approx(y, rel=1e-5)
        weight = config.negative_weight
        expected = slow.crcl(case, case, weight, config.crcl_momentum, labels, epoch)
        assert result.loss.item() == pytest.approx(expected, rel=1e-5)
        labels |= kept
        expected = slow.elr(case, case, config.elr_weight, config.elr_momentum, targets)
        assert elr(data.step(epoch, progress)).loss.item() == pytest.approx(expected, rel=1e-5)
        targets |= slow.elr_targets(case, config.elr_momentum, targets)
    assert labels[3] == 0
    assert max(labels.values()) > 0.3
    found = crcl.state.read("label", torch.arange(N_PAIRS)).tolist()
    assert found == pytest.approx([labels.get(p, -1.0) for p in range(N_PAIRS)], rel=1e-5)


def test_evaluation_leaves_no_trace():
    for name in ("cra_paper", "crcl", "elr"):
        objective = build(name).eval()
        before = {k: v.clone() for k, v in gather_pair_states(objective).items()}
        objective(given("plain").step(4, 0.5))
        after = gather_pair_states(objective)
        assert all(torch.equal(before[k], after[k]) for k in before)


def test_the_teacher_s_weight_grows_over_the_first_epoch():
    objective = build("momentum_distill", epochs=4, stage="both", stage2_epochs=1)
    data = given("plain")
    found = [objective.alpha(data.step(1, p)) for p in (0.0, 0.1, 0.2, 0.9)]
    assert found == pytest.approx([0.0, 0.2, 0.4, 0.4])


def test_parts_of_the_paper_s_curriculum():
    q = torch.tensor([0.0, 2.9, 3.9])
    found = cra_paper.rel_stab(q, torch.tensor(0.0), torch.tensor(1.0), 3.0)
    assert found.tolist() == pytest.approx([1, 1, math.exp(-(3.9**2) / 2)])
    assert cra_paper.rel_stab(q, torch.tensor(0.0), torch.tensor(0.0), 3.0).tolist() == [1, 1, 1]
    config = TrainConfig()
    assert [cra_paper.gamma(p, config) for p in (0, 0.25, 1)] == [2, 6, 10]
    hard = torch.tensor([1.0, 20.0])
    early, late = (cra_paper.sample_weights(hard, p, config) for p in (0.1, 0.9))
    assert early[1] / early[0] == pytest.approx(math.exp(cra_paper.gamma(0.1, config) - 20))
    assert late[1] / late[0] == pytest.approx(2 / (0.5 + 1 / cra_paper.gamma(0.9, config)))
    assert float(early.mean()) == pytest.approx(1)
    assert float(late.mean()) == pytest.approx(1)
    # Pairs that are all far too hard keep their order instead of vanishing together.
    found = cra_paper.sample_weights(hard * 1e4, 0.1, config)
    assert found.tolist() == [2, 0]


# --- several processes -------------------------------------------------------------------------


@dataclass(frozen=True)
class Together(World):
    """A process of a simulated world: threads that meet at a barrier to exchange tensors."""

    table: list = field(default_factory=list)
    barrier: threading.Barrier | None = None

    def _exchange(self, values):
        self.table[self.rank] = values
        self.barrier.wait()
        found = list(self.table)
        self.barrier.wait()
        return found

    def gather(self, rows):
        return torch.cat(self._exchange(rows))

    def sum(self, values):
        return torch.stack([v.detach() for v in self._exchange(values)]).sum(dim=0)


def in_threads(size, work):
    """Run ``work(world)`` once per rank; return the results in rank order."""
    table, barrier = [None] * size, threading.Barrier(size)
    return processes.in_threads(
        size, lambda rank: work(Together(rank, size, table, barrier)), barrier
    )


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_mean_over_processes_is_the_joint_loss(name, size):
    data, (epoch, progress) = given("plain"), moment(name)
    alone = build(name)
    leaves = [data.cells.clone().requires_grad_(), data.texts.clone().requires_grad_()]
    joint = alone(data.step(epoch, progress, cells=leaves[0], texts=leaves[1])).loss
    expected = torch.autograd.grad(joint, leaves, allow_unused=True)
    objectives = [None] * size

    def work(world):
        objectives[world.rank] = objective = build(name, world)
        step = data.step(epoch, progress, world, leaves[0], leaves[1])
        return objective(step).loss

    losses = in_threads(size, work)
    mean = torch.stack(losses).mean()
    assert mean.item() == pytest.approx(joint.item(), rel=1e-6)
    found = torch.autograd.grad(mean, leaves, allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-6, atol=1e-9)
    # The state that a checkpoint takes is that of one process, whatever the number of processes.
    states = in_threads(size, lambda world: gather_pair_states(objectives[world.rank]))
    reference = gather_pair_states(alone)
    for state in states:
        for key, values in reference.items():
            assert torch.allclose(state[key], values, atol=1e-6), key
    for objective in objectives:
        for key, values in alone.state_dict().items():
            assert torch.allclose(objective.state_dict()[key], values), key


def test_a_past_survives_a_checkpoint():
    data = given("plain")
    for name in ("cra_paper", "crcl", "elr"):
        old = build(name)
        old(data.step(4, 0.5))
        config = old.config
        new = build_objective(
            config, N_PAIRS, N_TEXTS, SINGLE, prior=torch.tensor(PRIOR), clean=torch.tensor(CLEAN)
        )
        new.load_state_dict(old.state_dict())
        restore_pair_states(new, gather_pair_states(old))
        later = data.step(5, 0.6)
        assert torch.equal(old(later).loss, new(later).loss)


# --- construction ------------------------------------------------------------------------------


def test_every_name_has_an_objective():
    assert {*OBJECTIVES, "cra_plus"} == {*NAMES}
    config = TrainConfig(objective="cra_plus")
    made = build_objective(
        config,
        N_PAIRS,
        N_TEXTS,
        SINGLE,
        prior=torch.tensor(PRIOR),
        clean=torch.tensor(CLEAN),
        texts=torch.zeros(N_PAIRS, 3, dtype=torch.int32),
        chances=torch.full((N_PAIRS, 3), 1 / 3),
    )
    assert type(made).__name__ == "CraPlus"


def test_what_cannot_be_built_says_so():
    config = TrainConfig(objective="elr")
    with pytest.raises(TrainingError, match="1000000 x 600 running targets"):
        build_objective(config, 1_000_000, 600, SINGLE, prior=torch.ones(1), clean=torch.ones(1))
    config = TrainConfig(objective="momentum_distill", bank=False)
    with pytest.raises(ConfigError, match="bank = false"):
        build_objective(config, 2, 2, SINGLE, prior=torch.ones(2), clean=torch.ones(2))
