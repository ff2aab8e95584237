"""Metrics against scikit-learn, scanpy and cases small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from okrcell.evaluate.annotation import probe_linear, probe_neighbors
from okrcell.evaluate.clustering import ari_of, clustering, leiden, nmi_of
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.few_shot import episodes, few_shot, nearest_prototype
from okrcell.evaluate.intervals import (
    MIN_DONORS,
    Bootstrap,
    accuracy_of,
    confusions,
    interval,
    macro_f1_of,
    weighted_mean,
    weighted_median,
)
from okrcell.evaluate.libraries import scanpy
from okrcell.evaluate.retrieval import Ranks, rank_pairs
from okrcell.evaluate.rows import measured
from okrcell.evaluate.zero_shot import credit_matrix

SMALL = EvaluateConfig(bootstrap=100, seeds=2)


@pytest.fixture
def blobs() -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Three well separated groups of 30 cells, float32 [90, 8]."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], 30)
    centres = 20 * np.eye(3, 8)
    cells = centres[np.repeat(np.arange(3), 30)] + rng.normal(size=(90, 8))
    return cells.astype(np.float32), labels


# --- intervals -------------------------------------------------------------------------------


def test_confusion_metrics_equal_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(4, size=200), rng.integers(5, size=200)
    table = confusions(truth, predicted, 5)(np.ones((1, 200)))
    present = np.unique(truth)
    assert accuracy_of(table)[0] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert macro_f1_of(table)[0] == pytest.approx(
        metrics.f1_score(truth, predicted, labels=present, average="macro")
    )


def test_weights_count_like_repeated_cells() -> None:
    rng = np.random.default_rng(2)
    truth, predicted = rng.integers(3, size=50), rng.integers(3, size=50)
    weights = rng.integers(0, 4, size=(1, 50)).astype(float)
    again = np.repeat(np.arange(50), weights[0].astype(int))
    table = confusions(truth, predicted, 3)(weights)
    assert accuracy_of(table)[0] == pytest.approx((truth[again] == predicted[again]).mean())
    values = rng.normal(size=50)
    assert weighted_mean(values)(weights)[0] == pytest.approx(values[again].mean())
    assert weighted_median(values)(weights)[0] in values[again]


def test_interval_of_a_mean_has_the_width_of_the_normal_approximation() -> None:
    values = np.random.default_rng(3).normal(size=400)
    low, high = interval(Bootstrap(400, 2000, 0).apply(weighted_mean(values)))
    expected = 2 * 1.96 * values.std() / 20
    assert high - low == pytest.approx(expected, rel=0.1)
    assert low < values.mean() < high


def test_intervals_over_donors_are_wider_when_donors_differ() -> None:
    donors = np.repeat([f"d{i}" for i in range(8)], 50)
    values = np.repeat(np.random.default_rng(4).normal(size=8), 50)
    over_donors = Bootstrap.over(donors, 500, 0)
    over_cells = Bootstrap.over(np.full(400, ""), 500, 0)
    assert (over_donors.unit, over_cells.unit) == ("donors", "cells")

    def width(boot: Bootstrap) -> float:
        low, high = interval(boot.apply(weighted_mean(values)))
        return high - low

    assert width(over_donors) > 3 * width(over_cells)


def test_few_donors_are_no_basis_for_an_interval() -> None:
    donors = np.repeat([f"d{i}" for i in range(MIN_DONORS - 1)], 10)
    assert Bootstrap.over(donors, 10, 0).unit == "cells"


def test_the_same_seed_gives_the_same_resamples() -> None:
    values = np.arange(30.0)
    first, second = (Bootstrap(30, 200, 7).apply(weighted_mean(values)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_never_right_does_not_mean_certainly_zero() -> None:
    row = measured(
        "zero_shot", "m", "accuracy (all)", weighted_mean(np.zeros(20)), Bootstrap(20, 100, 0)
    )
    assert (row.value, row.ci_low) == (0.0, 0.0)
    assert row.ci_high == pytest.approx(1 - 0.025 ** (1 / 20))  # Clopper-Pearson


# --- clustering ------------------------------------------------------------------------------


def test_ari_and_nmi_of_tables_equal_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    for n_clusters in (1, 3, 7):
        truth, found = rng.integers(4, size=120), rng.integers(n_clusters, size=120)
        table = metrics.cluster.contingency_matrix(truth, found).astype(float)[None]
        assert ari_of(table)[0] == pytest.approx(metrics.adjusted_rand_score(truth, found))
        assert nmi_of(table)[0] == pytest.approx(metrics.normalized_mutual_info_score(truth, found))


def test_leiden_is_scanpys(blobs: tuple[NDArray[np.float32], NDArray[np.str_]]) -> None:
    from anndata import AnnData

    cells = blobs[0] + np.random.default_rng(0).normal(0, 3, size=(90, 8)).astype(np.float32)
    resolutions = (0.1, 0.3, 1.0)
    ours = leiden(cells, resolutions, [3], 15)[0]
    sc = scanpy()
    data = AnnData(obsm={"e": cells})
    sc.pp.neighbors(data, n_neighbors=15, use_rep="e", random_state=3)
    for found, resolution in zip(ours, resolutions, strict=True):
        sc.tl.leiden(
            data,
            resolution=resolution,
            flavor="igraph",
            n_iterations=2,
            directed=False,
            random_state=3,
        )
        assert metrics.adjusted_rand_score(data.obs["leiden"], found) == pytest.approx(1.0)


def test_clear_groups_cluster_perfectly(
    blobs: tuple[NDArray[np.float32], NDArray[np.str_]],
) -> None:
    cells, labels = blobs
    result = clustering("m", cells, labels, Bootstrap(90, 100, 0), SMALL)
    rows = {row.metric: row for row in result.rows}
    for how in ("best", "label-free"):
        for metric in ("ari", "ami", "nmi"):
            assert rows[f"{metric} ({how})"].value == pytest.approx(1.0)
        mean = np.mean([rows[f"{m} ({how})"].value for m in ("ari", "nmi", "asw_cell")])
        assert rows[f"avg_bio ({how})"].value == pytest.approx(mean)
    expected = (metrics.silhouette_score(cells, labels) + 1) / 2
    assert rows["asw_cell (best)"].value == pytest.approx(expected, abs=1e-5)
    assert rows["ari (best)"].seed == "0,1"


def test_noise_clusters_at_chance_and_the_interval_holds_the_value() -> None:
    rng = np.random.default_rng(6)
    cells = rng.normal(size=(120, 10)).astype(np.float32)
    labels = rng.choice(["a", "b", "c", "d"], size=120)
    rows = {
        row.metric: row
        for row in clustering("m", cells, labels, Bootstrap(120, 100, 0), SMALL).rows
    }
    assert abs(rows["ari (label-free)"].value) < 0.1
    for row in rows.values():
        assert row.ci_low <= row.value <= row.ci_high


# --- annotation and few-shot -----------------------------------------------------------------


def test_linear_probe_in_fewer_dimensions_gives_the_same_answers() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(7)
    train, test = (rng.normal(3, 2, size=(n, 60)).astype(np.float32) for n in (25, 200))
    labels = rng.choice(["x", "y", "z"], size=25)
    centre, scale = train.mean(axis=0), (train - train.mean(axis=0)).std()
    direct = LogisticRegression(max_iter=2000).fit((train - centre) / scale, labels)
    expected = direct.predict((test - centre) / scale)
    assert (probe_linear(train, labels, test, 0) == expected).mean() > 0.99


def test_linear_probe_does_not_mind_scale_and_rotation() -> None:
    rng = np.random.default_rng(10)
    train, test = (rng.normal(size=(n, 12)).astype(np.float32) for n in (80, 100))
    labels = np.where(train[:, 0] > 0, "x", "y")
    turn = (np.linalg.qr(rng.normal(size=(12, 12)))[0] * 1000).astype(np.float32)
    plain = probe_linear(train, labels, test, 0)
    assert (probe_linear(train @ turn, labels, test @ turn, 0) == plain).mean() > 0.97


def test_probes_survive_one_type_and_two_cells() -> None:
    cells = np.asarray([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    assert probe_linear(cells, np.asarray(["a", "a"]), cells, 0).tolist() == ["a", "a"]
    assert probe_linear(cells, np.asarray(["a", "b"]), cells, 0).tolist() == ["a", "b"]
    assert probe_neighbors(cells, np.asarray(["a", "a"]), cells, 15).tolist() == ["a", "a"]


def test_episodes_are_disjoint_balanced_and_drop_small_types() -> None:
    labels = np.asarray(["a"] * 12 + ["b"] * 10 + ["c"] * 5)
    drawn, dropped = episodes(labels, 5, 20, 0)
    assert dropped == ["c"]
    assert len(drawn) == 20
    for episode in drawn:
        assert not set(episode.support) & set(episode.query)
        assert sorted(labels[episode.support]) == ["a"] * 5 + ["b"] * 5
        assert sorted(labels[episode.query]) == ["a"] * 7 + ["b"] * 5


def test_few_shot_is_perfect_on_clear_groups(
    blobs: tuple[NDArray[np.float32], NDArray[np.str_]],
) -> None:
    result = few_shot("m", *blobs, EvaluateConfig(shots=(1, 40)))
    assert {row.value for row in result.rows} == {1.0}
    assert all("K=1" in row.metric for row in result.rows)
    assert "K = 40" in result.notes[0]


def test_nearest_prototype_ignores_the_length_of_a_query() -> None:
    support = np.eye(2, dtype=np.float32)
    query = np.asarray([[9.0, 1.0], [0.1, 0.2]], dtype=np.float32)
    assert nearest_prototype(support, np.asarray(["a", "b"]), query).tolist() == ["a", "b"]


# --- zero-shot -------------------------------------------------------------------------------


def test_ontology_credit_by_hand() -> None:
    types = [
        "T cell",
        "CD4-positive, alpha-beta T cell",
        "CD8-positive, alpha-beta T cell",
        "unnamed",
    ]
    terms = dict(zip(types, ["CL:0000084", "CL:0000624", "CL:0000625", ""], strict=True))
    credit = credit_matrix(types, terms)
    np.testing.assert_allclose(np.diag(credit), 1.0)
    np.testing.assert_allclose(credit, credit.T)
    assert credit[1, 2] == pytest.approx(1 / 3)  # siblings below "alpha-beta T cell"
    assert credit[0, 1] == pytest.approx(1 / 4)  # three steps down from T cell
    assert credit[3, :3].tolist() == [0.0, 0.0, 0.0]


# --- retrieval -------------------------------------------------------------------------------


def test_retrieval_without_duplicates_equals_a_sorted_list() -> None:
    rng = np.random.default_rng(8)
    cells, texts = (rng.normal(size=(30, 6)).astype(np.float32) for _ in range(2))
    scores = cells @ texts.T
    by_hand = np.asarray([(scores[i] > scores[i, i]).sum() + 1 for i in range(30)])
    ranks = rank_pairs(cells, texts, np.arange(30))
    for form in ("strict", "graded"):
        np.testing.assert_allclose(ranks[f"cell to text, {form}"].expected, by_hand)
    back = np.asarray([(scores[:, i] > scores[i, i]).sum() + 1 for i in range(30)])
    for form in ("strict", "graded"):
        np.testing.assert_allclose(ranks[f"text to cell, {form}"].expected, back)
    for k in (1, 5, 10):
        assert ranks["cell to text, strict"].recall(k).mean() == pytest.approx(
            (by_hand <= k).mean()
        )


def test_perfect_retrieval_reaches_the_duplicate_ceiling_and_no_more() -> None:
    text_ids = np.asarray([0, 0, 0, 1, 2])
    texts = np.eye(3, dtype=np.float32)
    ranks = rank_pairs(texts[text_ids], texts, text_ids)
    for way in ("cell to text", "text to cell"):
        strict = ranks[f"{way}, strict"]
        np.testing.assert_allclose(strict.recall(1), [1 / 3, 1 / 3, 1 / 3, 1, 1])
        np.testing.assert_allclose(strict.expected, [2, 2, 2, 1, 1])
        np.testing.assert_allclose(ranks[f"{way}, graded"].recall(1), 1.0)


def test_equal_scores_count_by_expectation_not_by_position() -> None:
    cells = np.ones((6, 2), dtype=np.float32)
    ranks = rank_pairs(cells, np.ones((6, 2), dtype=np.float32), np.arange(6))
    np.testing.assert_allclose(ranks["cell to text, strict"].recall(2), 2 / 6)
    np.testing.assert_allclose(ranks["cell to text, strict"].expected, 3.5)


def test_graded_recall_with_ties_by_hand() -> None:
    ranks = Ranks(*(np.asarray([value]) for value in (1, 2, 2)))
    # Four tied items, two right, behind one wrong: at k = 2 one draw, at k = 3 two draws.
    np.testing.assert_allclose([ranks.recall(k)[0] for k in (1, 2, 3, 4)], [0, 1 / 2, 5 / 6, 1])


def test_retrieval_does_not_depend_on_order() -> None:
    rng = np.random.default_rng(9)
    cells = rng.normal(size=(300, 6)).astype(np.float32)
    texts, text_ids = rng.normal(size=(12, 6)).astype(np.float32), rng.integers(12, size=300)
    order = rng.permutation(300)
    plain, mixed = (
        rank_pairs(cells, texts, text_ids),
        rank_pairs(cells[order], texts, text_ids[order]),
    )
    for way, ranks in plain.items():
        np.testing.assert_allclose(ranks.expected[order], mixed[way].expected)
