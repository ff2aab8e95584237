"""Whole training steps on real cells: what momentum, banks and each objective add.

python benchmarks/throughput/step.py --data FOLDER

Arms take turns over the same batches, loading included; the mean over the batches counts. They want a
machine with nothing else to do: other work of a second shows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from output import publish

from okrcell.corpus import build, cells
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.train.batch import Bank, Step
from okrcell.train.config import TrainConfig
from okrcell.train.distributed import SINGLE
from okrcell.train.flops import peak_flops
from okrcell.train.loader import Loader
from okrcell.train.logs import work_of
from okrcell.train.objectives.registry import build_objective
from okrcell.train.prepare import build_trainer, prepare
from okrcell.train.sampler import Sampler

FILE = "pbmc_facs_10pop.h5ad"
SIZES = {"tiny": 448, "paper": 224}
"""Cells per step."""
ARMS: dict[str, dict[str, Any]] = {
    "infonce, batch only": {"objective": "infonce"},
    "infonce, bank, full view": {"objective": "infonce", "bank": True},
    "infonce, bank, masked view": {"objective": "infonce", "bank": True, "momentum_view": "masked"},
    "cra_paper, full view": {"objective": "cra_paper", "record_from_epoch": 1, "stability_from_epoch": 1},
    "cra_plus, full view": {"objective": "cra_plus", "repair_from_epoch": 1},
}  # fmt: skip
TWIN = "infonce, bank, full view"


def store_of(data: Path, folder: Path) -> Path:
    """Build a store of real cells."""
    store = folder / "store"
    build.init_store(store)
    how = CellsConfig(
        dataset_id="facs",
        columns={"cell_type": "cell_type"},
        constants={"tissue": "blood", "disease": "normal", "organism": "Homo sapiens"},
    )
    cells.add_cells(store, data / "cells" / FILE, CorpusConfig(), how, {})
    return store


def timed(store: Path, scratch: Path, preset: str, size: int, turns: int) -> list[list[str]]:
    """Return a row per arm: seconds per step, and what they are of the twin's."""
    base = TrainConfig(preset=preset, text_source="label", batch_size=size, workers=1)
    prepared = prepare(store, Path(), base)
    arms = {}
    for name, keys in ARMS.items():
        config = base.replace(**keys)
        trainer = build_trainer(prepared, config, SINGLE, scratch)
        trainer.start_epoch(1)
        trainer.objective.start_epoch(1)
        sampler = Sampler(len(prepared.pairs), size, 0)
        arms[name] = (
            trainer,
            iter(Loader(prepared.pairs, config, sampler, SINGLE, start=0, stop=turns + 1)),
        )
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    shares: dict[str, list[float]] = {name: [] for name in arms}
    peak = peak_flops("cpu", "bf16")
    for turn in range(turns + 1):
        for name, (trainer, batches) in arms.items():
            start = time.perf_counter()
            number, batch = next(batches)
            trainer.take(number, batch)
            spent = time.perf_counter() - start
            if turn:  # the first warms up
                seconds[name].append(spent)
                shares[name].append(work_of(batch.cells, trainer)[2] / spent / peak)
    twin = mean(seconds[TWIN])
    return [
        [
            preset,
            size,
            name,
            f"{mean(each):.2f}",
            f"{size / mean(each):.1f}",
            f"{mean(each) / twin:.3f}",
            f"{mean(shares[name]):.2f}",
        ]
        for name, each in seconds.items()
    ]


def objective_alone(n: int, bank: int, turns: int) -> list[list[str]]:
    """Return a row per objective: its own forward and backward pass, relative to InfoNCE with the bank."""
    made = torch.Generator().manual_seed(0)

    def unit(rows: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(rows, 384, generator=made), dim=1)

    table = unit(500)
    groups = torch.randint(500, (n,), generator=made)
    pairs = torch.arange(n)
    queue = Bank(unit(bank), table[torch.randint(500, (bank,), generator=made)], torch.arange(bank) % n, torch.randint(500, (bank,), generator=made))  # fmt: skip
    vectors, teacher = unit(n), unit(n)
    spent: dict[str, list[float]] = {}
    objectives = {}
    for name, keys in ARMS.items():
        if name in ("infonce, batch only", "infonce, bank, masked view"):
            continue
        config = TrainConfig(**{**keys, "bank": True})
        more = {}
        if config.objective == "cra_plus":
            neighbours = torch.randint(n, (n, 30), generator=made).int()
            more = {"groups": groups, "neighbours": neighbours}
        objectives[name] = build_objective(
            config,
            n,
            500,
            SINGLE,
            prior=torch.ones(n),
            clean=torch.ones(n, dtype=torch.bool),
            **more,
        )
        spent[name] = []
    for turn in range(turns + 1):
        for name, objective in objectives.items():
            leaf = vectors.clone().requires_grad_()
            step = Step(
                leaf, table[groups], leaf, table[groups], 0, pairs, groups, torch.tensor(0.07), 5, 0.5,
                queue, (teacher, table[groups]), table, SINGLE,
            )  # fmt: skip
            start = time.perf_counter()
            objective(step).loss.backward()
            if turn:
                spent[name].append(time.perf_counter() - start)
    twin = median(spent[TWIN])
    return [
        [
            name.split(",")[0],
            f"{n:,} / {bank:,}",
            f"{1e3 * median(each):.0f}",
            f"{median(each) / twin:.2f}",
        ]
        for name, each in spent.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--presets", nargs="+", choices=SIZES, default=["tiny"])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument(
        "--large", action="store_true", help="also 4,096 pairs and a bank of 65,536"
    )
    parser.add_argument("--out", type=Path, default=Path("step.json"), help="JSON for the page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        store = store_of(arguments.data, scratch)
        rows = [
            row
            for preset in arguments.presets
            for row in timed(store, scratch, preset, SIZES[preset], arguments.turns)
        ]
    alone = objective_alone(448, 4096, 8)
    if arguments.large:
        alone += objective_alone(4096, 65536, 1)
    publish(
        {
            "title": "Whole steps on real cells",
            "command": "python benchmarks/throughput/run.py --data ../shared/data --only step",
            "tables": [
                {
                    "caption": f"Cells of {FILE}, bank of 4,096, frozen text, bf16, "
                    f"{torch.get_num_threads()} threads; loading, momentum, loss, backward pass, optimiser and "
                    "bank included",
                    "columns": [
                        "preset",
                        "cells per step",
                        "arm",
                        "seconds per step",
                        "cells/s",
                        "times infonce with bank",
                        "share of matrix rate",
                    ],
                    "rows": rows,
                },
                {
                    "caption": "The objective alone (forward and backward pass on vectors, E = 384)",
                    "columns": ["objective", "pairs / bank", "ms", "times infonce with bank"],
                    "rows": alone,
                },
            ],
            "notes": [
                "Bar: cra_paper under 1.10 times infonce with the same momentum tower and bank.",
                "What the momentum forward costs is the difference of the first two arms; `momentum_view = "
                '"masked"` (known genes only) takes most of it away, `bank = false` all of it.',
                "On a GPU the towers are faster by more than the objective is, and the share of the objective "
                "grows; not measured.",
            ],
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
