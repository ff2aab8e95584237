"""Cells per second that the loader feeds, tokens included, beside peers that return raw rows.

``python benchmarks/throughput/loader.py [--quick] [--out FILE]``. It writes a synthetic h5ad and a store of the same
cells (about 0.7 GB at the full size) into a temporary folder. Everything is read from the page cache,
in one process on one machine, one arm after the other, each as often as the others.

Peers return a batch's rows as a CSR matrix: no tokens, no text, no tensors, which favours them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from output import publish

N_GENES, N_VALUES, BATCH = 20_000, 1_000, 448
LABELS = ("T cell", "B cell", "monocyte", "platelet")
FLOOR_CELLS, BAR_PEER = 20_000, 1.5

Arm = Callable[[], Iterator[int]]


def write_cells(path: Path, n_cells: int) -> None:
    """Write an h5ad of ``n_cells`` with 1,000 sorted distinct genes each, chunked as h5py likes."""
    import anndata
    import pandas as pd
    from scipy import sparse

    from okrcell.corpus.gene_tables import current

    table = current()
    genes = (sorted(table.coding) + sorted(set(table.symbol) - table.coding))[:N_GENES]
    rng, stride = np.random.default_rng(0), N_GENES // N_VALUES
    columns = np.arange(N_VALUES, dtype=np.int32) * stride
    columns = columns + rng.integers(0, stride, (n_cells, N_VALUES), dtype=np.int32)
    values = rng.geometric(0.4, n_cells * N_VALUES).astype(np.float32)
    pointers = np.arange(n_cells + 1, dtype=np.int32) * N_VALUES
    matrix = sparse.csr_matrix((values, columns.ravel(), pointers), shape=(n_cells, N_GENES))
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical.from_codes(np.arange(n_cells) % len(LABELS), LABELS)},
        index=[f"c{i}" for i in range(n_cells)],
    )
    anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)


def add_to_store(store: Path, path: Path) -> None:
    from okrcell.corpus.build import init_store
    from okrcell.corpus.cells import add_cells
    from okrcell.corpus.config import CellsConfig, CorpusConfig

    init_store(store)
    how = CellsConfig(dataset_id="d", columns={"cell_type": "cell_type"})
    add_cells(store, path, CorpusConfig(), how)


# --- arms: each yields the number of cells of one batch after the other, for ever ---------------


def ours(pairs: Any, *, workers: int, block: int = 1, preset: str = "paper") -> Arm:
    from okrcell.train.config import TrainConfig
    from okrcell.train.loader import Loader
    from okrcell.train.sampler import Sampler
    from okrcell.train.variable import with_variable

    config = TrainConfig(batch_size=BATCH, workers=workers, preset=preset)
    if preset == "mlp":
        pairs = with_variable(pairs, config.hvgs)

    def run() -> Iterator[int]:
        sampler = Sampler(len(pairs), BATCH, 0, block)
        for _, batch in Loader(pairs, config, sampler, start=0, stop=10**6):
            yield len(batch.pairs)

    return run


class Backed:
    """``X`` of a backed AnnData, opened anew in every process that reads it."""

    def __init__(self, path: Path, n: int) -> None:
        self.path, self.n, self.opened = path, n, (0, None)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, rows: Any) -> Any:
        import anndata

        if self.opened[0] != os.getpid():
            self.opened = (os.getpid(), anndata.read_h5ad(self.path, backed="r"))
        return self.opened[1].X[rows]


class InMemory:
    """The same of an AnnData in memory (a scipy matrix has no length, which scDataset asks for)."""

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def __getitem__(self, rows: Any) -> Any:
        return self.matrix[rows]


def rows_of(take: Callable[[Any], Any], n: int, block: int = 1) -> Arm:
    """Read batches by index: random rows, or random runs of ``block`` rows; sorted, as HDF5 wants."""

    def run() -> Iterator[int]:
        rng = np.random.default_rng(0)
        while True:
            starts = rng.choice(n // block, BATCH // block, replace=False) * block
            rows = np.sort((starts[:, None] + np.arange(block)).ravel())
            yield take(rows).shape[0]

    return run


def with_scdataset(collection: Any, *, block: int, fetch: int, workers: int) -> Arm:
    from scdataset import BlockShuffling, scDataset
    from torch.utils.data import DataLoader

    def run() -> Iterator[int]:
        data = scDataset(collection, BlockShuffling(block), BATCH, fetch_factor=fetch, seed=0)
        how = {"prefetch_factor": 4, "persistent_workers": True} if workers else {}
        loader = DataLoader(data, batch_size=None, num_workers=workers, collate_fn=_as_is, **how)
        while True:
            for rows in loader:
                yield rows.shape[0]

    return run


def _as_is(batch: Any) -> Any:
    return batch


def with_annloader(adata: Any) -> Arm:
    from anndata.experimental import AnnLoader

    def run() -> Iterator[int]:
        while True:
            for batch in AnnLoader(adata, batch_size=BATCH, shuffle=True):
                yield batch.X.shape[0]

    return run


def rate(arm: Arm, seconds: float) -> tuple[float, float]:
    """Return cells per second, and per second of this process's CPU time (all its threads).

    The first batches are not counted.
    """
    batches = arm()
    for _ in range(3):
        next(batches)
    start, cpu, cells = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        cells += next(batches)
    taken, used = time.perf_counter() - start, time.process_time() - cpu
    batches.close()  # type: ignore[attr-defined]
    return cells / taken, cells / used


def measure(quick: bool = False) -> dict[str, Any]:
    """Return ``rows`` (arm to cells per second, or why there is none) and the ratios asked for."""
    import anndata

    n_cells, seconds, rounds = (4_000, 0.3, 1) if quick else (40_000, 1.0, 3)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path, store = Path(folder) / "cells.h5ad", Path(folder) / "store"
        write_cells(path, n_cells)
        add_to_store(store, path)
        from okrcell.train.data import load_pairs, load_texts

        pairs = load_pairs(store, load_texts(store, store, "label"))
        memory = anndata.read_h5ad(path)
        backed = Backed(path, n_cells)
        arms: dict[str, Arm | str] = {
            "ours, 2 workers": ours(pairs, workers=2),
            "ours, 2 workers, blocks of 64": ours(pairs, workers=2, block=64),
            "ours, 1 worker": ours(pairs, workers=1),
            "ours, in line": ours(pairs, workers=0),
            "ours, 2 workers, mlp": ours(pairs, workers=2, preset="mlp"),
            "disk: AnnData backed, random rows": rows_of(backed.__getitem__, n_cells),
            "disk: AnnData backed, runs of 64": rows_of(backed.__getitem__, n_cells, 64),
            "memory: AnnData rows": rows_of(lambda rows: memory[rows].X, n_cells),
            "memory: AnnLoader": with_annloader(memory),
        }
        try:
            for where, collection in (("disk", backed), ("memory", InMemory(memory.X))):
                for block, fetch, workers in ((16, 16, 0), (64, 16, 0), (64, 16, 2)):
                    name = f"{where}: scDataset, blocks of {block}, fetch {fetch}"
                    name += f", {workers} DataLoader workers" if workers else ""
                    arms[name] = with_scdataset(
                        collection, block=block, fetch=fetch, workers=workers
                    )
        except ImportError:
            arms["disk: scDataset"] = "not installed"
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name, arm in arms.items():
                if not isinstance(arm, str):
                    found[name].append(rate(arm, seconds))
    medians = {name: np.median(rates, axis=0) for name, rates in found.items() if rates}
    rows: dict[str, Any] = {
        name: arm if isinstance(arm, str) else round(float(medians[name][0]))
        for name, arm in arms.items()
    }
    per_cpu = {
        name: round(float(rates[1])) for name, rates in medians.items() if "DataLoader" not in name
    }
    result = {"rows": rows, "per second of CPU": per_cpu, **_ratios(rows, per_cpu)}
    return {**result, "mixing": mixing(), "cells": n_cells, "batch": BATCH}


def _ratios(rows: dict[str, Any], per_cpu: dict[str, int]) -> dict[str, Any]:
    """Compare the loader with two workers with the best peer of each kind."""
    own = rows["ours, 2 workers"]
    result: dict[str, Any] = {"floor": FLOOR_CELLS, "bar": BAR_PEER, "enough": own >= FLOOR_CELLS}
    for where in ("disk", "memory"):
        peers = {k: v for k, v in rows.items() if k.startswith(where) and not isinstance(v, str)}
        best = max(peers, key=lambda name: peers[name])
        result[f"best peer, {where}"] = best
        result[f"ratio, {where}"] = round(own / peers[best], 2)
        best_cpu = max(rate for name, rate in per_cpu.items() if name.startswith(where))
        ratio = per_cpu["ours, 2 workers"] / best_cpu
        result[f"ratio per second of CPU, {where}"] = round(ratio, 2)
    return result


def mixing(n: int = 1_000_000) -> dict[str, float]:
    """Return the shuffle quality per block size where a store holds 100 datasets one after another."""
    from okrcell.train.sampler import Sampler, shuffle_quality

    labels = np.arange(n) // (n // 100)
    return {
        f"blocks of {block}": round(shuffle_quality(Sampler(n, BATCH, 0, block), labels), 3)
        for block in (1, 16, 64, 256, 1024)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="not needed: the cells are made")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("loader.json"), help="JSON for the page")
    arguments = parser.parse_args()
    found = measure(arguments.quick)
    own = found["rows"]["ours, 2 workers"]
    rows = [
        [name, rate, found["per second of CPU"].get(name, ""), "" if isinstance(rate, str) else f"{own / rate:.2f}"]
        for name, rate in found["rows"].items()
    ]  # fmt: skip
    publish(
        {
            "title": "The loader beside scDataset and AnnData",
            "command": "python benchmarks/throughput/run.py --data ../shared/data --only loader",
            "tables": [
                {
                    "caption": f"{found['cells']:,} made cells of 1,000 non-zero values, batches of "
                    f"{found['batch']}, files in the page cache; ours reads, chooses, bins and hides genes, the "
                    "peers read rows only",
                    "columns": [
                        "arm",
                        "cells/s",
                        "cells per second of CPU",
                        "ours with 2 workers is times",
                    ],
                    "rows": rows,
                },
                {
                    "caption": "Mixing of batches by `shuffle_block`, 100 datasets one after another: label "
                    "entropy within a batch over that of a full permutation",
                    "columns": list(found["mixing"]),
                    "rows": [list(found["mixing"].values())],
                },
            ],
            "notes": [
                f"Bars: {found['floor']:,} cells/s from two workers, and {found['bar']} times the best peer that "
                f"reads from disk ({found['best peer, disk']}): {found['ratio, disk']} times by the clock, "
                f"{found['ratio per second of CPU, disk']} per second of CPU.",
                "Rows of a matrix that is wholly in memory are faster than anything that reads files and makes "
                "tokens: they are the ceiling, not a loader for millions of cells.",
            ],
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
