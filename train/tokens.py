"""Cells to tokens: non-zero genes and their binned values, padded to the longest cell of a batch.

Shape suffixes: B cells of a batch, T tokens (``<cls>`` first), G columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from okrcell.corpus.shards import CellMatrix
from okrcell.errors import GeneCoverageError

__all__ = ["CLS", "N_SPECIAL", "PAD", "Tokens", "column_tokens", "tokenise"]

PAD, CLS, N_SPECIAL = 0, 1, 2


class Tokens(NamedTuple):
    """A batch of cells.

    Attributes
    ----------
    genes
        int64 [B, T]: ``PAD``, ``CLS`` (first), or 2 + index into the vocabulary.
    bins
        int64 [B, T]: 1 to n_bins; 0 at ``CLS`` and padding.
    """

    genes: torch.Tensor
    bins: torch.Tensor


def column_tokens(
    gene_ids: Sequence[str], vocabulary: Mapping[str, int], where: str
) -> npt.NDArray[np.int64]:
    """Return int64 [G]: the token of each column, or -1 for genes outside the vocabulary.

    Raises
    ------
    GeneCoverageError
        No gene of the data is known to the model.
    """
    tokens = np.array([vocabulary.get(gene_id, -1) for gene_id in gene_ids], dtype=np.int64)
    if not (tokens >= 0).any():
        raise GeneCoverageError(
            where,
            found=f"none of its {len(gene_ids)} genes in the model's vocabulary",
            expected=f"some of the {len(vocabulary)} genes the model was trained on",
            fix="Use data of the same species with Ensembl ids or symbols.",
        )
    return tokens


def tokenise(
    cells: CellMatrix,
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    *,
    n_bins: int,
    max_genes: int,
    rng: np.random.Generator | None,
) -> Tokens:
    """Tokenise some rows of a matrix.

    Values are log1p-transformed where they are counts and cut into ``n_bins`` intervals of equal
    width between the cell's smallest and largest non-zero value (paper, cell encoder).

    Parameters
    ----------
    columns
        Result of :func:`column_tokens`.
    rng
        Chooses ``max_genes`` genes of a cell that has more. None (inference) takes a choice that
        depends on the genes alone, so that neither their order nor the batch matters.
    """
    picked = []
    for row in rows:
        part = slice(cells.matrix.indptr[row], cells.matrix.indptr[row + 1])
        genes = columns[cells.matrix.indices[part]]
        values = np.asarray(cells.matrix.data[part], dtype=np.float64)
        keep = np.flatnonzero(genes >= 0)
        if len(keep) > max_genes:
            drawn = _scatter(genes[keep]) if rng is None else rng.random(len(keep))
            keep = np.sort(keep[np.argsort(drawn, kind="stable")[:max_genes]])
        values = np.log1p(values[keep]) if cells.values == "counts" else values[keep]
        picked.append((genes[keep], _bin(values, n_bins)))
    width = 1 + max((len(genes) for genes, _ in picked), default=0)
    tokens = Tokens(
        torch.full((len(rows), width), PAD, dtype=torch.int64),
        torch.zeros((len(rows), width), dtype=torch.int64),
    )
    tokens.genes[:, 0] = CLS
    for at, (genes, bins) in enumerate(picked):
        tokens.genes[at, 1 : 1 + len(genes)] = torch.from_numpy(genes + N_SPECIAL)
        tokens.bins[at, 1 : 1 + len(genes)] = torch.from_numpy(bins)
    return tokens


def _scatter(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Spread token numbers over 32 bits (Knuth's multiplicative hash): a fixed, arbitrary order."""
    return tokens * 2654435761 % 2**32


def _bin(values: npt.NDArray[np.float64], n_bins: int) -> npt.NDArray[np.int64]:
    if not values.size:
        return np.zeros(0, dtype=np.int64)
    low, span = values.min(), np.ptp(values)
    if span == 0:
        return np.ones(len(values), dtype=np.int64)
    scaled = np.minimum((values - low) / span * n_bins, n_bins - 1)
    return np.asarray(1 + scaled.astype(np.int64), dtype=np.int64)
