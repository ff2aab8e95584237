"""The runs of the benchmark, as data: what matters most first, so that a part of them makes a page.

A run is a data set, a tower, an arm (an objective with its keys), planted noise and a seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = [
    "ARMS",
    "OWN_KEY",
    "PARTS",
    "TUNING_SEEDS",
    "Run",
    "ablations",
    "config_of",
    "grid",
    "key_of",
    "tuned",
]

VERSION = 1
"""Of what a run measures; every run is made anew where it changes."""
REVISION = {"cra_plus": 3}
"""Of an objective's code: raise it, and only the runs of that objective are made anew."""

TUNED = Path(__file__).parent / "results" / "tuned.json"
SEEDS = (0, 1, 2)
TUNING_SEEDS = (100, 101, 102, 103)
"""Of the runs that temperatures are chosen by; none of them is reported."""
RATES = (0.0, 0.2, 0.4, 0.6)
CORRUPTED = 0.3
DEFAULT_TAU = 0.07

MAIN = ("clean_oracle", "infonce", "cra_plus", "cra_paper", "elr")
OTHERS = ("siglip", "gce", "crcl", "momentum_distill", "infonce + bank")

ARMS: dict[str, dict[str, Any]] = {
    "infonce": {"objective": "infonce", "bank": False},
    "infonce + bank": {"objective": "infonce", "bank": True},
    "siglip": {"objective": "siglip", "bank": False},
    "gce": {"objective": "gce", "bank": False},
    "elr": {"objective": "elr", "bank": False},
    "crcl": {"objective": "crcl", "bank": False},
    "momentum_distill": {"objective": "momentum_distill", "bank": True},
    "cra_paper": {"objective": "cra_paper", "bank": True},
    "cra_plus": {"objective": "cra_plus", "bank": False},
    "clean_oracle": {"objective": "clean_oracle", "bank": False},
}
"""Arm to keys. A bank only where the objective has one, or where the arm is named for it."""

OWN_KEY: dict[str, tuple[str, tuple[float, ...]]] = {
    "elr": ("elr_weight", (1.0, 3.0, 7.0)),
    "gce": ("gce_q", (0.4, 0.7, 0.9)),
    "crcl": ("negative_weight", (1.0, 5.0)),
    "momentum_distill": ("distill_alpha", (0.4, 0.7)),
    "cra_paper": ("negative_weight", (0.0, 1.0, 5.0)),
    "cra_plus": ("curriculum_q", (0.0, 0.4, 0.7)),
}
"""The one key that is tuned beside the temperature, and its values."""

TOWERS: dict[str, dict[str, Any]] = {
    "mlp": {
        "preset": "mlp", "epochs": 40, "batch_size": 256, "lr": 1e-3, "lr_decay": 1.0,
        "weight_decay": 1e-2, "input_dropout": 0.5, "dropout": 0.1, "bank_size": 1024, "momentum": 0.99,
    },
    "tiny": {
        "preset": "tiny", "epochs": 12, "batch_size": 256, "lr": 1e-3, "lr_decay": 1.0, "max_genes": 256,
        "weight_decay": 1e-2, "dropout": 0.1, "bank_size": 1024, "momentum": 0.99,
        "gep_weight": 0.0, "gepc_weight": 0.0,
    },
}  # fmt: skip
"""Keys of each tower, the same for all arms."""

DATA_KEYS: dict[str, dict[str, Any]] = {
    # Twice the cells of FACS: half the epochs are as many steps.
    "kang": {"epochs": 20},
    "onek1k": {"epochs": 20},
    # 400 cells of 40 types: smaller batches, more epochs, and every epoch another draw of each cell's
    # molecules. The mismatch is of the pair, so that all draws of a cell share it; neighbours are
    # looked for among the cells as measured.
    "gut": {"batch_size": 64, "epochs": 80, "thinning": 0.5},
}

PARTS: dict[str, dict[str, Any]] = {
    "group_targets": {"group_targets": False},
    "consensus": {"consensus": False},
    "neighbours": {"neighbours": 0},
    "readings": {"readings": False},
    "markers": {"markers": False},
    "witness": {"witness": 0.0},
    "halving the witness": {"witness": 1.0},
    "curriculum": {"curriculum_q": 0.0},
    "repair": {"repair": False},
}
"""Parts of ``cra_plus`` by name, and the keys that switch each off."""

PAPER_PARTS = ("bank", "cca", "psw")


@dataclass(frozen=True)
class Run:
    """One training and what is measured of it.

    Attributes
    ----------
    rate
        Share of mismatched pairs, or of shuffled values where ``kind`` is ``expression``.
    text
        What stands for a cell type: ``label``, ``definition`` (label and definition of the Cell
        Ontology) or ``enriched`` (a description of the enrich stage).
    keys
        Keys of the configuration that differ from the arm's.
    name
        What the page calls the run; the arm where it is empty.
    suite
        Whether the tasks of the evaluation suite are run too.
    """

    data: str
    tower: str
    arm: str
    kind: str
    rate: float
    seed: int
    text: str = "definition"
    keys: tuple[tuple[str, Any], ...] = ()
    name: str = ""
    suite: bool = False

    @property
    def title(self) -> str:
        """Name on the page."""
        return self.name or self.arm


@cache
def tuned() -> dict[str, dict[str, float]]:
    """Return arm to the tuned keys, from the file that ``run.py --tune`` writes; none before."""
    return json.loads(TUNED.read_text())["chosen"] if TUNED.exists() else {}


def config_of(run: Run) -> dict[str, Any]:
    """Return the keys of ``TrainConfig`` that decide what a run learns."""
    noise = {"mismatch": 0.0, "mismatch_kind": "uniform", "expression_noise": 0.0}
    if run.kind == "expression":
        noise["expression_noise"] = run.rate
    elif run.rate:
        noise |= {"mismatch": run.rate, "mismatch_kind": run.kind}
    return {
        **TOWERS[run.tower],
        **DATA_KEYS.get(run.data, {}),
        "tau": DEFAULT_TAU,
        **ARMS[run.arm],
        **tuned().get(run.arm, {}),
        **noise,
        "seed": run.seed,
        "noise_seed": run.seed,
        **dict(run.keys),
    }


def key_of(run: Run) -> str:
    """Return the identity of a run: a hash of everything that decides its numbers."""
    config = config_of(run)
    what = {
        "version": VERSION,
        "revision": REVISION.get(config["objective"], 0),
        "data": run.data,
        "text": run.text,
        "suite": run.suite,
        "config": config,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def grid() -> dict[str, list[Run]]:
    """Return section to its runs, in the order in which they are done."""
    return {
        "facs": list(_facs()),
        "others": list(_other_data()),
        "objectives": [
            Run("facs", "mlp", arm, kind, 0.4, seed)
            for arm in OTHERS
            for kind in ("uniform", "sibling")
            for seed in SEEDS
        ],
        "transformer": [
            Run("facs", "tiny", arm, "uniform", rate, seed)
            for seed in SEEDS
            for rate in (0.4, 0.0)
            for arm in ("clean_oracle", "infonce", "cra_plus", "cra_paper")
        ],
        "ablations": list(ablations()),
    }


def _facs() -> Iterator[Run]:
    """Yield the full grid on FACS; every seed is a page of its own."""
    for seed in SEEDS:
        for kind, rates in (
            ("uniform", RATES),
            ("sibling", RATES[1:]),
            ("expression", (CORRUPTED,)),
        ):
            for rate in rates:
                # With no noise planted the oracle is InfoNCE: the one run is both.
                for arm in MAIN:
                    yield Run("facs", "mlp", arm, kind, rate, seed)


def _other_data() -> Iterator[Run]:
    kinds = {
        "kang": (("uniform", 0.0), ("uniform", 0.4), ("donor", 0.4)),
        "onek1k": (("uniform", 0.0), ("uniform", 0.4), ("donor", 0.4)),
        "gut": (("uniform", 0.0), ("uniform", 0.4), ("sibling", 0.4)),
    }
    for seed in SEEDS:
        for data, noise in kinds.items():
            for kind, rate in noise:
                for arm in MAIN:
                    yield Run(data, "mlp", arm, kind, rate, seed)


def ablations() -> Iterator[Run]:
    """Yield the paper's table, the 2 x 2 that it leaves out, and cra_plus without each of its parts.

    The suite's tasks take longer than a training: they are run where the mismatch is uniform.
    """
    for seed in SEEDS:
        for kind in ("uniform", "sibling"):
            for on in range(2 ** len(PAPER_PARTS)):
                switches = {part: bool(on >> n & 1) for n, part in enumerate(PAPER_PARTS)}
                name = " + ".join(part for part, is_on in switches.items() if is_on) or "none"
                # The complementary term as the paper weighs it, whatever tuning chose.
                keys = (*switches.items(), ("negative_weight", 5.0))
                yield Run(
                    "facs", "mlp", "cra_paper", kind, 0.4, seed, keys=keys,
                    name=f"cra_paper: {name}", suite=kind == "uniform",
                )  # fmt: skip
            yield Run(
                "facs", "mlp", "cra_plus", kind, 0.4, seed,
                name="cra_plus: all", suite=kind == "uniform",
            )  # fmt: skip
            for part, off in PARTS.items():
                yield Run(
                    "facs", "mlp", "cra_plus", kind, 0.4, seed, keys=tuple(off.items()),
                    name=f"cra_plus: without {part}", suite=kind == "uniform",
                )  # fmt: skip
        for text in ("label", "enriched"):
            for arm in ("infonce", "cra_paper", "cra_plus"):
                for rate in (0.0, 0.4):
                    yield Run(
                        "facs", "mlp", arm, "uniform", rate, seed, text=text,
                        name=f"{arm} on {text} text", suite=rate > 0,
                    )  # fmt: skip
