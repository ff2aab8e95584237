"""Donors and batches whose labels the others dispute as a whole: what an exchange of samples looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from okrcell.corpus.cells import load_cells
from okrcell.train.data import Pairs
from okrcell.train.doubt import doubted_groups, is_exchange, unit_shares

__all__ = ["about_pairs", "group_rows", "units_of"]

_Ints = npt.NDArray[np.int64]

_NONE = frozenset({"", "unknown", "na", "nan", "none", "n/a", "pooled"})  # as in corpus/splits


def about_pairs(store: Path, pairs: Pairs) -> pa.Table:
    """Return dataset, donor, batch and obs name of the pairs; empty where nobody knows."""
    cells = load_cells(store)
    at = pc.index_in(pairs.cell_uids.combine_chunks(), value_set=cells["cell_uid"])
    table = cells.select(["dataset_id", "donor", "batch", "obs_name"]).take(at)
    for name in ("donor", "batch"):
        texts = [_known(value) for value in table[name].to_pylist()]
        table = table.set_column(table.column_names.index(name), name, pa.array(texts))
    return table


def _known(value: str | None) -> str:
    return "" if value is None or value.casefold() in _NONE else value


def units_of(about: pa.Table) -> tuple[_Ints, list[tuple[str, str, str]]]:
    """Return int64 [n], the unit of each cell, and dataset, donor and batch of each unit.

    A unit is a donor where a dataset names two or more, else a batch where it names two or more, else
    the donor or the dataset. A donor of several datasets is one unit; unknown ones are -1.
    """
    columns = about.to_pydict()
    datasets = np.array(columns["dataset_id"], dtype=object)
    keys = np.full(len(datasets), None, dtype=object)
    for dataset in np.unique(datasets):
        here = np.flatnonzero(datasets == dataset)
        donors = [columns["donor"][at] for at in here]
        batches = [columns["batch"][at] for at in here]
        by = "donor" if len(set(donors) - {""}) > 1 else "batch"
        if by == "batch" and len(set(batches) - {""}) < 2:
            by = "dataset"
        for at, donor, batch in zip(here.tolist(), donors, batches, strict=True):
            if by == "donor":
                keys[at] = ("", donor, "") if donor else None
            elif by == "batch":
                keys[at] = (dataset, "", batch) if batch else None
            else:
                keys[at] = ("", donor, "") if donor else (dataset, "", "")
    names = sorted({key for key in keys if key is not None})
    number = {name: at for at, name in enumerate(names)}
    return np.array([-1 if key is None else number[key] for key in keys]), names


def group_rows(
    points: npt.NDArray[np.float32],
    labels: _Ints,
    about: pa.Table,
    names: tuple[str, ...],
    ids: tuple[str, ...],
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the disputed groups as rows of the list of suspects, the most disputed first.

    Parameters
    ----------
    points
        float32 [n, P]: components of expression, rows of length 1.
    labels
        int64 [n], index into ``names``.
    about
        Result of :func:`about_pairs`.
    ids
        CL id of each name, or empty.
    """
    units, unit_names = units_of(about)
    if len(unit_names) < 2:
        return []
    shares = unit_shares(points, labels, units, len(names), seed=seed)
    groups = doubted_groups(shares, labels, units)
    datasets = np.array(about["dataset_id"].to_pylist(), dtype=object)
    rows = []
    for (unit, label, other, n, share), exchanged in zip(groups, is_exchange(groups), strict=True):
        dataset, donor, batch = unit_names[unit]
        within = sorted(set(datasets[(units == unit) & (labels == label)]))
        reason = (
            f"{share:.0%} of its {n} cells of '{names[label]}' look like the '{names[other]}' of other "
            + ("donors" if donor else "batches" if batch else "datasets")
        )
        if exchanged:
            reason += f"; its '{names[other]}' look like their '{names[label]}': exchanged labels"
        rows.append(
            {
                "kind": "group",
                "score": round(share, 4),
                "dataset_id": dataset or ", ".join(within),
                "donor": donor,
                "batch": batch,
                "obs_name": "",
                "cell_uid": "",
                "cells": n,
                "label": names[label],
                "label_term_id": ids[label],
                "suggested": names[other],
                "suggested_term_id": ids[other],
                "agree": "",
                "reason": reason,
            }
        )
    return rows
