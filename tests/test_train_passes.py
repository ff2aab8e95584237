"""One step at once, in parts and accumulated; the watch over losses; the keys that decide a run."""

import math

import numpy as np
import pytest
import torch

from okrcell.errors import ConfigError, TrainingError
from okrcell.train.config import OBJECTIVES, RUNTIME_KEYS, TrainConfig
from okrcell.train.distributed import SINGLE
from okrcell.train.loader import Loader
from okrcell.train.logs import alignment, uniformity, work_of
from okrcell.train.objectives import registry
from okrcell.train.prepare import build_trainer, prepare
from okrcell.train.sampler import Sampler
from okrcell.train.trainer import Report
from okrcell.train.watch import Watch, chance_gap

KEYS = {
    "preset": "tiny",
    "text_source": "label",
    "objective": "cra_paper",
    "batch_size": 60,
    "bank_size": 100,
    "dropout": 0.0,
    "precision": "fp32",
    "max_genes": 30,
    "lr": 1e-3,
    "workers": 0,
    "cls_weight": 0.1,
    "learn_tau": True,
}


def steps(store, folder, n=2, **more):
    """Take n steps; return the trainer and its reports."""
    config = TrainConfig(**{**KEYS, **more})
    prepared = prepare(store, folder, config)
    trainer = build_trainer(prepared, config, SINGLE, folder)
    trainer.start_epoch(1)
    trainer.objective.start_epoch(1)
    sampler = Sampler(len(prepared.pairs), config.batch_size, config.seed)
    reports = [
        trainer.take(number, batch)
        for number, batch in Loader(prepared.pairs, config, sampler, start=0, stop=n)
    ]
    return trainer, reports


def gradients(trainer):
    return [p.grad for p in trainer.parameters() if p.grad is not None]


@pytest.mark.parametrize("objective", ["infonce", "cra_paper", "cra_plus", "siglip"])
@pytest.mark.parametrize("size", [16, 20])  # 16 does not divide 60
def test_gradient_caching_is_the_whole_batch(store, tmp_path, objective, size):
    whole, first = steps(store, tmp_path, objective=objective)
    parts, second = steps(store, tmp_path, objective=objective, micro_batch=size)
    for a, b in zip(first, second, strict=True):
        assert np.allclose(a.parts, b.parts, rtol=1e-4)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-3)
    for a, b in zip(gradients(whole), gradients(parts), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=2e-5)


def test_caching_gives_both_passes_the_same_dropout(store, tmp_path):
    """With other dropout in the second pass the cached gradient would be that of other vectors."""
    trainer, _ = steps(store, tmp_path, n=0, dropout=0.3, micro_batch=20)
    seen = []
    real = trainer.passes._tower

    def spy(cells, *, genes):
        out = real(cells, genes=genes)
        seen.append(out.cell.detach())
        return out

    trainer.passes._tower = spy
    sampler = Sampler(375, 60, 0)
    config = trainer.config
    pairs = prepare(store, tmp_path, config).pairs
    ((_, batch),) = Loader(pairs, config, sampler, start=0, stop=1)
    trainer.take(0, batch)
    assert len(seen) == 6
    for first, second in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(first, second)


def test_accumulation_contrasts_each_part_alone(store, tmp_path):
    _, (report,) = steps(
        store, tmp_path, n=1, objective="infonce", micro_batch=20, grad_cache=False
    )
    cells, texts = report.cells_nE, report.texts_nE
    losses = []
    for a in range(0, 60, 20):
        logits = cells[a : a + 20] @ texts[a : a + 20].T / 0.07
        own = torch.arange(20)
        both = [torch.nn.functional.cross_entropy(x, own) for x in (logits, logits.T)]
        losses.append(float(sum(both)) / 2)
    assert report.parts[3] == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_step_that_is_not_finite_changes_nothing(store, tmp_path):
    trainer, _ = steps(store, tmp_path, n=1)
    before = {k: v.clone() for k, v in trainer.tower.state_dict().items()}
    banks = trainer.momentum.checksum()
    config = trainer.config
    pairs = prepare(store, tmp_path, config).pairs
    ((_, batch),) = Loader(pairs, config, Sampler(375, 60, 0), start=1, stop=2)
    with torch.no_grad():
        trainer.log_tau.fill_(float("nan"))
    report = trainer.take(1, batch)
    assert not math.isfinite(report.loss)
    assert all(torch.equal(v, before[k]) for k, v in trainer.tower.state_dict().items())
    assert trainer.momentum.bank().cells.isfinite().all()
    assert banks is not None


# --- the watch ---------------------------------------------------------------------------------


def report(loss=1.0, norm=1.0):
    vectors = torch.nn.functional.normalize(torch.eye(4), dim=1)
    return Report(np.zeros(4), loss, norm, vectors, vectors)


def watch(tmp_path):
    return Watch(lambda: tmp_path / "resume-000000010.safetensors")


@pytest.mark.parametrize(
    ("what", "found"),
    [
        (report(loss=float("nan")), "a loss of nan"),
        (report(norm=float("inf")), "a gradient of norm inf"),
    ],
)
def test_a_loss_that_is_not_finite_stops_with_step_cells_and_checkpoint(tmp_path, what, found):
    with pytest.raises(TrainingError) as caught:
        watch(tmp_path).check(17, what, lambda: ["facs:1", "facs:2"])
    message = str(caught.value)
    assert message.startswith(f"step 17: found {found} (cells facs:1, facs:2")
    assert "resume-000000010.safetensors" in message


def test_an_exploding_loss_stops_after_three_steps_in_a_row(tmp_path):
    one = watch(tmp_path)
    for step in range(60):
        one.check(step, report(2.0), list)
    one.check(60, report(500.0), list)  # a single one may happen
    one.check(61, report(2.0), list)
    one.check(62, report(500.0), list)
    one.check(63, report(500.0), list)
    other = watch(tmp_path)
    other.load(one.state())  # as a checkpoint keeps it
    with pytest.raises(TrainingError, match="a loss of 500, usually 2"):
        other.check(64, report(500.0), lambda: ["a"])


def test_chance_is_spoken_of():
    torch.manual_seed(0)
    same = torch.nn.functional.normalize(torch.ones(50, 8), dim=1)
    assert chance_gap(same, same, 0.07) == pytest.approx(0, abs=1e-5)
    apart = torch.nn.functional.normalize(torch.randn(50, 64), dim=1)
    assert chance_gap(apart, apart, 0.07) > 3
    assert "stayed at ln(50)" in Watch.at_chance(0.0, 50)
    assert Watch.at_chance(3.0, 50) is None


def test_alignment_and_uniformity():
    a = torch.nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)))
    assert alignment(a, a) == 0
    assert alignment(a, -a) == pytest.approx(4)
    pairs = [math.exp(-2 * float((a[i] - a[j]).square().sum())) for i in range(6) for j in range(i)]
    assert uniformity(a) == pytest.approx(math.log(np.mean(pairs)), rel=1e-5)
    assert uniformity(a[:1]) == 0


def test_work_counts_momentum_and_the_first_pass(store, tmp_path):
    trainer, _ = steps(store, tmp_path, n=0)
    ((_, batch),) = Loader(
        prepare(store, tmp_path, trainer.config).pairs, trainer.config, Sampler(375, 60, 0), start=0, stop=1
    )  # fmt: skip
    cells, tokens, full = work_of(batch.cells, trainer)
    assert cells == 60
    assert tokens == int((batch.cells.known_counts + batch.cells.hidden_counts).sum())
    twin, _ = steps(store, tmp_path, n=0, objective="infonce")
    assert work_of(batch.cells, twin)[2] < full


# --- keys --------------------------------------------------------------------------------------


def test_every_objective_can_be_built():
    assert set(OBJECTIVES) == {*registry.OBJECTIVES, "cra_plus"}
    assert set(RUNTIME_KEYS) <= set(TrainConfig.model_fields)


def test_identity_leaves_out_what_decides_nothing():
    config = TrainConfig()
    same = config.replace(workers=7, device="cpu", micro_batch=9, checkpoint_every=3, log_every=1)
    assert same.identity() == config.identity()
    plain = config.replace(grad_cache=False)
    assert plain.replace(micro_batch=9).identity() != plain.identity()


@pytest.mark.parametrize(("stage", "total"), [("1", 6), ("2", 2), ("both", 8)])
def test_epochs_of_stages(stage, total):
    assert TrainConfig(stage=stage).total_epochs == total


def test_the_best_epoch_needs_validation_cells(store, tmp_path):
    with pytest.raises(ConfigError, match="'best' without validation cells"):
        prepare(store, tmp_path, TrainConfig(**KEYS, keep="best", validation_cells=0))
