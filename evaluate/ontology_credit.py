"""What a wrong answer is worth: how near two cell types are in the Cell Ontology."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEAR_CREDIT", "credit_between", "credit_matrix", "live_term"]

NEAR_CREDIT = 1 / 3
"""Two types are near where one earns at least this for the other: at most two steps apart."""

_FAR = np.int32(1 << 20)


def credit_between(true: Sequence[str], predicted: Sequence[str]) -> NDArray[np.float64]:
    """Return what each predicted term is worth for each true one, float64 [true, predicted].

    1 / (1 + d), where d is the number of is-a steps in the Cell Ontology from the true term up to a
    common ancestor and down to the predicted one, by the shortest such way; either term may itself
    be that ancestor. So the right term earns 1, its parent or child 1/2, a sibling 1/3. An empty id
    stands for no term and earns 0.
    """
    own = [_above(term) for term in true]
    universe = {term: column for column, term in enumerate(sorted(set().union(*own)))}
    down = np.full((len(predicted), len(universe)), _FAR, dtype=np.int32)
    for row, term in enumerate(predicted):
        for ancestor, steps in _above(term).items():
            if ancestor in universe:
                down[row, universe[ancestor]] = steps
    credit = np.zeros((len(true), len(predicted)))
    for row, above in enumerate(own):
        if above:
            columns = [universe[term] for term in above]
            up = np.asarray(list(above.values()), dtype=np.int32)
            way = (down[:, columns] + up).min(axis=1)
            credit[row] = np.where(way < _FAR, 1 / (1 + way), 0.0)
    return credit


def credit_matrix(types: Sequence[str], term_ids: Mapping[str, str]) -> NDArray[np.float64]:
    """Return what a prediction is worth, float64 [T, T], rows true, columns predicted.

    As ``credit_between``; types without a term earn 1 for themselves and 0 otherwise.
    """
    terms = [term_ids.get(name, "") for name in types]
    credit = credit_between(terms, terms)
    np.fill_diagonal(credit, 1.0)
    return credit


def live_term(term_id: str) -> str:
    """Return the live Cell Ontology id that an id means today; empty where there is none."""
    from okrcell.corpus.ontology import bundled

    term = bundled("cl").get(term_id) if term_id else None
    return term.term_id if term else ""


def _above(term_id: str) -> dict[str, int]:
    """Return a term and its ancestors, and the number of steps to each."""
    from okrcell.corpus.ontology import ancestors

    term = live_term(term_id) or term_id
    return {**ancestors(term), term: 0} if term else {}
