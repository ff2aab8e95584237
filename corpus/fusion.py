"""One score from meaning and words, sharpened by what the best passages say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["DENSE_SHARE", "fuse"]

DENSE_SHARE = 0.5
_FEEDBACK, _FEEDBACK_WEIGHT = 5, 1.0  # chosen on one half of the CRAFT terms, see docs/benchmarks

Scores = npt.NDArray[np.float32]


def fuse(
    query: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], lexical: Scores, ideal: float
) -> Scores:
    """Score candidates by cosine and BM25 together.

    Both parts are on a scale of their own that no other candidate changes: a cosine, and the share
    of the ideal BM25 score. Ranks, which reciprocal rank fusion adds up, forget how far apart the
    scores were: a passage that has the very words sinks below ones that are vaguely near twice.
    The mean vector of the best passages then joins the query (Rocchio's feedback), so that passages
    that speak of the same thing in other words rise.

    Parameters
    ----------
    query
        float32 [D], unit length.
    vectors
        float32 [n, D], unit rows of the candidates.
    lexical
        float32 [n], BM25 scores of the candidates.
    ideal
        BM25 score of an ideal text, 0 where the index knows no word of the query.

    Returns
    -------
    numpy.ndarray
        float32 [n], at most 1.
    """
    share = DENSE_SHARE if ideal > 0 else 1.0
    words = (1 - share) * lexical / (ideal or 1.0)
    first = share * (vectors @ query) + words
    best = np.argsort(-first, kind="stable")[:_FEEDBACK]
    if not len(best):
        return first.astype(np.float32)
    sharpened = query + _FEEDBACK_WEIGHT * vectors[best].mean(axis=0)
    sharpened /= max(float(np.linalg.norm(sharpened)), 1e-12)
    fused: Scores = (share * (vectors @ sharpened) + words).astype(np.float32)
    return fused
