"""Heavy libraries, imported late and without their import-time chatter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

__all__ = ["one_thread", "scanpy", "scib_metrics"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, torch included.

    Many small problems: threads cost more than they bring, change the sums, and wait for each other
    many times as long as the work takes where another program uses the machine.
    """
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def scanpy() -> ModuleType:
    """Return scanpy (about 3 s)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap-learn warns that tensorflow is not installed
        import scanpy as module
        import umap  # noqa: F401  (scanpy imports it at first use, outside of this silence)
    return module  # type: ignore[no-any-return]


def scib_metrics() -> ModuleType:
    """Return scib-metrics (6 to 20 s)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root_level = logging.getLogger().level
        import scib_metrics as module
    logging.getLogger().setLevel(root_level)  # jax changes it
    return module  # type: ignore[no-any-return]
