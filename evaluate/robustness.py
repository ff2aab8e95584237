"""Robustness: the probes and texts of clean train cells, asked about test cells that were harmed.

Gene dropout sets a random share of the genes of each test cell to zero. Depth thinning keeps each
molecule with a given chance, as a shallower run would; it needs counts. Nothing is fitted again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.intervals import Bootstrap, weighted_mean
from okrcell.evaluate.methods import MethodOutput, unit
from okrcell.evaluate.rows import TaskResult

__all__ = ["drop_genes", "robustness", "thin"]


def robustness(method: MethodOutput, data: EvalData, config: EvaluateConfig) -> TaskResult:
    """Return accuracy by linear probe, and by text where the method knows texts, at every level.

    Metrics: ``accuracy (linear, 30 % of genes lost)``, ``accuracy (zero-shot, 25 % of depth)``. Only
    test cells of types that occur in train are asked about; candidates of zero-shot are all types,
    those of one Cell Ontology term being one. The harm is drawn once, from the seed: its chance is
    not in the intervals.
    """
    from okrcell.corpus.shards import CellMatrix

    result = TaskResult(details={"curves": []})
    if method.encode_cells is None or method.cells is None:
        return result
    if not np.isin(data.labels[data.test], sorted(data.seen)).any():
        return result
    rows = data.test[np.isin(data.labels[data.test], sorted(data.seen))]
    clean = data.matrix.matrix[rows]
    asked = _questions(method, data, config)
    boot = Bootstrap.over(data.donors[rows], config.bootstrap, config.seed)
    kinds = [("dropout", (0.0, *config.dropout))]
    if data.matrix.values == "counts":
        kinds.append(("depth", (1.0, *config.thinning)))
    else:
        result.notes.append(f"{data.dataset}: depth was not thinned, since that needs counts.")
    at_rest = method.cells[rows]
    for kind, levels in kinds:
        for level in levels:
            if level == float(kind == "depth"):
                cells = at_rest
            else:
                rng = np.random.default_rng([config.seed, round(1000 * level)])
                harmed = (drop_genes if kind == "dropout" else thin)(clean, level, rng)
                cells = method.encode_cells(
                    CellMatrix(harmed, data.matrix.gene_ids, data.matrix.values)
                )
            share = f"{100 * level:g} % of " + ("genes lost" if kind == "dropout" else "depth")
            for name, (predict, truth) in asked.items():
                right = (predict(cells) == truth[rows]).astype(np.float64)
                metric = f"accuracy ({name}, {share})"
                result.measure("robustness", method.name, metric, weighted_mean(right), boot)
                row = result.rows[-1]
                result.details["curves"].append(
                    {
                        "kind": kind,
                        "metric": f"accuracy ({name})",
                        "level": level,
                        "value": row.value,
                        "low": row.ci_low,
                        "high": row.ci_high,
                    }
                )
    return result


def drop_genes(
    cells: sparse.csr_matrix, share: float, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Return the cells [n, G] with this share of the non-zero values of each set to zero, at random."""
    kept = cells.copy()
    kept.data = kept.data * (rng.random(len(kept.data)) >= share)
    kept.eliminate_zeros()
    return kept


def thin(cells: sparse.csr_matrix, share: float, rng: np.random.Generator) -> sparse.csr_matrix:
    """Return counts [n, G] of which every molecule was kept with this chance."""
    kept = cells.copy()
    whole = np.rint(kept.data).astype(np.int64)
    kept.data = rng.binomial(whole, share).astype(np.float32)
    kept.eliminate_zeros()
    return kept


def _questions(method: MethodOutput, data: EvalData, config: EvaluateConfig) -> dict[str, Any]:
    """Return name to a function of vectors [n, D] that gives labels [n], and the true labels [N]."""
    from okrcell.evaluate.annotation import choose_penalty, fit_linear
    from okrcell.evaluate.candidates import candidate_vectors, merge_types

    assert method.cells is not None
    found: dict[str, Any] = {}
    if "+ridge" not in method.name and len(data.seen) > 1:
        penalty = choose_penalty(method.cells, data, config.seed)
        fitted = fit_linear(
            method.cells[data.train], data.labels[data.train], config.seed, penalty=penalty
        )
        found["linear"] = fitted, data.labels
    if method.encode_text is not None:
        data = merge_types(data)
        types = np.asarray(data.types)
        vectors = candidate_vectors(method, data)

        def nearest(cells: NDArray[np.float32]) -> NDArray[np.str_]:
            return np.asarray(types[(unit(cells) @ vectors.T).argmax(axis=1)])

        found["zero-shot"] = nearest, data.labels
    return found
