"""Resume state: one safetensors file per checkpoint, the newest two kept, readable without pickle.

A file is written beside its target, synced and renamed, so a kill leaves either none or a whole one.
State per pair is gathered before writing: a run may continue on another number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from okrcell.console import say
from okrcell.errors import ConfigError, FileFormatError, InternalError
from okrcell.train.checkpoint import below, read_state, save_state
from okrcell.train.pair_state import gather_pair_states, restore_pair_states
from okrcell.train.trainer import Trainer

__all__ = ["Checkpoint", "Progress", "drop", "latest", "load", "newest", "save", "usable"]

_PATTERN = "resume-*.safetensors"
_KEPT = 2


class Checkpoint(NamedTuple):
    """A resume file as read: tensors, facts, and its path."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]
    path: Path


@dataclass
class Progress:
    """Where a run stands, beside the weights.

    Attributes
    ----------
    step
        Steps taken.
    sums
        Sums over the steps of this epoch: the loss parts, and the gap to chance.
    history
        Means and validation figures of finished epochs.
    watch
        Memory of the watch.
    best
        Weights at the best validation so far; empty before the first.
    started
        What the weights were started from.
    """

    step: int = 0
    sums: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    watch: dict[str, Any] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    started: dict[str, Any] = field(default_factory=dict)


def newest(run: Path) -> list[Path]:
    """Return the resume files of a run, newest first."""
    return sorted(run.glob(_PATTERN), reverse=True)


def drop(run: Path) -> None:
    """Remove all checkpoints: those of a run that is begun anew, or that is finished."""
    for path in newest(run):
        path.unlink(missing_ok=True)


def save(run: Path, trainer: Trainer, progress: Progress, identity: dict[str, Any]) -> None:
    """Write a checkpoint; every process calls it, the first one writes.

    Raises
    ------
    InternalError
        Processes hold different momentum towers or banks.
    """
    _check_equal(trainer)
    tensors = _tensors(trainer)
    tensors |= {f"best.{name}": tensor for name, tensor in progress.best.items()}
    facts = {
        "identity": identity,
        "world": trainer.world.size,
        "step": progress.step,
        "sums": progress.sums,
        "history": progress.history,
        "watch": progress.watch,
        "started": progress.started,
        "precision": trainer.passes.precision,
    }
    if trainer.world.is_main:
        save_state(run / f"resume-{progress.step:09d}.safetensors", tensors, facts)
        for old in newest(run)[_KEPT:]:
            old.unlink(missing_ok=True)
    trainer.world.barrier()


def latest(run: Path, restart: bool = False) -> Checkpoint | None:
    """Read the newest checkpoint that is whole; None where there is none.

    Raises
    ------
    FileFormatError
        All checkpoints are damaged, and nobody said to begin anew.
    """
    damage: FileFormatError | None = None
    for path in newest(run):
        try:
            return Checkpoint(*read_state(path), path)
        except FileFormatError as error:
            damage = error
            say(f"warning: {path.name} is damaged; looking for the checkpoint before it.")
    if damage is not None and not restart:
        raise damage
    return None


def usable(found: Checkpoint | None, wanted: dict[str, Any], restart: bool) -> Checkpoint | None:
    """Return a checkpoint that may be continued, or None to begin anew.

    Parameters
    ----------
    wanted
        What the run's identity must be, or the part of it that is known by now.
    restart
        Leave one of other keys, data or vocabulary aside instead of refusing it.

    Raises
    ------
    ConfigError
        Names every difference.
    """
    if found is None:
        return None
    changes = _differences(found.facts["identity"], wanted)
    if not changes:
        return found
    if restart:
        say("The unfinished run in this folder was begun with other keys or data: beginning anew.")
        return None
    raise ConfigError(
        found.path,
        found=f"an unfinished run with {'; '.join(changes)}",
        expected="the same keys, data and vocabulary",
        fix="Use what the run began with ('okrcell train resume RUN' does), choose another --out, or "
        "begin anew with --restart.",
    )


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    changes = []
    for part in sorted(wanted):
        old, new = found.get(part), wanted[part]
        if not (isinstance(old, dict) and isinstance(new, dict)):
            old, new = {part: old}, {part: new}
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                changes.append(f"{key} {_short(old.get(key))} (now {_short(new.get(key))})")
    return changes


def load(trainer: Trainer, found: Checkpoint, total: int) -> Progress:
    """Put a checkpoint into a trainer."""
    tensors, facts, _ = found
    trainer.tower.load_state_dict(below(tensors, "tower."))
    trainer.text.load_resume_state(below(tensors, "text."))
    trainer.objective.load_state_dict(below(tensors, "objective."))
    restore_pair_states(trainer.objective, below(tensors, "pairs."))
    if trainer.momentum is not None:
        trainer.momentum.load_state_dict(below(tensors, "momentum."))
    with torch.no_grad():
        trainer.log_tau.copy_(tensors["log_tau"])
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in below(tensors, "optimiser.").items():
        number, _, part = name.partition(".")
        slots.setdefault(int(number), {})[part] = tensor
    groups = trainer.optimiser.state_dict()["param_groups"]
    trainer.optimiser.load_state_dict({"state": slots, "param_groups": groups})
    if trainer.world.is_main:
        now, then = trainer.world.size, facts["world"]
        told = f"Continuing at step {facts['step']} of {total}."
        if now != then:
            told += (
                f" {now} process(es) now, {then} before: the same batches and masks, other dropout."
            )
        if trainer.passes.precision != facts["precision"]:
            told += f" In {trainer.passes.precision} now, in {facts['precision']} before."
        say(told)
    return Progress(
        step=facts["step"],
        sums=facts["sums"],
        history=facts["history"],
        watch=facts["watch"],
        best=below(tensors, "best."),
        started=facts["started"],
    )


def _check_equal(trainer: Trainer) -> None:
    """Compare the checksums of momentum towers and banks, which all processes keep alike."""
    if trainer.momentum is None or trainer.world.size == 1:
        return
    sums = trainer.world.gather(trainer.momentum.checksum())
    if bool((sums != sums[0]).any()):
        raise InternalError(
            "memory banks",
            found=f"{len(set(sums.tolist()))} different states on {trainer.world.size} processes",
            expected="the same on all",
            fix="Continue from the last checkpoint, and report this.",
        )


def _tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    tensors = {f"tower.{k}": v for k, v in trainer.tower.state_dict().items()}
    tensors |= {f"text.{k}": v for k, v in trainer.text.resume_state().items()}
    tensors |= {f"objective.{k}": v for k, v in trainer.objective.state_dict().items()}
    tensors |= {f"pairs.{k}": v for k, v in gather_pair_states(trainer.objective).items()}
    if trainer.momentum is not None:
        tensors |= {f"momentum.{k}": v for k, v in trainer.momentum.state_dict().items()}
    tensors["log_tau"] = trainer.log_tau.detach()
    for number, slot in trainer.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{k}": v for k, v in slot.items()}
    return tensors


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:12]}..."
