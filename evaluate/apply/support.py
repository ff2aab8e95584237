"""What speaks for a predicted type: those of its markers that are higher in its cells than in the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell.corpus.shards import CellMatrix
from okrcell.evaluate.baselines import log_normalised

if TYPE_CHECKING:
    from okrcell.corpus.marker_table import Marker

__all__ = ["Support", "support_of"]

_BLOCK = 4096
_LEAST_GAIN = 0.1
_LEAST_SHOWN = 0.05


@dataclass(frozen=True)
class Support:
    """The markers of one predicted type in a file.

    Attributes
    ----------
    usable
        Markers of presence that the file has.
    higher
        Of these, the ones that are higher in the type's cells, the clearest first: symbol, source,
        and the difference of mean log1p values.
    """

    usable: int
    higher: tuple[tuple[str, str, float], ...]


def support_of(
    cells: CellMatrix,
    answer: npt.NDArray[np.int64],
    markers: Sequence[Sequence[Marker]],
) -> dict[int, Support]:
    """Return what supports each answer that some cell got.

    A marker of presence is higher where its mean of log1p of counts per 10,000 in the cells of the
    answer exceeds that of all other cells by 0.1, and 5 % of the cells of the answer show it. Cells
    are read block by block.

    Parameters
    ----------
    answer
        int64 [N]: candidate of each cell; -1 for cells that count for none, and among the others.
    markers
        Of each candidate.
    """
    given = np.unique(answer[answer >= 0])
    column = {gene: at for at, gene in enumerate(cells.gene_ids)}
    wanted = {
        int(a): [m for m in markers[a] if m.sign > 0 and m.gene_id in column]
        if len(markers)
        else []
        for a in given
    }
    genes = sorted({column[marker.gene_id] for some in wanted.values() for marker in some})
    slot = {gene: at for at, gene in enumerate(genes)}
    place = {int(a): at for at, a in enumerate(given)}
    sums, shown = (np.zeros((len(given) + 1, len(genes))) for _ in range(2))
    sizes = np.zeros(len(given) + 1)
    of_answer = np.full(max(int(answer.max(initial=-1)), 0) + 2, len(given))
    of_answer[given] = np.arange(len(given))
    for begin in range(0, len(answer), _BLOCK):
        rows = np.arange(begin, min(begin + _BLOCK, len(answer)))
        group = of_answer[answer[rows]]  # -1 reads the last entry, that of no answer
        members = sparse.csr_matrix(
            (np.ones(len(rows)), (group, np.arange(len(rows)))), shape=(len(sizes), len(rows))
        )
        sizes += np.bincount(group, minlength=len(sizes))
        if genes:
            values = log_normalised(cells.take(rows))[:, genes]
            sums += members @ values.toarray()
            values.data = (values.data > 0).astype(np.float64)
            shown += members @ values.toarray()
    found = {}
    for a, at in place.items():
        others = max(sizes.sum() - sizes[at], 1)
        gain = sums[at] / sizes[at] - (sums.sum(axis=0) - sums[at]) / others
        share = shown[at] / sizes[at]
        higher = [
            (marker.symbol, marker.source, float(gain[slot[column[marker.gene_id]]]))
            for marker in wanted[a]
            if gain[slot[column[marker.gene_id]]] >= _LEAST_GAIN
            and share[slot[column[marker.gene_id]]] >= _LEAST_SHOWN
        ]
        higher.sort(key=lambda item: -item[2])
        found[a] = Support(len(wanted[a]), tuple(higher))
    return found
