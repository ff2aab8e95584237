"""Zero-shot scores smoothed over the neighbour graph of the cells."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from okrcell.corpus.shards import CellMatrix
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.refine import graph_basis, neighbor_graph, refine_scores, smoother

SEEDS = st.integers(0, 10_000)


def two_clusters(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 2
    return truth, (6.0 * truth[:, None] + rng.normal(size=(n, 5))).astype(np.float32)


def noisy_scores(truth: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.eye(2)[truth] + np.random.default_rng(seed).normal(scale=0.8, size=(len(truth), 2))


def solved_densely(scores: np.ndarray, cells: np.ndarray, k: int, strength: float) -> np.ndarray:
    distance = np.linalg.norm(cells[:, None] - cells[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    weights = np.zeros_like(distance)
    for i, row in enumerate(distance):
        weights[i, np.argsort(row)[:k]] = 1
    weights = (weights + weights.T) / 2
    laplacian = np.eye(len(cells)) - weights / weights.sum(axis=1, keepdims=True)
    return np.linalg.solve(np.eye(len(cells)) + strength * laplacian, scores)


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.integers(1, 20), st.floats(0.01, 50))
def test_it_solves_the_stated_system(seed: int, k: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    cells, scores = rng.normal(size=(21, 4)), rng.normal(size=(21, 3))
    np.testing.assert_allclose(
        refine_scores(scores, cells, k=k, strength=strength),
        solved_densely(scores, cells, k, strength),
        atol=1e-5,
    )


def test_it_minimises_the_stated_objective() -> None:
    truth, cells = two_clusters(60)
    scores = noisy_scores(truth)
    graph = neighbor_graph(cells, 15).toarray()

    def cost(f: np.ndarray) -> float:
        apart = ((f[:, None] - f[None]) ** 2).sum(axis=2)
        own = (graph.sum(axis=1)[:, None] * (f - scores) ** 2).sum()
        return float(own + 2.0 / 2 * (graph * apart).sum())

    best = refine_scores(scores, cells, strength=2.0)
    rng = np.random.default_rng(0)
    assert all(cost(best) < cost(best + 0.01 * rng.normal(size=best.shape)) for _ in range(20))


@given(SEEDS)
@settings(deadline=None, max_examples=10)
def test_strength_0_gives_the_scores_back(seed: int) -> None:
    truth, cells = two_clusters(30, seed)
    scores = noisy_scores(truth, seed)
    np.testing.assert_array_equal(refine_scores(scores, cells, strength=0), scores)


@given(st.floats(-1e3, 1e3), st.floats(0, 100), SEEDS)
@settings(deadline=None, max_examples=20)
def test_constant_scores_stay(value: float, strength: float, seed: int) -> None:
    cells = two_clusters(30, seed)[1]
    scores = np.tile([value, -value, 0.0], (30, 1))
    np.testing.assert_allclose(refine_scores(scores, cells, strength=strength), scores, rtol=1e-12)


@given(SEEDS)
@settings(deadline=None, max_examples=10)
def test_the_order_of_cells_and_candidates_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, cells = two_clusters(50, seed)
    scores = noisy_scores(truth, seed)
    rows, columns = rng.permutation(50), rng.permutation(2)
    refined = refine_scores(scores, cells)
    again = refine_scores(scores[rows][:, columns], cells[rows])
    np.testing.assert_allclose(again, refined[rows][:, columns], atol=1e-6)


@given(SEEDS, st.floats(0.1, 10), st.floats(-5, 5))
@settings(deadline=None, max_examples=10)
def test_it_is_linear_in_the_scores(seed: int, scale: float, shift: float) -> None:
    truth, cells = two_clusters(40, seed)
    scores = noisy_scores(truth, seed)
    moved = refine_scores(scale * scores + shift, cells)
    np.testing.assert_allclose(moved, scale * refine_scores(scores, cells) + shift, atol=1e-5)


@given(SEEDS, st.floats(0.01, 100))
@settings(deadline=None, max_examples=10)
def test_scores_stay_within_the_range_of_each_candidate(seed: int, strength: float) -> None:
    truth, cells = two_clusters(40, seed)
    scores = noisy_scores(truth, seed)
    refined = refine_scores(scores, cells, strength=strength)
    assert (refined >= scores.min(axis=0) - 1e-6).all()
    assert (refined <= scores.max(axis=0) + 1e-6).all()


@pytest.mark.parametrize("seed", range(5))
def test_noisy_labels_of_two_clear_clusters_get_better(seed: int) -> None:
    truth, cells = two_clusters(seed=seed)
    scores = noisy_scores(truth, seed)
    before = (scores.argmax(axis=1) == truth).mean()
    after = (refine_scores(scores, cells).argmax(axis=1) == truth).mean()
    strongly = (refine_scores(scores, cells, strength=10).argmax(axis=1) == truth).mean()
    assert before < 0.9 < after <= strongly
    assert strongly > 0.98


def test_more_candidates_than_a_block_are_solved_alike() -> None:
    cells = two_clusters(40)[1]
    scores = np.random.default_rng(0).normal(size=(40, 300))
    refined = refine_scores(scores, cells)
    for column in (0, 127, 128, 299):
        alone = refine_scores(scores[:, [column]], cells)
        np.testing.assert_allclose(refined[:, [column]], alone, atol=1e-6)


def test_one_graph_serves_many_sets_of_scores() -> None:
    truth, cells = two_clusters(40)
    smooth = smoother(cells, k=7, strength=2.0)
    for seed in (0, 1):
        scores = noisy_scores(truth, seed)
        np.testing.assert_array_equal(
            smooth(scores), refine_scores(scores, cells, k=7, strength=2.0)
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_type_of_the_scores_stays(dtype: type) -> None:
    truth, cells = two_clusters(40)
    scores = noisy_scores(truth)
    refined = refine_scores(scores.astype(dtype), cells)
    assert refined.dtype == dtype
    np.testing.assert_allclose(refined, refine_scores(scores, cells), atol=1e-5)


def test_equal_cells_are_neighbours_and_none_of_itself() -> None:
    cells = np.zeros((30, 3))
    graph = neighbor_graph(cells, 5)
    assert graph.diagonal().sum() == 0
    assert (graph.sum(axis=1) >= 2.5).all()
    refined = refine_scores(np.random.default_rng(0).normal(size=(30, 2)), cells, strength=10)
    assert np.isfinite(refined).all()


def test_a_far_cell_keeps_more_of_its_own_score_than_none() -> None:
    cells = np.vstack([np.random.default_rng(0).normal(size=(20, 2)), [[1e6, 1e6]]])
    scores = np.vstack([np.zeros((20, 1)), [[1.0]]])
    refined = refine_scores(scores, cells, k=5)
    assert refined.argmax() == 20
    assert refined[20] >= 0.5


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_fewer_cells_than_neighbours(n: int) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(n, 3)).astype(np.float32)
    refined = refine_scores(scores, rng.normal(size=(n, 4)), k=15)
    assert refined.shape == (n, 3)
    assert np.isfinite(refined).all()
    if n < 2:
        np.testing.assert_array_equal(refined, scores)


def test_the_input_is_not_changed() -> None:
    truth, cells = two_clusters(20)
    scores = noisy_scores(truth)
    before = scores.copy()
    refine_scores(scores, cells)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize(("k", "strength"), [(0, 1.0), (5, -1.0), (5, np.nan), (5, np.inf)])
def test_impossible_settings_are_refused(k: int, strength: float) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        refine_scores(np.zeros((4, 2)), np.zeros((4, 2)), k=k, strength=strength)


def test_scores_of_other_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows of scores for 4 cells"):
        refine_scores(np.zeros((3, 2)), np.zeros((4, 2)))


# --- basis -----------------------------------------------------------------------------------


def make_data(n: int = 120, n_genes: int = 70) -> EvalData:
    rng = np.random.default_rng(0)
    return EvalData(
        dataset="toy",
        matrix=CellMatrix(
            sparse.csr_matrix(rng.poisson(2, size=(n, n_genes)).astype(np.float32)),
            tuple(f"ENSG{i:011d}" for i in range(n_genes)),
            "counts",
        ),
        cell_uids=np.asarray([f"toy:{i}" for i in range(n)]),
        labels=np.where(np.arange(n) % 3, "a", "b"),
        batches=np.full(n, ""),
        donors=np.full(n, ""),
        splits=np.where(np.arange(n) % 2, "test", "train"),
        profile_ids=np.full(n, "p"),
        term_ids={},
        descriptions={"p": "text"},
    )


def test_the_basis_sees_test_cells_alone_and_no_label() -> None:
    data = make_data()
    basis = graph_basis(data)
    assert basis.shape == (60, 50)
    assert basis.dtype == np.float32
    counts = data.matrix.matrix.toarray()
    counts[data.train] = 7
    other = dataclasses.replace(
        data,
        matrix=CellMatrix(sparse.csr_matrix(counts), data.matrix.gene_ids, "counts"),
        labels=np.full(120, "a"),
    )
    np.testing.assert_array_equal(graph_basis(other), basis)


@pytest.mark.parametrize(("n", "columns"), [(2, 1), (8, 3)])
def test_the_basis_of_few_cells(n: int, columns: int) -> None:
    basis = graph_basis(make_data(n))
    assert basis.shape == (n // 2, columns)
    assert np.isfinite(basis).all()
