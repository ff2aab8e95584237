"""What the other datasets of a store decide for a new one: donors keep their split, hold-outs hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from okrcell.artifacts import read_manifest
from okrcell.corpus.config import CorpusConfig
from okrcell.corpus.normalise import Resolution
from okrcell.corpus.ontology import Ontology
from okrcell.errors import LabelError
from okrcell.schemas import SPLITS, read_table

__all__ = ["held_out", "known_donors", "shared_names"]


def known_donors(datasets: list[Path]) -> dict[str, str]:
    """Return the split of every donor that another dataset of the store has.

    A dataset that is split by cell has trained on all of its donors, so they are trained on here
    too. A donor's held-out cells are in test whatever its own split is.
    """
    known: dict[str, str] = {}
    for folder in datasets:
        by_donor = (
            read_manifest(folder, "dataset", verify=False)
            .facts["split_rule"]
            .startswith("by donor")
        )
        cells = read_table(folder / "cells.parquet", "cells", ["donor", "split"])
        pairs = cells.group_by(["donor", "split"]).aggregate([]).to_pylist()
        splits: dict[str, set[str]] = {}
        for pair in pairs:
            splits.setdefault(pair["donor"], set()).add(pair["split"])
        for donor, found in sorted(splits.items()):
            split = next((s for s in SPLITS if s in found), "test") if by_donor else "train"
            if known.get(donor) != "train":
                known[donor] = split
    return known


def held_out(
    cell_types: Mapping[str, Resolution],
    config: CorpusConfig,
    datasets: list[Path],
    path: Path,
    ontology: Ontology,
) -> tuple[frozenset[str], list[str]]:
    """Return what is held out by this file's flags, or by another dataset's.

    A type that this file does not have can be named by the label of its term: it is then held out of
    the datasets that have it, added before or after.

    Returns
    -------
    labels
        Those of this file that are held out.
    terms
        Labels of all terms that this file's flags hold out, sorted, and of ``labels``.

    Raises
    ------
    LabelError
        A flag names no cell type, or no type is left to train on.
    """
    names = set(cell_types) | {resolution.term_label for resolution in cell_types.values()}
    elsewhere = set(config.hold_out) - names
    known = {term.label for term in ontology.terms()} if elsewhere else set()
    for label in sorted(elsewhere - known):
        raise LabelError(
            f"--hold-out '{label}'",
            found=f"no such cell type in {path.name}",
            expected=f"one of {', '.join(sorted(cell_types))}; or the exact label of a term",
            fix="Correct the label.",
        )
    before = {
        term
        for folder in datasets
        for term in read_manifest(folder, "dataset", verify=False).facts["held_out"]
    }
    held = frozenset(
        label
        for label, resolution in cell_types.items()
        if {label, resolution.term_label} & set(config.hold_out) or resolution.term_label in before
    )
    if held == frozenset(cell_types):
        raise LabelError(
            path,
            found="every cell type held out",
            expected="at least one type to train on",
            fix="Hold out fewer types.",
        )
    return held, sorted({cell_types[label].term_label for label in held} | elsewhere)


def shared_names(names: Sequence[str], datasets: list[Path]) -> dict[str, int]:
    """Return the datasets that have most of these names of cells, and how many.

    Barcodes of two samples meet by chance, a few in a hundred; half of the smaller dataset or more
    means that the same cells are in the store twice, perhaps in different splits.
    """
    mine, found = pa.array(names, pa.string()), {}
    for folder in datasets:
        theirs = read_table(folder / "cells.parquet", "cells", ["obs_name"])["obs_name"]
        n = pc.sum(pc.is_in(theirs, value_set=mine)).as_py() or 0
        if 2 * n >= min(len(mine), len(theirs)):
            found[folder.name] = n
    return found
