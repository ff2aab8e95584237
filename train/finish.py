"""What a finished run is: weights, card, pairs, seen cells, manifest last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from okrcell.artifacts import atomic_write, commit, file_sha256, invalidate
from okrcell.schemas import write_table
from okrcell.train import resume
from okrcell.train.calibrate import CALIBRATION, write_calibration
from okrcell.train.card import CARD, model_card
from okrcell.train.checkpoint import BEST, FORMAT, MODEL, WEIGHTS, save_weights
from okrcell.train.data import SEEN, seen_cells
from okrcell.train.export import PAIRS
from okrcell.train.prepare import EVIDENCE, Prepared
from okrcell.train.trainer import Trainer

__all__ = ["facts_of", "weights_of", "write_run"]

_HISTORY = "history.json"


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return what a run trains: ``tower.*``, and ``text.*`` where the text tower trains."""
    tensors = {f"tower.{k}": v for k, v in trainer.tower.state_dict().items()}
    return tensors | {f"text.{k}": v for k, v in trainer.text.trained_state().items()}


def facts_of(prepared: Prepared, trainer: Trainer, state: resume.Progress) -> dict[str, Any]:
    """Return what the manifest says of a run; nothing of it depends on the clock."""
    pairs = prepared.pairs
    return {
        "objective": trainer.config.objective,
        "pairs": len(pairs),
        "cells_without_text": pairs.n_without_text,
        "texts": len(pairs.texts),
        "genes": len(pairs.vocabulary),
        "parameters": sum(p.numel() for p in trainer.tower.parameters()),
        "steps": trainer.total_steps,
        "precision": trainer.passes.precision,
        "last_losses": state.history[-1],
        **({"started_from": state.started} if state.started else {}),
        **({"noise": prepared.facts} if prepared.facts else {}),
    }


def write_run(
    prepared: Prepared,
    trainer: Trainer,
    state: resume.Progress,
    out: Path,
    facts: dict[str, Any],
    table: pa.Table,
) -> None:
    """Write a run's files and its manifest; then what only an unfinished run needs goes."""
    config, pairs = trainer.config, prepared.pairs
    card = {
        "format": FORMAT,
        "config": config.identity(),
        "gene_ids": list(pairs.vocabulary),
        "variable": pairs.variable_ids,
        "cell_types": list(pairs.cell_types) if config.cls_weight else [],
        "text_dim": trainer.text.dim,
        "embedder": trainer.text.id,
        "tau": float(trainer.passes.tau.detach()),
    }
    invalidate(out)
    files: dict[str, int | None] = {WEIGHTS: None, MODEL: None, _HISTORY: len(state.history)}
    save_weights(out / WEIGHTS, weights_of(trainer))
    if state.best:
        save_weights(out / BEST, state.best)
        files[BEST] = None
    else:
        (out / BEST).unlink(missing_ok=True)
    atomic_write(out / MODEL, json.dumps(card, indent=1, sort_keys=True) + "\n")
    atomic_write(out / _HISTORY, json.dumps(state.history, indent=0) + "\n")
    kept = BEST if config.keep == "best" and state.best else WEIGHTS
    judged = prepared.judged
    if write_calibration(
        out, trainer, state.best, prepared.validation, judged, file_sha256(out / kept)
    ):
        files[CALIBRATION] = None
    files[SEEN] = write_table(out / SEEN, "seen_cells", seen_cells(prepared.original))
    files[PAIRS] = write_table(out / PAIRS, "pairs", table)
    hashes = {name: file_sha256(out / name) for name in sorted(files)}
    card_text = model_card(
        config, prepared.inputs, facts, state.history, hashes, trainer.text.id, trainer.text.dim
    )
    atomic_write(out / CARD, card_text)
    files[CARD] = None
    commit(out, "run", config=config.identity(), inputs=prepared.inputs, files=files, facts=facts)
    resume.drop(out)
    for path in out.glob(f"*.{EVIDENCE}"):
        path.unlink(missing_ok=True)
