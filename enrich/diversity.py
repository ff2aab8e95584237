"""Which of several passages to offer: relevant ones that do not say the same again (MMR)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SAME_WORDS", "Content", "Pool", "overlap"]

SAME_WORDS, SAME_MEANING = 0.8, 0.95
"""Share of words in common, and cosine, from which two passages count as one."""

_DIGITS = 3  # the arithmetic of an embedder is not exact beyond; noise is no order

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Content:
    """What a passage says: its distinct words, and its vector (float32 [D], unit length)."""

    words: frozenset[str]
    vector: Vector


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the Jaccard index of two sets of words; that of two empty sets is 1."""
    together = len(one | other)
    return len(one & other) / together if together else 1.0


class Pool:
    """Passages to pick from, one by one, by maximal marginal relevance (Carbonell and Goldstein 1998).

    The next is the one with the highest ``(1 - novelty) * relevance - novelty * closest``, where
    ``closest`` is its highest cosine with a passage that is taken; the first of equal ones.

    Parameters
    ----------
    candidates
        Passages by id, each with its relevance in [0, 1].

    Attributes
    ----------
    repeated
        How many were given up because they say nearly the same as a taken one.
    """

    def __init__(self, candidates: Mapping[str, tuple[Content, float]], novelty: float) -> None:
        self.repeated = 0
        self._left, self._novelty = dict(candidates), novelty
        self._closest = dict.fromkeys(candidates, 0.0)

    def take(self, key: str, content: Content) -> None:
        """Note that a passage, of this pool or not, is taken."""
        self._left.pop(key, None)
        for other, (candidate, _) in tuple(self._left.items()):
            cosine = round(float(candidate.vector @ content.vector), _DIGITS)
            self._closest[other] = max(self._closest[other], cosine)
            if cosine >= SAME_MEANING or overlap(candidate.words, content.words) >= SAME_WORDS:
                del self._left[other]
                self.repeated += 1

    def best(self) -> str | None:
        """Return the id of the passage to take next, None where none is left."""
        return max(self._left, key=self._value, default=None)

    def _value(self, key: str) -> float:
        relevance = self._left[key][1]
        value = (1 - self._novelty) * relevance - self._novelty * self._closest[key]
        return round(value, 2 * _DIGITS)
