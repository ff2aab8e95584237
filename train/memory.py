"""Out of memory, said in words: what to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from okrcell.errors import TrainingError
from okrcell.train.config import TrainConfig

__all__ = ["explain_memory", "peak_memory"]

_PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "defaultcpuallocator")


@contextmanager
def explain_memory(config: TrainConfig) -> Iterator[None]:
    """Turn any out-of-memory error of a block into one that names the keys to lower.

    Raises
    ------
    TrainingError
        Memory ran out inside the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and not any(phrase in str(error).lower() for phrase in _PHRASES):
            raise
        size = config.micro_batch or config.batch_size
        raise TrainingError(
            "memory",
            found="too little of it for this step",
            expected=f"room for {size} cells of up to {config.max_genes} genes at once"
            + (f" and a bank of {config.bank_size}" if config.with_bank else ""),
            fix=f"Set micro_batch to {max(size // 2, 1)} or less and run again: with 'grad_cache' (the default) "
            "the loss stays that of the whole batch, and the run goes on from its last checkpoint. Or "
            "lower max_genes or bank_size, or take a smaller preset, and begin anew with --restart.",
        ) from None


def peak_memory(device: str) -> int:
    """Return the most bytes this process has held: on the GPU, or as resident memory."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
