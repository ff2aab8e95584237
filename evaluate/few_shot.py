"""Task 4, few-shot: K labelled cells per type, a frozen embedding, and everything else to predict.

Support and query cells are disjoint and both come from the test split, so that not even the
encoder's training has seen them. All methods get the same episodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.annotation import probe_linear
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.intervals import interval
from okrcell.evaluate.rows import Row, TaskResult

__all__ = ["Episode", "episodes", "few_shot", "nearest_prototype"]

_MAX_QUERIES = 5000


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
    """
    types, counts = np.unique(labels, return_counts=True)
    usable = types[counts > shots]
    dropped = [str(name) for name in types[counts <= shots]]
    if len(usable) < 2:
        return [], dropped
    rng = np.random.default_rng([seed, shots])
    drawn = []
    for _ in range(n_episodes):
        mixed = [rng.permutation(np.flatnonzero(labels == name)) for name in usable]
        query = np.concatenate([rows[shots:] for rows in mixed])
        if len(query) > _MAX_QUERIES:
            query = rng.permutation(query)[:_MAX_QUERIES]
        drawn.append(Episode(np.concatenate([rows[:shots] for rows in mixed]), np.sort(query)))
    return drawn, dropped


def few_shot(
    name: str, cells: NDArray[np.float32], labels: NDArray[np.str_], config: EvaluateConfig
) -> TaskResult:
    """Score one embedding [N, D] of test cells.

    Values are means over the episodes; the interval holds 95 % of the episodes, which is what one
    lab with one set of K labelled cells per type may expect.
    """
    from sklearn.metrics import f1_score

    result = TaskResult()
    result.details = {"curve": [], "dropped": {}}
    for shots in config.shots:
        drawn, dropped = episodes(labels, shots, config.episodes, config.seed)
        result.details["dropped"][str(shots)] = dropped
        if not drawn:
            result.notes.append(
                f"Few-shot with K = {shots} was skipped: fewer than two types have {shots + 1} test cells."
            )
            continue
        heads: dict[str, list[tuple[float, float]]] = {"prototype": [], "logistic": []}
        for episode in drawn:
            x, y = cells[episode.support], labels[episode.support]
            asked, truth = cells[episode.query], labels[episode.query]
            for head, predicted in (
                ("prototype", nearest_prototype(x, y, asked)),
                ("logistic", probe_linear(x, y, asked, config.seed)),
            ):
                f1 = f1_score(
                    truth, predicted, labels=np.unique(truth), average="macro", zero_division=0
                )
                heads[head].append((float((predicted == truth).mean()), float(f1)))
        n = len(drawn[0].query)
        for head, scores in heads.items():
            for metric, values in zip(("accuracy", "macro_f1"), np.asarray(scores).T, strict=True):
                low, high = interval(values)
                value = float(values.mean())
                result.rows.append(
                    Row(
                        "few_shot",
                        name,
                        f"{metric} ({head}, K={shots})",
                        value,
                        low,
                        high,
                        n,
                        str(config.seed),
                    )
                )
                if metric == "accuracy":
                    result.details["curve"].append(
                        {"head": head, "k": shots, "value": value, "low": low, "high": high}
                    )
    return result


def nearest_prototype(
    support: NDArray[np.float32], labels: NDArray[np.str_], query: NDArray[np.float32]
) -> NDArray[np.str_]:
    """Predict [n_query] by the highest cosine to the mean support cell of each type."""
    types = np.unique(labels)
    centres = np.stack([support[labels == name].mean(axis=0) for name in types])
    centres = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    return np.asarray(types[(query @ centres.T).argmax(axis=1)])
