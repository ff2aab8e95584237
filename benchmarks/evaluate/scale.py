"""Zero-shot over the whole Cell Ontology, and retrieval, at scale: time and peak memory.

    python benchmarks/evaluate/scale.py
    python benchmarks/evaluate/scale.py --cells 20000 --pairs 5000 --out scale.json

Random unit vectors, so only time and memory mean anything. The bare runs are the lower bounds: the
matrix product alone, in blocks, and the product with the ten best of each row (``argpartition``),
with no metric and no interval. Every step runs in a process of its own, which gives its memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from output import peak_bytes, publish

DIM, N_TYPES, BLOCK, TOP = 384, 60, 512, 10
BAR_SECONDS, BAR_GB = 60, 2.0
STEPS = (
    "zero-shot, bare product",
    "zero-shot, product and top 10",
    "zero-shot, all metrics",
    "retrieval, bare product",
    "retrieval, product and top 10",
    "retrieval, strict only",
    "retrieval, all metrics",
    "retrieval, all metrics, 60 texts",
)


def unit_rows(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, DIM), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def encoded(texts: list[str]) -> np.ndarray:
    return unit_rows(len(texts), len(texts))


def made_data(n: int, *, validation: int, texts: int) -> tuple[Any, Any]:
    """Return cells of real ontology terms with random vectors, and the method that gave them."""
    from scipy import sparse

    from okrcell.corpus.ontology import terms
    from okrcell.corpus.shards import CellMatrix
    from okrcell.evaluate.data import EvalData
    from okrcell.evaluate.methods import MethodOutput

    chosen = list(terms("cl"))[:: 3300 // N_TYPES][:N_TYPES]
    rng = np.random.default_rng(0)
    total = n + validation + N_TYPES
    which = rng.integers(0, N_TYPES, total)
    which[-N_TYPES:] = np.arange(N_TYPES)
    splits = np.repeat(["test", "validation", "train"], [n, validation, N_TYPES])
    splits[-6:] = "test"  # six types without train cells
    which[n : n + validation] %= N_TYPES - 6
    profile = np.arange(total) % texts if texts > N_TYPES else which
    data = EvalData(
        dataset="random",
        matrix=CellMatrix(sparse.csr_matrix((total, 1), dtype=np.float32), ("ENSG0",), "counts"),
        cell_uids=np.asarray([f"cell:{i}" for i in range(total)]),
        labels=np.asarray([term.label for term in chosen])[which],
        batches=np.full(total, ""),
        donors=np.full(total, ""),
        splits=splits,
        profile_ids=np.asarray([f"p{i}" for i in range(total)])[profile],
        term_ids={term.label: term.term_id for term in chosen},
        descriptions={f"p{i}": f"Text {i}." for i in range(total)},
        candidate_roots=("CL:0000988",),
    )
    return data, MethodOutput("random", unit_rows(total, 1), "random unit vectors", encoded)


def bare(n: int, m: int, *, best: bool) -> None:
    queries, items = unit_rows(n, 1), unit_rows(m, 2)
    for start in range(0, n, BLOCK):
        scores = queries[start : start + BLOCK] @ items.T
        if best:
            np.argpartition(scores, -TOP, axis=1)


def zero_shot(n: int) -> Callable[[], Any]:
    from okrcell.evaluate.config import EvaluateConfig
    from okrcell.evaluate.zero_shot import zero_shot

    data, method = made_data(n, validation=2000, texts=N_TYPES)
    return lambda: zero_shot(method, data, EvaluateConfig())


def retrieval(n: int, texts: int) -> Callable[[], Any]:
    from okrcell.evaluate.config import EvaluateConfig
    from okrcell.evaluate.retrieval import retrieval

    data, method = made_data(n, validation=0, texts=texts)
    return lambda: retrieval(method, data, EvaluateConfig(fold=n, max_folds=1))


def strict(n: int) -> Callable[[], Any]:
    from okrcell.evaluate.ranks import rank_pairs

    return lambda: rank_pairs(unit_rows(n, 1), unit_rows(n, 2), np.arange(n))


def run_step(step: str, n_cells: int, n_pairs: int) -> dict[str, float]:
    """Run one step; making its data counts for memory and not for time."""
    task, what = step.split(", ", 1)
    n, m = (n_cells, 3300) if task == "zero-shot" else (n_pairs, n_pairs)
    work: Callable[[], Any]
    if what == "bare product":
        work = lambda: bare(n, m, best=False)  # noqa: E731
    elif what == "product and top 10":
        work = lambda: bare(n, m, best=True)  # noqa: E731
    elif task == "zero-shot":
        work = zero_shot(n)
    elif what == "strict only":
        work = strict(n)
    else:
        work = retrieval(n, N_TYPES if what.endswith("60 texts") else n)
    start, busy = time.perf_counter(), time.process_time()
    work()
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - busy,
        "gb": peak_bytes() / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=100_000, help="zero-shot test cells")
    parser.add_argument("--pairs", type=int, default=20_000, help="retrieval pairs, one fold")
    parser.add_argument("--data", type=Path, help="not needed: the vectors are random")
    parser.add_argument("--out", type=Path, default=Path("scale.json"), help="JSON for the page")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(run_step(arguments.step, arguments.cells, arguments.pairs)))
        return
    sizes = ["--cells", str(arguments.cells), "--pairs", str(arguments.pairs)]
    rows, bound = [], 0.0
    for step in STEPS:
        command = [sys.executable, __file__, *sizes, "--step", step]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        if step.endswith("bare product"):
            bound = found["seconds"]
        held = found["seconds"] < BAR_SECONDS and found["gb"] < BAR_GB
        rows.append(
            [
                step,
                f"{found['seconds']:.1f} s",
                f"{found['cpu']:.1f} s",
                f"{found['seconds'] / bound:.1f}",
                f"{found['gb']:.2f} GB",
                "yes" if held else "no",
            ]
        )
    caption = (
        f"Zero-shot: {arguments.cells:,} cells by all terms of the Cell Ontology (about 3,300; "
        f"{N_TYPES} types in the data). Retrieval: {arguments.pairs:,} by {arguments.pairs:,}."
    )
    columns = ["step", "time", "CPU time", "times bare product", "peak memory", "within the bar"]
    notes = [
        f"Bar: under {BAR_SECONDS} s and {BAR_GB:g} GB.",
        "All metrics: every row of the task with its interval from 1,000 resamples.",
        f"Random unit vectors, D = {DIM}; encoding texts is left out.",
    ]
    publish(
        {
            "title": "Scale of zero-shot and retrieval",
            "command": "python benchmarks/evaluate/run.py --data ../shared/data --only scale",
            "tables": [{"caption": caption, "columns": columns, "rows": rows}],
            "notes": notes,
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
