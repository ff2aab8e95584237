"""Temperature, and one key of its own, of every arm: by noisy validation cells, on seeds of their own.

FACS at 40 % uniform mismatch. First the temperature, the own key at its default; then the own key, at
that temperature. What counts is the accuracy on the validation cells, which are as noisy as training:
the mean of the best and the last epoch, since both are reported, over seeds; among equals the smaller
loss. No test cell is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from grid import ARMS, OWN_KEY, TUNING_SEEDS, Run
from results import load

from okrcell.artifacts import atomic_write
from okrcell.train.config import TrainConfig

__all__ = ["ORDER", "TAUS", "tune"]

TAUS = (0.04, 0.07, 0.1, 0.2)
ORDER = ("infonce", "clean_oracle", "elr", "cra_paper", *ARMS)


def tune(arms: Sequence[str], work: Path, target: Path, do: Callable[[list[Run]], None]) -> None:
    """Do the runs that are left, and write ``target``: what was chosen of each arm, and the table.

    Parameters
    ----------
    arms
        Those to tune; all where it is empty. Others keep what the file says.
    """
    for arm in arms or dict.fromkeys(ORDER):
        own = OWN_KEY.get(arm)
        keys = {own[0]: TrainConfig.model_fields[own[0]].default} if own else {}
        rows = _compare(arm, [{"tau": tau, **keys} for tau in TAUS], work, do)
        if own:
            best = _best(rows)
            others = [{**best, own[0]: value} for value in own[1] if value != best[own[0]]]
            rows += _compare(arm, others, work, do)
        # Read late: another call may have written meanwhile.
        known = json.loads(target.read_text()) if target.exists() else {"chosen": {}, "table": {}}
        known["chosen"][arm] = _best(rows)
        known["table"][arm] = rows
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, json.dumps(known, indent=1, sort_keys=True) + "\n")
        print(f"{arm}: {known['chosen'][arm]}", flush=True)


def _compare(
    arm: str, choices: list[dict[str, Any]], work: Path, do: Callable[[list[Run]], None]
) -> list[dict[str, Any]]:
    """Return a row per choice: keys, and what the noisy validation cells say, means over seeds."""
    runs = [
        [Run("facs", "mlp", arm, "uniform", 0.4, s, keys=tuple(keys.items())) for s in TUNING_SEEDS]
        for keys in choices
    ]
    do([run for of_choice in runs for run in of_choice])
    rows = []
    for keys, of_choice in zip(choices, runs, strict=True):
        found = [kept.numbers["validation"] for kept in load(work, of_choice)]
        if len(found) < len(of_choice):
            raise RuntimeError(f"{arm} with {keys}: {len(of_choice) - len(found)} runs are missing")
        means = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
        rows.append({"keys": keys, "accuracies": [f["accuracy"] for f in found], **means})
    return rows


def _best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    best = max(
        rows, key=lambda row: (round(row["accuracy"] + row["last_accuracy"], 6), -row["loss"])
    )
    return dict(best["keys"])
