"""What runs leave behind: a JSON file of numbers and a file of answers each, both written at once."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from grid import Run, key_of

from okrcell.artifacts import atomic_write

__all__ = ["Kept", "is_done", "keep", "load"]


@dataclass(frozen=True)
class Kept:
    """A run that is done: its numbers, and by checkpoint int64 [n], the type said of each test cell."""

    run: Run
    numbers: dict[str, Any]
    answers: dict[str, np.ndarray]


def _paths(work: Path, key: str) -> tuple[Path, Path]:
    return work / "runs" / f"{key}.json", work / "runs" / f"{key}.npz"


def is_done(work: Path, key: str) -> bool:
    """Say whether a run has left its numbers, which are written last."""
    return _paths(work, key)[0].exists()


def keep(work: Path, key: str, run: Run, found: dict[str, Any]) -> None:
    """Write down a run."""
    numbers, answers = _paths(work, key)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: v.astype(np.uint8) for k, v in found["answers"].items()})
    numbers.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(answers, buffer.getvalue())
    body = {"run": asdict(run), **found["numbers"]}
    atomic_write(numbers, json.dumps(body, indent=1, sort_keys=True) + "\n")


def load(work: Path, runs: Iterable[Run]) -> list[Kept]:
    """Return those of some runs that are done."""
    found = []
    for run in runs:
        numbers, answers = _paths(work, key_of(run))
        if numbers.exists():
            with np.load(answers) as arrays:
                said = {name: arrays[name].astype(np.int64) for name in arrays.files}
            found.append(Kept(run, json.loads(numbers.read_text()), said))
    return found
