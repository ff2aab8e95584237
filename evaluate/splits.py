"""Test cells set apart by donor, by batch, at random within type, or as the file says."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from okrcell.errors import DataError
from okrcell.evaluate.data import UNLABELLED, Strings

__all__ = ["assign"]

_TRAIN, _VALIDATION = 0.6, 0.2
_NAMES = ("train", "validation", "test")
_NAMED = 3


def assign(
    how: str,
    uids: Strings,
    labels: Strings,
    batches: Strings,
    donors: Strings,
    given: Strings | None,
    hold_out: Sequence[str],
    seed: int,
    where: Path | str,
) -> tuple[Strings, list[str]]:
    """Return ``train``, ``validation`` or ``test`` per cell [N], and what the reader must be told.

    Groups (donors or batches) are dealt out whole, in the order of a hash of their name and the
    seed, 60 : 20 : 20; so are cells within their type where the split is random. Of two groups one is
    trained on, a fifth of whose cells validates. The order of cells does not matter.

    Raises
    ------
    DataError
        Fewer than two groups, values of a split column that are no splits, or held-out types that
        the data do not have.
    """
    missing = sorted(set(hold_out) - set(labels.tolist()))
    if missing:
        raise DataError(
            where,
            found=f"no cells of the held-out types {', '.join(missing[:_NAMED])}",
            expected=f"types of the data ({', '.join(sorted(set(labels.tolist()))[:5])}, ...)",
            fix="Correct hold_out in the suite.",
        )
    if given is not None:
        strange = sorted(set(given.tolist()) - set(_NAMES))
        if strange:
            raise DataError(
                f"{where}: {how}",
                found=f"the values {', '.join(strange[:_NAMED])}",
                expected="train, validation or test for every cell",
                fix="Write these words into the column, or choose another split.",
            )
        splits = given.astype("U10")
    elif how == "random":
        splits = _within(labels, uids, seed)
    else:
        splits = _by_group(how, donors if how == "donor" else batches, labels, uids, seed, where)
    held = np.isin(labels, list(hold_out))
    splits[held] = "test"
    return splits, _remarks(how, splits, labels, donors, hold_out)


def _by_group(
    how: str, groups: Strings, labels: Strings, uids: Strings, seed: int, where: Path | str
) -> Strings:
    names = sorted({str(name) for name in groups if str(name).lower() not in UNLABELLED})
    if len(names) < 2:
        raise DataError(
            where,
            found=f"{len(names)} {how} ({', '.join(names) or 'none named'})",
            expected=f"at least two to split by {how}",
            fix="Split at random, or name the column.",
        )
    dealt = dict(zip(names, _deal(names, seed), strict=True))
    two = len(names) == 2
    if two:
        first = min(names, key=lambda name: _hash(name, seed))
        dealt = {name: "train" if name == first else "test" for name in names}
    splits = np.asarray([dealt.get(str(name), "train") for name in groups], dtype="U10")
    if two:
        train = splits == "train"
        inner = _within(labels[train], uids[train], seed)
        splits[train] = np.where(inner == "validation", "validation", "train")
    return splits


def _within(labels: Strings, uids: Strings, seed: int) -> Strings:
    splits = np.full(len(labels), "train", dtype="U10")
    for name in np.unique(labels):
        rows = np.flatnonzero(labels == name)
        splits[rows] = _deal([str(uid) for uid in uids[rows]], seed)
    return splits


def _deal(names: Sequence[str], seed: int) -> NDArray[np.str_]:
    """Deal names out in the order of their hashes; train gets one first, then test."""
    n = len(names)
    n_train = max(1, round(_TRAIN * n))
    n_validation = min(round(_VALIDATION * n), max(n - n_train - 1, 0))
    dealt = np.full(n, "test", dtype="U10")
    order = np.asarray(sorted(range(n), key=lambda i: _hash(names[i], seed)), dtype=np.intp)
    dealt[order[:n_train]] = "train"
    dealt[order[n_train : n_train + n_validation]] = "validation"
    return dealt


def _hash(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}|{name}".encode()).hexdigest()


def _remarks(
    how: str, splits: Strings, labels: Strings, donors: Strings, hold_out: Sequence[str]
) -> list[str]:
    said = []
    train, test = (set(labels[splits == name].tolist()) for name in ("train", "test"))
    only_test = sorted(test - train - set(hold_out))
    if only_test:
        said.append(
            f"split by {how}: {len(only_test)} types have test cells but no train cells "
            f"({', '.join(only_test[:_NAMED])}{', ...' if len(only_test) > _NAMED else ''}); no classifier "
            "can name them."
        )
    single = [
        str(name) for name, n in zip(*np.unique(labels, return_counts=True), strict=True) if n == 1
    ]
    if single:
        said.append(f"types with one cell: {', '.join(single[:_NAMED])}.")
    shared = set(donors[splits == "train"].tolist()) & set(donors[splits == "test"].tolist())
    if how != "donor" and (shared - {""}):
        said.append(
            f"split by {how}: {len(shared - {''})} donors have cells in train and in test, so figures say "
            "nothing about new donors."
        )
    return said
