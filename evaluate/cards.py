"""What the report says of the data and of trained runs, and the cells that its maps show."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from okrcell.artifacts import read_manifest
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.intervals import MIN_DONORS, Bootstrap
from okrcell.evaluate.methods import Method
from okrcell.evaluate.suite import DataSpec

__all__ = ["card_of", "drawn", "examples", "notes_of", "run_card", "shown_cells", "umap"]

_SMALL_TEST = 1000
_UMAP_CELLS = 2000
_UNSUPERVISED = frozenset({"clustering", "batch"})


def card_of(data: EvalData) -> dict[str, Any]:
    """Return the numbers of a dataset under one split: cells, types, batches, donors, texts."""
    types, counts = np.unique(data.labels[data.test], return_counts=True)
    return {
        "sha256": data.sha256,
        "n_train": len(data.train),
        "n_validation": len(data.validation),
        "n_test": len(data.test),
        "n_integrated": len(data.integrated),
        "integration": data.integration,
        "n_genes": len(data.matrix.gene_ids),
        "values": str(data.matrix.values),
        "n_profiles": len(data.descriptions),
        "text_kind": data.text_kind,
        "tissue": data.tissue,
        "test_types": {str(k): int(v) for k, v in zip(types, counts, strict=True)},
        "seen": sorted(data.seen),
        "unseen": sorted(data.unseen),
        "batches": sorted({str(name) for name in data.batches[data.integrated]}),
        "donors": len({str(name) for name in data.donors} - {""}),
        "interval_unit": Bootstrap.over(data.donors[data.test], 1, 0).unit,
    }


def notes_of(data: EvalData) -> list[str]:
    """Return what these data cannot tell, one sentence each."""
    notes = []
    n = len(data.test)
    if n < _SMALL_TEST:
        notes.append(
            f"{data.dataset}: only {n} test cells: differences of a few points are noise, as the "
            "intervals show."
        )
    if Bootstrap.over(data.donors[data.test], 1, 0).unit == "cells":
        notes.append(
            f"{data.dataset}: intervals resample cells: fewer than {MIN_DONORS} donors are named in the "
            "test split, so they say nothing about new donors."
        )
    if not data.unseen:
        notes.append(
            f"{data.dataset}: every test type occurs in train: zero-shot on unseen types could not be "
            "asked."
        )
    return notes


def examples(spec: DataSpec, data: EvalData) -> list[Any]:
    """Return descriptions with their evidence, where a job wrote them."""
    if spec.descriptions is None:
        return []
    from okrcell.evaluate.examples import choose_profiles, collect_examples

    return collect_examples(spec.descriptions, choose_profiles(data), data)


def run_card(method: Method) -> dict[str, Any]:
    """Return how a trained run came about; of several seeds, the first."""
    manifest = read_manifest(method.runs[0], "run", verify=False)
    return {
        "sha256": method.checkpoint,
        "config": dict(manifest.config),
        "facts": dict(manifest.facts),
        "producer": manifest.producer,
    }


def drawn(methods: Sequence[Method], tasks: Collection[str]) -> frozenset[str]:
    """Return the methods whose UMAP is drawn: the first that has cells, and PCA or else the second."""
    if not _UNSUPERVISED & set(tasks):
        return frozenset()
    names = [m.name for m in methods if m.tasks & _UNSUPERVISED]
    return frozenset([*names[:1], *(["pca"] if "pca" in names[1:] else names[1:2])])


def shown_cells(data: EvalData, config: EvaluateConfig) -> np.ndarray:
    """Return the rows that maps show: at most 2,000, drawn with the seed."""
    rows = data.integrated
    if len(rows) > _UMAP_CELLS:
        rows = np.sort(np.random.default_rng(config.seed).permutation(rows)[:_UMAP_CELLS])
    return rows


def umap(cells: np.ndarray, seed: int) -> list[list[float]]:
    """Return the UMAP of an embedding [n, D], as n pairs."""
    import warnings

    from anndata import AnnData

    from okrcell.evaluate.libraries import scanpy

    sc = scanpy()
    graph = AnnData(obsm={"embedding": cells})
    k = min(15, len(cells) - 1)
    sc.pp.neighbors(graph, n_neighbors=k, use_rep="embedding", random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about one thread, which is what makes it repeatable
        sc.tl.umap(graph, random_state=seed, init_pos="random" if len(cells) < 10 else "spectral")
    return [[round(float(x), 3), round(float(y), 3)] for x, y in graph.obsm["X_umap"]]
