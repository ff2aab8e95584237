"""Which of several passages to offer: relevant ones that do not say the same again (MMR)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Content", "choose", "overlap"]

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


def choose(
    candidates: Sequence[Content],
    relevance: Sequence[float],
    n: int,
    novelty: float,
    taken: Sequence[Content] = (),
) -> tuple[list[int], list[int]]:
    """Choose passages one by one by maximal marginal relevance (Carbonell and Goldstein 1998).

    The next passage is the one with the highest ``(1 - novelty) * relevance - novelty * closest``,
    where ``closest`` is its highest cosine with a passage that is taken; the first of equal ones.
    A passage that says nearly the same as a taken one is never chosen.

    Parameters
    ----------
    relevance
        In [0, 1], one per candidate.
    taken
        Passages that are offered already.

    Returns
    -------
    chosen, duplicates
        Positions of candidates, in the order of choice.
    """
    closest = np.zeros(len(candidates))
    chosen: list[int] = []
    duplicates: list[int] = []
    left = list(range(len(candidates)))

    def compare(other: Content) -> None:
        for i in tuple(left):
            cosine = round(float(candidates[i].vector @ other.vector), _DIGITS)
            closest[i] = max(closest[i], cosine)
            if cosine >= SAME_MEANING or overlap(candidates[i].words, other.words) >= SAME_WORDS:
                left.remove(i)
                duplicates.append(i)

    for content in taken:
        compare(content)
    while left and len(chosen) < n:
        value = [(1 - novelty) * relevance[i] - novelty * closest[i] for i in left]
        best = left.pop(int(np.argmax(np.round(value, 2 * _DIGITS))))
        chosen.append(best)
        compare(candidates[best])
    return chosen, duplicates
