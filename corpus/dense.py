"""Nearest snippets by cosine: an exact scan, and beyond its reach candidates of the Chroma index.

The scan reads half-precision vectors, which takes half the time, and keeps every row that can be
among the best once rounding is allowed for; those are scored in full precision. Its answer is that
of a full-precision scan and does not depend on how an index was built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from okrcell.corpus.allocated import allocated
from okrcell.corpus.store import ChromaIndex

__all__ = ["EXACT_ROWS", "Dense", "build_dense"]

EXACT_ROWS = 250_000
"""Snippets of the chosen sources up to which search is exact: about 12 ms at 384 dimensions."""

_ROUNDING = 2e-3  # half precision, rows and query: 2**-11 each, and as much again for the sum
_CANDIDATES = 200  # asked of Chroma, which looks at as many in any case (ef_search)
_MOST = 20_000  # rows scored in full precision, where very many are equally near
_ROWS = 4096

Matrix = npt.NDArray[np.float32]


def build_dense(folder: Path, vectors: Path, order: npt.NDArray[np.int32], dim: int) -> Matrix:
    """Write vectors in the order of sources, in full and in half precision.

    Parameters
    ----------
    vectors
        Table ``snippet_vectors``.
    order
        int32 [n], the snippet row of each position.

    Returns
    -------
    numpy.ndarray
        float32 [n, D], memory map of what was written.
    """
    n = len(order)
    position = np.empty(n, np.int64)
    position[order] = np.arange(n)
    shape = (max(n, 1), dim)
    full = allocated(folder / "vectors.f32", np.float32, shape)
    half = allocated(folder / "vectors.f16", np.float16, shape)
    begin = 0
    for batch in pq.ParquetFile(vectors).iter_batches(_ROWS, columns=["vector"]):
        part = batch["vector"].flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        at = position[begin : begin + len(part)]
        full[at], half[at] = part, part
        begin += len(part)
    return full[:n]


class Dense:
    """Search by vectors in a finished index.

    Parameters
    ----------
    bounds
        Source to its first position and the one after its last.
    chroma
        Opened when the chosen sources have more than ``exact_rows`` snippets.
    """

    def __init__(
        self,
        folder: Path,
        dim: int,
        bounds: dict[str, tuple[int, int]],
        chroma: ChromaIndex,
        exact_rows: int = EXACT_ROWS,
    ) -> None:
        n = max((stop for _, stop in bounds.values()), default=0)
        shape = (max(n, 1), dim)
        self._full = np.memmap(folder / "vectors.f32", np.float32, mode="r", shape=shape)
        self._half_path, self._shape = folder / "vectors.f16", shape
        self._half: Any = None
        self._bounds, self._chroma, self._exact_rows = bounds, chroma, exact_rows

    def vectors(self, positions: npt.NDArray[np.int64]) -> Matrix:
        """Return float32 [n, D], the vectors at these positions."""
        return np.asarray(self._full[positions], dtype=np.float32)

    def nearest(
        self, query: npt.NDArray[np.float32], k: int, sources: Sequence[str]
    ) -> npt.NDArray[np.int64]:
        """Return at least ``k`` positions (or all), among them the nearest, in no useful order."""
        spans = [self._bounds[source] for source in sources]
        if sum(stop - start for start, stop in spans) <= self._exact_rows:
            return self._scan(query, k, spans)
        found = [
            self._chroma.candidates(query, max(k, _CANDIDATES), source)
            if stop - start > self._exact_rows // len(spans)
            else self._scan(query, k, [(start, stop)])
            for source, (start, stop) in zip(sources, spans, strict=True)
        ]
        return np.concatenate(found)

    def _scan(
        self, query: npt.NDArray[np.float32], k: int, spans: Sequence[tuple[int, int]]
    ) -> npt.NDArray[np.int64]:
        import torch

        if self._half is None:  # in memory from here on: a map would be read anew under pressure
            stored = np.fromfile(self._half_path, np.float16).reshape(self._shape)
            self._half = torch.from_numpy(stored)
        wanted = torch.from_numpy(query.astype(np.float16))
        with torch.inference_mode():
            parts = [(self._half[start:stop] @ wanted).numpy() for start, stop in spans]
        rough = np.concatenate([np.empty(0, np.float16), *parts]).astype(np.float32)
        empty = np.empty(0, np.int64)
        where = np.concatenate([empty, *(np.arange(start, stop) for start, stop in spans)])
        if len(rough) <= k:
            return where
        edge = np.partition(rough, len(rough) - k)[len(rough) - k] - 2 * _ROUNDING
        near = np.flatnonzero(rough >= edge)
        if len(near) > max(_MOST, k):
            near = near[np.argsort(-rough[near], kind="stable")[: max(_MOST, k)]]
        return where[near]
