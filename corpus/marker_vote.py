r"""Markers vote on cells: what each cell's expression says for and against each candidate type.

For every marker gene g a mixture of two Poisson rates is fitted to the cells, without labels: the gene
is on in a share pi_g of them, and elsewhere only its ambient trace is seen. A cell i with k molecules of
the gene among d in all then has the likelihood ratio of the two states::

    A_ig = (on_g / off_g)^k exp(-d (on_g - off_g))

A candidate that names the gene as present expects it on more often than cells at large, one that names it
as absent less often; one that does not name it expects what is usual::

    p1_g = p0_g + gain (1 - p0_g)      p-_g = drop p0_g      p0_g = pi_g, held within [.03, .5]
    vote_ic = 1/T sum_g log (p_cg A_ig + 1 - p_cg) / (p0_g A_ig + 1 - p0_g)

So a gene that all candidates name decides nothing, one that few cells express counts for more, a gene
that is not seen in a shallow cell is weak evidence (A is near 1), a single gene is never worth more than
log(p1/p0), and a candidate gains nothing by naming many genes unless they are on. T allows for genes that
say the same twice; the vote is in nats: differences between candidates are log odds.

Nothing here reads labels. Counts and log-normalised values are taken; the latter are turned back into
counts. N cells, U marker genes of the file, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from okrcell.corpus.marker_table import Marker
from okrcell.corpus.shards import CellMatrix

__all__ = ["SHARPNESS", "WEIGHT", "combined", "usable", "vote"]

_Floats = NDArray[np.float32]

WEIGHT = 1.0
"""Default weight of the vote beside the similarity."""
SHARPNESS = 1.0
"""Logits per standard deviation of the similarities."""

_GAIN = 0.5
_DROP = 0.5
_RARE, _COMMON = 0.03, 0.5
_AMBIENT = 0.05  # of a gene's mean rate, seen in cells that do not express it
_LEAST_FOLD = 3.0
_PRIOR_CELLS = (
    5.0  # in which a marker has been seen on beforehand, at this many times the mean rate
)
_PRIOR_FOLD = 2.0
_FIRST_SHARE = 0.3
_ROUNDS = 20
_MOST = 20.0  # nats: beyond this a gene is on, or off, for certain
_FIT_CELLS = 20_000
_BLOCK_VALUES = 4_000_000
_TEMPER = 2.0


class _Rates(NamedTuple):
    """Molecules per molecule where a gene is on and where it is off, and the share of cells with it on."""

    on: _Floats
    off: _Floats
    share: _Floats


def usable(gene_ids: Sequence[str], markers: Sequence[Sequence[Marker]]) -> NDArray[np.int64]:
    """Return int64 [C]: how many of each candidate's markers are among the genes of a file."""
    known = frozenset(gene_ids)
    return np.asarray([len({m.gene_id for m in some} & known) for some in markers], dtype=np.int64)


def vote(
    cells: CellMatrix,
    markers: Sequence[Sequence[Marker]],
    rows: NDArray[np.int64] | None = None,
) -> _Floats:
    """Return float32 [N, C]: evidence of each cell's expression for each candidate, in nats.

    Positive where the markers speak for a candidate, negative where they speak against it, 0 where the
    candidate has no marker among the genes or the cell has no molecule. Rates are fitted on at most
    20,000 cells, evenly spaced; beyond that a cell's vote does not depend on the others. Memory is
    that of the result and of one block of cells.

    Parameters
    ----------
    markers
        For each of C candidates, its markers; a gene that one candidate names with both signs is
        left out of it.
    rows
        int64 [N]: the cells asked about, and the only ones that are read; all of them by default.
    """
    asked = np.arange(cells.matrix.shape[0]) if rows is None else rows
    n = len(asked)
    result = np.zeros((n, len(markers)), dtype=np.float32)
    signs, columns = _design(cells.gene_ids, markers)
    if not n or not len(columns):
        return result
    chosen = asked
    if n > _FIT_CELLS:
        chosen = asked[np.unique(np.linspace(0, n - 1, _FIT_CELLS).astype(np.intp))]
    rates = _fit(*_counts(cells, chosen, columns), len(cells.gene_ids))
    present, absent = (signs > 0).T.astype(np.float32), (signs < 0).T.astype(np.float32)
    p0 = np.clip(rates.share, _RARE, _COMMON)
    for block in _blocks(np.arange(n), len(columns)):
        ratio = np.exp(_log_ratio(*_counts(cells, asked[block], columns), rates))
        usual = np.log1p(p0 * (ratio - 1.0))
        p1 = p0 + _GAIN * (1.0 - p0)
        found = (np.log1p(p1 * (ratio - 1.0)) - usual) @ present
        found += (np.log1p(_DROP * p0 * (ratio - 1.0)) - usual) @ absent
        result[block] = found / _TEMPER
    return result


def combined(
    similarity: NDArray[np.floating],
    vote: NDArray[np.floating],
    *,
    weight: float = WEIGHT,
    temperature: float | None = None,
) -> _Floats:
    """Return float32 [N, C]: logits of a learnt similarity and the markers' vote together.

    Parameters
    ----------
    similarity
        Float [N, C], of any scale: cosine of cells and texts.
    vote
        Float [N, C], of :func:`vote`.
    weight
        Of the vote; 0 leaves the similarity alone. The default was fixed on training studies.
    temperature
        What similarities are divided by. Without one they are centred in each cell and divided by
        their standard deviation over all cells and candidates, so that models of different
        temperature are treated alike.

    Raises
    ------
    ValueError
        The shapes differ, or the weight is negative or not finite.
    """
    if similarity.shape != vote.shape:
        raise ValueError(f"similarities {similarity.shape} beside votes {vote.shape}")
    if not (np.isfinite(weight) and weight >= 0):
        raise ValueError(f"weight = {weight} must be finite and not negative")
    logits = np.asarray(similarity, dtype=np.float32)
    if temperature is not None:
        logits = logits / temperature
    elif logits.size:
        centred = logits - logits.mean(axis=1, keepdims=True)
        spread = float(np.sqrt(np.mean(np.square(centred, dtype=np.float64))))
        logits = centred * (SHARPNESS / spread if spread > 0 else 0.0)
    joint: _Floats = (logits + weight * vote).astype(np.float32)
    return joint


def _design(
    gene_ids: Sequence[str], markers: Sequence[Sequence[Marker]]
) -> tuple[NDArray[np.int8], NDArray[np.intp]]:
    """Return int8 [C, U] with the sign of each gene for each candidate, and the U columns."""
    column = {gene: i for i, gene in enumerate(gene_ids)}
    named = sorted({m.gene_id for some in markers for m in some if m.gene_id in column})
    place = {gene: i for i, gene in enumerate(named)}
    signs = np.zeros((len(markers), len(named)), dtype=np.int8)
    for candidate, some in enumerate(markers):
        said: dict[str, set[int]] = {}
        for marker in some:
            if marker.gene_id in place:
                said.setdefault(marker.gene_id, set()).add(marker.sign)
        for gene, both in said.items():
            signs[candidate, place[gene]] = both.pop() if len(both) == 1 else 0
    return signs, np.asarray([column[gene] for gene in named], dtype=np.intp)


def _blocks(rows: NDArray[np.intp], width: int) -> Iterator[NDArray[np.intp]]:
    size = max(1, _BLOCK_VALUES // max(width, 1))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _counts(
    cells: CellMatrix, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> tuple[_Floats, _Floats]:
    """Return counts [n, U] of marker genes in some cells, and all molecules of each [n, 1]."""
    block = sparse.csr_matrix(cells.matrix[rows], dtype=np.float64)
    lengths = np.diff(block.indptr)
    if cells.values != "counts":
        # The smallest value of a cell that is not zero stands for one molecule.
        values = np.expm1(block.data)
        filled = np.flatnonzero(lengths)
        least = np.ones(len(lengths))
        if len(filled):
            least[filled] = np.minimum.reduceat(values, block.indptr[filled])
        block.data = values / np.repeat(np.maximum(least, 1e-9), lengths)
    depth = np.asarray(block.sum(axis=1), dtype=np.float32)
    return block[:, columns].toarray().astype(np.float32), depth


def _fit(counts: _Floats, depth: _Floats, n_genes: int) -> _Rates:
    """Fit the two rates of each gene and the share of cells with it on, by expectation-maximisation."""
    total = max(float(depth.sum(dtype=np.float64)), 1.0)
    sums = counts.sum(axis=0, dtype=np.float64)
    off = np.maximum(_AMBIENT * sums / total, 1e-7)
    seen = ((counts > 0) * depth).sum(axis=0, dtype=np.float64)
    # A gene that no cell shows still has a rate at which it would be seen.
    before = _PRIOR_CELLS * total / max(len(counts), 1)
    prior = before * _PRIOR_FOLD / n_genes
    on = np.maximum((sums + prior) / (seen + before), _LEAST_FOLD * off)
    share = np.full(counts.shape[1], _FIRST_SHARE)
    for _ in range(_ROUNDS):
        odds = np.log(share / (1.0 - share)).astype(np.float32)
        ratio = _log_ratio(counts, depth, _rates(on, off, share))
        is_on = 1.0 / (1.0 + np.exp(-(ratio + odds)))
        share = np.clip(is_on.mean(axis=0, dtype=np.float64), 1e-3, 1 - 1e-3)
        molecules = np.einsum("iu,iu->u", is_on, counts, dtype=np.float64)
        possible = np.einsum("iu,i->u", is_on, depth[:, 0], dtype=np.float64)
        on = np.maximum((molecules + prior) / (possible + before), _LEAST_FOLD * off)
    return _rates(on, off, share)


def _rates(*values: NDArray[np.float64]) -> _Rates:
    return _Rates(*(np.asarray(value, dtype=np.float32) for value in values))


def _log_ratio(counts: _Floats, depth: _Floats, rates: _Rates) -> _Floats:
    """Return log likelihood ratios [n, U] of on against off, within 20 nats."""
    ratio: _Floats = counts * np.log(rates.on / rates.off) - depth * (rates.on - rates.off)
    return np.clip(ratio, -_MOST, _MOST)
