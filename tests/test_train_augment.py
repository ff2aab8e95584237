"""Cells thinned and stripped of genes: by the right shares, and the same in any batch."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from okrcell.corpus.shards import CellMatrix
from okrcell.train.augment import augmented
from okrcell.train.config import TrainConfig

N_CELLS, N_GENES = 60, 400


def made(values: str = "counts", mean: float = 3.0) -> CellMatrix:
    rng = np.random.default_rng(0)
    counts = rng.poisson(mean, (N_CELLS, N_GENES)).astype(np.float32)
    ids = tuple(f"ENSG{number:011d}" for number in range(N_GENES))
    return CellMatrix(sparse.csr_matrix(counts), ids, values)


def kept_shares(before: CellMatrix, after: CellMatrix) -> np.ndarray:
    totals = [np.asarray(cells.matrix.sum(axis=1)).ravel() for cells in (after, before)]
    return totals[0] / totals[1]


ROWS = np.arange(N_CELLS)


def test_without_a_key_cells_are_left_as_they_are():
    cells = made()
    found, rows = augmented(cells, ROWS, ROWS, 7, TrainConfig())
    assert found is cells
    assert rows is ROWS


@pytest.mark.parametrize("mean", [3.0, 90.0])  # few molecules one by one, many by approximation
def test_cells_keep_a_share_of_their_molecules_that_is_even_on_a_log_scale(mean: float):
    cells = made(mean=mean)
    found, rows = augmented(cells, ROWS, ROWS, 7, TrainConfig(thinning=0.1))
    assert np.array_equal(rows, ROWS)
    left, whole = found.matrix.toarray(), cells.matrix.toarray()
    assert (left == np.rint(left)).all()
    assert ((left >= 0) & (left <= whole)).all()
    exponents = np.log(kept_shares(cells, found)) / np.log(0.1)
    assert -0.05 < exponents.min() < 0.15
    assert 0.85 < exponents.max() < 1.05
    assert exponents.mean() == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("n", [1.0, 5.0, 60.0])
def test_what_is_left_of_a_count_is_binomial(n: float):
    counts = np.full((1, 40_000), n, dtype=np.float32)
    ids = tuple(str(number) for number in range(counts.shape[1]))
    cells = CellMatrix(sparse.csr_matrix(counts), ids, "counts")
    found, _ = augmented(cells, np.array([0]), np.array([3]), 5, TrainConfig(thinning=0.3))
    left = found.matrix.toarray()[0]
    share = left.mean() / n
    assert 0.3 <= share <= 1.0
    assert left.var() == pytest.approx(n * share * (1 - share), rel=0.05)


def test_a_share_of_the_genes_is_lost_and_the_others_stay():
    cells = made()
    found, _ = augmented(cells, ROWS, ROWS, 7, TrainConfig(gene_dropout=0.8))
    left, whole = found.matrix.toarray(), cells.matrix.toarray()
    assert ((left == whole) | (left == 0)).all()
    lost = ((left == 0) & (whole > 0)).sum(axis=1) / (whole > 0).sum(axis=1)
    assert lost.min() < 0.12
    assert 0.68 < lost.max() < 0.88


def test_log_values_are_not_thinned():
    cells = made("lognorm")
    found, _ = augmented(cells, ROWS, ROWS, 7, TrainConfig(thinning=0.1))
    assert found is cells


def test_parts_of_molecules_stay_or_go_whole():
    cells = made()
    broken = CellMatrix(cells.matrix + 0.25 * (cells.matrix > 0), cells.gene_ids, "counts")
    found, _ = augmented(broken, ROWS, ROWS, 7, TrainConfig(thinning=0.1))
    left = found.matrix.toarray()
    assert set(np.unique(left % 1)) == {0.0, 0.25}
    assert (left <= broken.matrix.toarray()).all()


def test_neither_batch_nor_order_matters_and_every_epoch_is_another():
    cells, config = made(), TrainConfig(thinning=0.2, gene_dropout=0.5)
    whole, _ = augmented(cells, ROWS, ROWS, 7, config)
    some = np.array([40, 3, 17])
    part, _ = augmented(cells, some, some, 7, config)
    assert np.array_equal(part.matrix.toarray(), whole.matrix.toarray()[some])
    other, _ = augmented(cells, ROWS, ROWS, 8, config)
    assert not np.array_equal(other.matrix.toarray(), whole.matrix.toarray())
