"""Noise planted on purpose, and written down, so that what an objective stands can be measured.

Texts go to wrong cells (``plant``), values to wrong genes (``corrupt``). Both are functions of their
arguments and leave them as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell.corpus.ontology import bundled
from okrcell.errors import TrainingError
from okrcell.train.config import TrainConfig
from okrcell.train.data import Pairs

__all__ = ["corrupt", "parents_of_types", "plant"]

_Ints = npt.NDArray[np.int64]
_VALUES_AT_ONCE = 1 << 22
_TRIES = 20


def plant(
    pairs: Pairs, config: TrainConfig, *, parents: Mapping[str, Iterable[str]] | None = None
) -> tuple[Pairs, dict[str, Any]]:
    """Give a share (``mismatch``) of the pairs another text, of the kind ``mismatch_kind``.

    ``uniform``
        Any other distinct text, all equally likely.
    ``sibling``
        The text of a cell of a sibling type: one that shares a direct parent in the Cell Ontology.
        The share is of the cells that have a sibling among the pairs; all others stay clean.
    ``donor``
        In a share of the donors, two of the cell types have changed labels: each cell of the one gets
        the text of a cell of the other. Donors of one type, and cells without a donor, stay clean.

    The text always changes, and with it goes its reliability. ``clean`` is False where it did.

    Parameters
    ----------
    parents
        Cell type to its direct parents, for ``sibling``; by default from the bundled Cell Ontology.

    Returns
    -------
    tuple
        The pairs, and facts: kind, share asked for, number of pairs that could be and were changed.

    Raises
    ------
    TrainingError
        No pair can be changed.
    """
    rng = np.random.default_rng([config.noise_seed, 1])
    kinds = {"uniform": _uniform, "sibling": _sibling, "donor": _donor}
    text = pairs.text.copy()
    if config.mismatch_kind == "sibling":
        parents = parents_of_types(pairs.cell_types) if parents is None else parents
    eligible = kinds[config.mismatch_kind](pairs, text, config.mismatch, rng, parents or {})
    if config.mismatch and not eligible:
        raise TrainingError(
            f"mismatch_kind = '{config.mismatch_kind}'",
            found="no pair that could get another text that way",
            expected=_NEEDED[config.mismatch_kind],
            fix="Choose another mismatch_kind, or set mismatch to 0.",
        )
    changed = text != pairs.text
    reliability = np.ones(len(pairs.texts), dtype=np.float32)
    reliability[pairs.text[::-1]] = pairs.prior[::-1]  # of each text's first pair
    prior = np.where(changed, reliability[text], pairs.prior)
    facts = {
        "mismatch_kind": config.mismatch_kind,
        "mismatch_asked": config.mismatch,
        "mismatch_eligible": eligible,
        "mismatched": int(changed.sum()),
    }
    return replace(pairs, text=text, prior=prior, clean=pairs.clean & ~changed), facts


_NEEDED = {
    "uniform": "at least two distinct texts",
    "sibling": "cell types that share a parent in the Cell Ontology and have different texts",
    "donor": "a donor with cells of two types that have different texts",
}


def parents_of_types(cell_types: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return cell type to its direct parents in the bundled Cell Ontology; none for unknown names."""
    by_label = {term.label.casefold(): term.parents for term in bundled("cl").terms()}
    return {name: by_label.get(name.casefold(), ()) for name in cell_types}


def _chosen(eligible: _Ints, share: float, rng: np.random.Generator) -> _Ints:
    """Return a random share of some pairs, to the nearest whole number, ascending."""
    return np.sort(rng.permutation(eligible)[: round(share * len(eligible))])


def _uniform(
    pairs: Pairs, text: _Ints, share: float, rng: np.random.Generator, _: Mapping[str, Any]
) -> int:
    present = np.unique(pairs.text)
    if len(present) < 2:
        return 0
    at = _chosen(np.arange(len(pairs)), share, rng)
    own = np.searchsorted(present, pairs.text[at])
    text[at] = present[(own + rng.integers(1, len(present), len(at))) % len(present)]
    return len(pairs)


def _sibling(
    pairs: Pairs,
    text: _Ints,
    share: float,
    rng: np.random.Generator,
    parents: Mapping[str, Iterable[str]],
) -> int:
    above = [frozenset(parents.get(name, ())) for name in pairs.cell_types]
    members = [np.flatnonzero(pairs.cell_type == number) for number in range(len(above))]
    eligible = 0
    for number, cells in enumerate(members):
        kin = [
            m for other, m in enumerate(members) if other != number and above[other] & above[number]
        ]
        # Every sibling type is as likely as the next, however many cells it has.
        kin = [m for m in kin if len(m)]
        changeable = _differing(pairs.text, cells, kin)
        eligible += len(changeable)
        left = _chosen(changeable, share, rng)
        for _ in range(_TRIES):
            if not len(left):
                break
            text[left] = _drawn(pairs.text, len(left), kin, rng)
            left = left[text[left] == pairs.text[left]]
        for at in left:  # hardly any kin has another text: look for those that do
            there = np.concatenate([pairs.text[k] for k in kin])
            text[at] = rng.choice(there[there != pairs.text[at]])
    return eligible


def _donor(
    pairs: Pairs, text: _Ints, share: float, rng: np.random.Generator, _: Mapping[str, Any]
) -> int:
    able, eligible = [], 0
    known = np.flatnonzero(pairs.donor >= 0)
    known = known[np.argsort(pairs.donor[known], kind="stable")]
    starts = np.flatnonzero(np.diff(pairs.donor[known], prepend=-1))
    for cells in np.split(known, starts[1:]):
        types = [cells[pairs.cell_type[cells] == t] for t in np.unique(pairs.cell_type[cells])]
        two = [
            (a, b)
            for n, a in enumerate(types)
            for b in types[n + 1 :]
            if not np.intersect1d(pairs.text[a], pairs.text[b]).size
        ]
        if two:
            able.append(two)
            eligible += len(cells)
    for number in _chosen(np.arange(len(able)), share, rng):
        a, b = able[number][rng.integers(len(able[number]))]
        text[a] = pairs.text[rng.choice(b, len(a))]
        text[b] = pairs.text[rng.choice(a, len(b))]
    return eligible


def _differing(text: _Ints, cells: _Ints, kin: list[_Ints]) -> _Ints:
    """Return those cells for which some kin has another text."""
    found = np.unique(np.concatenate([text[k] for k in kin])) if kin else np.zeros(0, np.int64)
    able = np.full(len(cells), len(found) > 0)
    if len(found) == 1:
        able = text[cells] != found[0]
    changeable: _Ints = cells[able]
    return changeable


def _drawn(text: _Ints, n: int, kin: list[_Ints], rng: np.random.Generator) -> _Ints:
    """Return int64 [n]: texts of random cells of random kin types."""
    sizes = np.array([len(k) for k in kin])
    starts = np.cumsum(sizes) - sizes
    which = rng.integers(len(kin), size=n)
    cells = np.concatenate(kin)[starts[which] + rng.integers(sizes[which])]
    drawn: _Ints = text[cells]
    return drawn


# --- expression --------------------------------------------------------------------------------


def corrupt(pairs: Pairs, config: TrainConfig) -> tuple[Pairs, dict[str, Any]]:
    """Shuffle a share (``expression_noise``) of each cell's non-zero values among their genes.

    The paper trains with "30 % value noise" and does not define it. Here a random share of a cell's
    non-zero values change places with each other. A cell keeps its total, its number of genes and
    its bins; which gene has which is wrong. Of counts, most of which are 1, fewer than that share
    differ afterwards: the facts say how many.

    The new values stand in memory, 4 bytes each; where they are stays in the mapped files. What says
    which cells were trained on (``seen_cells``) must be made from the pairs as they were.

    Returns
    -------
    tuple
        The pairs, and facts: share asked for, non-zero values, how many moved and how many differ.
    """
    facts = {
        "expression_noise_asked": config.expression_noise,
        "values": 0,
        "moved": 0,
        "differ": 0,
    }
    matrices = []
    for number, cells in enumerate(pairs.matrices):
        rng = np.random.default_rng([config.noise_seed, 2, number])
        rows = np.unique(pairs.row[pairs.dataset == number])
        matrix = cells.matrix
        values = np.array(matrix.data, dtype=np.float32)
        for piece in _pieces(matrix.indptr, rows):
            at, row = _entries(matrix.indptr, piece)
            moved = rng.random(len(at)) < config.expression_noise
            at, row = at[moved], row[moved]
            # Entries stand in order of their cell; sorted by cell and chance they are its shuffle.
            shuffled = at[np.lexsort((rng.random(len(at)), row))]
            before = np.asarray(matrix.data[at])
            values[at] = matrix.data[shuffled]
            facts["values"] += len(moved)
            facts["moved"] += len(at)
            facts["differ"] += int((values[at] != before).sum())
        noisy = sparse.csr_matrix((values, matrix.indices, matrix.indptr), shape=matrix.shape)
        matrices.append(replace(cells, matrix=noisy))
    return replace(pairs, matrices=tuple(matrices)), facts


def _pieces(indptr: npt.NDArray[Any], rows: _Ints) -> Iterable[_Ints]:
    """Cut rows into pieces of about four million values."""
    ends = np.cumsum(indptr[rows + 1] - indptr[rows], dtype=np.int64)
    cuts = np.flatnonzero(np.diff(ends // _VALUES_AT_ONCE, prepend=0))
    return [piece for piece in np.split(rows, cuts) if len(piece)]


def _entries(indptr: npt.NDArray[Any], rows: _Ints) -> tuple[_Ints, _Ints]:
    """Return the places of the values of some rows, and the row of each, as 0, 1, ..."""
    begins = indptr[rows].astype(np.int64)
    counts = indptr[rows + 1].astype(np.int64) - begins
    row = np.repeat(np.arange(len(rows)), counts)
    first = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) - first[row] + begins[row], row
