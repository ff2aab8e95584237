"""Weights as safetensors: written atomically, loaded strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from okrcell.artifacts import atomic_write, read_manifest
from okrcell.config import load_config
from okrcell.errors import FileFormatError, SchemaVersionError
from okrcell.train.config import TrainConfig
from okrcell.train.model import CellTextModel
from okrcell.train.text import load_text_tower
from okrcell.train.towers import build_tower

__all__ = [
    "BEST",
    "FORMAT",
    "MODEL",
    "WEIGHTS",
    "below",
    "load_model",
    "read_card",
    "read_state",
    "save_state",
    "save_weights",
]

WEIGHTS, BEST, MODEL = "weights.safetensors", "best.safetensors", "model.json"
FORMAT = 2
"""Of ``model.json`` and of the names of tensors."""


def save_weights(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a model's tensors: ``tower.*``, and ``text.*`` where the text tower was trained."""
    atomic_write(path, save_tensors(_contiguous(tensors)))


def load_model(run: Path, *, device: str = "cpu", weights: str = "kept") -> CellTextModel:
    """Load a finished run; every tensor must be there, and no other.

    Parameters
    ----------
    weights
        ``kept`` (the key ``keep`` of the run), ``last`` or ``best`` (on validation).

    Raises
    ------
    ManifestError
        Not a finished run, or altered files.
    FileFormatError
        The weights do not fit the configuration beside them, or there are none of the best epoch.
    """
    manifest = read_manifest(run, "run")
    card = read_card(run)
    config = load_config(TrainConfig, "train", None, card["config"])
    path = run / (BEST if (weights if weights != "kept" else config.keep) == "best" else WEIGHTS)
    if path.name not in manifest.files:
        raise FileFormatError(
            path,
            found="no such weights: the run had no validation cells",
            expected="weights of the last step",
            fix="Ask for weights='last'.",
        )
    width = len(card["variable"] or card["gene_ids"])
    tower = build_tower(config, width, card["text_dim"], len(card["cell_types"]))
    tensors = load_tensors(path.read_bytes())
    text_state = below(tensors, "text.")
    report = tower.load_state_dict(_fitting(path, tower, below(tensors, "tower.")), strict=False)
    odd = [name for name in tensors if not name.startswith(("tower.", "text."))]
    if report.missing_keys or report.unexpected_keys or odd:
        unknown = [*report.unexpected_keys, *odd]
        raise FileFormatError(
            path,
            found=f"missing tensors {report.missing_keys[:3]}, unknown {unknown[:3]}",
            expected="exactly the tensors of its configuration",
            fix="Train again, or load with the version of okrcell that wrote it.",
        )
    text = None
    if config.stage != "1":
        text = load_text_tower(config, [], device=device)
        text.load_trained_state(text_state)
    return CellTextModel(
        config, tower.to(device).eval(), card, manifest.fingerprint, device, text=text
    )


def _fitting(
    path: Path, tower: torch.nn.Module, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    shapes = {name: tuple(value.shape) for name, value in tower.state_dict().items()}
    for name, tensor in tensors.items():
        if name in shapes and tuple(tensor.shape) != shapes[name]:
            raise FileFormatError(
                path,
                found=f"tensor {name} of shape {tuple(tensor.shape)}",
                expected=f"{shapes[name]}, as its configuration says",
                fix="The folder mixes files of two runs: copy it whole, or train again.",
            )
    return tensors


def read_card(run: Path) -> dict[str, Any]:
    """Read ``model.json``.

    Raises
    ------
    SchemaVersionError
        Another version of okrcell wrote it.
    """
    card: dict[str, Any] = json.loads((run / MODEL).read_text(encoding="utf-8"))
    if card.get("format") != FORMAT:
        raise SchemaVersionError(
            run / MODEL,
            found=f"a model of format {card.get('format', 1)}",
            expected=f"format {FORMAT}",
            fix="Train again, or load it with the version of okrcell that wrote it.",
        )
    return card


def save_state(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write everything a run needs to go on: one file, so that no part can be older than another."""
    atomic_write(path, save_tensors(_contiguous(tensors), {"state": json.dumps(facts)}))


def read_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a resume file.

    Raises
    ------
    FileFormatError
        The file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            facts = json.loads(handle.metadata()["state"])
            return {name: handle.get_tensor(name) for name in handle.keys()}, facts
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise FileFormatError(
            path,
            found=f"a damaged checkpoint ({error})",
            expected="the file as okrcell wrote it",
            fix="Remove the file to go on from the checkpoint before it, or train from the start.",
        ) from None


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with a prefix, named without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
