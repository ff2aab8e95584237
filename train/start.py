"""Weights to start from: a run of ours, or a scGPT checkpoint; what was taken is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from okrcell.console import say
from okrcell.corpus.embedder import same_weights
from okrcell.errors import ConfigError
from okrcell.train.checkpoint import BEST, WEIGHTS, below, read_card
from okrcell.train.data import Pairs
from okrcell.train.tokens import N_SPECIAL
from okrcell.train.trainer import Trainer

__all__ = ["start_from"]

_GENES = "tower.gene.weight"
_ARCHITECTURE = ("preset", "n_bins", "norm", "activation", "values")


def start_from(trainer: Trainer, pairs: Pairs, folder: Path) -> dict[str, Any]:
    """Copy weights into a fresh trainer (and its momentum towers).

    Returns
    -------
    dict
        How many genes and tensors were taken, and which tensors are fresh.

    Raises
    ------
    ConfigError
        The checkpoint has another shape than the configuration.
    """
    if (folder / "best_model.pt").exists():
        from okrcell.train.scgpt import init_from_scgpt

        report = init_from_scgpt(trainer.tower, folder, pairs.vocabulary)
    else:
        report = _from_run(trainer, pairs, folder)
    if trainer.momentum is not None:
        trainer.momentum.reset(trainer.tower, trainer.text)
    if trainer.world.is_main:
        say(f"Starting from {folder}: " + ", ".join(f"{k} {v}" for k, v in report.items()))
    return report


@torch.no_grad()
def _from_run(trainer: Trainer, pairs: Pairs, folder: Path) -> dict[str, Any]:
    """Take a run's tower; its gene vectors by gene id, its text tower where both train one."""
    card = read_card(folder)
    _check_shape(trainer, card, folder)
    kept = BEST if card["config"]["keep"] == "best" else WEIGHTS
    theirs = load_file(folder / kept)
    own = {f"tower.{name}": value for name, value in trainer.tower.state_dict().items()}
    if pairs.variable_ids != card["variable"]:
        raise _other(folder, "input genes", "a run with the same variable genes")
    for name in sorted(own.keys() - {_GENES}):
        if name.startswith("tower.types."):
            continue
        if name not in theirs or theirs[name].shape != own[name].shape:
            shape = list(theirs[name].shape) if name in theirs else "nothing"
            raise _other(folder, f"{name} {shape}", f"{list(own[name].shape)}, as the keys say")
        own[name].copy_(theirs[name])
    report: dict[str, Any] = {}
    if _GENES in own:
        rows = {gene: at for at, gene in enumerate(card["gene_ids"])}
        special = own[_GENES][:N_SPECIAL]
        special.copy_(theirs[_GENES][:N_SPECIAL])
        shared = [(at, rows[gene]) for at, gene in enumerate(pairs.vocabulary) if gene in rows]
        if not shared:
            raise _other(
                folder, "none of this data's genes in its vocabulary", "a run of the same species"
            )
        mine, from_ = (torch.tensor(part) + N_SPECIAL for part in zip(*shared, strict=True))
        own[_GENES][mine] = theirs[_GENES][from_].to(own[_GENES].device)
        report |= {"genes_taken": len(shared), "genes_fresh": len(pairs.vocabulary) - len(shared)}
    report |= _types(own, theirs, card["cell_types"], pairs.cell_types)
    text = below(theirs, "text.")
    if text and trainer.text.trainable:
        trainer.text.load_trained_state(text)
        report["text_tensors_taken"] = len(text)
    return report


def _types(
    own: dict[str, torch.Tensor],
    theirs: dict[str, torch.Tensor],
    their_types: list[str],
    types: tuple[str, ...],
) -> dict[str, Any]:
    """Take the rows of the cell type head by name; those of other types stay fresh."""
    if "tower.types.weight" not in own:
        return {}
    rows = {name: at for at, name in enumerate(their_types)}
    shared = [(at, rows[name]) for at, name in enumerate(types) if name in rows]
    for mine, from_ in shared:
        for part in ("tower.types.weight", "tower.types.bias"):
            own[part][mine] = theirs[part][from_].to(own[part].device)
    return {"types_taken": len(shared), "types_fresh": len(types) - len(shared)}


def _check_shape(trainer: Trainer, card: dict[str, Any], folder: Path) -> None:
    """Refuse a run whose tower would compute something else with the same tensors."""
    theirs, own = card["config"], trainer.config.identity()
    for key in _ARCHITECTURE:
        if theirs[key] != own[key]:
            raise _other(folder, f"{key} = {theirs[key]}", f"{own[key]}, as the keys say")
    if not same_weights(card["embedder"], trainer.text.id):
        raise _other(folder, f"the text tower {card['embedder']}", trainer.text.id)
    if theirs["stage"] != "1" and not trainer.text.trainable:
        raise _other(folder, "a run whose text tower was trained", "stage 2 or both here too")


def _other(folder: Path, found: str, expected: str) -> ConfigError:
    return ConfigError(
        folder,
        found=found,
        expected=expected,
        fix="Set the keys of the model (preset, n_bins, norm, activation, values, embedder, stage) as "
        "that run has them.",
    )
