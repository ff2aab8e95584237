"""Vectors of the cells of a file, block by block."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from okrcell.console import progress
from okrcell.evaluate.apply.cells import Sample

if TYPE_CHECKING:
    from okrcell.train.model import CellTextModel

__all__ = ["encoded", "load_run"]

_BLOCK = 2048
_BATCH = {"mlp": 512}


def load_run(run: Path, device: str) -> CellTextModel:
    """Load a run for use on other data.

    Parameters
    ----------
    device
        ``auto`` takes a GPU where there is one.

    Raises
    ------
    ManifestError, SchemaVersionError, FileFormatError
        Not a finished run of this version.
    """
    import torch

    import okrcell

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return okrcell.load(run, device=device)


def encoded(model: CellTextModel, sample: Sample) -> npt.NDArray[np.float32]:
    """Return float32 [N, E], unit rows; those of cells without any value are zeros."""
    n, batch = len(sample), _BATCH.get(model.config.preset, 64)
    parts = []
    with progress("Encoding cells", n, "cells") as advance:
        for begin in range(0, n, _BLOCK):
            rows = np.arange(begin, min(begin + _BLOCK, n))
            parts.append(model.encode_cells(sample.cells.take(rows), batch_size=batch))
            advance(len(rows))
    vectors = np.concatenate(parts)
    vectors[sample.empty] = 0.0
    return vectors
