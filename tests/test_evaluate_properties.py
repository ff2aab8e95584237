"""What must not matter does not: order of cells, names, scale and rotation; on random small data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse
from sklearn import metrics

from okrcell.corpus.shards import CellMatrix
from okrcell.evaluate import batch
from okrcell.evaluate.agreement import ami_of, ari_of, chance_information, contingency, nmi_of
from okrcell.evaluate.annotation import probe_linear, probe_neighbors
from okrcell.evaluate.clustering import silhouettes
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.few_shot import few_shot, nearest_prototype
from okrcell.evaluate.intervals import (
    Bootstrap,
    accuracy_of,
    confusions,
    interval,
    macro_f1_of,
    weighted_mean,
    weighted_median,
)
from okrcell.evaluate.kbet import acceptance
from okrcell.evaluate.methods import MethodOutput, unit
from okrcell.evaluate.retrieval import rank_pairs
from okrcell.evaluate.sampling import neighbour_sample, shares

SOME = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
FEW = settings(SOME, max_examples=10)
seeds = st.integers(0, 2**31)
groups = st.integers(1, 6)


def codes_of(rng: np.random.Generator, k: int, n: int) -> NDArray[np.intp]:
    """Return ``n`` codes below ``k``; every code that is used is below the number of used ones."""
    return np.unique(rng.integers(k, size=n), return_inverse=True)[1]


def rotation(rng: np.random.Generator, dim: int) -> NDArray[np.float64]:
    return np.linalg.qr(rng.normal(size=(dim, dim)))[0]


# --- intervals ---------------------------------------------------------------------------------


@SOME
@given(seeds, st.integers(1, 60), st.integers(1, 12))
def test_intervals_follow_the_values_and_not_their_names(seed: int, n: int, n_donors: int) -> None:
    rng = np.random.default_rng(seed)
    values, donors = rng.normal(size=n), rng.integers(n_donors, size=n)
    boot = Bootstrap.over(np.asarray([f"d{d:02d}" for d in donors]), 100, seed)
    draws = boot.apply(weighted_mean(values))
    assert draws.shape == (100,)
    assert values.min() - 1e-9 <= draws.min()
    assert draws.max() <= values.max() + 1e-9
    # Linear in the values, and the same for donors of other names in the same order.
    np.testing.assert_allclose(boot.apply(weighted_mean(3 * values + 2)), 3 * draws + 2)
    renamed = Bootstrap.over(np.asarray([f"patient {d:02d}" for d in donors]), 100, seed)
    np.testing.assert_array_equal(renamed.apply(weighted_mean(values)), draws)
    low, high = interval(draws)
    assert low <= np.median(draws) <= high


@SOME
@given(seeds, st.integers(2, 40))
def test_weights_and_cells_may_be_permuted_together(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=n), rng.integers(0, 3, size=(4, n)).astype(float)
    weights[:, 0] += 1
    order = rng.permutation(n)
    for metric in (weighted_mean, weighted_median):
        plain, mixed = metric(values)(weights), metric(values[order])(weights[:, order])
        np.testing.assert_allclose(plain, mixed)


# --- clustering --------------------------------------------------------------------------------


@SOME
@given(seeds, groups, groups, st.integers(2, 60))
def test_agreement_ignores_order_and_names_and_takes_no_side(
    seed: int, k: int, other: int, n: int
) -> None:
    rng = np.random.default_rng(seed)
    truth, found = codes_of(rng, k, n), codes_of(rng, other, n)
    order = rng.permutation(n)
    names, labels = (rng.permutation(x.max() + 1)[x] for x in (found, truth))
    whole = np.ones((1, n))
    table = contingency(truth, found)(whole)
    chance = chance_information(table[0])
    references = {
        ari_of: metrics.adjusted_rand_score,
        nmi_of: metrics.normalized_mutual_info_score,
        lambda t: ami_of(t, chance): metrics.adjusted_mutual_info_score,
    }
    for score, reference in references.items():
        value = score(table)[0]
        assert value == pytest.approx(reference(truth, found), abs=1e-6)
        for a, b in ((labels[order], names[order]), (found, truth)):
            assert score(contingency(a, b)(whole))[0] == pytest.approx(value, abs=1e-9)
        assert value <= 1 + 1e-9
    assert ari_of(contingency(truth, labels)(whole))[0] == 1.0
    assert nmi_of(contingency(truth, labels)(whole))[0] == pytest.approx(1.0)


@SOME
@given(seeds, st.integers(2, 5), st.integers(6, 40))
def test_silhouettes_ignore_rotation_scale_shift_and_order(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    cells, grouping = rng.normal(size=(n, 4)), codes_of(rng, k, n)
    order = rng.permutation(n)
    moved = 7 * cells @ rotation(rng, 4) + rng.normal(size=4)
    plain = silhouettes(metrics.pairwise_distances(cells), grouping[None])
    mixed = silhouettes(metrics.pairwise_distances(moved[order]), grouping[order][None])
    np.testing.assert_allclose(plain, mixed, atol=1e-7)
    if 1 < grouping.max() + 1 < n:
        assert plain[0] == pytest.approx(metrics.silhouette_score(cells, grouping))


# --- the sample of cells -----------------------------------------------------------------------


@SOME
@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 400))
def test_shares_are_fair(counts: list[int], total: int) -> None:
    given_out = shares(np.asarray(counts), total)
    assert given_out.sum() == min(total, sum(counts))
    assert (given_out <= counts).all()
    assert (given_out >= 0).all()
    if total >= len(counts):
        assert (given_out >= 1).all()
    larger = np.argsort(counts, kind="stable")
    assert (np.diff(given_out[larger]) >= -1).all()  # larger groups are not passed over


# --- annotation --------------------------------------------------------------------------------


@SOME
@given(seeds, st.integers(2, 5), st.integers(2, 60))
def test_accuracy_and_f1_ignore_order_and_names(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(k, size=n), rng.integers(k, size=n)
    order, names = rng.permutation(n), rng.permutation(k)
    whole = np.ones((1, n))
    plain = confusions(truth, predicted, k)(whole)
    mixed = confusions(names[truth[order]], names[predicted[order]], k)(whole)
    for score in (accuracy_of, macro_f1_of):
        assert score(plain)[0] == pytest.approx(score(mixed)[0])
        assert score(confusions(truth, truth, k)(whole))[0] == 1.0
    assert accuracy_of(plain)[0] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert macro_f1_of(plain)[0] == pytest.approx(
        metrics.f1_score(
            truth, predicted, labels=np.unique(truth), average="macro", zero_division=0
        )
    )


@FEW
@given(seeds, st.integers(2, 4))
def test_probes_ignore_rotation_scale_order_and_names(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(k), 12)
    centres = 6 * rng.normal(size=(k, 5))
    train, test = (centres[truth] + rng.normal(size=(12 * k, 5)) for _ in range(2))
    labels = np.asarray([f"t{c}" for c in truth])
    renamed = np.asarray([f"{9 - c} of another name" for c in truth])
    order, turn = rng.permutation(len(truth)), 100 * rotation(rng, 5)
    for probe, last in ((probe_linear, 0), (probe_neighbors, 5), (None, 0)):
        a, b = train.astype(np.float32), test.astype(np.float32)
        c, d = (train @ turn)[order].astype(np.float32), (test @ turn).astype(np.float32)
        if probe is None:
            plain, moved = nearest_prototype(a, labels, b), nearest_prototype(c, renamed[order], d)
        else:
            plain = probe(a, labels, b, last)
            moved = probe(c, renamed[order], d, last)
        back = np.asarray([f"t{9 - int(name[0])}" for name in moved])
        assert (back == plain).mean() >= 0.95  # float32: a cell on the border may fall either way


# --- few-shot ----------------------------------------------------------------------------------


@FEW
@given(seeds)
def test_few_shot_and_the_sample_ignore_the_order_of_cells(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 60
    labels, batches = rng.choice(["a", "b", "c"], size=n), rng.choice(["x", "y"], size=n)
    cells = rng.normal(size=(n, 3)).astype(np.float32)
    donors = rng.choice([f"d{i}" for i in range(8)], size=n)
    empty = np.full(n, "")
    data = EvalData(
        "toy",
        CellMatrix(sparse.csr_matrix((n, 1), dtype=np.float32), ("g",), "counts"),
        np.asarray([f"c{i:03d}" for i in range(n)]),
        labels,
        batches,
        donors,
        np.full(n, "test"),
        empty,
        {},
        {},
    )
    order = rng.permutation(n)
    fields = ("cell_uids", "labels", "batches", "donors", "splits", "profile_ids")
    mixed = dataclasses.replace(data, **{name: getattr(data, name)[order] for name in fields})
    config = EvaluateConfig(shots=(1, 3), bootstrap=100, max_cells=100)
    plain = few_shot(MethodOutput("m", cells, ""), data, config)
    moved = few_shot(MethodOutput("m", cells[order], ""), mixed, config)
    assert plain.rows == moved.rows
    for metric, draws in plain.draws.items():
        np.testing.assert_array_equal(draws, moved.draws[metric])
    rows, again = neighbour_sample(data, config), neighbour_sample(mixed, config)
    assert data.cell_uids[rows].tolist() == mixed.cell_uids[again].tolist()


# --- batch -------------------------------------------------------------------------------------


@SOME
@given(seeds, st.integers(2, 4), st.integers(2, 3))
def test_batch_parts_ignore_order_names_rotation_and_scale(seed: int, k: int, b: int) -> None:
    rng = np.random.default_rng(seed)
    n = 48
    labels = np.asarray([f"t{c}" for c in rng.integers(k, size=n)])
    batches = np.asarray([f"b{c}" for c in rng.integers(b, size=n)])
    cells, before = (rng.normal(size=(n, 5)).astype(np.float32) for _ in range(2))
    order, turn = rng.permutation(n), 10 * rotation(rng, 5)
    other = (cells @ turn)[order].astype(np.float32)
    new_labels = np.char.add("another ", labels)[order]
    new_batches = np.char.add("z", batches)[order]
    widths = rng.normal(size=n)
    isolated = batch.isolated_types(labels, batches)
    renamed = batch.isolated_types(new_labels, new_batches)
    assert sorted(np.char.add("another ", isolated)) == sorted(renamed)
    pairs = [
        (
            batch.silhouette_by_batch(cells, labels, batches),
            batch.silhouette_by_batch(other, new_labels, new_batches),
        ),
        (
            batch.pcr_comparison(before, cells, batches),
            batch.pcr_comparison(3 * before[order], other, new_batches),
        ),
        (
            batch.isolated_labels(widths, labels, isolated),
            batch.isolated_labels(widths[order], new_labels, renamed),
        ),
    ]
    for plain, moved in pairs:
        assert moved == pytest.approx(plain, abs=1e-4, nan_ok=True)
    neighbors = np.argsort(rng.random((n, n)), axis=1)[:, :9]
    place = np.argsort(order)
    assert acceptance(neighbors, batches, 0.05) == pytest.approx(
        acceptance(place[neighbors][order], new_batches, 0.05)
    )
    assert 0 <= acceptance(neighbors, batches, 0.05) <= 1


@pytest.mark.filterwarnings("ignore")  # jax and numba, at compile time
def test_all_batch_indicators_ignore_order_names_rotation_and_scale() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(3), 40)
    labels = np.asarray([f"t{c}" for c in truth])
    batches = rng.choice(["x", "y"], size=120)
    cells = 9 * np.eye(3, 6)[truth] + rng.normal(size=(120, 6))
    cells[batches == "y", 5] += 2
    before = (cells + rng.normal(size=(120, 6))).astype(np.float32)
    order = rng.permutation(120)
    moved = (4 * cells @ rotation(rng, 6))[order].astype(np.float32)
    plain = batch.indicators(cells.astype(np.float32), before, labels, batches, 0)
    other = batch.indicators(
        moved,
        before[order],
        np.char.add("n", labels)[order],
        np.char.add("m", batches)[order],
        0,
    )
    assert plain.keys() == other.keys()
    for metric, value in plain.items():
        if metric in {"clisi", "ilisi"}:  # LISI's search for a bandwidth ends after a set time
            assert other[metric] == pytest.approx(value, abs=0.02), metric
        elif metric == "kbet":
            assert other[metric] == pytest.approx(value, abs=0.05), metric
        else:
            assert other[metric] == pytest.approx(value, abs=1e-3), metric
        assert 0 <= value <= 1


# --- retrieval ---------------------------------------------------------------------------------


@SOME
@given(seeds, st.integers(1, 40), st.integers(1, 10))
def test_ranks_ignore_order_and_rotation_and_equal_a_sorted_list(
    seed: int, n: int, n_texts: int
) -> None:
    rng = np.random.default_rng(seed)
    cells = unit(rng.normal(size=(n, 5)).astype(np.float32))
    texts = unit(rng.normal(size=(n_texts, 5)).astype(np.float32))
    ids = rng.integers(n_texts, size=n)
    plain = rank_pairs(cells, texts, ids)
    order, names = rng.permutation(n), rng.permutation(n_texts)
    mixed = rank_pairs(cells[order], texts[np.argsort(names)], names[ids][order])
    for way, ranks in plain.items():
        np.testing.assert_allclose(ranks.expected[order], mixed[way].expected)
        np.testing.assert_allclose(ranks.recall(3)[order], mixed[way].recall(3))
        assert (ranks.expected >= 1).all()
        assert (ranks.recall(n) > 1 - 1e-9).all()
    scores = np.round(cells @ texts[ids].T, 6)  # [cells, pairs]
    own = np.diag(scores)
    above = (scores > own[:, None]).sum(axis=1)
    level = (scores == own[:, None]).sum(axis=1)
    np.testing.assert_allclose(plain["cell to text, strict"].expected, above + (level + 1) / 2)
    above, level = (scores > own).sum(axis=0), (scores == own).sum(axis=0)
    np.testing.assert_allclose(plain["text to cell, strict"].expected, above + (level + 1) / 2)


# --- what intervals promise --------------------------------------------------------------------


def test_standard_errors_are_those_of_new_samples() -> None:
    """Forty times new cells of the same types: the values spread as each sample's draws said."""
    config = EvaluateConfig(shots=(5,), bootstrap=100)
    values: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    for repeat in range(40):
        rng = np.random.default_rng(repeat)
        truth, batches = rng.integers(4, size=150), rng.choice(["x", "y"], size=150)
        cells = (2 * np.eye(4, 6)[truth] + rng.normal(size=(150, 6))).astype(np.float32)
        cells[batches == "y", 5] += 1
        labels, empty = np.asarray([f"t{c}" for c in truth]), np.full(150, "")
        data = EvalData(
            "toy",
            CellMatrix(sparse.csr_matrix((150, 1), dtype=np.float32), ("g",), "counts"),
            np.asarray([f"c{i:03d}" for i in range(150)]),
            labels,
            batches,
            empty,
            np.full(150, "test"),
            empty,
            {},
            {},
        )
        result = few_shot(MethodOutput("m", cells, ""), data, config)
        for row in result.rows:
            values.setdefault(row.metric, []).append(row.value)
            errors.setdefault(row.metric, []).append(float(result.draws[row.metric].std()))
        values.setdefault("jackknife", []).append(batch.silhouette_by_batch(cells, labels, batches))
        some = [batch._subsample(labels, batches, seed) for seed in range(5)]
        parts = [batch.silhouette_by_batch(cells[s], labels[s], batches[s]) for s in some]
        draws = batch._jackknife(values["jackknife"][-1], np.asarray(parts), 150)
        errors.setdefault("jackknife", []).append(float(np.std(draws, ddof=1)))
    assert len(values) == 5
    for metric, found in values.items():
        promised = np.sqrt(np.mean(np.square(errors[metric])))
        assert promised == pytest.approx(np.std(found, ddof=1), rel=0.3), metric
