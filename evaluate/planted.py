"""How accuracy falls with mismatched training pairs: short runs that differ in objective and rate alone.

A share of the training pairs gets another pair's text, each objective is trained on the same pairs, and
test cells, whose texts are their own, are matched with the training texts. ``clean_oracle`` is told
which pairs are wrong and leaves them out: the bound.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from okrcell.artifacts import atomic_write, commit, current_manifest, invalidate, writing
from okrcell.config import fingerprint
from okrcell.evaluate import figures
from okrcell.evaluate.figures import Legend
from okrcell.evaluate.report_figures import Figure
from okrcell.evaluate.report_listings import Listing
from okrcell.train.config import TrainConfig

if TYPE_CHECKING:
    from okrcell.train.data import Pairs

__all__ = ["OBJECTIVES", "RATES", "planted_curves", "planted_figure"]

OBJECTIVES = ("cra_plus", "infonce", "clean_oracle")
RATES = (0.0, 0.2, 0.4, 0.6)

_FILE = "curves.json"
_NAMES = {"clean_oracle": "clean pairs only"}


def planted_curves(
    store: Path,
    job: Path,
    out: Path,
    keys: TrainConfig,
    *,
    objectives: Sequence[str] = OBJECTIVES,
    rates: Sequence[float] = RATES,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Train every objective at every rate, where that is not done yet, and measure accuracy.

    Parameters
    ----------
    out
        Folder for the runs, which are kept, and the figures.
    keys
        Of all runs; objective and ``mismatch`` are set here.
    progress
        Called with 1 after every run.

    Returns
    -------
    dict
        ``rows`` (objective, rate, accuracy with the ends of its 95 % interval by Wilson's formula,
        cells, pairs and how many of them are mismatched), and whether all was ``reused``.
    """
    from scipy.stats import binomtest

    from okrcell.train.loop import train
    from okrcell.train.prepare import inputs_of

    asked = {"objectives": list(objectives), "rates": list(rates), "train": fingerprint(keys)}
    with writing(out, "curves"):
        inputs = inputs_of(store, job, keys)
        if current_manifest(out, "curves", config=asked, inputs=inputs) is not None:
            progress(len(objectives) * len(rates))
            return {"rows": json.loads((out / _FILE).read_text()), "reused": True}
        trained, test = _asked(store, job, keys)
        rows = []
        for objective in objectives:
            for rate in rates:
                # Of clean pairs alone the bound is InfoNCE: it is trained once.
                same = rate == 0 and objective == "clean_oracle" and "infonce" in objectives
                name = f"{'infonce' if same else objective}-{rate:g}"
                changed = keys.replace(objective="infonce" if same else objective, mismatch=rate)
                facts = train(store, job, out / name, changed, restart=True)
                right = _right(out / name, trained, test)
                low, high = binomtest(right, len(test)).proportion_ci(method="wilson")
                rows.append(
                    {
                        "objective": objective,
                        "rate": rate,
                        "accuracy": right / len(test),
                        "low": float(low),
                        "high": float(high),
                        "cells": len(test),
                        "pairs": facts["pairs"],
                        "mismatched": facts.get("noise", {}).get("mismatched", 0),
                    }
                )
                progress(1)
        invalidate(out)
        atomic_write(out / _FILE, json.dumps(rows, indent=1) + "\n")
        commit(out, "curves", config=asked, inputs=inputs, files={_FILE: len(rows)})
    return {"rows": rows, "reused": False}


def _asked(store: Path, job: Path, keys: TrainConfig) -> tuple[Pairs, Pairs]:
    """Return the training pairs, and the test pairs whose text is one of theirs."""
    from okrcell.train.data import load_pairs, load_texts

    texts = load_texts(store, job, keys.text_source)
    trained = load_pairs(store, texts)
    return trained, load_pairs(store, texts, "test", like=trained)


def _right(run: Path, trained: Pairs, test: Pairs) -> int:
    """Return how many test cells are nearest to a text of their own type."""
    from okrcell.train.checkpoint import load_model

    model = load_model(run)
    type_of_text = np.zeros(len(trained.texts), dtype=np.int64)
    type_of_text[trained.text] = trained.cell_type
    answers = model.encode_text(trained.texts)
    right = 0
    for number, cells in enumerate(test.matrices):
        at = np.flatnonzero(test.dataset == number)
        nearest = (model.encode_cells(cells.take(test.row[at])) @ answers.T).argmax(axis=1)
        right += int((type_of_text[nearest] == test.cell_type[at]).sum())
    return right


def planted_figure(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, Listing]:
    """Return the figure of accuracy against the share of mismatched pairs, and its table."""
    series: dict[str, list[tuple[float, float, float | None, float | None]]] = {}
    for row in rows:
        name = _NAMES.get(row["objective"], row["objective"])
        point = (row["rate"], row["accuracy"], row["low"], row["high"])
        series.setdefault(name, []).append(point)
    styles = {name: at for at, name in enumerate(series)}
    panel = figures.lines(
        series,
        styles,
        "Accuracy on test cells",
        "training pairs with a wrong text",
        as_percent=True,
    )
    legend = Legend(tuple(styles.items()), True, "bars: 95 % interval over cells")
    rates = sorted({row["rate"] for row in rows})
    values = {(row["objective"], row["rate"]): row for row in rows}
    cells = [
        [
            _NAMES.get(objective, objective),
            *(
                f"{values[objective, rate]['accuracy']:.3f}" if (objective, rate) in values else ""
                for rate in rates
            ),
        ]
        for objective in dict.fromkeys(row["objective"] for row in rows)
    ]
    columns = ["objective", *(f"{rate:.0%}" for rate in rates)]
    numeric = frozenset(range(1, len(columns)))
    listing = Listing("planted", "Accuracy by share of wrong texts", columns, cells, numeric)
    return Figure("planted", [panel], legend), listing
