"""What a run will take, from a few steps of the run itself: time, memory, tokens, fraction of the peak."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from okrcell.train.config import TrainConfig
from okrcell.train.distributed import SINGLE
from okrcell.train.flops import peak_flops
from okrcell.train.loader import Loader
from okrcell.train.logs import work_of
from okrcell.train.memory import explain_memory, peak_memory
from okrcell.train.prepare import Prepared, build_trainer, prepare
from okrcell.train.sampler import Sampler
from okrcell.train.validate import validate

__all__ = ["describe", "estimate"]

_SECONDS = 20.0
_MOST = 6


def describe(store: Path, job: Path, config: TrainConfig) -> dict[str, Any]:
    """Say what a run would train on, without training or writing anything."""
    return _counts(prepare(store, job, config), config)


def _counts(prepared: Prepared, config: TrainConfig) -> dict[str, Any]:
    pairs = prepared.pairs
    sampler = Sampler(len(pairs), config.batch_size, config.seed, config.shuffle_block)
    return {
        "objective": config.objective,
        "pairs": len(pairs),
        "validation_pairs": len(prepared.judged),
        "cells_without_text": pairs.n_without_text,
        "texts": len(pairs.texts),
        "genes": len(pairs.vocabulary),
        "steps": sampler.steps_per_epoch * config.total_epochs,
        "tokens": int(
            config.total_epochs * sampler.steps_per_epoch * sampler.size * _tokens(pairs, config)
        ),
    }


def _tokens(pairs: Any, config: TrainConfig) -> float:
    """Return the mean tokens per cell, of at most 10,000 cells."""
    if config.preset == "mlp":
        return 1.0
    some = np.linspace(0, len(pairs) - 1, min(len(pairs), 10_000)).astype(np.int64)
    lengths = np.concatenate(
        [
            np.diff(matrix.matrix.indptr)[pairs.row[some[pairs.dataset[some] == number]]]
            for number, matrix in enumerate(pairs.matrices)
        ]
    )
    return float(1 + np.minimum(lengths, config.max_genes).mean())


def estimate(store: Path, job: Path, config: TrainConfig) -> dict[str, Any]:
    """Take up to six steps (about twenty seconds), write nothing, and say what the whole will take.

    Returns
    -------
    dict
        What ``describe`` says, and seconds per step, hours, cells and tokens per second, peak memory in
        bytes, TFLOP/s and the fraction of this machine's measured matrix rate (MFU).
    """
    prepared = prepare(store, job, config)
    facts = _counts(prepared, config)
    with explain_memory(config), tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        trainer = build_trainer(prepared, config, SINGLE, Path(scratch))
        set_up = time.monotonic() - began
        trainer.start_epoch(1)
        trainer.objective.start_epoch(1)
        stop = min(_MOST + 1, trainer.total_steps)
        batches = Loader(
            prepared.pairs, config, trainer.sampler, SINGLE, start=0, stop=stop
        ).__iter__()
        times, work = [], []
        start = last = time.monotonic()
        try:
            for number, batch in batches:
                trainer.take(number, batch)
                now = time.monotonic()
                times.append(now - last)
                work.append(work_of(batch.cells, trainer))
                last = now
                if now - start > _SECONDS:
                    break
        finally:
            batches.close()
        # The first step pays for warming up; count it only where it is all there is.
        steady = slice(1, None) if len(times) > 1 else slice(None)
        seconds = float(np.mean(times[steady]))
        cells, tokens, flops = np.mean(work[steady], axis=0)
        judged = prepared.judged[:256]
        began = time.monotonic()
        if len(judged):
            validate(trainer, prepared.validation, judged)
        per_judged = (time.monotonic() - began) / max(len(judged), 1)
        validation = per_judged * len(prepared.judged) * config.total_epochs
        memory = peak_memory(trainer.device)
        peak = peak_flops(trainer.device, trainer.passes.precision)
    return {
        **facts,
        "device": trainer.device,
        "precision": trainer.passes.precision,
        "seconds_per_step": round(seconds, 4),
        "set_up_seconds": round(set_up, 1),
        "validation_seconds": round(validation, 1),
        "hours": round((set_up + seconds * facts["steps"] + validation) / 3600, 3),
        "cells_per_s": round(cells / seconds, 1),
        "tokens_per_s": round(tokens / seconds),
        "peak_memory_bytes": memory,
        "tflops": round(flops / seconds / 1e12, 3),
        "mfu": round(flops / seconds / peak, 3),
    }
