"""Guards: what makes a number worthless is refused, with the cells or types that make it so."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from okrcell.errors import DataError, LabelError, LabelLeakError
from okrcell.evaluate.data import EvalData, Strings
from okrcell.schemas import read_table

__all__ = [
    "check_alignment",
    "check_donors",
    "check_embedding",
    "check_expression",
    "check_leakage",
    "check_named_types",
    "check_text_vectors",
    "check_types",
    "check_uids",
    "check_unseen",
]

_NAMED = 3
_LEARNT = 0.01
"""A model must better the loss of guessing by this share."""


def check_expression(job: Path, test_uids: Sequence[str]) -> None:
    """Refuse descriptions whose expression evidence comes from cells that are tested on.

    Raises
    ------
    LabelLeakError
        Some test cells fed a description.
    """
    path = job / "expression_cells.parquet"
    seen = set(read_table(path, "expression_cells")["cell_uid"].to_pylist())
    told = sorted(seen.intersection(test_uids))
    if told:
        raise LabelLeakError(
            job,
            found=f"descriptions written from the expression of {len(told)} test cells "
            f"({', '.join(told[:_NAMED])})",
            expected="descriptions that saw training cells only, or no cells",
            fix="The splits have changed since: plan and run the job again, with --no-expression for "
            "texts of zero-shot tests.",
        )


def check_types(data: EvalData, where: Path | str) -> None:
    """Refuse data in which nothing can be told apart."""
    for split in ("train", "test"):
        if not (data.splits == split).any():
            raise LabelError(
                where,
                found=f"no labelled cells in the {split} split",
                expected="labelled cells in train and test",
                fix="Import more cells, or set other split fractions.",
            )
    if len(data.types) < 2:
        raise LabelError(
            where,
            found=f"{len(data.types)} cell type ({', '.join(data.types)})",
            expected="at least two",
            fix="Import cells of more types: with one, every method is right.",
        )


def check_uids(uids: Sequence[str], splits: Sequence[str], where: Path | str) -> None:
    """Refuse a cell that is listed twice."""
    first: dict[str, str] = {}
    for uid, split in zip(uids, splits, strict=True):
        if uid in first:
            raise DataError(
                where,
                found=f"the cell {uid} twice"
                + (f", in splits {first[uid]} and {split}" if split else ""),
                expected="every cell in one split",
                fix="Import the dataset again; a cell may belong to one split only.",
            )
        first[uid] = split


def check_leakage(data: EvalData, where: Path | str) -> None:
    """Refuse a test cell whose identity or whole expression also stands in train or validation.

    Cells with fewer than 10 detected genes are not compared: two of them may agree by chance.
    """
    from okrcell.corpus.contents import content_hashes

    check_uids(data.cell_uids.tolist(), data.splits.tolist(), where)
    train, test = (
        dict(zip(content_hashes(data.matrix, rows), data.cell_uids[rows].tolist(), strict=True))
        for rows in (np.concatenate([data.validation, data.train]), data.test)
    )
    shared = sorted((test[key], train[key]) for key in (test.keys() & train.keys()) - {""})
    if shared:
        pairs = "; ".join(f"test {a} = train {b}" for a, b in shared[:_NAMED])
        raise DataError(
            where,
            found=f"{len(shared)} test cells with the expression of a train cell ({pairs})",
            expected="test cells that were not trained on",
            fix="Remove the duplicates, or split by donor or dataset.",
        )


def check_unseen(data: EvalData, run: Path, vocabulary: Collection[str]) -> None:
    """Refuse cells that a run was trained on, whatever file they come from.

    They are known by their id, by their content, and by which genes they detect, which is the same in
    a normalised copy.

    Parameters
    ----------
    vocabulary
        The run's genes: only these were in its cells.

    Raises
    ------
    LabelLeakError
        Cells that are scored have been trained on, or the run does not say what it was trained on.
    """
    from okrcell.corpus.contents import content_hashes
    from okrcell.train.data import SEEN

    path = run / SEEN
    if not path.exists():
        raise LabelLeakError(
            run,
            found="a run that does not say which cells it was trained on",
            expected=f"{SEEN}, which `okrcell train run` writes",
            fix="Train again with this version, or evaluate on the store it was trained from.",
        )
    table = read_table(path, "seen_cells")
    rows = np.union1d(data.test, data.integrated)
    known = np.isin(data.cell_uids[rows], table["cell_uid"].to_pylist())
    for name in ("content", "pattern"):
        seen = set(table[name].to_pylist()) - {""}
        hashes = content_hashes(data.matrix, rows, vocabulary, only_pattern=name == "pattern")
        known |= np.asarray([one in seen for one in hashes])
    found = [str(uid) for uid in data.cell_uids[rows[known]]]
    if found:
        raise LabelLeakError(
            run,
            found=f"{len(found)} of {len(rows)} cells of {data.dataset} that are scored here among "
            f"those it was trained on ({', '.join(found[:_NAMED])})",
            expected="cells that it has never seen",
            fix="Evaluate on the test cells of the store it was trained from, or on other data.",
        )


def check_named_types(named: Sequence[str], n: int, where: Path | str) -> None:
    """Refuse descriptions of test cells that name the type they describe (see the leak report).

    Raises
    ------
    LabelLeakError
        ``named`` holds a name.
    """
    if named:
        raise LabelLeakError(
            where,
            found=f"{len(named)} of {n} descriptions of test cells that name their cell type "
            f"({', '.join(sorted(named)[:_NAMED])})",
            expected="texts from which the label cannot be read off",
            fix="Write the texts with `okrcell enrich plan --mask-label`, or say --allow-named-types: "
            "zero-shot and retrieval are then matching to texts that name the answer.",
        )


def check_alignment(
    cells: NDArray[np.float32], texts: NDArray[np.float32], codes: NDArray[np.intp], method: str
) -> None:
    """Refuse a model whose loss on its own training pairs is that of guessing.

    With the temperature that suits it best, the cross-entropy of a cell's own text among the ``U``
    distinct ones stays at ln U: its cells and texts know nothing of each other.

    Parameters
    ----------
    cells, texts
        Unit rows [n, D] of train cells and [U, D] of distinct texts.
    codes
        Int [n]: the text of each cell.
    """
    n_texts = len(texts)
    if n_texts < 2:
        return
    scores = (cells @ texts.T).astype(np.float64)
    own = scores[np.arange(len(codes)), codes]
    weights = 1 / np.bincount(codes, minlength=n_texts)[codes]  # each text counts alike
    losses = []
    for temperature in np.logspace(-2.5, 1, 15):
        scaled = scores / temperature
        top = scaled.max(axis=1)
        log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        losses.append(np.average(log_sum - own / temperature, weights=weights))
    best, guess = float(min(losses)), float(np.log(n_texts))
    if best > (1 - _LEARNT) * guess:
        raise DataError(
            f"model '{method}'",
            found=f"a loss of {best:.3f} on its own training pairs, which is ln({n_texts}) = {guess:.3f}: "
            "cells and texts do not match at all",
            expected="a model that has learnt something",
            fix="Train it longer or with another learning rate; `random` shows what chance gives.",
        )


def check_text_vectors(
    vectors: NDArray[np.floating], texts: Sequence[str], width: int, method: str
) -> None:
    """Refuse text vectors that are no [n, width] of finite rows other than zero.

    Raises
    ------
    DataError
        Names the texts.
    """
    where = f"text vectors of '{method}'"
    if vectors.shape != (len(texts), width):
        raise DataError(
            where,
            found=f"an array of shape {vectors.shape} for {len(texts)} texts",
            expected=f"({len(texts)}, {width}): one row per text, as wide as the cells' embedding",
            fix="Project cells and texts into one space first.",
        )
    broken = np.flatnonzero(
        ~np.isfinite(vectors).all(axis=1) | ~(np.abs(vectors).max(axis=1, initial=0.0) > 0)
    )
    if len(broken):
        named = ", ".join(f"'{texts[i][:60]}'" for i in broken[:_NAMED])
        raise DataError(
            where,
            found=f"values that are not finite, or nothing but zeros, for {len(broken)} texts ({named})",
            expected="finite vectors that point somewhere",
            fix="Look at how these texts are encoded.",
        )


def check_donors(data: EvalData, where: Path | str) -> None:
    """Refuse donors on both sides of a split that the file itself makes.

    Splits at random and by batch say so by their name; one that a column makes may be taken for one
    by donor.
    """
    train, test = (set(data.donors[rows].tolist()) - {""} for rows in (data.train, data.test))
    shared = sorted(train & test)
    if shared:
        raise DataError(
            where,
            found=f"{len(shared)} donors with cells in train and in test ({', '.join(shared[:_NAMED])}) "
            f"under the split {data.split}",
            expected="every donor on one side",
            fix="Mend the column, or split at random, which says what it is.",
        )


def check_embedding(cells: NDArray[np.floating], uids: Strings, method: str) -> None:
    """Refuse an embedding [N, D] with values that are not finite, or in which all cells are equal."""
    if cells.ndim != 2 or not cells.shape[1]:
        raise DataError(
            f"embedding of '{method}'",
            found=f"an array of shape {cells.shape}",
            expected="one row of numbers per cell",
            fix="Write the embedding again.",
        )
    broken = np.flatnonzero(~np.isfinite(cells).all(axis=1))
    if len(broken):
        named = ", ".join(str(uid) for uid in uids[broken[:_NAMED]])
        raise DataError(
            f"embedding of '{method}'",
            found=f"values that are not finite in {len(broken)} cells ({named})",
            expected="finite values",
            fix="Train the model again: its weights or these cells are damaged.",
        )
    largest = max(float(np.abs(cells).max(initial=0.0)), 1e-30)
    if len(cells) > 1 and float(np.ptp(cells, axis=0).max()) < 1e-7 * largest:
        named = ", ".join(str(uid) for uid in uids[:_NAMED])
        raise DataError(
            f"embedding of '{method}'",
            found=f"the same vector for all {len(cells)} cells ({named}, ...)",
            expected="cells that differ",
            fix="The model has collapsed: train it longer, or with a lower learning rate.",
        )
