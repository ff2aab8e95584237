"""From vectors to answers: similarity to each candidate, the vote of markers, neighbours, probabilities.

A cell's logit for a candidate is the cosine of its vector and the candidate's text, joined with the vote
of the candidate's markers where that is wanted, both smoothed over cells of like expression. Divided by a
temperature (:mod:`.confidence`), the softmax is a probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from okrcell.corpus.shards import CellMatrix
from okrcell.evaluate.apply.broad import Classes, narrowest
from okrcell.evaluate.apply.labels import Candidates

__all__ = ["TOP", "Answers", "answers_of", "logits", "spread_of", "votes_of"]

Vectors = npt.NDArray[np.float32]
_Ints = npt.NDArray[np.int64]

TOP = 3
_BLOCK = 4096
_SPREAD_CELLS = 20_000
_IN_MEMORY = 256 << 20


@dataclass(frozen=True)
class Answers:
    """The best candidates of each cell.

    Attributes
    ----------
    best
        int64 [N, K]: candidates, the most probable first.
    probability
        float32 [N, K].
    broad, broad_probability
        int64 [N] and float32 [N]: the narrowest class that is sure, -1 for none.
    """

    best: _Ints
    probability: Vectors
    broad: _Ints
    broad_probability: Vectors


def votes_of(
    cells: CellMatrix,
    candidates: Candidates,
    groups: Sequence[_Ints],
    scratch: Path | None = None,
) -> Vectors | None:
    """Return the vote of the markers float32 [N, C], standardised within each group of cells.

    None where the candidates have no markers. Beyond 256 MB it stands in a file in ``scratch``.
    """
    from okrcell.corpus.marker_vote import vote

    if not any(candidates.markers):
        return None
    shape = (cells.matrix.shape[0], len(candidates))
    if scratch is None or 4 * shape[0] * shape[1] <= _IN_MEMORY:
        found: Vectors = np.zeros(shape, dtype=np.float32)
    else:
        found = np.memmap(scratch / "votes.f32", dtype=np.float32, mode="w+", shape=shape)
    for rows in groups:
        if len(rows):
            found[rows] = vote(cells, candidates.markers, rows)
    return found


def spread_of(cells: Vectors, texts: Vectors) -> float:
    """Return the standard deviation of similarities, each cell's mean taken away; of 20,000 cells at most."""
    if not len(cells):
        return 1.0
    some = cells[:: -(-len(cells) // _SPREAD_CELLS)]
    total = 0.0
    for begin in range(0, len(some), _BLOCK):
        found = some[begin : begin + _BLOCK] @ texts.T
        total += float(np.square(found - found.mean(axis=1, keepdims=True), dtype=np.float64).sum())
    return float(np.sqrt(total / (len(some) * len(texts)))) or 1.0


def logits(cells: Vectors, texts: Vectors, votes: Vectors | None, scale: float) -> Vectors:
    """Return float32 [n, C]: cosine of cells and texts, joined with the vote of the markers.

    Parameters
    ----------
    scale
        Of the similarities beside a vote, from :func:`spread_of`: models of different temperature are
        treated alike.
    """
    similarity = np.asarray(cells @ texts.T, dtype=np.float32)
    if votes is None:
        return similarity
    from okrcell.corpus.marker_vote import SHARPNESS, combined

    joined: Vectors = combined(similarity, votes, temperature=scale / SHARPNESS)
    return joined


def answers_of(
    cells: Vectors,
    texts: Vectors,
    votes: Vectors | None,
    temperature: float,
    classes: Classes,
) -> Answers:
    """Return the best three candidates of each cell (fewer where there are fewer), block by block."""
    n, k = len(cells), min(TOP, len(texts))
    scale = spread_of(cells[np.abs(cells).sum(axis=1) > 0], texts)
    best = np.zeros((n, k), dtype=np.int64)
    probability = np.zeros((n, k), dtype=np.float32)
    broad, held = np.full(n, -1), np.zeros(n, dtype=np.float32)
    for begin in range(0, n, _BLOCK):
        rows = slice(begin, begin + _BLOCK)
        scores = logits(
            cells[rows], texts, None if votes is None else np.asarray(votes[rows]), scale
        )
        exact = scores.astype(np.float64) / temperature
        exact -= exact.max(axis=1, keepdims=True)
        shares = np.exp(exact)
        shares /= shares.sum(axis=1, keepdims=True)
        order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        best[rows] = order
        probability[rows] = np.take_along_axis(shares, order, axis=1)
        broad[rows], held[rows] = narrowest(shares, classes)
    return Answers(best, probability, broad, held)
