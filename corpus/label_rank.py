"""From features to a ranking with probabilities: a small boosted ranker, evaluated with numpy.

The trees and the calibration are fitted by ``scripts/fit_labels.py`` and stored as JSON. A term's
probability comes from the softmax over the candidates of its label; the calibration maps the top
one to how often such a top one was right in tables that the fit had not seen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from okrcell.corpus.label_features import FEATURES
from okrcell.errors import InternalError

__all__ = ["WEIGHTS", "Ranker", "calibrate", "from_json", "load_ranker", "probabilities"]

WEIGHTS = "label_weights.json"
_LEAST = 0.01


@dataclass(frozen=True)
class Ranker:
    """Regression trees, padded to one length; a leaf points to itself.

    Attributes
    ----------
    feature, left, right
        int32 [K, M] for K trees of up to M nodes.
    threshold, value
        float64 [K, M]; a row goes left where its feature is at most the threshold.
    depth
        Steps from a root to the deepest leaf.
    knots
        float64 [2, P]: raw probability of the top term, and the share that was right.
    """

    feature: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float64]
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    value: npt.NDArray[np.float64]
    depth: int
    knots: npt.NDArray[np.float64]

    def scores(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return float64 [C] for features [C, F]; higher is better."""
        trees = np.arange(len(self.feature))[None, :]
        rows = np.arange(len(values))[:, None]
        at = np.zeros((len(values), len(self.feature)), dtype=np.int32)
        for _ in range(self.depth):
            go_left = values[rows, self.feature[trees, at]] <= self.threshold[trees, at]
            at = np.where(go_left, self.left[trees, at], self.right[trees, at])
        total: npt.NDArray[np.float64] = self.value[trees, at].sum(axis=1)
        return total


def from_json(content: dict[str, Any]) -> Ranker:
    """Build a ranker from the parsed file of weights.

    Raises
    ------
    InternalError
        The weights were fitted for other features.
    """
    if tuple(content["features"]) != FEATURES:
        raise InternalError(
            WEIGHTS,
            found="weights of other features",
            expected="the features of okrcell.corpus.label_features",
            fix="Run scripts/fit_labels.py.",
        )
    trees = content["trees"]
    size = max(len(tree["value"]) for tree in trees)

    def padded(name: str, kind: Any) -> Any:
        return np.array([t[name] + [0] * (size - len(t[name])) for t in trees], dtype=kind)

    return Ranker(
        feature=padded("feature", np.int32),
        threshold=padded("threshold", np.float64),
        left=padded("left", np.int32),
        right=padded("right", np.int32),
        value=padded("value", np.float64),
        depth=int(content["depth"]),
        knots=np.array(content["knots"], dtype=np.float64),
    )


@cache
def load_ranker() -> Ranker:
    """Load the weights that come with the package."""
    path = files("okrcell.corpus") / "data" / WEIGHTS
    return from_json(json.loads(path.read_text(encoding="utf-8")))


def probabilities(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the softmax of scores [C]."""
    shifted = np.exp(scores - scores.max())
    total: npt.NDArray[np.float64] = shifted / shifted.sum()
    return total


def calibrate(ranker: Ranker, raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return calibrated probabilities for raw ones [C], sorted best first.

    The first is read off the calibration; what it leaves is shared among the others in their raw
    proportion, none above the first.
    """
    # Never quite zero: what follows must still tell the others apart.
    first = max(float(np.interp(raw[0], ranker.knots[0], ranker.knots[1])), _LEAST)
    rest = max(1.0 - raw[0], 1e-9)
    out = np.minimum(raw * (1.0 - first) / rest, first)
    out[0] = first
    rounded: npt.NDArray[np.float64] = np.round(out, 4)
    return rounded
