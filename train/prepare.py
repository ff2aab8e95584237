"""From a store, a job and a configuration to everything a run needs before its first step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from okrcell.artifacts import atomic_path, file_sha256, read_manifest
from okrcell.console import say
from okrcell.errors import ConfigError, TrainingError
from okrcell.train.config import TrainConfig
from okrcell.train.data import Pairs, load_pairs, load_texts
from okrcell.train.distributed import World
from okrcell.train.evidence import pair_evidence
from okrcell.train.flops import fast_precision
from okrcell.train.momentum import Momentum
from okrcell.train.noise import corrupt, plant
from okrcell.train.objectives.registry import build_objective
from okrcell.train.passes import Passes
from okrcell.train.sampler import Sampler
from okrcell.train.text import load_text_tower
from okrcell.train.towers import build_tower
from okrcell.train.trainer import Trainer
from okrcell.train.validate import choose_validation
from okrcell.train.variable import with_variable

__all__ = ["EVIDENCE", "Prepared", "build_trainer", "device_of", "inputs_of", "prepare"]

EVIDENCE = "evidence.npz"


@dataclass(frozen=True)
class Prepared:
    """What a run reads.

    Attributes
    ----------
    pairs, validation
        Training pairs (with planted noise, where the configuration asks for it) and validation pairs
        of the same texts.
    original
        The training pairs before any noise was planted.
    judged
        int64: the validation pairs that are looked at.
    inputs
        Fingerprints of what was read.
    facts
        What was planted.
    """

    pairs: Pairs
    original: Pairs
    validation: Pairs
    judged: npt.NDArray[np.int64]
    inputs: dict[str, str]
    facts: dict[str, Any]


def device_of(config: TrainConfig) -> str:
    """Return ``cpu`` or ``cuda``.

    Raises
    ------
    ConfigError
        A GPU is asked for and there is none.
    """
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device",
            found="cuda, and torch finds no GPU",
            expected="auto or cpu",
            fix="Install a CUDA build of torch on a machine with a GPU, or say --device cpu.",
        )
    return config.device


def inputs_of(store: Path, job: Path, config: TrainConfig) -> dict[str, str]:
    """Return the fingerprints of what a run would read, without reading cells."""
    return {**load_texts(store, job, config.text_source).inputs, **_start_input(config.init)}


def prepare(store: Path, job: Path, config: TrainConfig) -> Prepared:
    """Read pairs and texts.

    Raises
    ------
    TrainingError
        Fewer than two distinct texts, or no pair at all.
    """
    _check_sense(config)
    texts = load_texts(store, job, config.text_source)
    pairs = load_pairs(store, texts)
    if len(pairs.texts) < 2:
        raise TrainingError(
            store,
            found="one text for all training cells",
            expected="at least two cell types to tell apart",
            fix="Add cells of other types, or hold out fewer.",
        )
    original = pairs
    pairs, facts = _with_noise(pairs, config)
    if config.preset == "mlp":
        pairs = with_variable(pairs, config.hvgs, markers=config.marker_genes)
    validation = load_pairs(store, texts, "validation", like=pairs)
    if facts and len(validation):
        # As noisy as training: nobody who has noisy pairs has clean ones to stop by.
        try:
            validation, facts["validation"] = _with_noise(validation, config)
        except TrainingError as error:
            facts["validation"] = f"left as it is: {error.found}"
    judged = choose_validation(validation, config.validation_cells, config.seed)
    if config.keep == "best" and not len(judged):
        raise ConfigError(
            "keep",
            found="'best' without validation cells",
            expected="validation cells to choose by, or 'last'",
            fix="Give the store a validation split and 'validation_cells' above 0, or set keep = 'last'.",
        )
    inputs = {**texts.inputs, **_start_input(config.init)}
    return Prepared(pairs, original, validation, judged, inputs, facts)


def _check_sense(config: TrainConfig) -> None:
    """Refuse keys that leave nothing to learn, or that contradict each other."""
    weights = [config.align_weight, config.cls_weight]
    if config.preset != "mlp":
        weights += [config.gep_weight, config.gepc_weight]
    if not any(weights):
        raise ConfigError(
            "align_weight",
            found="no loss of a weight above 0"
            + (" (mlp has no gene losses)" * (config.preset == "mlp")),
            expected="something to learn",
            fix="Set align_weight, gep_weight, gepc_weight or cls_weight above 0.",
        )
    if config.mismatch and config.cls_weight:
        raise ConfigError(
            "cls_weight",
            found="a loss on true cell types beside planted mismatches",
            expected="one of the two",
            fix="Set cls_weight = 0: it would tell the model what the planted noise hides.",
        )


def _with_noise(pairs: Pairs, config: TrainConfig) -> tuple[Pairs, dict[str, Any]]:
    facts: dict[str, Any] = {}
    if config.mismatch:
        pairs, planted = plant(pairs, config)
        facts |= planted
    if config.expression_noise:
        pairs, corrupted = corrupt(pairs, config)
        facts |= corrupted
    return pairs, facts


def _start_input(init: str | None) -> dict[str, str]:
    """Return the fingerprint of what the weights start from."""
    if init is None:
        return {}
    folder = Path(init)
    if (folder / "manifest.json").exists():
        return {"init": read_manifest(folder, "run").fingerprint}
    weights = folder / "best_model.pt"
    if not weights.is_file():
        raise ConfigError(
            folder,
            found="neither a finished run nor a scGPT checkpoint",
            expected="a folder of 'okrcell train run', or one with args.json, vocab.json, best_model.pt",
            fix="Correct the path after --init.",
        )
    return {"init": file_sha256(weights)}


def build_trainer(prepared: Prepared, config: TrainConfig, world: World, run: Path) -> Trainer:
    """Build towers, objective and optimiser; the evidence is kept in the run's folder."""
    device = device_of(config)
    precision = fast_precision(device) if config.precision == "auto" else config.precision
    pairs = prepared.pairs
    sampler = Sampler(len(pairs), config.batch_size, config.seed, config.shuffle_block)
    sampler.share(world.size)  # refuses a batch that does not divide, before any work
    torch.manual_seed(config.seed)
    text = load_text_tower(config, pairs.texts, device=device)
    n_types = len(pairs.cell_types) if config.cls_weight else 0
    tower = build_tower(config, _width(pairs), text.dim, n_types).to(device)
    more: dict[str, Any] = {}
    if config.objective == "cra_plus":
        more = _evidence(prepared, config, world, run)
    objective = build_objective(
        config,
        len(pairs),
        len(pairs.texts),
        world,
        prior=torch.from_numpy(pairs.prior).to(device),
        clean=torch.from_numpy(pairs.clean).to(device),
        **more,
    ).to(device)
    momentum = Momentum(config, tower, text, text.dim).to(device) if config.with_bank else None
    types = torch.from_numpy(pairs.cell_type).to(device)
    passes = Passes(config, tower, text, objective, momentum, types, world, device, precision)
    return Trainer(passes, sampler)


def _width(pairs: Pairs) -> int:
    return len(pairs.vocabulary) if pairs.variable is None else len(pairs.variable)


def _evidence(
    prepared: Prepared, config: TrainConfig, world: World, run: Path
) -> dict[str, torch.Tensor]:
    """Return ``texts`` and ``chances`` of all pairs; the first process finds them, the others read."""
    if not config.consensus:
        own = torch.from_numpy(prepared.pairs.text[:, None])
        return {"texts": own, "chances": torch.ones(own.shape)}
    path = run / f"{_evidence_key(prepared, config)}.{EVIDENCE}"
    if world.is_main and not path.exists():
        say(f"Weighing the evidence for {len(prepared.pairs)} pairs")
        found = pair_evidence(prepared.pairs, config, seed=config.seed, device=device_of(config))
        say(f"Worth of the sources: {found.facts}")
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, texts=found.texts_NS, chances=found.chances_NS)
    world.barrier()
    with np.load(path) as stored:
        return {name: torch.from_numpy(stored[name]) for name in ("texts", "chances")}


def _evidence_key(prepared: Prepared, config: TrainConfig) -> str:
    keys = [prepared.inputs, config.identity()]
    return hashlib.sha256(repr(keys).encode()).hexdigest()[:12]
