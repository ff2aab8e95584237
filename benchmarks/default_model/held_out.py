"""How the default model does on the cells that it was not trained on: the split ``test`` of its store."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow.compute as pc

from okrcell.artifacts import atomic_path
from okrcell.corpus.cells import load_cells, load_profiles
from okrcell.corpus.shards import load_matrix
from okrcell.evaluate.apply.annotate import annotate
from okrcell.evaluate.apply.setting import Request

__all__ = ["ARMS", "held_out"]

ARMS = {
    "similarity": {"vote": False, "refine": False},
    "with markers": {"vote": True, "refine": False},
    "annotate": {"vote": True, "refine": True},
}
"""What is switched on beside the learned similarity; the last is what ``okrcell annotate`` does."""


def held_out(run: Path, store: Path, names: list[str], folder: Path) -> list[dict[str, Any]]:
    """Return a row per dataset: how it was split, cells, types, and accuracy and macro-F1 of each arm.

    A cell may be called any type of its file; intervals are of 1,000 bootstrap samples of cells.
    """
    table = load_cells(store)
    profiles = {row["profile_id"]: row for row in load_profiles(store).to_pylist()}
    rows = []
    for name in names:
        mine = table.filter(pc.equal(table["dataset_id"], name))
        test = mine.filter(pc.equal(mine["split"], "test")).to_pylist()
        if not test:
            continue
        truth = np.array([profiles[c["profile_id"]]["cell_type_ontology_term_id"] for c in test])
        all_types = {
            profiles[p]["cell_type_ontology_term_id"]: profiles[p]["cell_type"]
            for p in mine["profile_id"].unique().to_pylist()
        }
        path, labels = folder / f"{name}.h5ad", folder / f"{name}.labels.tsv"
        _write_cells(store, name, [c["row"] for c in test], [c["obs_name"] for c in test], path)
        with labels.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
            writer.writerows(
                [("label", "term_id"), *((n, t) for t, n in sorted(all_types.items()))]
            )
        donors = len({c["donor"] for c in test} - {"", "unknown", None})
        row: dict[str, Any] = {
            "dataset": name, "cells": len(test), "types": len(all_types), "donors": donors,
        }  # fmt: skip
        for arm, switches in ARMS.items():
            out = folder / f"{name}.{arm.replace(' ', '_')}.h5ad"
            annotate(run, path, out, Request(labels=str(labels), **switches))
            said = anndata.read_h5ad(out, backed="r").obs["okrcell_cell_type_ontology_term_id"]
            row[arm] = _figures(truth, said.astype(str).to_numpy())
        rows.append(row)
    return rows


def _write_cells(store: Path, name: str, rows: list[int], obs_names: list[str], path: Path) -> None:
    cells = load_matrix(store, name)
    made = anndata.AnnData(
        cells.matrix[np.array(rows)],
        obs=pd.DataFrame(index=obs_names),
        var=pd.DataFrame(index=list(cells.gene_ids)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        made.write_h5ad(temporary)


def _figures(truth: np.ndarray, said: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import f1_score

    right = truth == said
    rng = np.random.default_rng(0)
    means = [right[rng.integers(0, len(right), len(right))].mean() for _ in range(1000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "accuracy": float(right.mean()),
        "low": float(low),
        "high": float(high),
        "macro_f1": float(f1_score(truth, said, labels=np.unique(truth), average="macro", zero_division=0)),
    }  # fmt: skip
