"""Batch indicators against scib-metrics, and the cases it cannot score."""

from __future__ import annotations

import math

import numpy as np
import pytest

from okrcell.evaluate import batch
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.libraries import scib_metrics

SMALL = EvaluateConfig(seeds=2)


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
    assert batch._kbet(neighbors, batches, 0.05) == pytest.approx(float(accepted))


@pytest.mark.filterwarnings("ignore")
def test_a_shift_between_batches_is_seen(mixed: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(2)
    labels, batches = np.repeat(["a", "b"], 40), np.tile(["x", "y"], 40)
    good = (9 * np.eye(2, 5)[np.repeat([0, 1], 40)] + rng.normal(size=(80, 5))).astype(np.float32)
    bad = good + 6 * (batches == "y")[:, None].astype(np.float32)
    scores = {
        name: {
            row.metric: row
            for row in batch.batch_correction(name, cells, bad, labels, batches, SMALL).rows
        }
        for name, cells in (("good", good), ("bad", bad))
    }
    for metric in ("kbet", "ilisi", "silhouette_batch", "pcr_comparison", "avg_batch"):
        assert scores["good"][metric].value > scores["bad"][metric].value + 0.2, metric
    assert scores["bad"]["pcr_comparison"].value == 0.0  # compared with itself
    for row in scores["good"].values():
        assert row.ci_low <= row.value <= row.ci_high
        assert row.n == 80


def test_one_batch_or_one_type_is_skipped_with_a_reason(mixed: dict[str, np.ndarray]) -> None:
    cells, labels = mixed["cells"], mixed["labels"]
    one = np.full(60, "x")
    result = batch.batch_correction("m", cells, cells, labels, one, SMALL)
    assert result.rows == []
    assert "one batch" in result.notes[0]
    result = batch.batch_correction("m", cells, cells, one, mixed["batches"], SMALL)
    assert result.rows == []
    assert "one type" in result.notes[0]


def test_types_in_one_batch_say_nothing(mixed: dict[str, np.ndarray]) -> None:
    cells, labels = mixed["cells"], mixed["labels"]
    assert math.isnan(batch.silhouette_by_batch(cells, labels, labels))
    assert batch.isolated_labels(np.linspace(0, 1, 60), labels, mixed["batches"]) > 0.66  # c alone
