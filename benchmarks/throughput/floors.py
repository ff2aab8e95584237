"""Floors per preset: operations and bytes per cell, and what the paper's pre-training takes of them.

python benchmarks/throughput/floors.py [--data FOLDER]

Counted, not timed, but for this machine's matrix rate; a test holds the count of operations against
torch's own counter.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from encoder import lengths_of
from output import publish

from okrcell.train.config import PRESETS, TrainConfig
from okrcell.train.flops import cost, peak_flops

CELLS, EPOCHS = 32e6, 6
RATES = {"H100/H200, 989 TFLOP/s (maker's figure, dense bf16)": 989e12}
TARGET = 8_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("floors.json"), help="JSON for the page")
    arguments = parser.parse_args()
    folder = None if arguments.data is None else arguments.data / "cells"
    lengths, source = lengths_of(2_000, folder, np.random.default_rng(0))
    here = peak_flops("cpu", "bf16")
    rows, projected = [], []
    for preset in PRESETS:
        config = TrainConfig(preset=preset)
        full = cost(config, 601, 600, precision="bf16")
        mean = {
            name: float(np.mean([getattr(c, name) for c in costs]))
            for costs in [[cost(config, int(n // 2 + 1), int(n - n // 2), precision="bf16") for n in lengths]]
            for name in ("train", "momentum_full", "momentum_masked", "moved", "kept")
        }  # fmt: skip
        rows.append(
            [
                preset,
                f"{full.train / 1e9:.2f}",
                f"{mean['train'] / 1e9:.2f}",
                f"{mean['momentum_full'] / mean['train']:.2f} / {mean['momentum_masked'] / mean['train']:.2f}",
                f"{mean['moved'] / 1e6:.1f}",
                f"{mean['kept'] / 1e6:.2f}",
                f"{mean['train'] / mean['moved']:.0f}",
                f"{here / full.train:.1f}",
                f"{here / mean['train']:.1f}",
            ]
        )
        work = CELLS * EPOCHS * (mean["train"] + mean["momentum_full"])
        for name, rate in RATES.items():
            projected.append(
                [
                    preset,
                    name,
                    f"{work:.2e}",
                    f"{work / rate / 3600:.2f}",
                    f"{work / (0.3 * rate) / 3600:.2f}",
                    f"{TARGET * work / CELLS / EPOCHS / rate:.1%}",
                ]
            )
    columns = [
        "preset", "GFLOP per cell at 1,200 genes", "at real lengths", "momentum forward, full / masked view",
        "MB moved per cell", "MB kept", "FLOP per byte", "cells/s here at 1,200 genes", "at real lengths",
    ]  # fmt: skip
    publish(
        {
            "title": "Floors",
            "command": "python benchmarks/throughput/run.py --data ../shared/data --only floors",
            "tables": [
                {
                    "caption": "A training step (forward and backward; momentum forward apart, as a share "
                    "of it) with half of the genes hidden, bf16",
                    "columns": columns,
                    "rows": rows,
                },
                {
                    "caption": "The paper's pre-training, 32M cells x 6 epochs, momentum tower included: "
                    "counted, not run",
                    "columns": [
                        "preset",
                        "machine",
                        "FLOP",
                        "hours at its full rate",
                        "hours at 30 % of it",
                        "share of the rate that 8,000 cells/s need",
                    ],
                    "rows": projected,
                },
            ],
            "notes": [
                f"Real lengths: {source}.",
                f"cells/s here: the measured matrix rate of this machine in bf16 ({here / 1e9:.0f} GFLOP/s, a "
                "product of two 1536 x 1536 matrices) over the operations; nothing can be faster by this count.",
                "No GPU was at hand: no figure here was measured on one. The paper used about 2,300 "
                "A100-hours for its `paper` preset.",
                "Bytes are those of activations if every operation reads its inputs and writes its outputs once.",
            ],
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
