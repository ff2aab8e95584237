"""The training loop: deterministic steps, resume state after every few, a finished run at the end.

Randomness is a function of (seed, epoch, step) alone, so a run that was killed and continues takes
exactly the steps an undisturbed run would have taken.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from okrcell.artifacts import atomic_write, commit, current_manifest, invalidate, writing
from okrcell.config import fingerprint
from okrcell.console import progress, say
from okrcell.corpus.embedder import Embedder, load_embedder
from okrcell.errors import TrainingError
from okrcell.schemas import write_table
from okrcell.train import losses
from okrcell.train.checkpoint import MODEL, WEIGHTS, read_state, save_state, save_weights
from okrcell.train.config import TrainConfig
from okrcell.train.cra import CrossModalRobustAlignment
from okrcell.train.data import (
    SEEN,
    Batch,
    Pairs,
    batch_order,
    load_pairs,
    load_texts,
    read_batch,
    seen_cells,
)
from okrcell.train.encoder import CellEncoder, mask_bins

__all__ = ["describe", "train"]

_RESUME, _HISTORY = "resume.safetensors", "history.json"
_LOSS_NAMES = ("gep", "gepc", "align")


def describe(store: Path, job: Path, config: TrainConfig) -> dict[str, Any]:
    """Say what a run would train on, without writing anything."""
    pairs = load_pairs(store, load_texts(store, job, config.text_source))
    steps = len(batch_order(len(pairs), config.batch_size, config.seed, 0))
    return {
        "objective": config.objective,
        "pairs": len(pairs),
        "cells_without_text": pairs.n_without_text,
        "texts": len(pairs.texts),
        "genes": len(pairs.vocabulary),
        "steps": steps * config.epochs,
        "tokens": int(config.epochs * sum(m.matrix.nnz for m in pairs.matrices)),
    }


def train(
    store: Path, job: Path, out: Path, config: TrainConfig, *, embedder: Embedder | None = None
) -> dict[str, Any]:
    """Train a cell tower against frozen text; continue where an earlier call stopped.

    Returns
    -------
    dict
        Pairs, texts, steps, last losses, and whether a finished run was reused.

    Raises
    ------
    TrainingError
        There is nothing to train on, or the loss stopped being finite.
    """
    texts = load_texts(store, job, config.text_source)
    inputs = texts.inputs
    key = config.model_dump(mode="json")
    with writing(out, "run"):
        manifest = current_manifest(out, "run", config=key, inputs=inputs)
        if manifest is not None:
            return {"reused": True, **manifest.facts}
        pairs = load_pairs(store, texts)
        if len(pairs.texts) < 2:
            raise TrainingError(
                store,
                found="one text for all training cells",
                expected="at least two cell types to tell apart",
                fix="Add cells of other types, or hold out fewer.",
            )
        embedder = embedder or load_embedder(config.embedder)
        if pairs.n_without_text:
            say(
                f"{pairs.n_without_text} training cells have no accepted description and are left out"
            )
        run = _Run(config, pairs, torch.from_numpy(embedder.encode(pairs.texts)))
        identity = fingerprint({"config": key, "inputs": inputs, "embedder": embedder.id})
        if (out / _RESUME).exists():
            run.load(out / _RESUME, identity)
        history = run.finish(out / _RESUME, identity)
        card = {
            "config": key,
            "gene_ids": list(pairs.vocabulary),
            "text_dim": embedder.dim,
            "embedder": embedder.id,
        }
        invalidate(out)
        save_weights(out, run.encoder, card)
        atomic_write(out / _HISTORY, json.dumps(history, indent=0) + "\n")
        seen = write_table(out / SEEN, "seen_cells", seen_cells(pairs))
        facts = {
            "pairs": len(pairs),
            "cells_without_text": pairs.n_without_text,
            "texts": len(pairs.texts),
            "genes": len(pairs.vocabulary),
            "parameters": sum(p.numel() for p in run.encoder.parameters()),
            "steps": run.total_steps,
            "last_losses": history[-1],
        }
        files = {WEIGHTS: None, MODEL: None, _HISTORY: len(history), SEEN: seen}
        manifest = commit(out, "run", config=key, inputs=inputs, files=files, facts=facts)
        (out / _RESUME).unlink(missing_ok=True)
    return {"reused": False, **manifest.facts}


class _Run:
    """Everything that changes from step to step."""

    def __init__(self, config: TrainConfig, pairs: Pairs, text_vectors: torch.Tensor) -> None:
        self.config, self.pairs, self.texts_TE = config, pairs, text_vectors
        torch.manual_seed(config.seed)
        text_dim = text_vectors.shape[1]
        self.encoder = CellEncoder(config, len(pairs.vocabulary), text_dim)
        self.cra = (
            CrossModalRobustAlignment(config, self.encoder, self._prior(), text_dim)
            if config.objective == "cra_paper"
            else None
        )
        self.optimiser = torch.optim.AdamW(
            self.encoder.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.steps_per_epoch = len(batch_order(len(pairs), config.batch_size, config.seed, 0))
        self.total_steps = self.steps_per_epoch * config.epochs
        self.step = 0
        self.sums = [0.0] * len(_LOSS_NAMES)
        self.history: list[dict[str, float]] = []

    def _prior(self) -> torch.Tensor:
        """Return what is known of each pair's text before training: float32 [n]."""
        prior = torch.from_numpy(self.pairs.prior)
        return prior if self.config.reliability_prior else torch.ones_like(prior)

    def finish(self, resume: Path, identity: str) -> list[dict[str, float]]:
        """Take all steps that are left; return the mean losses per epoch."""
        config = self.config
        self.encoder.train()
        name = f"Training {config.objective} on {config.text_source} texts"
        with progress(name, self.total_steps, "steps") as advance:
            advance(self.step)
            while self.step < self.total_steps:
                epoch, at = divmod(self.step, self.steps_per_epoch)
                order = batch_order(len(self.pairs), config.batch_size, config.seed, epoch)
                parts = self._take(order[at], epoch)
                self.sums = [total + part for total, part in zip(self.sums, parts, strict=True)]
                self.step += 1
                if self.step % self.steps_per_epoch == 0:
                    self._close_epoch(epoch + 1)
                if self.step % config.checkpoint_every == 0 and self.step < self.total_steps:
                    self.save(resume, identity)
                advance(1, f"loss {sum(parts):.3f}")
        self._warn_if_nothing_learnt()
        return self.history

    def _take(self, index: np.ndarray, epoch: int) -> list[float]:
        config = self.config
        stream = [config.seed, epoch, self.step]
        batch = read_batch(self.pairs, index, config, np.random.default_rng(stream))
        torch.manual_seed(int(np.random.SeedSequence(stream).generate_state(1)[0]))
        generator = torch.Generator().manual_seed(torch.initial_seed())
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * config.lr_decay**epoch
        draw = int(torch.randint(len(config.mask_ratios), (1,), generator=generator))
        hidden = mask_bins(batch.tokens, config.mask_ratios[draw], generator)
        encoded = self.encoder(batch.tokens, hidden)
        gep, gepc = self.encoder.gene_loss(encoded, batch.tokens, hidden)
        texts_NE = self.texts_TE[torch.from_numpy(batch.text)]
        align = self._align(encoded.cell, texts_NE, batch, epoch)
        loss = config.gep_weight * gep + config.gepc_weight * gepc + config.align_weight * align
        if not torch.isfinite(loss):
            raise TrainingError(
                f"step {self.step}",
                found=f"a loss of {loss.item()} (cells {', '.join(self._uids(index)[:3])}, ...)",
                expected="a finite loss",
                fix="Lower the key 'lr', or look at these cells; the last checkpoint is kept.",
            )
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimiser.step()
        if self.cra is not None:
            self.cra.after_step(self.encoder, batch.tokens, texts_NE)
        return [gep.item(), gepc.item(), align.item()]

    def _align(
        self, cells_NE: torch.Tensor, texts_NE: torch.Tensor, batch: Batch, epoch: int
    ) -> torch.Tensor:
        if self.cra is None:
            return losses.infonce(cells_NE, texts_NE, self.config.tau)
        loss: torch.Tensor = self.cra(
            cells_NE,
            texts_NE,
            torch.from_numpy(batch.pairs),
            epoch=epoch + 1,
            progress=self.step / self.total_steps,
        )
        return loss

    def _uids(self, index: np.ndarray) -> list[str]:
        return [self.pairs.cell_uids[at] for at in index]

    def _close_epoch(self, epoch: int) -> None:
        means = [total / self.steps_per_epoch for total in self.sums]
        self.history.append({"epoch": epoch, **dict(zip(_LOSS_NAMES, means, strict=True))})
        self.sums = [0.0] * len(_LOSS_NAMES)

    def _warn_if_nothing_learnt(self) -> None:
        batch = min(self.config.batch_size, len(self.pairs))
        last = self.history[-1]["align"]
        if self.cra is None and abs(last - math.log(batch)) < 0.01:
            say(
                f"warning: the alignment loss is still ln({batch}): cells and texts do not match at all"
            )

    def save(self, path: Path, identity: str) -> None:
        """Write the resume file."""
        tensors = {f"encoder.{k}": v for k, v in self.encoder.state_dict().items()}
        if self.cra is not None:
            tensors |= {f"cra.{k}": v for k, v in self.cra.state_dict().items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{k}": v for k, v in state.items()}
        facts = {
            "identity": identity,
            "step": self.step,
            "sums": self.sums,
            "history": self.history,
        }
        save_state(path, tensors, facts)

    def load(self, path: Path, identity: str) -> None:
        """Continue from a resume file; one of another configuration or other data is left aside."""
        tensors, facts = read_state(path)
        if facts["identity"] != identity:
            say(
                "The unfinished run in this folder was made from other data or keys: starting anew."
            )
            return
        self.encoder.load_state_dict(_below(tensors, "encoder."))
        if self.cra is not None:
            self.cra.load_state_dict(_below(tensors, "cra."))
        groups = self.optimiser.state_dict()["param_groups"]
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _below(tensors, "optimiser.").items():
            number, _, field = name.partition(".")
            state.setdefault(int(number), {})[field] = tensor
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.step, self.sums, self.history = facts["step"], facts["sums"], facts["history"]
        say(f"Continuing at step {self.step} of {self.total_steps}.")


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
