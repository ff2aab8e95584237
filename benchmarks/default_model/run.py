"""Train the default model and write its page: ``make default-model DATA=folder``.

    python benchmarks/default_model/run.py --out default-model [--data DATA]

The folder gets the store, the run (``default-model/run`` for ``okrcell annotate``), the held-out cells with their
answers, and ``metrics.json``. Run again, finished steps are reused. Nothing is fetched from a network.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from held_out import held_out
from page import write_page
from sources import Source, prepared

from okrcell.artifacts import atomic_write, read_manifest
from okrcell.config import load_config
from okrcell.console import say
from okrcell.corpus import build, cells
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.corpus.marker_cells import DATASET, write_marker_cells
from okrcell.corpus.shards import CellMatrix, load_matrix
from okrcell.train.config import TrainConfig
from okrcell.train.loop import train

_PER_TYPE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("default-model"))
    parser.add_argument(
        "--data", type=Path, help="folder of development files; none: scanpy's cells alone"
    )
    parser.add_argument(
        "--page", type=Path, help="Markdown page to write, with command, card and figures"
    )
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with as_file(files("okrcell.examples") / "default_model.toml") as path:
        corpus = load_config(CorpusConfig, "corpus", path)
        keys = load_config(TrainConfig, "train", path)
    out: Path = arguments.out
    store, run = out / "store", out / "run"
    start = time.monotonic()
    sources = list(prepared(arguments.data, out / "cells"))
    added = make_store(store, sources, corpus)
    say(f"store: {time.monotonic() - start:.0f} s")
    begun = time.monotonic()
    facts = train(store, Path(), run, keys, restart=True)
    seconds = {} if facts.pop("reused") else {"training": round(time.monotonic() - begun)}
    say(f"training: {time.monotonic() - begun:.0f} s")
    rows = held_out(run, store, [source.name for source in sources], out / "held-out")
    metrics: dict[str, Any] = {
        "files": [
            {
                **{
                    name: getattr(source, name)
                    for name in ("origin", "sha256", "licence", "tissue")
                },
                **added[source.name],
            }
            for source in sources
        ],
        "marker_cells": added[DATASET]["cells"],
        "run": {"fingerprint": read_manifest(run, "run").fingerprint, **facts},
        "held_out": rows,
        "seconds": seconds,
        "command": "make default-model" + (" DATA=folder" if arguments.data else ""),
    }
    atomic_write(out / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False) + "\n")
    if arguments.page:
        write_page(arguments.page, metrics, keys)
    say(f"Model: {run}. Try: okrcell annotate {run} FILE.h5ad --out ANSWERS.h5ad")


def make_store(store: Path, sources: list[Source], corpus: CorpusConfig) -> dict[str, Any]:
    """Add all files, and cells made of markers; return the facts of each dataset."""
    build.init_store(store)
    added = {}
    for source in sources:
        how = CellsConfig(
            dataset_id=source.name,
            columns={"cell_type": source.labels} if source.labels else {},
            constants={"tissue": source.tissue, "disease": "normal", "organism": "Homo sapiens"},
        )
        added[source.name] = cells.add_cells(store, source.path, corpus, how, source.decided)
    path = store.parent / "cells" / f"{DATASET}.h5ad"
    backgrounds = [training_cells(store, source.name) for source in sources]
    write_marker_cells(path, backgrounds, per_type=_PER_TYPE)
    how = CellsConfig(dataset_id=DATASET, constants={"organism": "Homo sapiens"})
    all_of_them = corpus.replace(split_fractions=(1.0, 0.0, 0.0))
    added[DATASET] = cells.add_cells(store, path, all_of_them, how)
    return added


def training_cells(store: Path, dataset: str) -> CellMatrix:
    """Return the training cells of a dataset: held-out ones must not stand behind made ones either."""
    table = cells.load_cells(store).to_pandas()
    rows = table[(table["dataset_id"] == dataset) & (table["split"] == "train")]["row"].to_numpy()
    return load_matrix(store, dataset).take(rows)


if __name__ == "__main__":
    main()
