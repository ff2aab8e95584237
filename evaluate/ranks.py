"""Ranks of the right answers among many, in blocks: time of a matrix product, memory of a block.

Pairs are (cell i, text of cell i); cells share texts, so scores are needed per distinct text. Ties
are kept as such, for expectations over their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ranks", "join", "rank_pairs"]

_BLOCK = 256
_SORT_FROM = 8

Vectors = NDArray[np.float32]
Codes = NDArray[np.intp]
Counts = NDArray[np.int64]


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

    above: Counts
    tied: Counts
    right: Counts

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

    def take(self, rows: Codes) -> Ranks:
        """Return the ranks of some queries."""
        return Ranks(self.above[rows], self.tied[rows], self.right[rows])


def join(parts: list[Ranks]) -> Ranks:
    """Return the ranks of several folds as one."""
    return Ranks(
        np.concatenate([part.above for part in parts]),
        np.concatenate([part.tied for part in parts]),
        np.concatenate([part.right for part in parts]),
    )


def rank_pairs(
    cells: Vectors,
    texts: Vectors,
    text_ids: Codes,
    types: Codes | None = None,
    near: NDArray[np.bool_] | None = None,
) -> dict[str, Ranks]:
    """Rank one fold of pairs (cell i, text ``text_ids[i]``).

    Parameters
    ----------
    cells, texts
        Unit rows [n, D] and [U, D] of the distinct texts.
    text_ids, types
        Int [n]: the text and the type of each cell.
    near
        Bool [T, T]: whether an item of the second type is right for a query of the first.

    Returns
    -------
    dict
        For both ways: strict, where only the own partner is right; graded, where every item with
        the same text is; same type, and ontology-near, where every item of such a type is, for what
        ``types`` and ``near`` are given.
    """
    used, text_ids = np.unique(text_ids, return_inverse=True)
    forms: dict[str, NDArray[np.bool_]] = {}
    if types is not None:
        forms["same type"] = np.eye(int(types.max()) + 1 if near is None else len(near), dtype=bool)
        if near is not None:
            forms["ontology-near"] = near
    kinds = np.zeros(len(cells), dtype=np.intp) if types is None else types
    order = np.argsort(kinds, kind="stable")
    found = _cell_to_text(cells[order], texts[used], text_ids[order], kinds[order], forms)
    found = {form: ranks.take(np.argsort(order)) for form, ranks in found.items()}
    ways = {f"cell to text, {form}": ranks for form, ranks in found.items()}
    back = _text_to_cell(cells, texts[used], text_ids, kinds, forms)
    return ways | {f"text to cell, {form}": ranks for form, ranks in back.items()}


def _cell_to_text(
    cells: Vectors,
    texts: Vectors,
    text_ids: Codes,
    types: Codes,
    forms: dict[str, NDArray[np.bool_]],
) -> dict[str, Ranks]:
    """Rank the texts for cells sorted by type; a distinct text counts as all its copies."""
    n_types = int(types.max()) + 1 if not forms else len(next(iter(forms.values())))
    holds = np.zeros((n_types, len(texts)), np.float32)  # cells of a type with a text
    np.add.at(holds, (types, text_ids), 1)
    copies = holds.sum(axis=0)
    own_copies = copies[text_ids].astype(np.int64)
    by_type = _ByType(
        len(cells), {form: near.astype(np.float32) @ holds for form, near in forms.items()}, copies
    )
    above, level = np.zeros((2, len(cells)), np.int64)
    for start, scores in _scores(cells, texts):
        block = slice(start, start + len(scores))
        own = scores[np.arange(len(scores)), text_ids[block]][:, None]
        above[block] = _counted(scores > own, copies)
        level[block] = _counted(scores == own, copies)
        by_type.add(start, scores, types[block])
    one = np.ones(len(cells), np.int64)
    return {
        "strict": Ranks(above, level - 1, one),
        "graded": Ranks(above, level - own_copies, own_copies),
    } | by_type.found


def _text_to_cell(
    cells: Vectors,
    texts: Vectors,
    text_ids: Codes,
    types: Codes,
    forms: dict[str, NDArray[np.bool_]],
) -> dict[str, Ranks]:
    """Rank the cells for each text; pairs of equal type and text are one query."""
    n = len(cells)
    copies = np.bincount(text_ids)
    rows_of = np.split(np.argsort(text_ids, kind="stable"), np.cumsum(copies)[:-1])
    asked, query_of = np.unique(np.column_stack([types, text_ids]), axis=0, return_inverse=True)
    query_of = query_of.ravel()
    by_type = _ByType(
        len(asked),
        {form: near[:, types].astype(np.float32) for form, near in forms.items()},
        np.ones(n, np.float32),
    )
    above, level = np.zeros((2, n), np.int64)
    first = Ranks(*np.zeros((3, n), np.int64))
    for start, scores in _scores(texts[asked[:, 1]], cells):
        some = asked[start : start + len(scores)]
        by_type.add(start, scores, some[:, 0])
        for line, text in zip(scores, some[:, 1], strict=True):
            rows = rows_of[text]
            own = line[rows]
            higher, same = _places(line, own)
            above[rows], level[rows] = higher, same
            best = own.argmax()
            right = np.count_nonzero(own == own[best])
            first.above[rows], first.tied[rows] = higher[best], same[best] - right
            first.right[rows] = right
    return {"strict": Ranks(above, level - 1, np.ones(n, np.int64)), "graded": first} | {
        form: ranks.take(query_of) for form, ranks in by_type.found.items()
    }


class _ByType:
    """Ranks where every item of a right type is right, filled block by block.

    ``right_copies`` [T, items] counts, by form, the copies of an item that are right for a type.
    """

    def __init__(self, n: int, right_copies: dict[str, Vectors], copies: Vectors) -> None:
        self.found = {form: Ranks(*np.zeros((3, n), np.int64)) for form in right_copies}
        self._right, self._copies = right_copies, copies

    def add(self, start: int, scores: Vectors, types: Codes) -> None:
        """Rank a block of queries, sorted by type."""
        bounds = [0, *(np.flatnonzero(np.diff(types)) + 1), len(types)]
        for low, high in pairwise(bounds):
            some, rows = scores[low:high], slice(start + low, start + high)
            for form, right in self._right.items():
                wanted = right[types[low]]
                chosen = np.flatnonzero(wanted)
                theirs = some[:, chosen]
                best = theirs.max(axis=1, keepdims=True)
                n_right = _counted(theirs == best, wanted[chosen])
                found = self.found[form]
                found.above[rows] = _counted(some > best, self._copies)
                found.tied[rows] = _counted(some == best, self._copies) - n_right
                found.right[rows] = n_right


def _scores(queries: Vectors, items: Vectors) -> Iterator[tuple[int, Vectors]]:
    """Yield the start and the scores [b, items] of blocks of queries.

    In whole millionths, so that what differs only by the order of a sum is equal.
    """
    for start in range(0, len(queries), _BLOCK):
        scores = queries[start : start + _BLOCK] @ items.T
        scores *= np.float32(1e6)
        yield start, np.rint(scores, out=scores)


def _counted(is_so: NDArray[np.bool_], copies: Vectors) -> Counts:
    """Return how many copies are so in each row; float32 counts exactly up to 2^24."""
    counted: Counts = np.rint(is_so.astype(np.float32) @ copies).astype(np.int64)
    return counted


def _places(line: Vectors, own: Vectors) -> tuple[Counts, Counts]:
    """Return how many of ``line`` are above each of ``own``, and how many are level with it."""
    if len(own) < _SORT_FROM:
        higher = [np.count_nonzero(line > score) for score in own]
        same = [np.count_nonzero(line == score) for score in own]
        return np.asarray(higher, dtype=np.int64), np.asarray(same, dtype=np.int64)
    ordered = np.sort(line)
    low, high = (np.searchsorted(ordered, own, side) for side in ("left", "right"))
    return len(line) - high, high - low
