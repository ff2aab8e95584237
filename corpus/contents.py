"""What a cell holds, as a short hash: two cells of the same genes and values have the same one.

The hash does not depend on the order of genes or of columns, so that a cell is recognised in another
file. It is made for finding duplicates, not for security.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from okrcell.corpus.shards import CellMatrix

__all__ = ["MIN_DETECTED", "MIN_PATTERN", "content_hashes"]

MIN_DETECTED = 10
"""Cells with fewer genes get no hash: two of them may agree by chance."""

MIN_PATTERN = 50

_U64 = npt.NDArray[np.uint64]
_LANES = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


def content_hashes(
    cells: CellMatrix,
    rows: npt.NDArray[np.intp] | None = None,
    genes: Collection[str] | None = None,
    *,
    only_pattern: bool = False,
) -> list[str]:
    """Return 32 hex digits per cell, empty for cells with fewer than ``MIN_DETECTED`` genes.

    With ``only_pattern`` it counts which genes are detected and not how much, which stays the same
    when counts are normalised; that takes ``MIN_PATTERN`` genes.

    Parameters
    ----------
    rows
        int [n]: which cells; all by default.
    genes
        Only these count.
    """
    matrix = cells.matrix if rows is None else cells.matrix[rows]
    if genes is not None:
        kept = np.flatnonzero([gene in genes for gene in cells.gene_ids])
        matrix, ids = matrix[:, kept], [cells.gene_ids[i] for i in kept]
    else:
        ids = list(cells.gene_ids)
    matrix = matrix.tocsr()
    names = np.fromiter((_gene(gene) for gene in ids), dtype=np.uint64, count=len(ids))
    lanes = []
    values = matrix.data.astype(np.float32).view(np.uint32).astype(np.uint64)
    if only_pattern:
        values = np.zeros_like(values)
    with np.errstate(over="ignore"):
        for lane in _LANES:
            entries = _mix(names[matrix.indices] ^ _mix(values + lane))
            ends = np.concatenate([np.zeros(1, np.uint64), np.cumsum(entries, dtype=np.uint64)])
            lanes.append(ends[matrix.indptr[1:]] - ends[matrix.indptr[:-1]])
    counts = np.diff(matrix.indptr)
    least = MIN_PATTERN if only_pattern else MIN_DETECTED
    return [
        f"{int(a):016x}{int(b):016x}" if n >= least else ""
        for a, b, n in zip(*lanes, counts, strict=True)
    ]


def _gene(gene_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(gene_id.encode(), digest_size=8).digest(), "little")


def _mix(x: _U64) -> _U64:
    """Scatter 64 bits (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: _U64 = x ^ (x >> np.uint64(31))
    return mixed
