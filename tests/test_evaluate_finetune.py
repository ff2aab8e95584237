"""Fine-tuning: it learns, it repeats itself, it leaves the model alone and test labels unread."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import sparse

from okrcell.corpus.shards import CellMatrix
from okrcell.errors import GeneCoverageError
from okrcell.evaluate.annotation import annotation
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.finetune import finetune_classifier
from okrcell.evaluate.methods import MethodOutput
from okrcell.train.config import TrainConfig
from okrcell.train.model import CellTextModel
from okrcell.train.towers import build_tower

GENES = tuple(f"g{i}" for i in range(12))


def cells_of(n_per_type: int = 30) -> EvalData:
    """Three types, each with four genes of its own; six in ten cells are train cells."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], n_per_type)
    means = np.full((3, 12), 0.3)
    for code in range(3):
        means[code, 4 * code : 4 * code + 4] = 5.0
    counts = rng.poisson(means[np.repeat(np.arange(3), n_per_type)]).astype(np.float32)
    n = len(labels)
    splits = np.tile(["train"] * 6 + ["validation"] * 2 + ["test"] * 2, n // 10)
    empty = np.full(n, "")
    return EvalData(
        "toy",
        CellMatrix(sparse.csr_matrix(counts), GENES, "counts"),
        np.asarray([f"c{i}" for i in range(n)]),
        labels,
        empty,
        empty,
        splits,
        empty,
        {},
        {},
    )


def model_of(preset: str) -> CellTextModel:
    torch.manual_seed(0)
    config = TrainConfig(preset=preset, n_bins=8, max_genes=12, hvgs=12, input_dropout=0.1)
    tower = build_tower(config, len(GENES), 16).eval()
    card = {"gene_ids": GENES, "embedder": "none", "variable": GENES if preset == "mlp" else None}
    return CellTextModel(config, tower, card, "f", "cpu")


@pytest.fixture
def model() -> CellTextModel:
    return model_of("tiny")


def test_the_mlp_tower_learns_too() -> None:
    data = cells_of()
    found = finetune_classifier(model_of("mlp"), data, 0, epochs=4, lr=3e-3)
    assert (found == data.labels[data.test]).mean() > 0.9


def test_it_learns_repeats_itself_and_leaves_the_model_alone(model: CellTextModel) -> None:
    data = cells_of()
    before = model.encode_cells(data.matrix)
    state = torch.random.get_rng_state()
    first = finetune_classifier(model, data, 0, epochs=4, lr=3e-3)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(model.encode_cells(data.matrix), before)
    np.testing.assert_array_equal(finetune_classifier(model, data, 0, epochs=4, lr=3e-3), first)
    assert first.shape == (len(data.test),)
    assert (first == data.labels[data.test]).mean() > 0.9


def test_test_labels_are_not_read(model: CellTextModel) -> None:
    data = cells_of()
    other = data.labels.copy()
    other[data.test] = "?"
    blind = dataclasses.replace(data, labels=other)
    np.testing.assert_array_equal(
        finetune_classifier(model, blind, 0, epochs=2),
        finetune_classifier(model, data, 0, epochs=2),
    )


def test_validation_keeps_the_best_pass_and_ends_early(model: CellTextModel) -> None:
    data = cells_of()
    none = dataclasses.replace(data, splits=np.where(data.splits == "validation", "", data.splits))
    fixed = finetune_classifier(model, none, 0, epochs=4, lr=3e-3)
    assert (fixed == data.labels[data.test]).mean() > 0.9
    # A perfect pass cannot be beaten: a thousand passes end three passes after it.
    long = finetune_classifier(model, data, 0, epochs=1000, lr=3e-3)
    assert (long == data.labels[data.test]).mean() > 0.9


def test_one_type_and_foreign_genes(model: CellTextModel) -> None:
    data = cells_of()
    one = dataclasses.replace(data, labels=np.full(len(data.labels), "a"))
    assert set(finetune_classifier(model, one, 0)) == {"a"}
    matrix = CellMatrix(data.matrix.matrix, tuple(f"x{i}" for i in range(12)), "counts")
    with pytest.raises(GeneCoverageError):
        finetune_classifier(model, dataclasses.replace(data, matrix=matrix), 0)


def test_annotation_scores_the_fine_tuned_head(model: CellTextModel) -> None:
    data = cells_of()
    method = MethodOutput(
        "m",
        model.encode_cells(data.matrix),
        "",
        finetune=lambda some, seed: finetune_classifier(model, some, seed, epochs=4, lr=3e-3),
    )
    result = annotation(method, data, EvaluateConfig(bootstrap=100))
    rows = {row.metric: row for row in result.rows}
    predicted = finetune_classifier(model, data, 0, epochs=4, lr=3e-3)
    right = float((predicted == data.labels[data.test]).mean())
    assert rows["accuracy (fine-tuned)"].value == pytest.approx(right)
    assert rows["accuracy (fine-tuned)"].n == len(data.test)
