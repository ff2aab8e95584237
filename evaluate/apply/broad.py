"""The most that can be said of a cell whose exact type is open: the narrowest class that is sure enough.

Probability is shared among near relatives: a cell may be .3 a naive, .3 a memory and .3 a helper T cell, and
surely a T cell. The probabilities of candidates are added up along the Cell Ontology, and the most
specific class that holds most of it is named (after Deng et al. 2012, "Hedging your bets").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell.corpus.marker_table import bundled_markers
from okrcell.corpus.ontology import ancestors, names
from okrcell.evaluate.apply.labels import Candidates

__all__ = ["SURE", "Classes", "classes_of", "narrowest"]

SURE = 0.8
"""Least probability of a class that is named."""


@dataclass(frozen=True)
class Classes:
    """Classes of the Cell Ontology, U of them: the candidates, and what of the marker table lies above them.

    Attributes
    ----------
    terms, labels
        Of each class, from the most specific to the most general.
    members
        Float [C, U]: 1 where a candidate is of the class.
    """

    terms: tuple[str, ...]
    labels: tuple[str, ...]
    members: sparse.csr_matrix


def classes_of(candidates: Candidates) -> Classes:
    """Return the classes that candidates fall into; none where no candidate has a term."""
    own = {term for term in candidates.term_ids if term}
    common = own | set(bundled_markers())
    above = {term: {term, *ancestors(term)} & common for term in own}
    # A class is more specific the more classes lie above it.
    terms = sorted(set().union(*above.values()), key=lambda t: (-len(ancestors(t)), t))
    place = {term: at for at, term in enumerate(terms)}
    pairs = [
        (row, place[name])
        for row, term in enumerate(candidates.term_ids)
        for name in above.get(term, ())
    ]
    rows, columns = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
    members = sparse.csr_matrix(
        (np.ones(len(rows)), (rows, columns)), shape=(len(candidates), len(terms))
    )
    return Classes(tuple(terms), tuple(names(term)[0] for term in terms), members)


def narrowest(
    shares: npt.NDArray[np.float64], classes: Classes
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the narrowest class that is sure, int64 [n], -1 for none, and its probability, float32 [n].

    Parameters
    ----------
    shares
        Float64 [n, C]: probability of each candidate.
    """
    n = len(shares)
    if not classes.terms:
        return np.full(n, -1), np.zeros(n, dtype=np.float32)
    held = shares @ classes.members
    sure = held >= SURE
    first = sure.argmax(axis=1)
    found = sure[np.arange(n), first]
    probability = np.where(found, held[np.arange(n), first], 0).astype(np.float32)
    return np.where(found, first, -1).astype(np.int64), probability
