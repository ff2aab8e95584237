"""Task 6, retrieval: find a cell's own text among many, and a text's own cell.

Strict, as in the paper: only the cell's own copy of a text is right, though other cells may carry
the very same text. Such copies score alike, so no method can pass the *duplicate ceiling*, which is
printed beside the results. Graded: any cell with the same text is right. Ties are not broken by
position but by expectation: the value is the mean over all orders of the tied items.

Scores are needed per distinct text, not per pair: the matrix is [cells, distinct texts], in chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.intervals import Bootstrap, interval, weighted_mean, weighted_median
from okrcell.evaluate.rows import Row, TaskResult, measured

if TYPE_CHECKING:
    from okrcell.evaluate.data import EvalData
    from okrcell.evaluate.methods import MethodOutput

__all__ = ["CURVE_K", "Ranks", "ceiling", "fold_rows", "rank_pairs", "retrieval"]

CURVE_K = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
_REPORTED_K = (1, 5, 10)
_CHUNK = 256


@dataclass(frozen=True)
class Ranks:
    """Where the best right answer of each query stands, int64 [n] each.

    Attributes
    ----------
    above
        Wrong items with a higher score.
    tied
        Wrong items with the same score.
    right
        Right items with that score; those below it do not matter (1 when strict).
    """

    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    right: NDArray[np.int64]

    def recall(self, k: int) -> NDArray[np.float64]:
        """Return the chance that a right item is among the first ``k``, float64 [n]."""
        places = np.minimum(np.maximum(k - self.above, 0), self.tied + self.right)
        miss = np.ones(len(self.above))
        for place in range(int(places.max(initial=0))):  # drawn one by one from the tied block
            left = self.tied + self.right - place
            chance = np.maximum(self.tied - place, 0) / np.maximum(left, 1)
            miss = np.where(places > place, miss * chance, miss)
        return 1 - miss

    @property
    def expected(self) -> NDArray[np.float64]:
        """Expected rank of the first right item, from 1."""
        mean: NDArray[np.float64] = self.above + (self.tied + self.right + 1) / (self.right + 1)
        return mean


def retrieval(method: MethodOutput, data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Score one method both ways, strict and graded, on folds of test cells."""
    from okrcell.evaluate.methods import cell_text, unit

    assert method.encode_text is not None
    folds = fold_rows(data.test, config)
    rows = np.concatenate(folds)
    wanted, text_ids = np.unique(
        np.asarray([cell_text(data, int(i), method.texts) for i in rows]), return_inverse=True
    )
    vectors = unit(method.encode_text([str(text) for text in wanted]))
    cells = unit(method.cells[rows])
    ranks = _over_folds([len(fold) for fold in folds], cells, vectors, text_ids)
    boot = Bootstrap.over(data.donors[rows], config.bootstrap, config.seed)
    result = TaskResult(details={"curve": {}, "fold": len(folds[0]), "n_folds": len(folds)})
    for way, found in ranks.items():
        for k in _REPORTED_K:
            result.rows.append(
                measured(
                    "retrieval", method.name, f"R@{k} ({way})", weighted_mean(found.recall(k)), boot
                )
            )
        if way.endswith("strict"):
            expected = found.expected
            draws = boot.apply(weighted_median(expected))
            low, high = interval(draws)
            middle = float(np.median(expected))
            result.rows += [
                Row(
                    "retrieval",
                    method.name,
                    f"median_rank ({way})",
                    middle,
                    low,
                    high,
                    boot.n,
                    str(boot.seed),
                ),
                measured(
                    "retrieval",
                    method.name,
                    f"MRR ({way})",
                    weighted_mean(_reciprocal(found)),
                    boot,
                ),
            ]
        result.details["curve"][way] = [
            [k, round(float(found.recall(k).mean()), 6)] for k in CURVE_K if k <= len(folds[0])
        ]
    return result


def ceiling(data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Return what a perfect method and a blind one reach in the strict form, on the same folds."""
    folds = fold_rows(data.test, config)
    result = TaskResult(details={"ceiling": [], "chance": []})
    best, chance = [], []
    for fold in folds:
        texts = np.asarray([data.descriptions[str(p)] for p in data.profile_ids[fold]])
        counts = np.unique(texts, return_counts=True)[1][np.unique(texts, return_inverse=True)[1]]
        zero = np.zeros(len(fold), dtype=np.int64)
        best.append(Ranks(zero, counts - 1, zero + 1))
        chance.append(Ranks(zero, zero + len(fold) - 1, zero + 1))
    n = sum(len(fold) for fold in folds)
    for name, parts in (("duplicate ceiling", best), ("chance", chance)):
        ranks = _join(parts)
        for way in ("cell to text, strict", "text to cell, strict"):
            values = {f"R@{k}": ranks.recall(k) for k in _REPORTED_K}
            for metric, value in {**values, "MRR": _reciprocal(ranks)}.items():
                mean = float(value.mean())
                result.rows.append(
                    Row("retrieval", name, f"{metric} ({way})", mean, mean, mean, n, "")
                )
        key = "ceiling" if name.startswith("duplicate") else "chance"
        result.details[key] = [
            [k, round(float(ranks.recall(k).mean()), 6)] for k in CURVE_K if k <= len(folds[0])
        ]
    return result


def fold_rows(test: NDArray[np.intp], config: EvaluateConfig) -> list[NDArray[np.intp]]:
    """Return up to ``max_folds`` disjoint random folds of ``min(fold, n)`` test cells."""
    size = min(config.fold, len(test))
    mixed = np.random.default_rng(config.seed).permutation(test)
    n_folds = min(config.max_folds, len(test) // size)
    return [np.sort(mixed[i * size : (i + 1) * size]) for i in range(n_folds)]


def rank_pairs(
    cells: NDArray[np.float32], texts: NDArray[np.float32], text_ids: NDArray[np.intp]
) -> dict[str, Ranks]:
    """Rank one fold of pairs (cell i, text ``text_ids[i]``).

    Parameters
    ----------
    cells, texts
        Unit rows [n, D] and [U, D] of the distinct texts.
    text_ids
        Int [n].

    Returns
    -------
    dict
        For both ways: strict, where only the own partner is right, and graded, where every item
        with the same text is.
    """
    n, n_texts = len(cells), len(texts)
    copies = np.bincount(text_ids, minlength=n_texts)
    own_copies = copies[text_ids]
    above_ct, level_ct = np.zeros(n, np.int64), np.zeros(n, np.int64)
    above_tc, level_tc = np.zeros(n, np.int64), np.zeros(n, np.int64)
    first_above, first_level = np.zeros(n, np.int64), np.zeros(n, np.int64)
    first_right = np.ones(n, np.int64)
    for start in range(0, n, _CHUNK):  # cell to text: every distinct text counts as its copies
        block = slice(start, min(start + _CHUNK, n))
        scores = _round(cells[block] @ texts.T)
        own = scores[np.arange(len(scores)), text_ids[block]][:, None]
        above_ct[block] = (scores > own) @ copies
        level_ct[block] = (scores == own) @ copies
    for text in np.flatnonzero(copies):  # text to cell: one pass over the cells per distinct text
        scores = _round(cells @ texts[text])
        is_right = text_ids == text
        right, wrong = scores[is_right], scores[~is_right]
        ordered = np.sort(scores)
        low, high = (np.searchsorted(ordered, right, side) for side in ("left", "right"))
        above_tc[is_right], level_tc[is_right] = n - high, high - low
        first_above[is_right] = (wrong > right.max()).sum()
        first_level[is_right] = (wrong == right.max()).sum()
        first_right[is_right] = (right == right.max()).sum()
    one = np.ones(n, np.int64)
    return {
        "cell to text, strict": Ranks(above_ct, level_ct - 1, one),
        "text to cell, strict": Ranks(above_tc, level_tc - 1, one),
        "cell to text, graded": Ranks(above_ct, level_ct - own_copies, own_copies),
        "text to cell, graded": Ranks(first_above, first_level, first_right),
    }


def _round(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make equal what differs only by the order of a sum."""
    return np.round(scores, 6)


def _over_folds(
    sizes: list[int],
    cells: NDArray[np.float32],
    texts: NDArray[np.float32],
    text_ids: NDArray[np.intp],
) -> dict[str, Ranks]:
    parts, start = [], 0
    for size in sizes:
        block = slice(start, start + size)
        parts.append(rank_pairs(cells[block], texts, text_ids[block]))
        start += size
    return {way: _join([part[way] for part in parts]) for way in parts[0]}


def _join(parts: list[Ranks]) -> Ranks:
    return Ranks(
        np.concatenate([part.above for part in parts]),
        np.concatenate([part.tied for part in parts]),
        np.concatenate([part.right for part in parts]),
    )


def _reciprocal(ranks: Ranks) -> NDArray[np.float64]:
    """Return the expected 1 / rank of the one right item, float64 [n]."""
    harmonic = np.concatenate(
        [[0.0], np.cumsum(1 / np.arange(1, int((ranks.above + ranks.tied).max()) + 2))]
    )
    block = ranks.tied + 1
    mean: NDArray[np.float64] = (harmonic[ranks.above + block] - harmonic[ranks.above]) / block
    return mean
