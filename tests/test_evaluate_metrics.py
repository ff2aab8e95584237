"""Metrics against scikit-learn, scanpy and cases small enough to work out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from sklearn import metrics

from okrcell.corpus.shards import CellMatrix
from okrcell.evaluate.agreement import ami_of, ari_of, chance_information, contingency, nmi_of
from okrcell.evaluate.annotation import (
    annotation,
    choose_penalty,
    majority,
    probe_linear,
    probe_neighbors,
)
from okrcell.evaluate.clustering import clustering, communities, neighbour_graph, silhouettes
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.few_shot import episode_scores, episodes, few_shot, nearest_prototype
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
from okrcell.evaluate.methods import MethodOutput
from okrcell.evaluate.rows import TaskResult
from okrcell.evaluate.sampling import neighbour_sample, shares

SMALL = EvaluateConfig(bootstrap=100, seeds=2, resolutions=(0.2, 0.5, 1.0))


def asked(
    cells: NDArray[np.float32] | None,
    labels: NDArray[np.str_],
    splits: NDArray[np.str_] | str = "test",
    batches: NDArray[np.str_] | str = "",
    donors: NDArray[np.str_] | str = "",
) -> tuple[MethodOutput, EvalData]:
    """Return a method with these vectors, and the cells it is asked about."""
    n = len(labels)
    full = [np.full(n, x) if isinstance(x, str) else x for x in (batches, donors, splits)]
    data = EvalData(
        "toy",
        CellMatrix(sparse.csr_matrix((n, 1), dtype=np.float32), ("g",), "counts"),
        np.asarray([f"c{i:04d}" for i in range(n)]),
        labels,
        *full,
        np.full(n, ""),
        {},
        {},
    )
    return MethodOutput("m", cells, ""), data


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
    result = TaskResult()
    zero = weighted_mean(np.zeros(20))
    result.measure("zero_shot", "m", "accuracy (all)", zero, Bootstrap(20, 100, 0))
    (row,) = result.rows
    assert (row.value, row.ci_low) == (0.0, 0.0)
    assert row.ci_high == pytest.approx(1 - 0.025 ** (1 / 20))  # Clopper-Pearson


# --- the sample of cells -----------------------------------------------------------------------


def test_shares_are_those_of_the_largest_remainder() -> None:
    assert shares(np.asarray([50, 30, 20]), 10).tolist() == [5, 3, 2]
    assert shares(np.asarray([47, 33, 20]), 10).tolist() == [5, 3, 2]
    assert shares(np.asarray([98, 1, 1]), 10).tolist() == [8, 1, 1]  # one each, where there is room
    assert shares(np.asarray([5, 1, 9, 9]), 2).tolist() == [0, 0, 1, 1]
    assert shares(np.asarray([3, 2]), 9).tolist() == [3, 2]


def test_the_sample_keeps_types_and_batches_and_ignores_the_order_of_cells() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(["a", "b", "c"], p=[0.8, 0.19, 0.01], size=1000)
    batches = rng.choice(["x", "y"], size=1000)
    splits = rng.choice(["train", "test"], p=[0.3, 0.7], size=1000)
    data = asked(None, labels, splits, batches)[1]
    config = EvaluateConfig(max_cells=100)
    rows = neighbour_sample(data, config)
    assert len(rows) == len(set(rows)) == 100
    assert set(splits[rows]) == {"test"}
    pairs = {(labels[i], batches[i]) for i in data.test}
    assert {(labels[i], batches[i]) for i in rows} == pairs
    share = (labels[data.test] == "a").mean()
    assert (labels[rows] == "a").mean() == pytest.approx(share, abs=0.03)
    order = rng.permutation(1000)
    mixed = dataclasses.replace(
        data,
        cell_uids=data.cell_uids[order],
        labels=labels[order],
        batches=batches[order],
        splits=splits[order],
    )
    again = neighbour_sample(mixed, config)
    assert mixed.cell_uids[again].tolist() == data.cell_uids[rows].tolist()
    other = neighbour_sample(data, EvaluateConfig(max_cells=100, seed=1))
    assert set(other) != set(rows)
    assert sorted(neighbour_sample(data, EvaluateConfig())) == data.test.tolist()


# --- clustering --------------------------------------------------------------------------------


def test_agreement_of_tables_equals_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    for n_clusters in (1, 3, 7):
        truth, found = rng.integers(4, size=120), rng.integers(n_clusters, size=120)
        table = contingency(truth, found)(np.ones((1, 120)))
        np.testing.assert_array_equal(
            table[0], metrics.cluster.contingency_matrix(truth, found).astype(float)
        )
        chance = chance_information(table[0])
        assert ari_of(table)[0] == pytest.approx(metrics.adjusted_rand_score(truth, found))
        assert nmi_of(table)[0] == pytest.approx(metrics.normalized_mutual_info_score(truth, found))
        assert ami_of(table, chance)[0] == pytest.approx(
            metrics.adjusted_mutual_info_score(truth, found), abs=1e-9
        )


def test_agreement_by_hand() -> None:
    one = np.asarray([[[4.0]]])
    assert ari_of(one)[0] == nmi_of(one)[0] == ami_of(one, 0.0)[0] == 1.0  # one group, one type
    same = np.asarray([[[2.0, 0.0], [0.0, 2.0]]])
    assert ari_of(same)[0] == nmi_of(same)[0] == 1.0
    # Of four cells one is on the wrong side: 2 of 6 pairs are apart in one grouping only ...
    table = np.asarray([[[2.0, 0.0], [1.0, 1.0]]])
    both, rows, columns = 1, 2, 3  # pairs together in both, in the rows, in the columns
    expected = rows * columns / 6
    assert ari_of(table)[0] == pytest.approx((both - expected) / ((rows + columns) / 2 - expected))
    two = np.asarray([[[1.0, 0.0], [0.0, 1.0]]])  # two cells, each of its own type and cluster
    assert ari_of(two)[0] == 1.0


def test_draws_of_ami_are_those_of_the_exact_one() -> None:
    rng = np.random.default_rng(11)
    truth = rng.integers(5, size=300)
    found = np.where(rng.random(300) < 0.7, truth, rng.integers(6, size=300))
    tables = contingency(truth, found)
    boot = Bootstrap(300, 100, 0)
    chance = chance_information(tables(np.ones((1, 300)))[0])
    ours = boot.apply(lambda weights: ami_of(tables(weights), chance))
    exact = boot.apply(
        lambda weights: np.asarray(
            [
                metrics.adjusted_mutual_info_score(
                    np.repeat(truth, w.astype(int)), np.repeat(found, w.astype(int))
                )
                for w in weights
            ]
        )
    )
    np.testing.assert_allclose(ours, exact, atol=2e-3)
    assert ours.std() == pytest.approx(exact.std(), rel=0.02)


def test_silhouettes_equal_scikit_learn() -> None:
    rng = np.random.default_rng(12)
    cells = rng.normal(size=(60, 4))
    groupings = np.stack([rng.integers(k, size=60) for k in (1, 2, 5, 9)] + [np.arange(60)])
    groupings[3, 0] = 50  # a group of one
    found = silhouettes(metrics.pairwise_distances(cells), groupings)
    expected = [metrics.silhouette_score(cells, grouping) for grouping in groupings[1:4]]
    np.testing.assert_allclose(found[1:4], expected, atol=1e-12)
    assert np.isnan(found[[0, 4]]).all()  # one group; every cell its own


def test_leiden_is_scanpys_and_louvain_is_igraphs(
    blobs: tuple[NDArray[np.float32], NDArray[np.str_]],
) -> None:
    from anndata import AnnData

    cells = blobs[0] + np.random.default_rng(0).normal(0, 3, size=(90, 8)).astype(np.float32)
    resolutions = (0.1, 0.3, 1.0)
    graph = neighbour_graph(cells, 15, 3)
    ours = communities(graph, "leiden", resolutions, [3])[0]
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
    louvain = communities(graph, "louvain", (1.0,), [3, 3])
    np.testing.assert_array_equal(louvain[0], louvain[1])
    # No single cell can be moved to another cluster to raise the modularity: a local optimum.
    best = graph.modularity(louvain[0, 0].tolist(), weights="weight")
    for cell in range(0, 90, 10):
        for to in range(int(louvain.max()) + 1):
            moved = louvain[0, 0].copy()
            moved[cell] = to
            assert graph.modularity(moved.tolist(), weights="weight") <= best + 1e-9


def test_clear_groups_cluster_perfectly(
    blobs: tuple[NDArray[np.float32], NDArray[np.str_]],
) -> None:
    cells, labels = blobs
    result = clustering(*asked(cells, labels), SMALL)
    rows = {row.metric: row for row in result.rows}
    for how in ("best", "label-free", "best, Louvain", "label-free, Louvain"):
        for metric in ("ari", "ami", "nmi"):
            assert rows[f"{metric} ({how})"].value == pytest.approx(1.0)
        mean = np.mean([rows[f"{m} ({how})"].value for m in ("ari", "nmi", "asw_cell")])
        assert rows[f"avg_bio ({how})"].value == pytest.approx(mean)
        assert len(result.details[how]["resolution"]) == SMALL.seeds
        assert set(result.details[how]["n_clusters"]) == {3}
    expected = (metrics.silhouette_score(cells, labels) + 1) / 2
    assert rows["asw_cell (best)"].value == pytest.approx(expected, abs=1e-5)
    assert rows["ari (best)"].seed == "0,1"
    assert result.details["n_types"] == 3
    assert {len(draws) for draws in result.draws.values()} == {SMALL.bootstrap}


def test_noise_clusters_at_chance_and_the_interval_holds_the_value() -> None:
    rng = np.random.default_rng(6)
    cells = rng.normal(size=(120, 10)).astype(np.float32)
    labels = rng.choice(["a", "b", "c", "d"], size=120)
    result = clustering(*asked(cells, labels), SMALL)
    rows = {row.metric: row for row in result.rows}
    assert abs(rows["ari (label-free)"].value) < 0.1
    assert abs(rows["ami (label-free, Louvain)"].value) < 0.1
    for row in rows.values():
        assert row.ci_low <= row.value <= row.ci_high
        assert result.draws[row.metric].mean() == pytest.approx(row.value)


def test_clustering_ignores_the_order_of_cells() -> None:
    rng = np.random.default_rng(17)
    labels, batches = rng.choice(["a", "b", "c"], size=150), rng.choice(["x", "y"], size=150)
    cells = (rng.normal(size=(150, 5)) + 2 * (labels == "a")[:, None]).astype(np.float32)
    method, data = asked(cells, labels, batches=batches)
    config = EvaluateConfig(bootstrap=100, seeds=2, resolutions=(0.5, 1.0), max_cells=100)
    plain = clustering(method, data, config)
    assert plain.rows[0].n == 100
    order = rng.permutation(150)
    mixed = dataclasses.replace(
        data,
        cell_uids=data.cell_uids[order],
        labels=labels[order],
        batches=batches[order],
    )
    moved = clustering(dataclasses.replace(method, cells=cells[order]), mixed, config)
    assert moved.rows == plain.rows
    assert moved.details == plain.details


def test_clustering_of_one_type_of_two_cells_and_of_none(
    blobs: tuple[NDArray[np.float32], NDArray[np.str_]],
) -> None:
    cells, labels = blobs
    rows = {
        row.metric: row.value for row in clustering(*asked(cells, np.full(90, "a")), SMALL).rows
    }
    assert np.isnan(rows["asw_cell (best)"])
    assert np.isnan(rows["avg_bio (best)"])
    assert rows["nmi (label-free)"] == 0.0  # three clusters where one type is
    for method, data in (asked(cells[:2], labels[:2]), asked(None, labels)):
        result = clustering(method, data, SMALL)
        assert result.rows == []
        assert "skipped" in result.notes[0]


# --- annotation --------------------------------------------------------------------------------


@pytest.fixture
def learnt() -> tuple[MethodOutput, EvalData]:
    """Three overlapping types of 60 cells, a third each of train, validation and test."""
    rng = np.random.default_rng(13)
    labels = np.repeat(["a", "b", "c"], 60)
    cells = np.repeat(2 * np.eye(3, 6), 60, axis=0) + rng.normal(size=(180, 6))
    splits = np.tile(["train", "validation", "test"], 60)
    return asked(cells.astype(np.float32), labels, splits)


def test_annotation_scores_every_head_as_scikit_learn_does(
    learnt: tuple[MethodOutput, EvalData],
) -> None:
    method, data = learnt
    rng = np.random.default_rng(14)
    own = np.where(rng.random(180) < 0.8, data.labels, "elsewhere")
    seen: list[int] = []

    def finetune(given: EvalData, seed: int) -> NDArray[np.str_]:
        seen.append(seed)
        return given.labels[given.test][::-1].copy()

    full = dataclasses.replace(method, predicted=own, finetune=finetune)
    result = annotation(full, data, SMALL)
    rows = {row.metric: row.value for row in result.rows}
    truth = data.labels[data.test]
    assert rows["accuracy (own)"] == pytest.approx((own[data.test] == truth).mean())
    assert rows["macro_f1 (own)"] == pytest.approx(
        metrics.f1_score(truth, own[data.test], labels=["a", "b", "c"], average="macro")
    )
    assert rows["accuracy (fine-tuned)"] == pytest.approx((truth[::-1] == truth).mean())
    assert seen == [0]
    penalty = choose_penalty(method.cells, data, 0)
    assert method.cells is not None
    linear = probe_linear(
        method.cells[data.train],
        data.labels[data.train],
        method.cells[data.test],
        0,
        penalty=penalty,
    )
    assert rows["accuracy (linear)"] == pytest.approx((linear == truth).mean())
    assert result.details["head"] == "linear"
    table = result.details["confusion"]
    assert table["labels"] == ["a", "b", "c"]
    np.testing.assert_array_equal(
        table["matrix"], metrics.confusion_matrix(truth, linear, labels=["a", "b", "c"])
    )
    report = metrics.classification_report(truth, linear, output_dict=True)
    for line in result.details["per_class"]:
        assert line["f1"] == pytest.approx(report[line["type"]]["f1-score"])
        assert line["n"] == report[line["type"]]["support"]


def test_a_classifier_without_an_embedding_is_scored_and_shown(
    learnt: tuple[MethodOutput, EvalData],
) -> None:
    method, data = learnt
    only = dataclasses.replace(method, cells=None, predicted=data.labels)
    result = annotation(only, data, SMALL)
    heads = ("own", "chosen")
    assert {row.metric for row in result.rows} == {
        f"{metric} ({head})" for metric in ("accuracy", "macro_f1") for head in heads
    }
    assert {row.value for row in result.rows} == {1.0}
    assert result.details["head"] == "own"
    nothing = annotation(dataclasses.replace(method, cells=None), data, SMALL)
    assert nothing.rows == []
    assert nothing.details == {}
    assert "no classifier" in nothing.notes[0]


def test_the_penalty_is_chosen_on_validation_cells_only(
    learnt: tuple[MethodOutput, EvalData],
) -> None:
    method, data = learnt
    assert method.cells is not None
    chosen = choose_penalty(method.cells, data, 0)
    right = {}
    for c in (0.01, 0.1, 1.0, 10.0):
        found = probe_linear(
            method.cells[data.train],
            data.labels[data.train],
            method.cells[data.validation],
            0,
            penalty=c,
        )
        right[c] = (found == data.labels[data.validation]).mean()
    assert right[chosen] == max(right.values())
    labels = data.labels.copy()
    labels[data.test] = "a"  # what test cells are called changes nothing
    assert choose_penalty(method.cells, dataclasses.replace(data, labels=labels), 0) == chosen
    labels[data.validation] = "new"  # cells of types that were not trained on are no basis
    assert choose_penalty(method.cells, dataclasses.replace(data, labels=labels), 0) == 1.0


def test_the_head_that_stands_for_a_method_is_chosen_on_validation_cells(
    learnt: tuple[MethodOutput, EvalData],
) -> None:
    method, data = learnt
    predicted = data.labels.copy()
    predicted[data.validation] = np.roll(predicted[data.validation], 1)  # right on test cells only
    result = annotation(dataclasses.replace(method, predicted=predicted), data, SMALL)
    values = {row.metric: row.value for row in result.rows}
    assert values["accuracy (own)"] == 1.0
    assert result.details["chosen"] in {"linear", "knn"}
    assert values["accuracy (chosen)"] == values[f"accuracy ({result.details['chosen']})"]


def test_majority_and_unseen_types(learnt: tuple[MethodOutput, EvalData]) -> None:
    method, data = learnt
    labels = data.labels.copy()
    labels[data.test[:20]] = "new"
    some = dataclasses.replace(data, labels=labels)
    rows = {row.metric: row for row in majority(some, SMALL).rows}
    assert rows["accuracy (linear)"].n == 40  # cells of a type that train lacks are not asked about
    assert rows["accuracy (linear)"].value == (labels[some.test[20:]] == "a").mean()
    labels[data.test] = "new"
    result = annotation(method, dataclasses.replace(data, labels=labels), SMALL)
    assert result.rows == []
    assert "no test cell" in result.notes[0]


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


# --- few-shot ----------------------------------------------------------------------------------


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
    result = few_shot(*asked(*blobs), EvaluateConfig(shots=(1, 40), bootstrap=100))
    assert {row.value for row in result.rows} == {1.0}
    assert {row.ci_high for row in result.rows} == {1.0}
    assert all(0.9 < row.ci_low < 1.0 for row in result.rows)  # perfect so far is not for ever
    assert all("K=1" in row.metric for row in result.rows)
    assert "K = 40" in result.notes[0]
    assert result.details["dropped"] == {"1": [], "40": ["a", "b", "c"]}
    assert few_shot(*asked(None, blobs[1]), SMALL).rows == []


def test_episode_scores_equal_scikit_learn_on_repeated_cells() -> None:
    rng = np.random.default_rng(15)
    labels = rng.choice(["a", "b", "c"], size=60)
    drawn, _ = episodes(labels, 3, 20, 0)
    predicted = [rng.choice(["a", "b", "c"], size=len(episode.query)) for episode in drawn]
    boot = Bootstrap(60, 100, 0)
    scores = episode_scores(labels, drawn, predicted, boot)
    assert scores.shape == (101, 20, 2)
    weights = np.concatenate([np.ones((1, 60)), boot.apply(np.copy)]).astype(int)
    for draw in (0, 1, 70):
        for e in (0, 13):
            times = weights[draw][drawn[e].query]
            truth = np.repeat(labels[drawn[e].query], times)
            guess = np.repeat(predicted[e], times)
            present = np.unique(truth)
            f1 = metrics.f1_score(truth, guess, labels=present, average="macro", zero_division=0)
            assert scores[draw, e, 0] == pytest.approx((truth == guess).mean())
            assert scores[draw, e, 1] == pytest.approx(f1)


def test_vectors_that_know_nothing_are_right_by_chance() -> None:
    rng = np.random.default_rng(18)
    labels, splits = np.tile(["a", "b", "c", "d"], 150), np.repeat(["train", "test"], 300)
    method, data = asked(rng.normal(size=(600, 8)).astype(np.float32), labels, splits)
    config = EvaluateConfig(shots=(5,), bootstrap=200)
    for result in (annotation(method, data, config), few_shot(method, data, config)):
        for row in result.rows:
            if row.metric.startswith("accuracy"):
                assert row.ci_low <= 0.25 <= row.ci_high, row


def test_few_shot_draws_hold_both_cells_and_episodes() -> None:
    rng = np.random.default_rng(16)
    labels = np.repeat(["a", "b"], 40)
    cells = (np.repeat([0.0, 1.5], 40)[:, None] + rng.normal(size=(80, 3))).astype(np.float32)
    config = EvaluateConfig(shots=(5,), bootstrap=400)
    result = few_shot(*asked(cells, labels), config)
    (row,) = (row for row in result.rows if row.metric == "accuracy (prototype, K=5)")
    draws = result.draws[row.metric]
    assert draws.shape == (400,)
    assert row.ci_low <= row.value <= row.ci_high
    drawn, _ = episodes(labels, 5, config.episodes, 0)
    per_episode = [
        (
            nearest_prototype(cells[e.support], labels[e.support], cells[e.query])
            == labels[e.query]
        ).mean()
        for e in drawn
    ]
    assert row.value == pytest.approx(np.mean(per_episode))
    assert draws.std() > np.std(per_episode) / np.sqrt(len(drawn))  # more than episodes alone
    again = few_shot(*asked(cells, labels), config)
    np.testing.assert_array_equal(again.draws[row.metric], draws)


def test_nearest_prototype_ignores_the_length_of_a_query() -> None:
    support = np.eye(2, dtype=np.float32)
    query = np.asarray([[9.0, 1.0], [0.1, 0.2]], dtype=np.float32)
    assert nearest_prototype(support, np.asarray(["a", "b"]), query).tolist() == ["a", "b"]
