"""What must hold of cells: between a dataset's tables and its matrix, and of what was gathered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from okrcell.artifacts import read_manifest
from okrcell.console import progress
from okrcell.corpus.integrity import Outcome, Tally, batches
from okrcell.corpus.shards import kept_gene_ids
from okrcell.schemas import read_table

__all__ = ["check_dataset", "check_gathered"]

_PIECE = 1 << 22


def check_dataset(store: Path, part: str) -> Iterator[Outcome]:
    """Rows of the tables are rows of the matrix; genes, profiles and values are valid."""
    folder = store / part
    files = read_manifest(folder, "dataset", verify=False).files
    profiles = read_table(folder / "metadata.parquet", "profiles", ["profile_id", "n_cells"])
    known = dict(zip(*(profiles[c].to_pylist() for c in ("profile_id", "n_cells")), strict=True))
    counted = dict.fromkeys(known, 0)
    n, unordered, strange, off = 0, Tally(), Tally(), Tally()
    for rows in batches(folder / "cells.parquet", "cells", ["row", "profile_id"]):
        for row, profile_id in zip(rows["row"], rows["profile_id"], strict=True):
            if row != n:
                unordered.add(f"row {row} in place {n}")
            if profile_id in counted:
                counted[profile_id] += 1
            else:
                strange.add(f"cell {n}: {profile_id}")
            n += 1
    yield "cells are numbered as in the matrix", str(unordered)
    yield "every cell has a known profile", str(strange)
    for key, count in counted.items():
        if count != known[key]:
            off.add(f"profile {key} says {known[key]:,}, has {count:,}")
    yield "profiles count their cells", str(off)
    genes = read_table(folder / "genes.parquet", "genes")
    kept = kept_gene_ids(genes)
    repeated = len(kept) - len(set(kept))
    yield "kept genes are distinct", f"{repeated:,} repeated" if repeated else ""
    pointers = np.memmap(folder / "indptr.i64", dtype="<i8", mode="r")
    n_values = int(pointers[-1])
    yield (
        "the matrix has a row for every cell",
        "" if len(pointers) == n + 1 else f"{len(pointers) - 1:,} rows, {n:,} cells",
    )
    rising = bool(pointers[0] == 0 and (np.diff(pointers) >= 0).all())
    yield "row pointers rise", "" if rising else "they do not"
    wide = "indices.i64" in files
    index = (
        np.memmap(
            folder / ("indices.i64" if wide else "indices.i32"), "<i8" if wide else "<i4", mode="r"
        )
        if n_values
        else np.zeros(0, "<i4")
    )
    values = np.memmap(folder / "values.f32", "<f4", mode="r") if n_values else np.zeros(0, "<f4")
    sizes = {len(index), len(values), n_values}
    yield "matrix files agree in length", "" if len(sizes) == 1 else f"lengths {sorted(sizes)}"
    yield from _check_values(index, values, len(kept), Path(part).name)


def _check_values(
    index: npt.NDArray[Any], values: npt.NDArray[Any], n_genes: int, name: str
) -> Iterator[Outcome]:
    outside = bad = 0
    with progress(f"Checking {name}", len(values), "values") as advance:
        for begin in range(0, min(len(index), len(values)), _PIECE):
            columns, part = index[begin : begin + _PIECE], values[begin : begin + _PIECE]
            outside += int(((columns < 0) | (columns >= n_genes)).sum())
            bad += int((~(np.isfinite(part) & (part >= 0))).sum())
            advance(len(part))
    yield "every value belongs to a gene", f"{outside:,} do not" if outside else ""
    yield "values are finite and not negative", f"{bad:,} are not" if bad else ""


def check_gathered(store: Path, datasets: dict[str, str]) -> Iterator[Outcome]:
    """The gathered tables are those of the datasets that are there.

    Parameters
    ----------
    datasets
        Dataset to the fingerprint of its files.
    """
    folder = store / "cells"
    inputs = dict(read_manifest(folder, "cells", verify=False).inputs)
    differing = Tally()
    for name in sorted(inputs.keys() | datasets.keys()):
        if inputs.get(name) != datasets.get(name):
            differing.add(name)
    yield "gathered from the datasets that are there", str(differing)
    profiles = read_table(folder / "profiles.parquet", "profiles", ["profile_id", "n_cells"])
    known = dict(zip(*(profiles[c].to_pylist() for c in ("profile_id", "n_cells")), strict=True))
    strange, n = Tally(), 0
    for rows in batches(folder / "cells.parquet", "cells", ["cell_uid", "profile_id"]):
        for cell, profile_id in zip(rows["cell_uid"], rows["profile_id"], strict=True):
            if profile_id not in known:
                strange.add(f"{cell}: {profile_id}")
        n += len(rows["cell_uid"])
    yield "every cell has a known profile", str(strange)
    total = sum(known.values())
    yield "profiles count their cells", "" if total == n else f"{total:,} counted, {n:,} cells"
