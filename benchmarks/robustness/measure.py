"""One run: train as the command does, measure both checkpoints, keep numbers and answers."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from grid import TUNING_SEEDS, Run, config_of
from sources import TestCells, job_of, store_of, test_cells

from okrcell.evaluate.annotation import probe_linear
from okrcell.evaluate.few_shot import episodes, nearest_prototype
from okrcell.evaluate.intervals import f1_of_counts, type_counts
from okrcell.train.checkpoint import load_model
from okrcell.train.config import TrainConfig
from okrcell.train.export import PAIRS
from okrcell.train.loop import train

__all__ = ["CHECKPOINTS", "detection", "measure"]

CHECKPOINTS = ("last", "best")
_SHOTS, _DRAWS, _FEW_SHOT_SEED = 5, 10, 0
_TOP_CELLS = 10
_BINS = 10
_RUNTIME: dict[str, Any] = {
    "device": "cpu", "precision": "fp32", "workers": 0, "checkpoint_every": 10**6, "log_every": 10**6,
}  # fmt: skip


def measure(run: Run, data: Path, work: Path, scratch: Path) -> dict[str, Any]:
    """Train and measure; the run's folder, which is made in ``scratch``, is removed.

    Returns
    -------
    dict
        ``numbers``, which are JSON values, and ``answers``: checkpoint to int64 [n], the type that is
        said of each test cell.
    """
    torch.set_num_threads(1)
    store = store_of(data, work, run.data)
    job = job_of(data, work, run.data, run.text)
    config = TrainConfig(**config_of(run), **_RUNTIME)
    shutil.rmtree(scratch, ignore_errors=True)
    start = time.monotonic()
    try:
        facts = train(store, job, scratch, config)
        seconds = time.monotonic() - start
        numbers: dict[str, Any] = {
            "config": config.identity(),
            "noise": facts.get("noise", {}),
            "pairs": facts["pairs"],
            "detection": detection(scratch / PAIRS),
            "validation": _validation(scratch),
        }
        answers: dict[str, np.ndarray] = {}
        for checkpoint in () if run.seed in TUNING_SEEDS else CHECKPOINTS:
            asked = test_cells(store, job)
            found = _checkpoint(scratch, checkpoint, asked)
            answers[checkpoint] = found.pop("answers")
            numbers[checkpoint] = found
        if run.suite:
            from suite_tasks import suite_numbers

            numbers["suite"] = suite_numbers(scratch, store, job)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    numbers["seconds"] = {"training": seconds, "all": time.monotonic() - start}
    return {"numbers": numbers, "answers": answers}


def _validation(folder: Path) -> dict[str, float]:
    """Return accuracy and loss on the noisy validation cells, of the best and of the last epoch."""
    history = json.loads((folder / "history.json").read_text())
    best = max(history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    return {
        "accuracy": best["val_accuracy"],
        "loss": best["val_loss"],
        "epoch": best["epoch"],
        "last_accuracy": history[-1]["val_accuracy"],
        "last_loss": history[-1]["val_loss"],
    }


def _checkpoint(folder: Path, checkpoint: str, asked: TestCells) -> dict[str, Any]:
    model = load_model(folder, weights=checkpoint)
    cells = model.encode_cells(asked.matrix, batch_size=256)
    scores = cells @ model.encode_text(list(asked.texts)).T
    said = scores.argmax(axis=1)
    counts = type_counts(asked.truth, said, len(asked.types))(np.ones((1, len(said))))
    own = np.take_along_axis(scores, asked.truth[:, None], axis=1)
    return {
        "answers": said,
        "accuracy": float((said == asked.truth).mean()),
        "macro_f1": float(f1_of_counts(counts)[0]),
        "cell to text, right among 5": float(((scores > own).sum(axis=1) < 5).mean()),
        f"text to cell, precision at {_TOP_CELLS}": _precision(scores, asked.truth),
        **_few_shot(cells, asked),
    }


def _precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of cells of a text's type among its first ten, a mean over types with as many."""
    types, counts = np.unique(truth, return_counts=True)
    first = np.argsort(-scores, axis=0, kind="stable")[:_TOP_CELLS]
    shares = [
        float((truth[first[:, t]] == t).mean())
        for t, n in zip(types, counts, strict=True)
        if n >= _TOP_CELLS
    ]
    return float(np.mean(shares)) if shares else float("nan")


def _few_shot(cells: np.ndarray, asked: TestCells) -> dict[str, float]:
    """Return the mean accuracy of two heads on five labelled cells per type."""
    labels = np.array(asked.types)[asked.truth]
    drawn, _ = episodes(labels, _SHOTS, _DRAWS, _FEW_SHOT_SEED)
    heads = {"prototype": [], "logistic": []}
    for episode in drawn:
        x, y, query = cells[episode.support], labels[episode.support], cells[episode.query]
        right = labels[episode.query]
        heads["prototype"].append((nearest_prototype(x, y, query) == right).mean())
        heads["logistic"].append((probe_linear(x, y, query, _FEW_SHOT_SEED) == right).mean())
    return {f"few-shot, {name}": float(np.mean(values)) for name, values in heads.items()}


def detection(path: Path) -> dict[str, Any] | None:
    """Return how well the reliability tells planted pairs; None where there are none, or no reliability.

    Reliability is read as the chance that a pair is clean: Brier score, and expected calibration error
    over ten equal intervals.
    """
    from sklearn.metrics import roc_auc_score

    table = pq.read_table(path)
    clean = ~table["planted"].to_numpy()
    if table["reliability"].null_count or clean.all() or not clean.any():
        return None
    r = table["reliability"].to_numpy().clip(0, 1)
    n_planted = int((~clean).sum())
    flagged = np.argsort(r, kind="stable")[:n_planted]
    where = np.minimum((r * _BINS).astype(int), _BINS - 1)
    bins = [
        {
            "n": int(inside.sum()),
            "mean": float(r[inside].mean()),
            "clean": float(clean[inside].mean()),
        }
        for inside in (where == n for n in range(_BINS))
        if inside.any()
    ]
    suggested = np.array(table["suggested"].to_pylist(), dtype=object)
    types = np.array(table["cell_type"].to_pylist(), dtype=object)
    has = not table["suggested"].null_count
    return {
        "auroc": float(roc_auc_score(clean, r)),
        "precision": float((~clean[flagged]).mean()),
        "planted": n_planted,
        "pairs": len(clean),
        "brier": float(((r - clean) ** 2).mean()),
        "ece": float(sum(b["n"] * abs(b["mean"] - b["clean"]) for b in bins) / len(r)),
        "bins": bins,
        "roc": _roc(clean, r),
        "repaired": float((suggested == types)[~clean].mean()) if has else None,
    }


def _roc(clean: np.ndarray, r: np.ndarray) -> list[list[float]]:
    """Return the share of planted pairs found at rising shares of clean pairs flagged."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(~clean, -r)
    at = np.linspace(0, 1, 21)
    return [
        [round(float(x), 3), round(float(y), 4)]
        for x, y in zip(at, np.interp(at, false, true), strict=True)
    ]
