"""Weights and resume state as single safetensors files: written atomically, loaded strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from okrcell.artifacts import atomic_write, read_manifest
from okrcell.errors import FileFormatError
from okrcell.train.config import TrainConfig
from okrcell.train.encoder import CellEncoder
from okrcell.train.model import CellTextModel

__all__ = ["load_model", "read_state", "save_state", "save_weights"]

WEIGHTS, MODEL = "weights.safetensors", "model.json"


def save_weights(folder: Path, encoder: CellEncoder, card: dict[str, Any]) -> None:
    """Write the cell tower and what is needed to use it."""
    atomic_write(folder / WEIGHTS, save_tensors(_contiguous(encoder.state_dict())))
    atomic_write(folder / MODEL, json.dumps(card, indent=1, sort_keys=True) + "\n")


def load_model(run: Path, *, device: str = "cpu") -> CellTextModel:
    """Load a finished run; every tensor must be there, and no other.

    Raises
    ------
    ManifestError
        Not a finished run, or altered files.
    FileFormatError
        The weights do not fit the configuration beside them.
    """
    manifest = read_manifest(run, "run")
    card = json.loads((run / MODEL).read_text(encoding="utf-8"))
    config = TrainConfig.model_validate(card["config"])
    encoder = CellEncoder(config, len(card["gene_ids"]), card["text_dim"])
    tensors = load_tensors((run / WEIGHTS).read_bytes())
    report = encoder.load_state_dict(tensors, strict=False)
    if report.missing_keys or report.unexpected_keys:
        raise FileFormatError(
            run / WEIGHTS,
            found=f"missing tensors {report.missing_keys[:3]}, unknown {report.unexpected_keys[:3]}",
            expected="exactly the tensors of its configuration",
            fix="Train again, or load with the version of okrcell that wrote it.",
        )
    return CellTextModel(config, encoder.to(device).eval(), card, manifest.fingerprint, device)


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
            fix="Remove the file to train from the start.",
        ) from None


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
