"""Arrays in files whose space is reserved before they are mapped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["allocated"]

_BLOCK = 1 << 20


def allocated(path: Path, dtype: type, shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Return a new writable array that lives in a file.

    Writing to a map of a sparse file ends the process with SIGBUS once the disk is full. Here a full
    disk is an ``OSError`` at once.
    """
    size = int(np.dtype(dtype).itemsize) * shape[0] * shape[1]
    with path.open("wb") as handle:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, size)
        else:  # macOS
            for begin in range(0, size, _BLOCK):
                handle.write(b"\0" * min(_BLOCK, size - begin))
    return np.memmap(path, dtype, mode="r+", shape=shape)
