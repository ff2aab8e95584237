"""What is compared: a training set, a text form, and training keys make a run.

An arm differs from the recipe in one thing, or from the naive baseline in one thing. Nothing here was
chosen on the study that a run is tested on: see the page.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from studies import FILES, STUDIES, files_of

from okrcell.corpus.type_texts import TypeForm

__all__ = ["ARMS", "NAIVE", "RECIPE", "SEEDS", "VERSION", "Arm", "Run", "runs"]

VERSION = 1
"""Of what a run is; all are made anew where it changes."""
SEEDS = (0, 1, 2)
STEPS = 500
"""Of every run, whatever its number of cells."""

_COMMON: dict[str, Any] = {
    "preset": "mlp", "batch_size": 256, "lr": 1e-3, "lr_decay": 1.0, "weight_decay": 0.01,
    "tau": 0.07, "mask_ratios": (0.0,), "validation_cells": 0, "text_source": "description",
}  # fmt: skip
"""``mask_ratios`` hides nothing: the tower ``mlp`` has its own ``input_dropout``."""


@dataclass(frozen=True)
class Arm:
    """How a model is made from whatever it is given.

    Attributes
    ----------
    about
        What it is, for the page.
    keys
        Training keys beside the common ones.
    form
        Form of the texts, in training and in the question.
    single
        Whether it is trained on one file, each in turn.
    marker_cells
        Synthetic cells per type of the marker table; 0 for none.
    breast
        Whether the breast spots are among the training files.
    """

    about: str
    keys: dict[str, Any] = field(default_factory=lambda: {"objective": "infonce"})
    form: TypeForm = "named"
    single: bool = False
    marker_cells: int = 0
    breast: bool = True


@dataclass(frozen=True)
class Run:
    """One training: an arm, the study that is left out (of single files: the file), a seed."""

    arm: str
    left_out: str
    files: tuple[str, ...]
    tests: tuple[str, ...]
    seed: int

    @property
    def keys(self) -> dict[str, Any]:
        """All training keys but the number of epochs."""
        return {**_COMMON, **ARMS[self.arm].keys, "seed": self.seed}

    @property
    def key(self) -> str:
        """Name of the run's files: changes with all that decides the result."""
        arm = ARMS[self.arm]
        said = [VERSION, STEPS, self.files, self.keys, arm.form, arm.marker_cells]
        digest = hashlib.sha256(json.dumps(said, default=str, sort_keys=True).encode()).hexdigest()
        return f"{self.arm.replace(' ', '-')}.{self.left_out}.{self.seed}.{digest[:8]}"


NAIVE = "naive"
RECIPE = "recipe"

_GROUPED: dict[str, Any] = {
    "objective": "cra_plus", "consensus": False, "bank": False, "curriculum_q": 0.0,
}  # fmt: skip
"""Cells of one text are one target; pairs are believed, as they are in the twin."""
_STANDARD = _GROUPED | {"standardise": True}

_RECIPE = _STANDARD | {"marker_genes": True}


def _variant(about: str, form: TypeForm = "named", **keys: Any) -> Arm:
    return Arm(about, _RECIPE | keys, form=form, marker_cells=8)


ARMS: dict[str, Arm] = {
    NAIVE: Arm("one file, InfoNCE, name and definition as text", single=True),
    "all files": Arm("the same with all files of the other studies"),
    "+ standardised": Arm(
        "and cells standardised over the genes that were measured, cells of one text as one target",
        _STANDARD,
    ),
    "+ marker cells": Arm(
        "and eight marker cells per type of the table", _STANDARD, marker_cells=8
    ),
    RECIPE: _variant("and all marker genes among the genes that are read"),
    "recipe, InfoNCE": _variant("a column per cell instead of one per text", objective="infonce"),
    "recipe, evidence": _variant(
        "pairs doubted by their neighbours, as in cra_plus", consensus=True
    ),
    "recipe, thinned": _variant(
        "cells thinned and stripped of genes anew every epoch", thinning=0.25, gene_dropout=0.5
    ),
    "recipe, names": _variant("the name alone as text", "label"),
    "recipe, synonyms": _variant("name, synonyms and definition as text", "full"),
    "recipe, markers named": _variant("and the text names markers", "markers"),
}


def runs(arms: list[str], seeds: tuple[int, ...] = SEEDS) -> Iterator[Run]:
    """Yield the runs of some arms, first seeds first."""
    for seed in seeds:
        for name in arms:
            if ARMS[name].single:
                yield from _of_single_files(name, seed)
                continue
            for study in STUDIES:
                files = [
                    file
                    for file, source in FILES.items()
                    if source.study != study and (source.study in STUDIES or ARMS[name].breast)
                ]
                yield Run(name, study, tuple(files), tuple(files_of(study)), seed)


def _of_single_files(arm: str, seed: int) -> Iterator[Run]:
    for file, source in FILES.items():
        if source.study in STUDIES:
            tests = [f for s in STUDIES if s != source.study for f in files_of(s)]
            yield Run(arm, file, (file,), tuple(tests), seed)
