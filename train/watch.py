"""Watching a run: losses that explode stop it, losses that sit at chance are spoken of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from okrcell.errors import TrainingError
from okrcell.train.trainer import Report

__all__ = ["Watch", "chance_gap"]

_REMEMBERED = 50
_TIMES = 10.0
_NATS = 10.0
_IN_A_ROW = 3
_NEAR = 0.02


def chance_gap(cells_nE: torch.Tensor, texts_nE: torch.Tensor, tau: float) -> float:
    """Return how many nats above guessing, 1 / n, a batch's mean chance of the own text is.

    The mean is of chances and not of their logarithms: texts that are wrong, and that the model rightly
    rejects, do not hide what it has learnt of the others.
    """
    logits = (cells_nE @ texts_nE.T / tau).float()
    own = torch.softmax(logits, dim=1).diagonal().mean()
    return math.log(len(logits)) + math.log(max(float(own), 1e-30))


class Watch:
    """Judges every step; its memory is part of a checkpoint.

    Parameters
    ----------
    last_good
        Names the newest checkpoint for the message, or None.
    """

    def __init__(self, last_good: Callable[[], Path | None]) -> None:
        self._last_good = last_good
        self.recent: list[float] = []
        self.high = 0

    def state(self) -> dict[str, object]:
        """Return what a checkpoint keeps."""
        return {"recent": self.recent, "high": self.high}

    def load(self, state: dict[str, object]) -> None:
        """Take back what a checkpoint kept."""
        self.recent, self.high = list(state["recent"]), int(state["high"])  # type: ignore[call-overload]

    def check(self, step: int, report: Report, uids: Callable[[], Sequence[str]]) -> None:
        """Stop a run that has gone wrong.

        A loss or gradient that is not finite stops it at once; a loss of more than ten times the
        median of the last fifty (and 10 nats above it) after three steps in a row.

        Raises
        ------
        TrainingError
            Names the step, some of its cells and the newest checkpoint.
        """
        if not math.isfinite(report.loss):
            self._stop(step, f"a loss of {report.loss}", uids)
        if not math.isfinite(report.grad_norm):
            self._stop(step, f"a gradient of norm {report.grad_norm}", uids)
        usual = median(self.recent) if len(self.recent) == _REMEMBERED else math.inf
        far = report.loss > _TIMES * abs(usual) and report.loss > usual + _NATS
        self.high = self.high + 1 if far else 0
        if self.high == _IN_A_ROW:
            self._stop(step, f"a loss of {report.loss:.3g}, usually {usual:.3g}", uids)
        if not far:
            self.recent = [*self.recent, report.loss][-_REMEMBERED:]

    def _stop(self, step: int, found: str, uids: Callable[[], Sequence[str]]) -> None:
        kept = self._last_good()
        last = f"The last good checkpoint is {kept}." if kept else "There was no checkpoint yet."
        raise TrainingError(
            f"step {step}",
            found=f"{found} (cells {', '.join(uids()[:3])}, ...)",
            expected="a finite loss that does not explode",
            fix=f"Lower the key 'lr', set 'warmup_steps', or look at these cells. {last}",
        )

    @staticmethod
    def at_chance(gap: float, n: int) -> str | None:
        """Return a warning where the mean ``chance_gap`` of an epoch says that nothing is learnt."""
        if gap > _NEAR * math.log(max(n, 2)):
            return None
        return (
            f"warning: over the last epoch the match of cells and texts stayed at ln({n}), which is "
            "guessing. Train longer, raise 'lr' or 'align_weight', or check that texts differ."
        )
