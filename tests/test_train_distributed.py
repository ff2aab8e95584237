"""Two processes over gloo against one: losses, gradients, banks, a step; and runs under torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from okrcell.artifacts import read_manifest

STEPS = Path(__file__).parent / "train_steps.py"
KEYS = {
    "preset": "tiny",
    "text_source": "label",
    "dropout": 0.0,
    "batch_size": 96,
    "bank_size": 150,
    "lr": 1e-3,
    "precision": "fp32",
    "max_genes": 40,
    "momentum": 0.9,
    "cls_weight": 0.1,
    "learn_tau": True,
    "record_from_epoch": 1,
    "stability_from_epoch": 1,
    "repair_from_epoch": 1,
    "workers": 0,
}
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def torchrun(*words, n=2, **kwargs):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc-per-node", str(n), *map(str, words)], {"env": ENV, **kwargs}


def run(words, **kwargs):
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=280, check=False, **kwargs
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def close(a, b, name):
    scale = max(1e-3, float(a.double().abs().max())) if a.numel() else 1.0
    # Adam magnifies the rounding of gradients that are almost zero.
    loose = name.startswith(("weight.", "text.", "momentum.")) or "running" in name
    return bool(((a.double() - b.double()).abs() <= (1e-2 if loose else 2e-4) * scale).all())


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"objective": "infonce", "bank": True},
        {"objective": "cra_plus"},
        {"objective": "siglip"},
        {"objective": "cra_paper", "micro_batch": 20},
        {"objective": "infonce", "stage": "2", "stage2_lr": 1e-3, "weight_decay": 0.1},
    ],
    ids=["infonce", "cra_plus", "siglip", "cra_paper with gradient cache", "stage 2"],
)
def test_two_processes_are_one_with_the_joint_batch(store, tmp_path, more):
    words = (STEPS, store, tmp_path, json.dumps({**KEYS, **more}), 3)
    run([sys.executable, *words], env=ENV)
    launch, kwargs = torchrun(*words)
    run(launch, **kwargs)
    one, two = (load_file(tmp_path / f"steps-{n}.safetensors") for n in (1, 2))
    assert one.keys() == two.keys()
    assert any(name.startswith("gradient.") for name in one)
    # Attention ignores the bias of keys: its gradient is rounding, which Adam makes a whole step of.
    far = [n for n in one if not n.endswith("key.bias") and not close(one[n], two[n], n)]
    assert not far
    for name in ("momentum.bank_pairs", "momentum.bank_groups", "momentum.bank_state"):
        if name in one:
            assert torch.equal(one[name], two[name])  # filled in rank order
    sums = {path.read_text() for path in tmp_path.glob("checksum-2-*")}
    assert len(sums) == ("momentum.bank_state" in one)  # equal on both


RUN = {
    "preset": "tiny", "text_source": "label", "objective": "cra_paper", "epochs": 6, "batch_size": 120,
    "bank_size": 150, "lr": 1e-3, "checkpoint_every": 4, "max_genes": 24, "log_every": 1,
}  # fmt: skip


def command(store, out, tmp_path):
    keys = tmp_path / "keys.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in RUN.items()]
    keys.write_text("[train]\n" + "\n".join(lines) + "\n")
    return ("-m", "okrcell.train", "run", store, "--out", out, "--config", keys)


def files(run):
    skip = {"log.csv", "logs", ".lock", "request.json"}
    return {p.name: p.read_bytes() for p in run.iterdir() if p.name not in skip}


@pytest.mark.slow
def test_torchrun_restarts_a_killed_worker_and_ends_the_same(store, tmp_path):
    launch, kwargs = torchrun(*command(store, tmp_path / "calm", tmp_path))
    done = run(launch, **kwargs)
    assert done.stdout.count("objective") == 1  # one process speaks
    words = ["--max-restarts", "1", *command(store, tmp_path / "hit", tmp_path)]
    launch, kwargs = torchrun(*words)
    process = subprocess.Popen(launch, stderr=subprocess.PIPE, text=True, **kwargs)
    log = tmp_path / "hit" / "log.csv"
    end = time.monotonic() + 120
    while time.monotonic() < end and not list((tmp_path / "hit").glob("resume-*")):
        time.sleep(0.05)
    assert log.exists()
    workers = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors[-3000:]
    assert "Continuing at step" in errors
    assert files(tmp_path / "calm") == files(tmp_path / "hit")


@pytest.mark.slow
def test_another_number_of_processes_may_go_on(store, tmp_path):
    out = tmp_path / "run"
    launch, kwargs = torchrun(*command(store, out, tmp_path))
    process = subprocess.Popen(launch, stderr=subprocess.DEVNULL, **kwargs)
    end = time.monotonic() + 120
    while time.monotonic() < end and not list(out.glob("resume-*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    done = run([sys.executable, "-m", "okrcell.train", "resume", out], env=ENV)
    assert "1 process(es) now, 2 before" in done.stderr
    assert read_manifest(out, "run").facts["steps"] == 18


def test_a_batch_that_does_not_divide_is_refused(store, tmp_path):
    launch, kwargs = torchrun(*command(store, tmp_path / "r", tmp_path), "--batch-size", "121")
    done = subprocess.run(
        launch, capture_output=True, text=True, timeout=280, check=False, **kwargs
    )
    assert done.returncode != 0
    assert "a multiple of 2" in done.stderr
