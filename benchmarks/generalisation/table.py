"""From the vectors of all runs to results/generalisation.json: numbers per method, study and seed, intervals.

The naive baseline is one file; which one, is decided without the study that is left out: the file
whose model does best on the other studies. The mean of all files, and the best one with hindsight, stand
beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arms import ARMS, NAIVE, RECIPE, Run, runs
from baselines import BASELINES, baseline
from measure import asked, auroc_of_unseen, difference, numbers, right
from models import is_done, training_terms, vectors_of
from questions import INFERENCES, Answers, answers
from studies import FILES, STUDIES, files_of

from okrcell.artifacts import atomic_write

__all__ = ["write_results"]

CHOSEN, MEAN, HINDSIGHT = "naive, file chosen", "naive, mean of files", "naive, best file"
MARKERS = "markers alone"
NESTED = "arm chosen elsewhere"


def write_results(
    data: Path, work: Path, arms: Sequence[str], seeds: Sequence[int], out: Path
) -> None:
    """Measure all runs that are done and write the table's JSON."""
    table = Table(data, work)
    table.naive([run for run in runs([NAIVE], tuple(seeds)) if is_done(run, work)])
    for kind in BASELINES:
        for study in STUDIES:
            train = _others(study)
            found = baseline(kind, data, work, study, train)
            table.add(kind, study, found, "learned", train)
    for study in STUDIES:
        found = answers(data, work, None, files_of(study), "named")
        for inference in ("with vote", "with vote + graph"):
            name = MARKERS + inference.removeprefix("with vote")
            table.add(name, study, found, inference, _others(study))
    for run in runs([arm for arm in arms if arm != NAIVE], tuple(seeds)):
        if is_done(run, work):
            table.run(run)
    table.nested([arm for arm in arms if arm != NAIVE])
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, json.dumps(table.result(), indent=1, ensure_ascii=False) + "\n")


class Table:
    """Collects, per method and study, which cells were named rightly, and the numbers of each seed."""

    def __init__(self, data: Path, work: Path) -> None:
        self.data, self.work = data, work
        self.right: dict[tuple[str, str], list[np.ndarray]] = {}
        self.numbers: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.choices: dict[str, str] = {}

    def add(
        self, method: str, study: str, found: Answers, inference: str, train: Sequence[str]
    ) -> None:
        """Add one seed's answers about a study."""
        seen = training_terms(self.data, self.work, train)
        said = numbers(self.data, found, study, inference, seen)
        if inference == "learned":
            said["auroc"] = auroc_of_unseen(self.data, found, study, seen)
        self.right.setdefault((method, study), []).append(
            right(found, asked(self.data, study), inference)
        )
        self.numbers.setdefault((method, study), []).append(said)

    def run(self, run: Run) -> None:
        """Add a run of an arm that is trained on all other studies."""
        path = vectors_of(run, self.data, self.work)
        found = answers(self.data, self.work, path, run.tests, ARMS[run.arm].form)
        for inference in INFERENCES:
            name = run.arm if inference == "learned" else f"{run.arm}, {inference}"
            self.add(name, run.left_out, found, inference, run.files)

    def naive(self, done: Sequence[Run]) -> None:
        """Add the models of single files: the file chosen, the mean, the best with hindsight."""
        found = {
            (run.left_out, run.seed): answers(
                self.data,
                self.work,
                vectors_of(run, self.data, self.work),
                run.tests,
                ARMS[NAIVE].form,
                plain=True,
            )
            for run in done
        }
        seeds = sorted({seed for _, seed in found})
        names = sorted({file for file, _ in found})
        accuracy = {
            (file, study): np.mean(
                [
                    right(found[file, seed], asked(self.data, study), "learned").mean()
                    for seed in seeds
                ]
            )
            for file in names
            for study in STUDIES
            if study != FILES[file].study
        }
        for study in STUDIES:
            usable = [file for file in names if FILES[file].study != study]

            def elsewhere(file: str, study: str = study) -> float:
                others = [s for s in STUDIES if s not in (study, FILES[file].study)]
                return float(np.mean([accuracy[file, other] for other in others]))

            self.choices[study] = max(usable, key=elsewhere)
            best = max(usable, key=lambda file: accuracy[file, study])
            for seed in seeds:
                for method, files in (
                    (CHOSEN, [self.choices[study]]),
                    (HINDSIGHT, [best]),
                    (MEAN, usable),
                ):
                    for file in files:
                        self.add(method, study, found[file, seed], "learned", [file])

    def nested(self, arms: Sequence[str]) -> None:
        """Add the arm that does best on the other studies, for each study the one so chosen."""
        names = [a for a in arms if all((a, study) in self.numbers for study in STUDIES)]
        for study in STUDIES if names else ():
            others = [other for other in STUDIES if other != study]

            def elsewhere(arm: str, others: list[str] = others) -> float:
                return float(np.mean([np.mean(self.right[arm, other]) for other in others]))

            best = max(names, key=elsewhere)
            self.choices[f"{study}, arm"] = best
            for part in (self.right, self.numbers):
                part[NESTED, study] = part[best, study]

    def result(self) -> dict[str, Any]:
        """Return everything the page needs."""
        methods = list(dict.fromkeys(method for method, _ in self.numbers))
        return {
            "studies": [self._study(study) for study in STUDIES],
            "methods": [self._method(method) for method in methods],
            "chosen": self.choices,
            "arms": {name: arm.about for name, arm in ARMS.items()},
            "recipe": {**ARMS[RECIPE].keys, "form": ARMS[RECIPE].form},
        }

    def _study(self, name: str) -> dict[str, Any]:
        study = asked(self.data, name)
        return {
            "name": name, "files": list(study.files), "cells": len(study.truth),
            "types": len(study.terms), "unit": study.boot.unit, "units": study.boot.n_units,
        }  # fmt: skip

    def _method(self, method: str) -> dict[str, Any]:
        studies: dict[str, Any] = {}
        errors, gains = [], []
        for study in STUDIES:
            if (method, study) not in self.numbers:
                continue
            every = self.numbers[method, study]
            row: dict[str, Any] = {
                key: _mean([some.get(key) for some in every])
                for key in sorted({k for s in every for k in s})
            }
            row["seeds"] = [some["accuracy"] for some in every]
            ours = np.mean(self.right[method, study], axis=0)
            row["interval"] = difference(ours, np.zeros_like(ours), asked(self.data, study).boot)
            if (CHOSEN, study) in self.right and method != CHOSEN:
                ours, theirs = (
                    np.mean(self.right[name, study], axis=0) for name in (method, CHOSEN)
                )
                mean, low, high = difference(ours, theirs, asked(self.data, study).boot)
                row["gain"] = [mean, low, high]
                best = np.mean(self.right[HINDSIGHT, study], axis=0)
                row["gain over best"] = difference(ours, best, asked(self.data, study).boot)
                gains.append(mean)
                errors.append((high - low) / 2)
            studies[study] = row
        whole = len(studies) == len(STUDIES)
        out: dict[str, Any] = {"name": method, "studies": studies}
        if whole:
            out["accuracy"] = _mean([row["accuracy"] for row in studies.values()])
            out["macro_f1"] = _mean([row["macro_f1"] for row in studies.values()])
        if whole and gains:
            mean, half = float(np.mean(gains)), math.hypot(*errors) / len(errors)
            out["gain"] = [mean, mean - half, mean + half]
        return out


def _others(study: str) -> list[str]:
    return [name for name, source in FILES.items() if source.study != study]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
