"""A dataset is written aside and then takes its place, so that the old one serves until then.

Two renames cannot be one atomic step, but the order decides: a finished folder aside always wins,
and the next writer finishes what a killed one began.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from okrcell.artifacts import MANIFEST, invalidate, move, storage_guard

__all__ = ["finish_interrupted", "take_place", "written_aside"]

_ASIDE, _NEW, _OLD = "incoming", "new-", "old-"


@contextmanager
def written_aside(store: Path, dataset_id: str) -> Iterator[Path]:
    """Yield an empty folder for a dataset; if writing fails, nothing of it stays behind."""
    new = Path(store) / _ASIDE / f"{_NEW}{dataset_id}"
    with storage_guard(new):
        new.mkdir(parents=True)
        try:
            yield new
        except BaseException:
            shutil.rmtree(new.parent, ignore_errors=True)
            raise
        shutil.rmtree(new / "scratch", ignore_errors=True)


def take_place(store: Path, dataset_id: str) -> None:
    """Put the finished folder into the place of the dataset; the gathered tables end here."""
    aside = Path(store) / _ASIDE
    target = Path(store) / "datasets" / dataset_id
    # They describe the old dataset from here on.
    invalidate(Path(store) / "cells")
    with storage_guard(target):
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            move(target, aside / f"{_OLD}{dataset_id}")
        move(aside / f"{_NEW}{dataset_id}", target)
        shutil.rmtree(aside)


def finish_interrupted(store: Path) -> None:
    """Finish or remove what a killed writer left aside; the caller holds the lock of the store."""
    aside = Path(store) / _ASIDE
    if not aside.exists():
        return
    for new in sorted(aside.glob(f"{_NEW}*")):
        if (new / MANIFEST).exists():
            take_place(store, new.name.removeprefix(_NEW))
            return
    for old in sorted(aside.glob(f"{_OLD}*")):
        target = Path(store) / "datasets" / old.name.removeprefix(_OLD)
        if not target.exists():
            move(old, target)
    shutil.rmtree(aside, ignore_errors=True)
