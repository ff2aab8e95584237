"""What an answer is worth: a temperature and a threshold from the run's own validation cells.

Validation cells are asked as the file's cells will be: the same candidates, the same vote of markers, the
same smoothing. Where the candidates hold too few of their types, they are asked among the types that
the run was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from okrcell.evaluate.apply.known import Known
from okrcell.evaluate.apply.labels import Candidates
from okrcell.evaluate.apply.neighbours import graph_of, smooth_within
from okrcell.evaluate.apply.scores import logits, spread_of, votes_of
from okrcell.evaluate.calibration import (
    MIN_VALIDATION,
    TARGET_ACCURACY,
    fit_temperature,
    log_odds,
    pick_threshold,
)

__all__ = ["Confidence", "confidence_of"]

Vectors = npt.NDArray[np.float32]
_LEAST_TYPES = 3
_NO_THRESHOLD = 0.5


@dataclass(frozen=True)
class Confidence:
    """How logits become probabilities.

    Attributes
    ----------
    temperature
        The logits are divided by it.
    threshold
        Least probability of an answer: below it a cell is ``unknown``.
    is_calibrated
        Whether validation cells had a say.
    n_cells, accuracy, kept
        Validation cells that were asked; how often they got the right label; the share of them at or
        above the threshold.
    about
        One sentence for people.
    """

    temperature: float
    threshold: float
    is_calibrated: bool
    n_cells: int
    accuracy: float | None
    kept: float | None
    about: str


def confidence_of(
    known: Known | None,
    candidates: Candidates,
    own: Callable[[], Candidates],
    encode: Callable[[Sequence[str]], Vectors],
    tau: float,
    *,
    refine: bool,
    vote: bool,
) -> Confidence:
    """Fit temperature and threshold on validation cells.

    Parameters
    ----------
    own
        Gives the types that the run was trained on, with markers: they are asked where fewer than
        twenty validation cells, or fewer than three of their types, are among the candidates.
    encode
        Texts to float32 [n, E].
    tau
        The temperature of the loss: what is used where there are no validation cells.
    """
    if known is None:
        return Confidence(
            tau, _NO_THRESHOLD, False, 0, None, None,
            "The run keeps no validation cells: scores are softmax values at the temperature of its loss, and "
            "are not calibrated.",
        )  # fmt: skip
    truth, asked = _truth(known, candidates)
    told = "among these candidates"
    least = min(_LEAST_TYPES, len(candidates))
    if len(asked) < MIN_VALIDATION or len(np.unique(truth[asked])) < least:
        candidates = own()
        truth, asked = _truth(known, candidates)
        told = "among its own types, as too few of these are candidates here"
    scores = _asked(known, candidates, encode(candidates.texts), refine, vote)[asked]
    right = truth[asked]
    temperature = fit_temperature(scores, right)
    sure, hits = log_odds(scores, temperature), scores.argmax(axis=1) == right
    threshold, reached = pick_threshold(sure, hits, TARGET_ACCURACY)
    accuracy = float(hits.mean())
    about = (
        f"Scores are calibrated on {len(asked):,} of the run's validation cells, of "
        f"{len(np.unique(right))} types, {told} ({accuracy:.0%} right)."
    )
    if not reached:
        about += f" No threshold for 'unknown' makes {TARGET_ACCURACY:.0%} of them right; the best one is used."
    return Confidence(
        temperature, float(expit(threshold)), True, len(right), accuracy,
        float((sure >= threshold).mean()), about,
    )  # fmt: skip


def _truth(
    known: Known, candidates: Candidates
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the right candidate of each validation cell, -1 for none, and the cells that have one."""
    terms = {term: at for at, term in enumerate(candidates.term_ids) if term}
    names = {label: at for at, label in enumerate(candidates.labels)}
    truth = np.asarray(
        [
            terms.get(str(term), names.get(str(name), -1))
            for term, name in zip(known.terms, known.types, strict=True)
        ],
        dtype=np.int64,
    )
    return truth, np.flatnonzero(truth >= 0)


def _asked(
    known: Known, candidates: Candidates, texts: Vectors, refine: bool, vote: bool
) -> Vectors:
    """Return the logits of all validation cells, float32 [V, C]."""
    everyone = [np.arange(len(known.cells))]
    cells = known.cells.copy()
    votes = votes_of(known.markers, candidates, everyone) if vote else None
    if refine:
        smooth = smooth_within(everyone, [graph_of(known.basis)])
        smooth(cells)
        if votes is not None:
            smooth(votes)
    return logits(cells, texts, votes, spread_of(cells, texts))
