"""Heavy libraries, imported late and without their import-time chatter."""

from __future__ import annotations

import logging
import warnings
from types import ModuleType

__all__ = ["scanpy", "scib_metrics", "torch_first"]


def torch_first() -> None:
    """Load torch before libraries that bring their own OpenMP.

    Where numba comes first, torch runs on its threads, and text models were seen to take twenty times
    as long.
    """
    import torch  # noqa: F401


def scanpy() -> ModuleType:
    """Return scanpy (about 3 s)."""
    torch_first()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap-learn warns that tensorflow is not installed
        import scanpy as module
        import umap  # noqa: F401  (scanpy imports it at first use, outside of this silence)
    return module  # type: ignore[no-any-return]


def scib_metrics() -> ModuleType:
    """Return scib-metrics (6 to 20 s)."""
    torch_first()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root_level = logging.getLogger().level
        import scib_metrics as module
    logging.getLogger().setLevel(root_level)  # jax changes it
    return module  # type: ignore[no-any-return]
