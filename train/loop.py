"""A run from its first step to its manifest: deterministic, resumable, on one process or many."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from okrcell.artifacts import (
    MANIFEST,
    atomic_write,
    current_manifest,
    read_note,
    writing,
)
from okrcell.config import load_config
from okrcell.console import progress, say
from okrcell.errors import ConfigError, FileFormatError, StorageError
from okrcell.train import resume
from okrcell.train.config import TrainConfig
from okrcell.train.distributed import World, world_of
from okrcell.train.export import pair_table
from okrcell.train.finish import facts_of, weights_of, write_run
from okrcell.train.flops import peak_flops
from okrcell.train.loader import Loader
from okrcell.train.logs import RunLog
from okrcell.train.memory import explain_memory
from okrcell.train.passes import PARTS
from okrcell.train.prepare import (
    Prepared,
    build_trainer,
    device_of,
    inputs_of,
    prepare,
)
from okrcell.train.start import start_from
from okrcell.train.trainer import Trainer
from okrcell.train.validate import validate
from okrcell.train.watch import Watch, chance_gap

__all__ = ["continue_run", "train"]

REQUEST = "request.json"


def train(
    store: Path, job: Path, out: Path, config: TrainConfig, *, restart: bool = False
) -> dict[str, Any]:
    """Train a cell-text model; continue where an earlier call stopped.

    Under torchrun every process calls it with the same arguments.

    Parameters
    ----------
    restart
        Begin anew where ``out`` holds an unfinished run of other keys or data, instead of refusing.

    Returns
    -------
    dict
        Pairs, texts, steps, last losses, and whether a finished run was reused.

    Raises
    ------
    TrainingError
        There is nothing to train on, the loss exploded, or memory ran out.
    ConfigError
        An unfinished run was begun with other keys or data.
    """
    with world_of(device_of(config)) as world, _claim(out, world):
        inputs = inputs_of(store, job, config)
        manifest = current_manifest(out, "run", config=config.identity(), inputs=inputs)
        world.barrier()
        if manifest is not None:
            if world.is_main:
                resume.drop(out)  # a kill after the manifest leaves them
            return {"reused": True, **manifest.facts}
        wanted = {"config": config.identity(), "inputs": inputs}
        found = resume.usable(_unfinished(out, restart), wanted, restart)
        if world.is_main:
            _write_request(out, store, job, config)
        prepared = prepare(store, job, config)
        holder = [found]  # emptied once it is loaded: a checkpoint is as large as the run
        del found
        facts = _finish(prepared, config, out, world, holder, restart)
        world.barrier()
    return {"reused": False, **facts}


def continue_run(run: Path, **changes: Any) -> dict[str, Any]:
    """Continue an interrupted run with what it began with.

    Parameters
    ----------
    changes
        Runtime keys that may differ now, such as ``device`` and ``micro_batch``.

    Raises
    ------
    ConfigError
        The folder holds no run.
    """
    request = read_note(run / REQUEST)
    if not request:
        raise ConfigError(
            run,
            found=f"no {REQUEST}",
            expected="a folder in which 'okrcell train run' has begun",
            fix="Check the path, or begin with 'okrcell train run'.",
        )
    try:
        keys = {**request["config"], **changes}
        store, job = Path(request["store"]), Path(request["descriptions"])
    except (KeyError, TypeError):
        raise FileFormatError(
            run / REQUEST,
            found="a request without store, descriptions or config",
            expected="the file as okrcell wrote it",
            fix="Run 'okrcell train run' again with the arguments of the run.",
        ) from None
    return train(store, job, run, load_config(TrainConfig, "train", None, keys))


def _claim(out: Path, world: World) -> AbstractContextManager[object]:
    return writing(out, "run") if world.is_main else nullcontext()


def _write_request(out: Path, store: Path, job: Path, config: TrainConfig) -> None:
    request = {
        "store": str(Path(store).resolve()),
        "descriptions": str(Path(job).resolve()),
        "config": config.model_dump(mode="json")
        | ({"init": str(Path(config.init).resolve())} if config.init is not None else {}),
    }
    atomic_write(out / REQUEST, json.dumps(request, indent=1, sort_keys=True) + "\n")


def _finish(
    prepared: Prepared,
    config: TrainConfig,
    out: Path,
    world: World,
    holder: list[resume.Checkpoint | None],
    restart: bool,
) -> dict[str, Any]:
    """Build, load, take all steps that are left, and write the run."""
    with explain_memory(config):
        trainer = build_trainer(prepared, config, world, out)
        identity = _identity(prepared, config, trainer)
        found = resume.usable(holder.pop(), identity, restart)
        # All have looked for checkpoints by now: the first process may remove what is of no use.
        _check_together(found.facts["step"] if found is not None else 0, trainer)
        if found is not None:
            state = resume.load(trainer, found, trainer.total_steps)
        else:
            if world.is_main:
                resume.drop(out)
            state = resume.Progress(sums=[0.0] * (len(PARTS) + 1))
            if config.init is not None:
                state.started = start_from(trainer, prepared.pairs, Path(config.init))
        del found
        if world.is_main and prepared.pairs.n_without_text:
            say(
                f"{prepared.pairs.n_without_text} training cells have no accepted description "
                "and are left out"
            )
        _steps(prepared, trainer, state, out, identity)
    facts = facts_of(prepared, trainer, state)
    # Every process: the state of pairs is spread over them.
    known = trainer.objective.reliability(), trainer.objective.suggestions()
    if world.is_main:
        write_run(prepared, trainer, state, out, facts, pair_table(prepared.pairs, *known))
    return facts


def _unfinished(out: Path, restart: bool) -> resume.Checkpoint | None:
    """Return the newest checkpoint, unless it belongs to the finished run in the folder."""
    found = resume.latest(out, restart)
    done = read_note(out / MANIFEST)
    if found is not None and done:
        identity = found.facts["identity"]
        if all(identity[part] == done.get(part) for part in ("config", "inputs")):
            return None
    return found


def _check_together(step: int, trainer: Trainer) -> None:
    """Refuse to go on where processes have found different checkpoints."""
    steps = trainer.world.gather(torch.tensor([step], device=trainer.device)).tolist()
    if len(set(steps)) > 1:
        raise StorageError(
            "run folder",
            found=f"checkpoints of different steps on different processes ({steps})",
            expected="one folder that all processes see alike",
            fix="Put the run on a shared file system, and run again once all see the same files.",
        )


def _identity(prepared: Prepared, config: TrainConfig, trainer: Trainer) -> dict[str, Any]:
    genes = hashlib.sha256("\n".join(prepared.pairs.vocabulary).encode()).hexdigest()
    return {
        "config": config.identity(),
        "inputs": prepared.inputs,
        "text tower": trainer.text.id,
        "vocabulary": genes,
    }


def _steps(
    prepared: Prepared,
    trainer: Trainer,
    state: resume.Progress,
    out: Path,
    identity: dict[str, Any],
) -> None:
    config, world, pairs = trainer.config, trainer.world, prepared.pairs
    watch = Watch(lambda: next(iter(resume.newest(out)), None))
    watch.load(state.watch or watch.state())
    per_epoch, total = trainer.steps_per_epoch, trainer.total_steps
    name = f"Training {config.objective} on {config.text_source} texts"
    log = None
    if world.is_main:
        log = RunLog(
            out, state.step, peak_flops(trainer.device, trainer.passes.precision) * world.size
        )
    rates, start = _Rates(), state.step
    batches = Loader(pairs, config, trainer.sampler, world, start=state.step, stop=total).__iter__()
    try:
        with _bar(name, total, world) as advance:
            advance(state.step)
            for number, batch in batches:
                if number % per_epoch == 0 or number == start:
                    epoch = number // per_epoch + 1
                    trainer.start_epoch(epoch)
                if number % per_epoch == 0:
                    trainer.objective.start_epoch(epoch)
                report = trainer.take(number, batch)
                watch.check(number, report, lambda rows=batch.pairs: pairs.uids(rows))  # type: ignore[misc]
                gap = chance_gap(
                    report.cells_nE, report.texts_nE, float(trainer.passes.tau.detach())
                )
                gap = float(world.mean(torch.tensor(gap, device=trainer.device)))
                values = [*report.parts.tolist(), gap]
                state.sums = [old + new for old, new in zip(state.sums, values, strict=True)]
                state.step = number + 1
                if state.step % per_epoch == 0:
                    _close_epoch(prepared, trainer, state, epoch, log, len(batch.pairs))
                state.watch = watch.state()
                if log is not None:
                    rates.add(log.count(batch.cells, trainer))
                    if state.step % config.log_every == 0 or state.step == total:
                        log.write(state.step, epoch, report, _more(trainer, gap))
                # At the end too: what is left then, to write the run, may fail or be killed.
                if state.step % config.checkpoint_every == 0 or state.step == total:
                    resume.save(out, trainer, state, identity)
                advance(1, f"loss {report.loss:.3f}, {rates}")
    finally:
        batches.close()
        if log is not None:
            log.close()


def _more(trainer: Trainer, gap: float) -> dict[str, float]:
    lr = trainer.optimiser.param_groups[0]["lr"]
    return {"tau": float(trainer.passes.tau.detach()), "lr": lr, "match_nats_above_chance": gap}


class _Rates:
    """Cells per second of the last half minute or so, for the progress line."""

    def __init__(self) -> None:
        self._since, self._cells, self._rate = time.monotonic(), 0.0, 0.0

    def add(self, cells: int) -> None:
        self._cells += cells
        now = time.monotonic()
        if now - self._since >= 2:
            self._rate, self._since, self._cells = self._cells / (now - self._since), now, 0.0

    def __str__(self) -> str:
        return f"{self._rate:.0f} cells/s" if self._rate else "starting"


def _bar(name: str, total: int, world: World) -> AbstractContextManager[Callable[..., None]]:
    if world.is_main:
        return progress(name, total, "steps")
    return nullcontext(lambda *_: None)


def _close_epoch(
    prepared: Prepared,
    trainer: Trainer,
    state: resume.Progress,
    epoch: int,
    log: RunLog | None,
    n: int,
) -> None:
    """Write down the epoch's means, validate, keep the best weights, warn where nothing is learnt."""
    means = [total / trainer.steps_per_epoch for total in state.sums]
    state.sums = [0.0] * len(state.sums)
    row: dict[str, float] = {"epoch": epoch, **dict(zip(PARTS, means[:-1], strict=True))}
    row["match_nats_above_chance"] = means[-1]
    if epoch > trainer.config.text_from:
        trainer.text.refresh()  # the table of all texts follows the text tower once per epoch
    if len(prepared.judged):
        row |= validate(trainer, prepared.validation, prepared.judged)
        before = [(old["val_accuracy"], -old["val_loss"]) for old in state.history]
        if (row["val_accuracy"], -row["val_loss"]) > max(before, default=(-1.0, 0.0)):
            state.best = {k: v.detach().clone() for k, v in weights_of(trainer).items()}
    state.history.append(row)
    if log is not None:
        log.epoch(state.step, row)
        warning = Watch.at_chance(means[-1], n)
        if warning and epoch in (2, trainer.config.total_epochs):  # in the first all are near it
            say(warning)
