"""What a run writes down as it goes: a CSV table and TensorBoard events, outside the manifest.

Both hold wall-clock figures, so they are not part of what must be byte-identical.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import torch

from okrcell.artifacts import atomic_write, storage_guard
from okrcell.train.batch import CellInput, DenseCells
from okrcell.train.flops import flops
from okrcell.train.passes import PARTS
from okrcell.train.trainer import Report, Trainer

__all__ = ["LOG", "LOGS", "RunLog", "alignment", "uniformity", "work_of"]

LOGS, LOG = "logs", "log.csv"
_SAMPLED = 64
_COLUMNS = (
    "step", "epoch", "loss", *PARTS, "tau", "lr", "grad_norm", "match_nats_above_chance",
    "alignment", "uniformity", "reliability", "cells_per_s", "tokens_per_s", "mfu",
)  # fmt: skip


def alignment(cells_nE: torch.Tensor, texts_nE: torch.Tensor) -> float:
    """Return the mean squared distance of pairs (Wang & Isola 2020, alpha = 2); 0 is perfect."""
    return float((cells_nE - texts_nE).square().sum(dim=1).mean())


def uniformity(cells_nE: torch.Tensor, most: int = 512) -> float:
    """Return the log mean Gaussian potential (Wang & Isola 2020, t = 2) of at most 512 vectors."""
    some = cells_nE[:most].float()
    if len(some) < 2:
        return 0.0
    return float(torch.pdist(some).square().mul(-2).exp().mean().log())


def work_of(cells: CellInput, trainer: Trainer) -> tuple[float, float, float]:
    """Return cells, tokens and operations of a training step over some cells.

    Operations are those of forward and backward pass (three times forward), of the momentum tower and
    of the first pass of gradient caching; they are those of 64 evenly spaced cells, scaled up.
    """
    config, n = trainer.config, len(cells)
    twice = config.grad_cache and 0 < config.micro_batch < n
    if isinstance(cells, DenseCells):
        forward = flops(config, 0, 0, trainer.text.dim, cells.values.shape[1])
        passes = 3 + twice + (trainer.momentum is not None)
        return float(n), float(n), n * passes * forward
    some = range(0, n, max(n // _SAMPLED, 1))
    total = 0.0
    for at in some:
        known, hidden = int(cells.known_counts[at]), int(cells.hidden_counts[at])
        total += 3 * flops(config, known, hidden, trainer.text.dim)
        total += twice * flops(config, known, 0, trainer.text.dim)
        if trainer.momentum is not None:
            seen = known + (hidden if config.momentum_view == "full" else 0)
            total += flops(config, seen, 0, trainer.text.dim)
    tokens = int(cells.known_counts.sum() + cells.hidden_counts.sum())
    return float(n), float(tokens), total * n / len(some)


class RunLog:
    """Appends to ``log.csv`` and to TensorBoard events in ``logs/``.

    Parameters
    ----------
    step
        Steps already taken: later rows of an interrupted run are taken out.
    peak
        FLOP/s that all processes could do, for MFU; 0 where unknown.
    """

    def __init__(self, run: Path, step: int, peak: float) -> None:
        self._path, self._peak = run / LOG, peak
        kept = self._kept(step)
        atomic_write(self._path, "".join(line + "\n" for line in [",".join(_COLUMNS), *kept]))
        self._file = self._path.open("a", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._events = _events(run / LOGS, step)
        self._since = time.monotonic()
        self._cells = self._tokens = self._flops = 0.0

    def _kept(self, step: int) -> list[str]:
        if not self._path.exists():
            return []
        with self._path.open(encoding="utf-8", newline="") as handle:
            rows = handle.read().splitlines()[1:]
        return [
            row
            for row in rows
            if row.count(",") == len(_COLUMNS) - 1 and int(row.split(",")[0]) <= step
        ]

    def count(self, cells: CellInput, trainer: Trainer) -> int:
        """Add a step's work, of all processes alike, to the rates; return its cells."""
        done = work_of(cells, trainer)
        self._cells, self._tokens, self._flops = (
            old + new * trainer.world.size
            for old, new in zip((self._cells, self._tokens, self._flops), done, strict=True)
        )
        return len(cells) * trainer.world.size

    def write(
        self, step: int, epoch: int, report: Report, more: dict[str, float]
    ) -> dict[str, Any]:
        """Write one row; return it. ``step`` counts from 1."""
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        reliability = report.log.get("reliability")
        row: dict[str, Any] = {
            "step": step,
            "epoch": epoch,
            "loss": report.loss,
            **dict(zip(PARTS, report.parts.tolist(), strict=True)),
            "grad_norm": report.grad_norm,
            "alignment": alignment(report.cells_nE, report.texts_nE),
            "uniformity": uniformity(report.cells_nE),
            "reliability": float(reliability.float().mean()) if reliability is not None else "",
            "cells_per_s": self._cells / seconds,
            "tokens_per_s": self._tokens / seconds,
            "mfu": self._flops / seconds / self._peak if self._peak else "",
            **more,
        }
        self._since, self._cells, self._tokens, self._flops = now, 0.0, 0.0, 0.0
        with storage_guard(self._path):
            self._csv.writerow(_short(row[name]) for name in _COLUMNS)
            self._file.flush()
        for name, value in row.items():
            if name not in ("step", "epoch") and value != "":
                self._events.add_scalar(_tag(name), value, step)
        for name, values in report.log.items():
            if not values.numel():
                continue  # the oracle of a batch without a clean pair
            if values.dim():
                self._events.add_histogram(f"objective/{name}", values.float().cpu(), step)
            elif name not in row:
                self._events.add_scalar(f"objective/{name}", float(values), step)
        return row

    def epoch(self, step: int, values: dict[str, float]) -> None:
        """Write an epoch's means and validation figures to TensorBoard."""
        for name, value in values.items():
            if name != "epoch":
                self._events.add_scalar(f"epoch/{name}", value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._events.close()


def _tag(name: str) -> str:
    if name in ("loss", *PARTS):
        return f"loss/{name}"
    return f"speed/{name}" if name in ("cells_per_s", "tokens_per_s", "mfu") else f"train/{name}"


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _events(folder: Path, step: int) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside tensorboard's own imports
        from torch.utils.tensorboard import SummaryWriter

    # Events after the checkpoint that a run continues from, or of a run that was thrown away, are hidden.
    return SummaryWriter(str(folder), purge_step=step + 1)
