"""Task 4, few-shot: K labelled cells per type, a frozen embedding, and everything else to predict.

Support and query cells are disjoint and both come from the test split, so that not even the
encoder's training has seen them. All methods get the same episodes, which hang on the ids of the
cells and not on their order.

An interval answers: what if other cells (or donors) had been sampled, and other support cells drawn?
Each of its draws resamples both, episodes and cells; support cells of an episode are never among its
queries. All methods see the same draws, so their differences can be tested draw by draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.annotation import probe_linear
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.intervals import Bootstrap, with_exact_bound
from okrcell.evaluate.methods import MethodOutput
from okrcell.evaluate.rows import Row, TaskResult

__all__ = ["Episode", "episode_scores", "episodes", "few_shot", "nearest_prototype"]

Doubles = NDArray[np.float64]

_MAX_QUERIES = 5000
_LEAST_QUERIES = 10


@dataclass(frozen=True)
class Episode:
    """Row numbers of one draw."""

    support: NDArray[np.intp]
    query: NDArray[np.intp]


def episodes(
    labels: NDArray[np.str_], shots: int, n_episodes: int, seed: int
) -> tuple[list[Episode], list[str]]:
    """Draw episodes of ``shots`` cells per type; return them and the types with too few cells.

    A type takes part if it has at least ``shots + 1`` cells, so that one is left to be asked about.
    At most 5,000 query cells per episode, a random choice beyond that.
    """
    types, counts = np.unique(labels, return_counts=True)
    usable = types[counts > shots]
    dropped = [str(name) for name in types[counts <= shots]]
    if len(usable) < 2:
        return [], dropped
    rng = np.random.default_rng([seed, shots])
    members = [np.flatnonzero(labels == name) for name in usable]
    drawn = []
    for _ in range(n_episodes):
        mixed = [rng.permutation(rows) for rows in members]
        query = np.concatenate([rows[shots:] for rows in mixed])
        if len(query) > _MAX_QUERIES:
            query = rng.permutation(query)[:_MAX_QUERIES]
        drawn.append(Episode(np.concatenate([rows[:shots] for rows in mixed]), np.sort(query)))
    return drawn, dropped


def few_shot(method: MethodOutput, data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Score the embedding of the test cells; values are means over the episodes."""
    result = TaskResult()
    if method.cells is None:
        result.notes.append(f"Few-shot was skipped for {method.name}: it has no embedding.")
        return result
    rows = data.test[np.argsort(data.cell_uids[data.test], kind="stable")]
    cells, labels = method.cells[rows], data.labels[rows]
    boot = Bootstrap.over(data.donors[rows], config.bootstrap, config.seed)
    result.details = {"curve": [], "dropped": {}}
    for shots in config.shots:
        drawn, dropped = episodes(labels, shots, config.episodes, config.seed)
        result.details["dropped"][str(shots)] = dropped
        if not drawn or len(drawn[0].query) < _LEAST_QUERIES:
            result.notes.append(
                f"{data.dataset}: few-shot with K = {shots} was skipped: fewer than two types have "
                f"{shots + 1} test cells, or fewer than {_LEAST_QUERIES} cells are left to ask."
            )
            continue
        again = np.random.default_rng([config.seed, shots, 1])
        chosen = again.integers(len(drawn), size=(boot.draws, len(drawn)))
        for head in ("prototype", "logistic"):
            predicted = [_predict(head, cells, labels, episode, config) for episode in drawn]
            scores = episode_scores(labels, drawn, predicted, boot)  # [1 + draws, E, 2]
            for at, metric in enumerate(("accuracy", "macro_f1")):
                value = float(scores[0, :, at].mean())
                draws = np.take_along_axis(scores[1:, :, at], chosen, axis=1).mean(axis=1)
                n = len(drawn[0].query)
                ends = boot.interval(value, draws)
                low, high = with_exact_bound(value, ends, min(n, boot.n_units))
                named = f"{metric} ({head}, K={shots})"
                row = Row("few_shot", method.name, named, value, low, high, n, str(config.seed))
                result.put(row, draws, boot.n_units)
                if metric == "accuracy":
                    point = {"head": head, "k": shots, "value": value, "low": low, "high": high}
                    result.details["curve"].append(point)
    return result


def episode_scores(
    labels: NDArray[np.str_],
    drawn: list[Episode],
    predicted: list[NDArray[np.str_]],
    boot: Bootstrap,
) -> Doubles:
    """Return accuracy and macro-F1 of every episode, float64 [1 + draws, E, 2].

    First for the cells as they are, then for every resample of them. Macro-F1 is the mean over the
    types that have query cells in the resample.

    Parameters
    ----------
    labels
        Of all test cells, [n].
    predicted
        Labels of each episode's query cells.
    """
    types, codes = np.unique(labels, return_inverse=True)
    n, n_types, n_episodes = len(labels), len(types), len(drawn)
    true = _counter([e.query for e in drawn], [codes[e.query] for e in drawn], n, n_types)
    claims = [np.searchsorted(types, names) for names in predicted]
    claimed = _counter([e.query for e in drawn], claims, n, n_types)
    is_right = [claim == codes[e.query] for e, claim in zip(drawn, claims, strict=True)]
    right = _counter(
        [e.query[hit] for e, hit in zip(drawn, is_right, strict=True)],
        [claim[hit] for claim, hit in zip(claims, is_right, strict=True)],
        n,
        n_types,
    )

    def of(weights: Doubles) -> Doubles:
        hits, asked, said = (
            np.asarray(weights @ counter).reshape(len(weights), n_episodes, n_types)
            for counter in (right, true, claimed)
        )
        f1 = 2 * hits / np.maximum(asked + said, 1)
        occurs = asked > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy = hits.sum(axis=2) / asked.sum(axis=2)
            macro = (f1 * occurs).sum(axis=2) / occurs.sum(axis=2)
        return np.stack([accuracy, macro], axis=2)

    return np.concatenate([of(np.ones((1, n))), boot.apply(of)])


def _counter(
    rows: list[NDArray[np.intp]], codes: list[NDArray[np.intp]], n: int, n_types: int
) -> Any:
    """Return CSR [n, E * T] that turns weights of cells into counts per episode and type."""
    from scipy import sparse

    columns = np.concatenate([code + e * n_types for e, code in enumerate(codes)])
    every = np.concatenate(rows)
    return sparse.csr_matrix((np.ones(len(every)), (every, columns)), (n, len(rows) * n_types))


def _predict(
    head: str,
    cells: NDArray[np.float32],
    labels: NDArray[np.str_],
    episode: Episode,
    config: EvaluateConfig,
) -> NDArray[np.str_]:
    x, y, asked = cells[episode.support], labels[episode.support], cells[episode.query]
    if head == "prototype":
        return nearest_prototype(x, y, asked)
    return probe_linear(x, y, asked, config.seed)


def nearest_prototype(
    support: NDArray[np.float32], labels: NDArray[np.str_], query: NDArray[np.float32]
) -> NDArray[np.str_]:
    """Predict [n_query] by the highest cosine to the mean support cell of each type.

    Cosines are taken around the mean of these means, so that an offset of the embedding costs nothing.
    """
    types = np.unique(labels)
    centres = np.stack([support[labels == name].mean(axis=0) for name in types])
    middle = centres.mean(axis=0)
    centres = centres - middle
    centres = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    return np.asarray(types[((query - middle) @ centres.T).argmax(axis=1)])
