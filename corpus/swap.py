"""New knowledge is built in a folder of its own, which takes the place of the old one when whole."""

from __future__ import annotations

import shutil
from pathlib import Path

from okrcell.artifacts import MANIFEST, move, storage_guard

__all__ = ["BUILDING", "KNOWLEDGE", "WORK", "finish_swap", "swap"]

KNOWLEDGE, BUILDING, _OLD = "knowledge", "knowledge.building", "knowledge.old"
WORK = "work"
"""Folder within ``BUILDING`` for what only a build needs."""


def swap(store: Path) -> None:
    """Put the finished folder into the place of the knowledge that was used so far."""
    folder, aside, old = store / KNOWLEDGE, store / BUILDING, store / _OLD
    with storage_guard(folder):
        shutil.rmtree(aside / WORK, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            move(folder, old)
        move(aside, folder)
        shutil.rmtree(old, ignore_errors=True)


def finish_swap(store: Path) -> None:
    """Finish what was killed between the two renames, or put the old knowledge back."""
    folder, aside, old = store / KNOWLEDGE, store / BUILDING, store / _OLD
    with storage_guard(folder):
        if not folder.exists() and old.exists():
            source = aside if (aside / MANIFEST).exists() else old
            move(source, folder)
        shutil.rmtree(old, ignore_errors=True)
