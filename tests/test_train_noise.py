"""Planted noise: how much of it, of which kind, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from okrcell.corpus.shards import CellMatrix
from okrcell.errors import TrainingError
from okrcell.train import graph
from okrcell.train import noise as noise_module
from okrcell.train.config import TrainConfig
from okrcell.train.data import Pairs
from okrcell.train.noise import corrupt, parents_of_types, plant

TYPES = (
    "naive thymus-derived CD4-positive, alpha-beta T cell",
    "naive thymus-derived CD8-positive, alpha-beta T cell",
    "B cell",
    "no such cell",
)
PARENTS = {TYPES[0]: ("CL:T", "CL:naive"), TYPES[1]: ("CL:naive",), TYPES[2]: ("CL:lymphocyte",)}


def made_pairs(n: int = 240, n_genes: int = 30, seed: int = 0, texts_per_type: int = 2) -> Pairs:
    """Pairs of four types with two texts each, six donors and one unknown, two datasets."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, len(TYPES), n)
    dataset = np.sort(rng.integers(0, 2, n))
    matrices = []
    for number in range(2):
        rows = int((dataset == number).sum()) + 3  # rows that no pair has
        values = rng.poisson(0.8, (rows, n_genes)) * rng.integers(1, 9, (rows, n_genes))
        if number == 0:
            values[: (dataset == 0).sum(), :10] += 5 * kind[dataset == 0][:, None]
        values[1] = 0  # a cell of no gene
        matrix = sparse.csr_matrix(values.astype(np.float32))
        genes = tuple(f"ENSG{gene:011d}" for gene in range(n_genes))
        matrices.append(CellMatrix(matrix, genes, "counts"))
    row = np.concatenate([np.arange((dataset == number).sum()) for number in range(2)])
    return Pairs(
        cell_uids=pa.chunked_array([[f"cell{at}" for at in range(n)]]),
        dataset=dataset,
        row=row,
        text=kind * texts_per_type + rng.integers(0, texts_per_type, n),
        texts=tuple(f"text {at}" for at in range(len(TYPES) * texts_per_type)),
        prior=(0.5 + kind / 10).astype(np.float32),
        cell_type=kind,
        cell_types=TYPES,
        donor=rng.integers(-1, 6, n),
        donors=tuple(f"donor {at}" for at in range(6)),
        clean=np.ones(n, dtype=bool),
        n_without_text=0,
        matrices=tuple(matrices),
        columns=(np.arange(n_genes),) * 2,
        vocabulary=tuple(f"ENSG{gene:011d}" for gene in range(n_genes)),
    )


def config(kind: str = "uniform", share: float = 0.4, **keys: object) -> TrainConfig:
    return TrainConfig(mismatch_kind=kind, mismatch=share, **keys)


def type_of(pairs: Pairs, text: np.ndarray) -> np.ndarray:
    return text // (len(pairs.texts) // len(TYPES))


@pytest.mark.parametrize("kind", ["uniform", "sibling", "donor"])
def test_what_is_planted_is_marked_and_the_rest_is_as_it_was(kind: str):
    pairs = made_pairs()
    before = pairs.text.copy()
    noisy, facts = plant(pairs, config(kind), parents=PARENTS)
    again, _ = plant(pairs, config(kind), parents=PARENTS)
    other, _ = plant(pairs, config(kind, noise_seed=1), parents=PARENTS)
    assert np.array_equal(pairs.text, before)
    assert np.array_equal(noisy.text, again.text)
    assert not np.array_equal(noisy.text, other.text)
    assert np.array_equal(noisy.clean, noisy.text == pairs.text)
    assert facts["mismatched"] == int((~noisy.clean).sum()) > 0
    assert facts["mismatch_kind"] == kind
    assert facts["mismatch_asked"] == 0.4
    assert (noisy.cell_type is pairs.cell_type, noisy.row is pairs.row) == (True, True)
    expected = (0.5 + type_of(pairs, noisy.text) / 10).astype(np.float32)
    np.testing.assert_allclose(noisy.prior, expected)  # reliability belongs to the text
    assert noisy.prior.dtype == np.float32


def test_uniform_changes_exactly_the_share_and_hits_every_other_text():
    pairs = made_pairs(4000)
    noisy, facts = plant(pairs, config(share=0.5))
    assert facts["mismatched"] == 2000
    moved = np.zeros((8, 8))
    np.add.at(moved, (pairs.text[~noisy.clean], noisy.text[~noisy.clean]), 1)
    assert not moved.diagonal().any()
    off = moved[~np.eye(8, dtype=bool)]
    assert off.min() > 0.3 * off.mean()
    whole, facts = plant(pairs, config(share=1.0))
    assert facts["mismatched"] == 4000
    assert not (whole.text == pairs.text).any()


def test_siblings_share_a_parent_and_types_without_one_stay_clean():
    pairs = made_pairs(2000)
    noisy, facts = plant(pairs, config("sibling", 0.5), parents=PARENTS)
    t_cells = pairs.cell_type < 2
    assert noisy.clean[~t_cells].all()
    assert facts["mismatch_eligible"] == t_cells.sum()
    assert facts["mismatched"] == pytest.approx(t_cells.sum() / 2, abs=1)
    wrong = ~noisy.clean
    assert np.array_equal(type_of(pairs, noisy.text[wrong]), 1 - pairs.cell_type[wrong])


def test_siblings_that_mostly_share_the_text_still_change_it():
    pairs = made_pairs(300)
    pairs.text[pairs.cell_type < 2] = 0  # both types have one text,
    one = np.flatnonzero(pairs.cell_type == 1)[0]
    pairs.text[one] = 3  # but for one cell
    noisy, facts = plant(pairs, config("sibling", 1.0), parents=PARENTS)
    assert facts["mismatch_eligible"] == facts["mismatched"] == (pairs.cell_type == 0).sum() + 1
    assert (noisy.text[pairs.cell_type == 0] == 3).all()
    assert noisy.text[one] == 0


def test_parents_come_from_the_cell_ontology():
    parents = parents_of_types(TYPES)
    assert set(parents[TYPES[0]]) & set(parents[TYPES[1]])
    assert not set(parents[TYPES[0]]) & set(parents[TYPES[2]])
    assert parents[TYPES[3]] == ()
    pairs = made_pairs()
    noisy, _ = plant(pairs, config("sibling"))
    assert set(np.unique(pairs.cell_type[~noisy.clean])) == {0, 1}


def test_a_chosen_donor_has_two_types_swapped_whole():
    pairs = made_pairs(600)
    noisy, facts = plant(pairs, config("donor", 0.5))
    assert facts["mismatch_eligible"] == (pairs.donor >= 0).sum()
    assert noisy.clean[pairs.donor < 0].all()
    hit = np.unique(pairs.donor[~noisy.clean])
    assert len(hit) == 3
    for donor in hit:
        here = pairs.donor == donor
        wrong = here & ~noisy.clean
        a, b = np.unique(pairs.cell_type[wrong])
        assert wrong.sum() == (here & np.isin(pairs.cell_type, [a, b])).sum()
        assert np.array_equal(type_of(pairs, noisy.text[wrong]), a + b - pairs.cell_type[wrong])


def test_a_kind_that_the_pairs_do_not_allow_is_refused():
    pairs = made_pairs()
    with pytest.raises(TrainingError, match=r"'sibling': found no pair .* share a parent"):
        plant(pairs, config("sibling"), parents={})
    pairs.donor[:] = -1
    with pytest.raises(TrainingError, match="a donor with cells of two types"):
        plant(pairs, config("donor"))
    pairs.text[:] = 2
    with pytest.raises(TrainingError, match="at least two distinct texts"):
        plant(pairs, config())
    same, facts = plant(made_pairs(), config(share=0.0))
    assert same.clean.all()
    assert facts["mismatched"] == 0


# --- expression --------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1 << 22, 64])
def test_values_change_places_within_a_cell_and_nothing_else(
    pieces: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(noise_module, "_VALUES_AT_ONCE", pieces)
    pairs = made_pairs()
    noisy, facts = corrupt(pairs, config(share=0.0, expression_noise=0.3))
    again, _ = corrupt(pairs, config(share=0.0, expression_noise=0.3))
    differ = values = 0
    for number, (before, after) in enumerate(zip(pairs.matrices, noisy.matrices, strict=True)):
        assert np.array_equal(after.matrix.data, again.matrices[number].matrix.data)
        assert after.values == before.values
        assert np.array_equal(after.matrix.indices, before.matrix.indices)
        trained = pairs.row[pairs.dataset == number]
        for row in range(before.matrix.shape[0]):
            one, other = before.matrix[row].data, after.matrix[row].data
            assert np.array_equal(np.sort(one), np.sort(other))
            if row in trained:
                differ += int((one != other).sum())
                values += len(one)
            else:
                assert np.array_equal(one, other)
    assert (facts["values"], facts["differ"]) == (values, differ)
    assert facts["moved"] == pytest.approx(0.3 * values, rel=0.1)
    assert 0.5 * facts["moved"] < differ <= facts["moved"]
    assert np.array_equal(noisy.text, pairs.text)
    assert noisy.clean.all()


def test_no_expression_noise_changes_nothing():
    pairs = made_pairs()
    same, facts = corrupt(pairs, config(share=0.0))
    assert facts["moved"] == facts["differ"] == 0
    for before, after in zip(pairs.matrices, same.matrices, strict=True):
        assert np.array_equal(before.matrix.data, after.matrix.data)


# --- the graph of real pairs -------------------------------------------------------------------


def test_components_are_those_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph, "_BLOCK", 50)
    pairs = made_pairs()
    scores = graph.components(pairs, 20, 5, seed=0)
    chosen = graph.choose_variable(pairs, 20)
    values = np.empty((len(pairs), len(chosen)))
    for number in range(2):
        at = np.flatnonzero(pairs.dataset == number)
        values[at] = graph.dense(
            pairs.matrices[number], pairs.row[at], pairs.columns[number], chosen
        )
    values -= values.mean(0)
    left, scale, _ = np.linalg.svd(values, full_matrices=False)
    expected = (left * scale)[:, :5]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(scores @ scores.T, expected @ expected.T, atol=1e-4)
