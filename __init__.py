"""okrcell: an open-world-knowledge-aided single-cell foundation model (OKR-CELL, arXiv 2601.05648v1)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from okrcell.train.model import CellTextModel

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(
    run: str | Path, *, device: str = "cpu", weights: Literal["kept", "last", "best"] = "kept"
) -> CellTextModel:
    """Load a trained model from a run folder.

    Parameters
    ----------
    run
        Folder written by ``okrcell train run``.
    weights
        ``kept``: what the run's key ``keep`` says; ``last``: of the last step; ``best``: of the epoch
        with the best validation accuracy.

    Returns
    -------
    CellTextModel
        With ``encode_cells(adata) -> float32 [n_obs, D]`` and
        ``encode_text(list[str]) -> float32 [n, D]``, rows of unit length.

    Raises
    ------
    ManifestError
        The folder is not a finished run, or its files were altered.
    FileFormatError
        The weights do not fit the configuration beside them, or there are none of a best epoch.
    """
    from okrcell.train.checkpoint import load_model

    return load_model(Path(run), device=device, weights=weights)
