"""Seconds that the neighbour graph and the evidence of ``cra_plus`` take at a million cells.

``python benchmarks/throughput/neighbours.py [--quick] [--out FILE]``. Cells are synthetic: vectors of 50 components in
150 clusters of uneven size, for the search; counts with 1,000 non-zeros each, for the components. These
are timed at a smaller size, and their seconds at a million cells are reckoned from the cells read in each
pass. Everything runs in one process, on the machine's own number of threads.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from output import publish

N_CELLS, K, N_COMPONENTS, N_TEXTS = 1_000_000, 30, 50, 1_000
N_GENES, N_VALUES, N_VARIABLE = 20_000, 1_000, 2_000
BAR_RECALL = 0.9
RECKONED = f"reckoned for {N_CELLS} cells, seconds"


def made_vectors(n: int, seed: int = 0) -> np.ndarray:
    """Return float32 [n, 50], unit rows: clusters whose spread falls along the components, as scores'."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, N_COMPONENTS + 1, dtype=np.float32) ** -0.7
    centres = 2 * spread * rng.standard_normal((150, N_COMPONENTS), dtype=np.float32)
    cluster = rng.choice(150, n, p=rng.dirichlet(np.full(150, 0.5)))
    noise = rng.standard_normal((n, N_COMPONENTS), dtype=np.float32)
    rows = centres[cluster] + np.maximum(0.6 * spread, 0.12) * noise
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def recall(vectors: np.ndarray, found: np.ndarray, sample: int) -> float:
    """Return the share of the exact neighbours that were found, over a sample of cells."""
    at = np.random.default_rng(1).choice(len(vectors), sample, replace=False)
    shared = 0
    for part in np.array_split(at, max(sample // 100, 1)):
        values = vectors[part] @ vectors.T
        values[np.arange(len(part)), part] = -np.inf
        exact = np.argpartition(-values, K, axis=1)[:, :K]
        shared += sum(len(np.intersect1d(a, b)) for a, b in zip(exact, found[part], strict=True))
    return shared / (sample * K)


def timed_search(n: int, sample: int) -> dict[str, Any]:
    from okrcell.train.graph import nearest

    vectors = made_vectors(n)
    begin = time.perf_counter()
    found, _ = nearest(vectors, K, seed=0, exact=False)
    seconds = time.perf_counter() - begin
    share = recall(vectors, found, sample)
    return {"cells": n, "seconds": round(seconds, 2), "recall": round(share, 4), "found": found}


def timed_peer(n: int, sample: int) -> dict[str, Any]:
    """Return the same of pynndescent, compiled beforehand."""
    import pynndescent

    def search(rows: np.ndarray) -> np.ndarray:
        index = pynndescent.NNDescent(rows, metric="cosine", n_neighbors=K + 1, random_state=0)
        return np.asarray(index.neighbor_graph[0])[:, 1:]

    vectors = made_vectors(n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search(vectors[:5_000])
        begin = time.perf_counter()
        found = search(vectors)
        seconds = time.perf_counter() - begin
    share = recall(vectors, found, sample)
    return {"cells": n, "seconds": round(seconds, 2), "recall": round(share, 4)}


def timed_evidence(vectors: np.ndarray, neighbours: np.ndarray) -> dict[str, Any]:
    """Return the seconds of what neighbours and readings say, and of their weighing; once per run."""
    import torch

    from okrcell.train.config import TrainConfig
    from okrcell.train.consensus import weigh
    from okrcell.train.evidence import kinds_in_question

    n = len(neighbours)
    rng = np.random.default_rng(2)
    kinds = torch.from_numpy(rng.choice(N_TEXTS, n, p=rng.dirichlet(np.full(N_TEXTS, 0.5))))
    config = TrainConfig(objective="cra_plus")
    begin = time.perf_counter()
    questions, said, _ = kinds_in_question(
        torch.from_numpy(vectors[:n]), torch.from_numpy(neighbours), kinds, N_TEXTS, config
    )
    asked = time.perf_counter() - begin
    stacked = torch.stack([values - values.amax(1, keepdim=True) for values in said], 2)
    begin = time.perf_counter()
    weigh(stacked, questions, torch.ones_like(questions, dtype=torch.bool), N_TEXTS, witness=0.5)
    weighed = time.perf_counter() - begin
    return {"cells": n, "asked, seconds": round(asked, 2), "weighed, seconds": round(weighed, 2)}


def timed_components(n: int) -> dict[str, Any]:
    """Return the seconds of the components at n cells, and what they come to at a million."""
    import pyarrow as pa
    from scipy import sparse

    from okrcell.corpus.shards import CellMatrix
    from okrcell.train import graph, variable
    from okrcell.train.data import Pairs

    rng, stride = np.random.default_rng(3), N_GENES // N_VALUES
    columns = np.arange(N_VALUES, dtype=np.int32) * stride
    columns = columns + rng.integers(0, stride, (n, N_VALUES), dtype=np.int32)
    values = rng.geometric(0.4, n * N_VALUES).astype(np.float32)
    pointers = np.arange(n + 1, dtype=np.int32) * N_VALUES
    matrix = sparse.csr_matrix((values, columns.ravel(), pointers), shape=(n, N_GENES))
    genes = tuple(f"ENSG{gene:011d}" for gene in range(N_GENES))
    zeros = np.zeros(n, dtype=np.int64)
    pairs = Pairs(
        cell_uids=pa.chunked_array([pa.nulls(n, pa.string())]),
        dataset=zeros,
        row=np.arange(n),
        text=zeros,
        texts=("",),
        prior=np.ones(n, dtype=np.float32),
        cell_type=zeros,
        cell_types=("",),
        donor=zeros - 1,
        donors=(),
        clean=np.ones(n, dtype=bool),
        n_without_text=0,
        matrices=(CellMatrix(matrix, genes, "counts"),),
        columns=(np.arange(N_GENES),),
        vocabulary=genes,
    )
    begin = time.perf_counter()
    variable.choose_variable(pairs, N_VARIABLE)
    choice = time.perf_counter() - begin
    square = rng.standard_normal((N_VARIABLE, N_VARIABLE))
    square = square @ square.T
    begin = time.perf_counter()
    graph.leading_axes(square, N_COMPONENTS, seed=0)
    axes = time.perf_counter() - begin
    begin = time.perf_counter()
    graph.components(pairs, N_VARIABLE, N_COMPONENTS, seed=0)
    passes = max(time.perf_counter() - begin - choice - axes, 0.0)
    # Genes are chosen on at most 100,000 cells, axes fitted on 50,000; all are projected.
    at_full = choice / n * min(N_CELLS, 100_000) + axes + passes / (2 * n) * (N_CELLS + 50_000)
    return {
        "cells": n,
        "choice of genes, seconds": round(choice, 2),
        "axes, seconds": round(axes, 2),
        "two passes, seconds": round(passes, 2),
        RECKONED: round(at_full, 1),
    }


def measure(quick: bool = False) -> dict[str, Any]:
    """Return seconds and recall by step; ``quick`` takes a fortieth of the cells."""
    n = 25_000 if quick else N_CELLS
    result = {"components": timed_components(2_000 if quick else 10_000)}
    beside = 25_000 if quick else 100_000
    own, peer = timed_search(beside, 300), timed_peer(beside, 300)
    own.pop("found")
    search = own if quick else timed_search(n, 1_000)
    neighbours = search.pop("found", None)
    if neighbours is None:
        neighbours = timed_search(n, 100).pop("found")
    return result | {
        "search": search,
        "search beside pynndescent": own,
        "pynndescent": peer,
        "ratio to pynndescent": round(peer["seconds"] / own["seconds"], 2),
        "evidence": timed_evidence(made_vectors(len(neighbours)), neighbours),
        "bar, recall": BAR_RECALL,
        "enough": search["recall"] >= BAR_RECALL,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="not needed: the vectors are made")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--out", type=Path, default=Path("neighbours.json"), help="JSON for the page"
    )
    arguments = parser.parse_args()
    found = measure(arguments.quick)
    search, own, peer = (found[k] for k in ("search", "search beside pynndescent", "pynndescent"))
    evidence, parts = found["evidence"], found["components"]
    rows = [
        ["components of the expression", "once", f"{parts['cells']:,}", parts[RECKONED], "reckoned for 1,000,000"],
        ["search of 30 neighbours", "once", f"{search['cells']:,}", search["seconds"], f"recall {search['recall']}"],
        ["neighbours and readings asked", "once", f"{evidence['cells']:,}", evidence["asked, seconds"], f"{N_TEXTS} kinds"],
        ["evidence weighed", "once", f"{evidence['cells']:,}", evidence["weighed, seconds"], ""],
    ]  # fmt: skip
    rows += [
        [f"search, {name}", "", f"{one['cells']:,}", one["seconds"], f"recall {one['recall']}"]
        for name, one in (("ours", own), ("pynndescent", peer))
    ]
    publish(
        {
            "title": "Neighbours and evidence at a million cells",
            "command": "python benchmarks/throughput/run.py --data ../shared/data --only neighbours",
            "tables": [
                {
                    "caption": "Seconds on the CPU; 50 components, 30 neighbours",
                    "columns": ["what", "when", "cells", "seconds", ""],
                    "rows": rows,
                }
            ],
            "notes": [
                "All of it is done once per run, because it rests on expression and not on the model: no step "
                "and no epoch waits for it. The vote of markers has its own benchmark.",
                f"Recall against exact neighbours of a sample, bar {found['bar, recall']}. "
                f"{found['ratio to pynndescent']} times as fast as pynndescent at the size where both ran.",
            ],
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
