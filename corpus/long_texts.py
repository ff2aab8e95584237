"""Texts of any length, encoded by a model that reads only so many word pieces.

A text that is longer is never cut: it is encoded by groups of sentences and the vectors are
averaged, weighted by their number of word pieces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder

__all__ = ["Pieces", "encode_long", "split_long"]


class Pieces(NamedTuple):
    """Texts in pieces that fit: the pieces of all texts, their word pieces, and where texts begin.

    The pieces of text i are those from ``bounds[i]`` to ``bounds[i + 1]``.
    """

    texts: list[str]
    lengths: list[int]
    bounds: list[int]


def split_long(embedder: Embedder, texts: Sequence[str]) -> Pieces:
    """Split each text that does not fit into groups of sentences; the others are their own piece."""
    lengths = embedder.count_tokens(texts)
    if max(lengths, default=0) <= embedder.max_tokens:
        return Pieces(list(texts), lengths, list(range(len(texts) + 1)))
    groups = [
        _groups(embedder, text) if tokens > embedder.max_tokens else [text]
        for text, tokens in zip(texts, lengths, strict=True)
    ]
    pieces = [piece for group in groups for piece in group]
    bounds = [0, *accumulate(map(len, groups))]
    return Pieces(pieces, embedder.count_tokens(pieces), bounds)


def encode_long(
    embedder: Embedder,
    texts: Sequence[str],
    encode: Callable[[Sequence[str], Sequence[int]], npt.NDArray[np.float32]],
) -> npt.NDArray[np.float32]:
    """Encode texts of any length by a function that takes texts that fit, and their lengths.

    Equal texts are encoded once. A text that does not fit is the mean of its groups of sentences,
    weighted by their number of word pieces.

    Returns
    -------
    numpy.ndarray
        float32 [n, D], unit rows.
    """
    distinct = sorted(set(texts))
    if not distinct:
        return np.zeros((0, embedder.dim), dtype=np.float32)
    pieces, counts, bounds = split_long(embedder, distinct)
    pooled = encode(pieces, counts)
    if len(pieces) > len(distinct):
        weights = np.asarray(counts, dtype=np.float32)
        pooled = np.stack(
            [
                np.average(pooled[a:b], axis=0, weights=weights[a:b])
                for a, b in zip(bounds[:-1], bounds[1:], strict=True)
            ]
        )
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    rows = {text: row for row, text in enumerate(distinct)}
    return np.asarray(pooled[[rows[text] for text in texts]], dtype=np.float32)


def _groups(embedder: Embedder, text: str) -> list[str]:
    """Split into runs of sentences that fit; a sentence that does not fit is split by words."""
    limit = embedder.max_tokens
    units: list[str] = []
    sentences = re.split(r"(?<=[.!?;])\s+", text)
    for sentence, tokens in zip(sentences, embedder.count_tokens(sentences), strict=True):
        if tokens <= limit:
            units.append(sentence)
            continue
        words, step = sentence.split(), limit // 8
        units += [" ".join(words[i : i + step]) for i in range(0, len(words), step)]
    # Each unit's count has the special tokens in it, so that a sum is never too low.
    groups: list[str] = []
    current: list[str] = []
    total = 0
    for unit, tokens in zip(units, embedder.count_tokens(units), strict=True):
        if current and total + tokens > limit:
            groups.append(" ".join(current))
            current, total = [], 0
        current.append(unit)
        total += tokens
    return [*groups, " ".join(current)]
