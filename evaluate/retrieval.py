"""Task 6, retrieval: find a cell's own text among many, and a text's own cell.

Strict, as in the paper: only the cell's own copy of a text is right, though other cells may carry
the very same text. Such copies score alike, so no method can pass the *duplicate ceiling*, which is
printed beside the results. Graded: any cell with the same text is right. Same type: any text of a
cell of the type is. Ontology-near: any of a type at most two steps away in the Cell Ontology (the
right type, its parents, children, grandparents, grandchildren and siblings); asked of cells whose
type has a term. Ties are not broken by position but by expectation: the value is the mean over all
orders of the tied items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.intervals import Bootstrap, weighted_mean, weighted_median
from okrcell.evaluate.ranks import Ranks, join, rank_pairs
from okrcell.evaluate.rows import Row, TaskResult

if TYPE_CHECKING:
    from okrcell.evaluate.data import EvalData
    from okrcell.evaluate.methods import MethodOutput

__all__ = ["CURVE_K", "Ranks", "ceiling", "fold_rows", "rank_pairs", "retrieval"]

CURVE_K = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
_REPORTED_K = (1, 5, 10)
_LEAST_TEXTS = 6
_NEAR = "ontology-near"


def retrieval(method: MethodOutput, data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Score one method both ways, strict and graded, on folds of test cells."""
    from okrcell.evaluate.methods import unit

    assert method.cells is not None
    folds = fold_rows(data.test, config)
    rows = np.concatenate(folds)
    ranks, has_term, text_ids = _ranks(method, unit(method.cells[rows]), data, folds)
    result = TaskResult(details={"curve": {}, "fold": len(folds[0]), "n_folds": len(folds)})
    curve_k = [k for k in CURVE_K if k <= len(folds[0])]
    for way, of_all in ranks.items():
        asked = has_term if way.endswith(_NEAR) else np.arange(len(rows))
        if not len(asked):
            continue
        found = of_all.take(asked)
        boot = Bootstrap.over(data.donors[rows[asked]], config.bootstrap, config.seed)
        if way.startswith("text") and not way.endswith("strict"):
            # All cells of a text ask the same question: texts are the units, not cells.
            boot = Bootstrap(
                len(asked),
                config.bootstrap,
                config.seed,
                np.unique(text_ids[asked], return_inverse=True)[1],
            )
        for k in _REPORTED_K:
            recall = weighted_mean(found.recall(k))
            result.measure("retrieval", method.name, f"R@{k} ({way})", recall, boot)
            if boot.n_units < _LEAST_TEXTS:
                result.draws.pop(f"R@{k} ({way})", None)  # too few questions for a test
        if way.endswith("strict"):
            _add_median_rank(result, method.name, way, found, boot)
            reciprocal = weighted_mean(_reciprocal(found))
            result.measure("retrieval", method.name, f"MRR ({way})", reciprocal, boot)
        result.details["curve"][way] = [
            [k, round(float(found.recall(k).mean()), 6)] for k in curve_k
        ]
    return result


def _ranks(
    method: MethodOutput,
    cells: NDArray[np.float32],
    data: EvalData,
    folds: list[NDArray[np.intp]],
) -> tuple[dict[str, Ranks], NDArray[np.intp], NDArray[np.intp]]:
    """Return the ranks of all folds, which pairs have a type with a term, and the text of each pair.

    What is the same text is decided by the descriptions, for every method. One that reads bare labels
    has as a text's vector the mean over the labels of the cells with that description.
    """
    from okrcell.evaluate.methods import unit
    from okrcell.evaluate.ontology_credit import NEAR_CREDIT, credit_matrix

    assert method.encode_text is not None
    rows = np.concatenate(folds)
    wanted, text_ids = np.unique(
        np.asarray([data.descriptions[str(p)] for p in data.profile_ids[rows]]), return_inverse=True
    )
    if method.texts == "description":
        texts = unit(method.encode_text([str(text) for text in wanted]))
    else:
        labels, codes = np.unique(data.labels[rows], return_inverse=True)
        vectors = unit(method.encode_text([str(label) for label in labels]))
        texts = unit(
            np.stack(
                [vectors[np.unique(codes[text_ids == i])].mean(axis=0) for i in range(len(wanted))]
            )
        )
    types = np.searchsorted(data.types, data.labels[rows])
    near = credit_matrix(data.types, data.term_ids) >= NEAR_CREDIT - 1e-9
    parts = [
        rank_pairs(cells[pairs], texts, text_ids[pairs], types[pairs], near)
        for pairs in np.split(np.arange(len(rows)), len(folds))
    ]
    with_term = [name for name in data.types if data.term_ids.get(name, "")]
    return (
        {way: join([part[way] for part in parts]) for way in parts[0]},
        np.flatnonzero(np.isin(data.labels[rows], with_term)),
        text_ids,
    )


def _add_median_rank(
    result: TaskResult, name: str, way: str, found: Ranks, boot: Bootstrap
) -> None:
    expected = found.expected
    draws = boot.apply(weighted_median(expected))
    value = float(np.median(expected))
    ends = boot.interval(value, draws, (1.0, float("inf")))
    metric = f"median_rank ({way})"
    result.put(
        Row("retrieval", name, metric, value, *ends, boot.n, str(boot.seed)), draws, boot.n_units
    )


def ceiling(data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Return what a perfect method and a blind one reach in the strict form, on the same folds."""
    folds = fold_rows(data.test, config)
    result = TaskResult(details={"ceiling": [], "chance": []})
    best, chance = [], []
    for fold in folds:
        texts = np.asarray([data.descriptions[str(p)] for p in data.profile_ids[fold]])
        counts = np.unique(texts, return_counts=True)[1][np.unique(texts, return_inverse=True)[1]]
        zero = np.zeros(len(fold), dtype=np.int64)
        best.append(Ranks(zero, counts - 1, zero + 1))
        chance.append(Ranks(zero, zero + len(fold) - 1, zero + 1))
    n = sum(len(fold) for fold in folds)
    for name, parts in (("duplicate ceiling", best), ("chance", chance)):
        ranks = join(parts)
        for way in ("cell to text, strict", "text to cell, strict"):
            values = {f"R@{k}": ranks.recall(k) for k in _REPORTED_K}
            for metric, value in {**values, "MRR": _reciprocal(ranks)}.items():
                mean = float(value.mean())
                result.rows.append(
                    Row("retrieval", name, f"{metric} ({way})", mean, mean, mean, n, "")
                )
        key = "ceiling" if name.startswith("duplicate") else "chance"
        result.details[key] = [
            [k, round(float(ranks.recall(k).mean()), 6)] for k in CURVE_K if k <= len(folds[0])
        ]
    return result


def fold_rows(test: NDArray[np.intp], config: EvaluateConfig) -> list[NDArray[np.intp]]:
    """Return up to ``max_folds`` disjoint random folds of ``min(fold, n)`` test cells."""
    size = min(config.fold, len(test))
    mixed = np.random.default_rng(config.seed).permutation(test)
    n_folds = min(config.max_folds, len(test) // size)
    return [np.sort(mixed[i * size : (i + 1) * size]) for i in range(n_folds)]


def _reciprocal(ranks: Ranks) -> NDArray[np.float64]:
    """Return the expected 1 / rank of the one right item, float64 [n]."""
    harmonic = np.concatenate(
        [[0.0], np.cumsum(1 / np.arange(1, int((ranks.above + ranks.tied).max()) + 2))]
    )
    block = ranks.tied + 1
    mean: NDArray[np.float64] = (harmonic[ranks.above + block] - harmonic[ranks.above]) / block
    return mean
