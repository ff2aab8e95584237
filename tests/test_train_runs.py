"""Whole runs from the command line: killed, continued, refused, loaded."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import okrcell as package
from okrcell.artifacts import commit, invalidate, read_manifest
from okrcell.corpus.cells import load_cells, load_profiles
from okrcell.corpus.shards import load_matrix
from okrcell.errors import ConfigError, FileFormatError, GeneCoverageError, ManifestError
from okrcell.schemas import read_table
from okrcell.train import loop
from okrcell.train.config import TrainConfig

TINY = {
    "preset": "tiny",
    "text_source": "label",
    "epochs": 7,
    "batch_size": 120,
    "bank_size": 150,
    "lr": 1e-3,
    "checkpoint_every": 5,
    "log_every": 1,
    "max_genes": 24,
}
TOTAL = 21
TIMED = {"log.csv", "logs", ".lock", "request.json"}


def write_keys(path, keys):
    lines = []
    for name, value in keys.items():
        lines.append(f"{name} = {json.dumps(value)}")
    path.write_text("[train]\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path / "keys.toml", TINY)


@pytest.fixture
def trainer(okrcell, store, keys, tmp_path):
    def go(name, *flags, **kwargs):
        return okrcell(
            "train", "run", store, "--out", tmp_path / name, "--config", keys, *flags, **kwargs
        )

    return go


def same_files(a, b):
    names = sorted(path.name for path in a.iterdir() if path.name not in TIMED)
    assert names == sorted(path.name for path in b.iterdir() if path.name not in TIMED)
    for name in names:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    return names


# --- killed and continued ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["cra_paper", "cra_plus"])
def test_a_killed_run_ends_byte_identical(trainer, okrcell, tmp_path, objective):
    calm = trainer("calm", "--objective", objective)
    assert calm.returncode == 0, calm.stderr
    # Renames: marker, request, log, (neighbours,) then a checkpoint every 5 steps, of 21.
    extra = objective == "cra_plus"
    assert trainer("killed", "--objective", objective, kill_at=6 + extra).returncode == -9
    left = sorted(path.name for path in (tmp_path / "killed").glob("resume-*"))
    assert left == ["resume-000000005.safetensors", "resume-000000010.safetensors"]
    resumed = okrcell("train", "resume", tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert f"Continuing at step 10 of {TOTAL}" in resumed.stderr
    names = same_files(tmp_path / "calm", tmp_path / "killed")
    assert not [name for name in names if name.startswith("resume-")]
    assert "reused" in trainer("killed", "--objective", objective).stdout


@pytest.mark.slow
def test_every_kill_point_of_the_writers_leaves_a_run_that_ends_the_same(trainer, tmp_path):
    flags = ("--objective", "cra_paper", "--epochs", "3")
    assert trainer("calm", *flags).returncode == 0
    for kill_at in range(1, 14):
        done = trainer("killed", *flags, kill_at=kill_at)
        if done.returncode == 0:
            break
        assert done.returncode == -9
        # Killed anew each time, a rename further on, in the folder that the last kill left.
    else:
        assert trainer("killed", *flags).returncode == 0
    same_files(tmp_path / "calm", tmp_path / "killed")


def test_a_torn_checkpoint_falls_back_to_the_one_before(store, tmp_path, capsys, monkeypatch):
    from okrcell.train.trainer import Trainer

    config = TrainConfig(**{**TINY, "objective": "infonce"})
    loop.train(store, tmp_path, tmp_path / "calm", config)
    real, left = Trainer.take, [13]

    def stops(self, *args):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Trainer, "take", stops)
    with pytest.raises(KeyboardInterrupt):
        loop.train(store, tmp_path, tmp_path / "torn", config)
    monkeypatch.undo()
    newest = tmp_path / "torn" / "resume-000000010.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    loop.train(store, tmp_path, tmp_path / "torn", config)
    told = capsys.readouterr().err
    assert "resume-000000010.safetensors is damaged" in told
    assert "Continuing at step 5 of 21" in told
    same_files(tmp_path / "calm", tmp_path / "torn")


@pytest.fixture(scope="module")
def interrupted(store, tmp_path_factory):
    """A run that was stopped after 12 of its 21 steps."""
    from okrcell.train.trainer import Trainer

    out = tmp_path_factory.mktemp("interrupted") / "run"
    real, left = Trainer.take, [13]

    def stops(self, *args):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take", stops)
        with pytest.raises(KeyboardInterrupt):
            loop.train(store, out, out, TrainConfig(**TINY))
    return out


def test_other_keys_are_refused_by_name(interrupted, store, tmp_path, capsys):
    copy = shutil.copytree(interrupted, tmp_path / "run")
    config = TrainConfig(**{**TINY, "lr": 5e-4, "tau": 0.1})
    with pytest.raises(ConfigError, match=r"lr 0\.001 \(now 0\.0005\); tau 0\.07 \(now 0\.1\)"):
        loop.train(store, copy, copy, config)
    assert (copy / "resume-000000010.safetensors").exists()
    short = config.replace(epochs=1)
    assert not loop.train(store, copy, copy, short, restart=True)["reused"]
    assert "beginning anew" in capsys.readouterr().err
    assert not list(copy.glob("resume-*"))


def test_keys_of_the_machine_may_change(interrupted, store, tmp_path, capsys):
    copy = shutil.copytree(interrupted, tmp_path / "run")
    config = TrainConfig(**{**TINY, "workers": 0, "micro_batch": 50, "checkpoint_every": 100})
    loop.train(store, interrupted, copy, config)
    assert "Continuing at step 10 of 21" in capsys.readouterr().err
    assert read_manifest(copy, "run").facts["steps"] == TOTAL


def test_other_data_and_another_vocabulary_are_refused(interrupted, store, tmp_path, monkeypatch):
    copy = shutil.copytree(interrupted, tmp_path / "run")
    monkeypatch.setattr(loop, "inputs_of", lambda *_: {"cells": "0" * 64})
    with pytest.raises(ConfigError, match="unfinished run with cells"):
        loop.train(store, copy, copy, TrainConfig(**TINY))
    monkeypatch.undo()
    real = loop._identity
    monkeypatch.setattr(loop, "_identity", lambda *a: {**real(*a), "vocabulary": "other"})
    with pytest.raises(ConfigError, match=r"vocabulary .* \(now other\)"):
        loop.train(store, copy, copy, TrainConfig(**TINY))


def test_all_checkpoints_damaged_is_said(interrupted, store, tmp_path):
    copy = shutil.copytree(interrupted, tmp_path / "run")
    for path in copy.glob("resume-*"):
        path.write_bytes(b"torn")
    with pytest.raises(FileFormatError, match=r"resume-0+5\.safetensors.*damaged"):
        loop.train(store, copy, copy, TrainConfig(**TINY))


def test_the_log_is_cut_to_the_checkpoint(interrupted, store, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    copy = shutil.copytree(interrupted, tmp_path / "run")
    assert (copy / "log.csv").read_text().splitlines()[-1].startswith("12,")
    loop.train(store, copy, copy, TrainConfig(**TINY))
    rows = (copy / "log.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, TOTAL + 1))
    events = EventAccumulator(str(copy / "logs"))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert {
        "loss/align", "loss/gep", "train/tau", "train/lr", "train/alignment", "train/uniformity",
        "speed/cells_per_s", "speed/mfu", "epoch/val_accuracy",
    } <= scalars  # fmt: skip
    assert "objective/reliability" in events.Tags()["histograms"]
    assert [event.step for event in events.Scalars("loss/align")] == list(range(1, TOTAL + 1))


# --- bad input ---------------------------------------------------------------------------------


def test_what_cannot_be_resumed(refused, tmp_path):
    assert "no request.json" in refused("train", "resume", tmp_path / "nothing")


def test_a_gpu_that_is_not_there(refused, store, tmp_path, keys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    where = ("--out", tmp_path / "r", "--config", keys)
    assert "finds no GPU" in refused("train", "run", store, *where, "--device", "cuda")


def test_nowhere_to_write(refused, store, tmp_path, keys):
    (tmp_path / "file").write_text("x")
    where = ("--out", tmp_path / "file" / "run", "--config", keys)
    assert "file" in refused("train", "run", store, *where)


def test_a_start_that_is_none(refused, store, tmp_path, keys):
    where = ("--out", tmp_path / "r", "--config", keys)
    message = refused("train", "run", store, *where, "--init", tmp_path / "nowhere")
    assert "neither a finished run nor a scGPT checkpoint" in message


def test_out_of_memory_says_what_to_lower(store, tmp_path, monkeypatch):
    from okrcell.errors import TrainingError
    from okrcell.train.trainer import Trainer

    def hungry(self, *_):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
        )

    monkeypatch.setattr(Trainer, "take", hungry)
    with pytest.raises(TrainingError, match="Set micro_batch to 60 or less"):
        loop.train(store, tmp_path, tmp_path / "r", TrainConfig(**TINY))
    monkeypatch.setattr(Trainer, "take", lambda *_: (_ for _ in ()).throw(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        loop.train(store, tmp_path, tmp_path / "r2", TrainConfig(**TINY))


def test_missing_descriptions_are_counted_and_none_is_refused(store, tmp_path, monkeypatch, capsys):
    from okrcell.errors import TrainingError
    from okrcell.train import prepare as preparing
    from okrcell.train.data import Texts, load_texts

    labels = load_texts(store, tmp_path, "label")
    some = dict(sorted(labels.by_profile.items())[:4])
    monkeypatch.setattr(preparing, "load_texts", lambda *_: Texts(some, {}, labels.inputs))
    facts = loop.train(store, tmp_path, tmp_path / "r", TrainConfig(**TINY).replace(epochs=1))
    assert facts["cells_without_text"] > 0
    assert "no accepted description and are left out" in capsys.readouterr().err
    monkeypatch.setattr(preparing, "load_texts", lambda *_: Texts({}, {}, labels.inputs))
    with pytest.raises(TrainingError, match="no cell of split 'train'"):
        loop.train(store, tmp_path, tmp_path / "r2", TrainConfig(**TINY))
    one = dict.fromkeys(labels.by_profile, "cell")
    monkeypatch.setattr(preparing, "load_texts", lambda *_: Texts(one, {}, labels.inputs))
    with pytest.raises(TrainingError, match="one text"):
        loop.train(store, tmp_path, tmp_path / "r3", TrainConfig(**TINY))


# --- what comes out ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    config = TrainConfig(
        **{**TINY, "objective": "infonce", "epochs": 12, "batch_size": 64, "max_genes": 200}
    )
    loop.train(store, out, out, config)
    return out


def test_a_trained_model_names_cells_it_never_saw(run, store):
    model = package.load(run)
    vectors = model.encode_cells(load_matrix(store, "pbmc"))
    profiles = {p["profile_id"]: p["cell_type"] for p in load_profiles(store).to_pylist()}
    rows = load_cells(store).to_pylist()
    seen = sorted({profiles[r["profile_id"]] for r in rows if r["split"] == "train"})
    guesses = np.array(seen)[(vectors @ model.encode_text(seen).T).argmax(axis=1)]
    test = [
        i for i, r in enumerate(rows) if r["split"] == "test" and profiles[r["profile_id"]] in seen
    ]
    truth = np.array([profiles[rows[i]["profile_id"]] for i in test])
    majority = max(np.mean(truth == label) for label in seen)
    assert np.mean(guesses[test] == truth) > majority + 0.15
    history = json.loads((run / "history.json").read_text())
    assert history[-1]["align"] < history[0]["align"]
    assert history[-1]["gep"] < history[0]["gep"]
    assert history[-1]["val_accuracy"] > history[0]["val_accuracy"]


def test_last_and_best_weights_can_both_be_had(run, store):
    cells = load_matrix(store, "pbmc")
    last, best = (package.load(run, weights=name) for name in ("last", "best"))
    assert np.array_equal(package.load(run).encode_cells(cells), last.encode_cells(cells))
    history = json.loads((run / "history.json").read_text())
    top = max(history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    same = np.array_equal(last.encode_cells(cells), best.encode_cells(cells))
    assert same == (top["epoch"] == len(history))


def test_the_card_says_what_a_reader_needs(run):
    card = (run / "README.md").read_text()
    for word in ("## Data", "## Figures", "## Limits", "## Licence", "infonce", "val_accuracy"):
        assert word in card
    manifest = read_manifest(run, "run")
    assert manifest.files["weights.safetensors"]["sha256"] in card


def test_pairs_are_listed_by_cell(run):
    table = read_table(run / "pairs.parquet", "pairs")
    assert table.num_rows == 375
    assert table["reliability"].null_count == 375  # plain InfoNCE rates nothing
    assert not any(table["planted"].to_pylist())


def test_anndata_in_any_gene_order_gives_the_same_vectors(run, adata, store):
    import anndata

    model = package.load(run)
    expected = model.encode_cells(load_matrix(store, "pbmc"))[:20]
    back = adata[:20, ::-1].copy()
    assert np.allclose(model.encode_cells(back), expected, atol=1e-4)
    foreign = anndata.AnnData(np.ones((2, 2), dtype=np.float32))
    foreign.var_names = ["x", "y"]
    with pytest.raises(GeneCoverageError):
        model.encode_cells(foreign)


def test_loading_is_strict(run, tmp_path):
    with pytest.raises(ManifestError):
        package.load(tmp_path)
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    tensors = load_file(copy / "weights.safetensors")
    bias = tensors.pop("tower.projector.bias")

    def recommit(content):
        invalidate(copy)
        save_file(content, copy / "weights.safetensors")
        files = dict.fromkeys(("weights.safetensors", "model.json"))
        commit(copy, "run", config={}, inputs={}, files=files)

    save_file(tensors, copy / "weights.safetensors")
    with pytest.raises(ManifestError, match="other content"):
        package.load(copy)
    recommit(tensors)
    with pytest.raises(FileFormatError, match=r"missing tensors .*projector\.bias"):
        package.load(copy)
    recommit({**tensors, "tower.projector.bias": bias, "tower.more": bias.clone()})
    with pytest.raises(FileFormatError, match="more"):
        package.load(copy)
    recommit({**tensors, "tower.projector.bias": bias[:3]})
    with pytest.raises(FileFormatError, match="shape"):
        package.load(copy)
    with pytest.raises(FileFormatError, match="no validation cells"):
        package.load(copy, weights="best")


# --- other towers and stages -------------------------------------------------------------------


def test_mlp_and_a_start_from_a_run(store, run, tmp_path):
    config = TrainConfig(
        **{**TINY, "preset": "mlp", "objective": "cra_plus", "epochs": 12, "hvgs": 300}
    )
    facts = loop.train(store, tmp_path, tmp_path / "mlp", config)
    assert facts["last_losses"]["val_accuracy"] > 0.5
    model = package.load(tmp_path / "mlp")
    assert model.encode_cells(load_matrix(store, "pbmc")).shape == (700, 384)
    table = read_table(tmp_path / "mlp" / "pairs.parquet", "pairs")
    assert table["reliability"].null_count == 0
    assert table["suggested"].null_count == 0

    onward = TrainConfig(
        **{
            **TINY,
            "objective": "infonce",
            "epochs": 1,
            "init": str(run),
            "lr": 1e-9,
            "max_genes": 200,
        }
    )
    facts = loop.train(store, tmp_path, tmp_path / "on", onward)
    assert facts["started_from"] == {"genes_taken": 759, "genes_fresh": 0}
    history = json.loads((run / "history.json").read_text())
    assert facts["last_losses"]["val_loss"] == pytest.approx(history[-1]["val_loss"], abs=0.05)
    with pytest.raises(ConfigError, match="found preset = tiny; expected small"):
        loop.train(store, tmp_path, tmp_path / "x", onward.replace(preset="small"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["attention", "lora"])
def test_both_stages_train_the_text_tower_and_load(store, tmp_path, how):
    config = TrainConfig(
        **{
            **TINY, "stage": "both", "stage2_epochs": 2, "epochs": 2, "text_train": how,
            "stage2_lr": 1e-3, "cls_weight": 0.5,
        }
    )  # fmt: skip
    facts = loop.train(store, tmp_path, tmp_path / "r", config)
    assert facts["steps"] == 12
    assert facts["last_losses"]["cls"] > 0
    model = package.load(tmp_path / "r")
    frozen = package.corpus.embedder.load_embedder().encode(["natural killer cell"])
    trained = model.encode_text(["natural killer cell"])
    assert 0.5 < float((frozen @ trained.T)[0, 0]) < 0.9999


def test_estimate_takes_steps_and_writes_nothing(okrcell, store, keys, tmp_path):
    before = sorted(tmp_path.iterdir())
    done = okrcell("train", "estimate", store, "--config", keys, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["steps"] == TOTAL
    assert said["seconds_per_step"] > 0
    assert 0 < said["mfu"] < 1
    assert said["peak_memory_bytes"] > 1e8
    assert sorted(tmp_path.iterdir()) == before
