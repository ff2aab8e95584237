"""Batch indicators against scib-metrics, and the cases it cannot score."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import t

from okrcell.corpus.shards import CellMatrix
from okrcell.evaluate import batch, kbet
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.libraries import scib_metrics
from okrcell.evaluate.methods import MethodOutput
from okrcell.evaluate.rows import TaskResult

SMALL = EvaluateConfig(seeds=2)


def correction(
    name: str,
    cells: NDArray[np.float32] | None,
    before: NDArray[np.float32],
    labels: NDArray[np.str_],
    batches: NDArray[np.str_],
    config: EvaluateConfig = SMALL,
) -> TaskResult:
    """Run the task with all cells as test cells."""
    n = len(labels)
    empty = np.full(n, "")
    data = EvalData(
        "toy",
        CellMatrix(sparse.csr_matrix((n, 1), dtype=np.float32), ("g",), "counts"),
        np.asarray([f"c{i:04d}" for i in range(n)]),
        labels,
        batches,
        empty,
        np.full(n, "test"),
        empty,
        {},
        {},
    )
    return batch.batch_correction(MethodOutput(name, cells, ""), before, data, config)


@pytest.fixture(scope="module")
def mixed() -> dict[str, np.ndarray]:
    """60 cells of three types in two well mixed batches; a third of them in one batch only."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], 20)
    batches = np.where(np.arange(60) % 2 == 0, "x", "y")
    batches[40:] = "x"
    cells = (8 * np.eye(3, 6)[np.repeat(np.arange(3), 20)] + rng.normal(size=(60, 6))).astype(
        np.float32
    )
    before = cells + 3 * (batches == "y")[:, None].astype(np.float32)
    return {"cells": cells, "before": before, "labels": labels, "batches": batches}


@pytest.mark.filterwarnings("ignore")  # jax and numba, at compile time
def test_indicators_equal_scib_metrics(mixed: dict[str, np.ndarray]) -> None:
    scib = scib_metrics()
    cells, labels, batches = mixed["cells"], mixed["labels"], mixed["batches"]
    ours = batch.indicators(cells, mixed["before"], labels, batches, 0)
    theirs = {
        "isolated_labels": scib.isolated_labels(cells, labels, batches),
        "silhouette_label": scib.silhouette_label(cells, labels),
        "silhouette_batch": scib.silhouette_batch(cells, labels, batches),
        "pcr_comparison": scib.pcr_comparison(mixed["before"], cells, batches, categorical=True),
    }
    for metric, value in theirs.items():
        assert ours[metric] == pytest.approx(float(value), abs=2e-4), metric
    assert ours["kmeans_nmi"] == pytest.approx(1.0)
    bio = [m for m, kind in batch.BATCH_METRICS.items() if kind == "bio"]
    mixing = [m for m, kind in batch.BATCH_METRICS.items() if kind == "batch"]
    assert (len(bio), len(mixing)) == (5, 3)
    assert ours["avg_bio_b"] == pytest.approx(np.mean([ours[m] for m in bio]))
    assert ours["avg_batch"] == pytest.approx(np.mean([ours[m] for m in mixing]))
    assert all(0 <= value <= 1 for value in ours.values())


@pytest.mark.filterwarnings("ignore")
def test_kbet_test_is_that_of_scib_metrics() -> None:
    scib = scib_metrics()
    rng = np.random.default_rng(1)
    batches = rng.choice(["x", "y"], size=40)
    neighbors = np.stack([rng.permutation(40)[:12] for _ in range(40)])
    results = scib.nearest_neighbors.NeighborsResults(
        indices=neighbors.astype(np.int32), distances=np.zeros((40, 12), np.float32)
    )
    accepted = scib.kbet(results, batches)[0]
    assert kbet.acceptance(neighbors, batches, 0.05) == pytest.approx(float(accepted))


@pytest.mark.filterwarnings("ignore")
def test_a_shift_between_batches_is_seen(mixed: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(2)
    labels, batches = np.repeat(["a", "b"], 40), np.tile(["x", "y"], 40)
    good = (9 * np.eye(2, 5)[np.repeat([0, 1], 40)] + rng.normal(size=(80, 5))).astype(np.float32)
    bad = good + 6 * (batches == "y")[:, None].astype(np.float32)
    scores = {
        name: {row.metric: row for row in correction(name, cells, bad, labels, batches).rows}
        for name, cells in (("good", good), ("bad", bad))
    }
    for metric in ("kbet", "ilisi", "silhouette_batch", "pcr_comparison", "avg_batch"):
        assert scores["good"][metric].value > scores["bad"][metric].value + 0.2, metric
    assert scores["bad"]["pcr_comparison"].value == 0.0  # compared with itself
    for row in scores["good"].values():
        assert row.ci_low <= row.value <= row.ci_high
        assert row.n == 80


@pytest.mark.filterwarnings("ignore")
def test_lisi_and_graph_connectivity_by_hand() -> None:
    """Two types far apart, each cell surrounded by equally many cells of both batches."""
    rng = np.random.default_rng(3)
    labels, batches = np.repeat(["a", "b"], 60), np.tile(["x", "y"], 60)
    cells = (50 * np.eye(2, 4)[np.repeat([0, 1], 60)] + rng.normal(size=(120, 4))).astype(
        np.float32
    )
    found = batch.indicators(cells, cells, labels, batches, 0)
    assert found["clisi"] == pytest.approx(
        1.0, abs=1e-3
    )  # neighbours beyond the type weigh nothing
    assert found["ilisi"] > 0.85
    assert found["kmeans_nmi"] == found["kmeans_ari"] == pytest.approx(1.0)
    # Strongly connected parts of the directed neighbour graph of each type, by hand.
    distances = np.linalg.norm(cells[:, None] - cells[None], axis=2)
    near = np.argsort(distances, axis=1)[:, :15]
    shares = []
    for name in ("a", "b"):
        inside = np.flatnonzero(labels == name)
        graph = np.zeros((60, 60))
        for at, row in enumerate(inside):
            graph[at, np.searchsorted(inside, np.intersect1d(near[row], inside))] = 1
        member = sparse.csgraph.connected_components(sparse.csr_matrix(graph), connection="strong")[
            1
        ]
        shares.append(np.bincount(member).max() / 60)
    assert found["graph_connectivity"] == pytest.approx(np.mean(shares), abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_draws_spread_as_the_jackknife_says(mixed: dict[str, np.ndarray]) -> None:
    cells, labels, batches = mixed["cells"], mixed["labels"], mixed["batches"]
    config = EvaluateConfig(seeds=3)
    result = correction("m", cells, mixed["before"], labels, batches, config)
    parts = []
    for seed in range(3):
        some = batch._subsample(labels, batches, seed)
        assert len(some) == len(set(some)) == 48
        assert set(labels[some]) == {"a", "b", "c"}
        parts.append(float(batch.silhouette_by_batch(cells[some], labels[some], batches[some])))
    error = np.std(parts, ddof=1) * np.sqrt(48 / 12)
    draws = result.draws["silhouette_batch"]
    (row,) = (row for row in result.rows if row.metric == "silhouette_batch")
    assert np.std(draws, ddof=1) == pytest.approx(error)
    assert draws.mean() == pytest.approx(row.value)
    assert row.ci_high == pytest.approx(min(1.0, row.value + t.ppf(0.975, 2) * error))
    assert set(result.draws) == {row.metric for row in result.rows}
    assert result.details == {"batches": {"x": 40, "y": 20}}


def test_subsamples_thin_large_and_small_groups_alike() -> None:
    labels = np.asarray([f"t{i % 40:02d}" for i in range(100)])  # two or three cells per type
    batches = np.asarray([f"b{i % 7}" for i in range(100)])
    for seed in range(5):
        assert len(batch._subsample(labels, batches, seed)) == 80
    assert len(batch._subsample(labels[:4], batches[:4], 0)) == 4
    assert np.isnan(batch._jackknife(0.5, np.asarray([0.5, 0.5]), 4)).all()  # nothing was left out


def test_what_cannot_be_scored_is_skipped_with_a_reason(mixed: dict[str, np.ndarray]) -> None:
    cells, labels = mixed["cells"], mixed["labels"]
    one, batches = np.full(60, "x"), mixed["batches"]
    pair = np.asarray(["a", "b"]), np.asarray(["x", "y"])
    for result, reason in (
        (correction("m", cells, cells, labels, one), "one batch"),
        (correction("m", cells, cells, one, batches), "one type"),
        (correction("m", cells[:2], cells[:2], *pair), "no two test cells"),
        (correction("m", None, cells, labels, batches), "no embedding"),
    ):
        assert result.rows == []
        assert reason in result.notes[0]


def test_types_in_one_batch_say_nothing(mixed: dict[str, np.ndarray]) -> None:
    cells, labels = mixed["cells"], mixed["labels"]
    assert math.isnan(batch.silhouette_by_batch(cells, labels, labels))


def test_isolated_types_are_those_in_the_fewest_batches(mixed: dict[str, np.ndarray]) -> None:
    labels = mixed["labels"]
    assert batch.isolated_types(labels, mixed["batches"]).tolist() == ["c"]
    widths = np.linspace(0, 1, 60)
    assert batch.isolated_labels(widths, labels, np.asarray(["c"])) == widths[40:].mean()
    assert math.isnan(batch.isolated_labels(widths, labels, np.asarray(["gone"])))


def test_pcr_by_hand() -> None:
    batches = np.asarray(["x", "x", "y", "y"])
    before = np.asarray([[0.0, 1.0], [0.0, -1.0], [2.0, 1.0], [2.0, -1.0]], dtype=np.float32)
    after = np.asarray([[0.0, 1.0], [0.0, -1.0], [0.0, 1.0], [0.0, -1.0]], dtype=np.float32)
    # Half of the variance before lies between the batches, none after.
    assert batch.pcr_comparison(before, after, batches) == 1.0
    assert batch.pcr_comparison(before, before, batches) == 0.0
    assert batch.pcr_comparison(after, before, batches) == 0.0  # grew from nothing
    half = after + np.asarray([[0, 0], [0, 0], [1, 0], [1, 0]], dtype=np.float32)
    # Between batches 0.25 per cell of 1.25: a share of 0.2 where it was 0.5.
    assert batch.pcr_comparison(before, half, batches) == pytest.approx(0.6)
