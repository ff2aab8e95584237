"""Peer methods on small simulated cells: what they give, what they may see, what they leave behind."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from okrcell.corpus import embedder as embedders
from okrcell.corpus.shards import CellMatrix
from okrcell.errors import DataError, DependencyError
from okrcell.evaluate import genept as genept_module
from okrcell.evaluate import hvg, peers, peers_scvi
from okrcell.evaluate.config import TASKS
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.methods import MethodOutput, NotApplicable
from okrcell.evaluate.peers import PEERS
from okrcell.evaluate.quiet import peer_module, quiet

TYPES = ("B cell", "T cell", "monocyte")
PACKAGES = {"harmonypy": "harmonypy", "scvi-tools": "scvi", "celltypist": "celltypist"}
TRANSDUCTIVE = {"harmony", "scvi", "scanvi"}
CLASSIFIERS = {"celltypist", "logistic-hvg"}
EVERY = sorted(PEERS)


class WordEmbedder:
    """A text is the hash of its characters: equal texts, equal unit rows."""

    id, dim, max_tokens = "fake:00000000:float32", 16, 256

    def encode(self, texts: Any) -> np.ndarray:
        rows = [np.random.default_rng(list(text.encode())).normal(size=16) for text in texts]
        stacked = np.asarray(rows, dtype=np.float32)
        return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedders, "load_embedder", lambda name: WordEmbedder())
    genept_module._gene_vectors.cache_clear()
    monkeypatch.setattr(peers_scvi, "_CELL_PASSES", 1_000)
    monkeypatch.setattr(peers_scvi, "_LABEL_PASSES", 3)


def make_data(n: int = 150, n_genes: int = 60, seed: int = 0) -> EvalData:
    """Three types with marker genes, two batches, one empty cell in the test split."""
    rng = np.random.default_rng(seed)
    code = np.arange(n) % 3
    rates = np.full((n, n_genes), 0.5)
    for row, which in enumerate(code):
        rates[row, 10 * which : 10 * which + 10] = 6.0
    counts = rng.poisson(rates).astype(np.float32)
    splits = rng.choice(["train", "validation", "test"], n, p=[0.5, 0.2, 0.3]).astype("U10")
    splits[:6] = ["train"] * 3 + ["test"] * 3
    counts[3] = 0
    return EvalData(
        dataset="toy",
        matrix=CellMatrix(
            sparse.csr_matrix(counts), tuple(f"ENSG{i:011d}" for i in range(n_genes)), "counts"
        ),
        cell_uids=np.asarray([f"toy:{i}" for i in range(n)]),
        labels=np.asarray(TYPES)[code],
        batches=np.asarray(["x", "y"])[(np.arange(n) // 3) % 2],
        donors=np.full(n, ""),
        splits=splits,
        profile_ids=np.asarray([f"p{i}" for i in range(3)])[code],
        term_ids={},
        descriptions={f"p{i}": f"A description of the {name}." for i, name in enumerate(TYPES)},
        sha256="0" * 64,
    )


def ask(name: str, data: EvalData, seed: int = 0) -> MethodOutput:
    needed = PEERS[name].needs
    if needed and importlib.util.find_spec(PACKAGES[needed]) is None:  # never imported here
        pytest.skip(f"{needed} is not installed")
    return PEERS[name].embed(data, seed)


def with_counts(data: EvalData, counts: np.ndarray, values: Any = "counts") -> EvalData:
    matrix = CellMatrix(sparse.csr_matrix(counts), data.matrix.gene_ids, values)
    return dataclasses.replace(data, matrix=matrix)


def same(a: MethodOutput, b: MethodOutput) -> None:
    assert (a.cells is None) == (b.cells is None)
    if a.cells is not None and b.cells is not None:
        np.testing.assert_array_equal(a.cells, b.cells)
    assert (a.predicted is None) == (b.predicted is None)
    if a.predicted is not None and b.predicted is not None:
        np.testing.assert_array_equal(a.predicted, b.predicted)


# --- every peer ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_what_a_peer_gives(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    data = make_data()
    root = logging.getLogger()
    before = root.level, list(root.handlers), dict(os.environ)
    state = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    out = ask(name, data)
    assert (root.level, root.handlers) == before[:2]
    assert {k: os.environ.get(k) for k in peers_scvi._ENVIRONMENT} == {
        k: before[2].get(k) for k in peers_scvi._ENVIRONMENT
    }
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state  # noqa: NPY002
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert out.name == name
    assert (out.cells is None) == (name in CLASSIFIERS)
    if out.cells is not None:
        assert out.cells.shape[0] == len(data.labels)
        assert out.cells.dtype == np.float32
        assert np.isfinite(out.cells).all()
    if out.predicted is not None:
        assert out.predicted.shape == data.labels.shape
        assert out.predicted.dtype.kind == "U"
        assert set(out.predicted) <= set(TYPES)
        assert (out.predicted == data.labels)[data.test].mean() > (0.3 if name == "scanvi" else 0.9)


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_gives_the_same_answer(name: str) -> None:
    data = make_data()
    np.random.default_rng(1)
    first = ask(name, data, seed=3)
    np.random.seed(99)  # noqa: NPY002  (a peer must not draw from the global state)
    same(first, ask(name, data, seed=3))


@pytest.mark.parametrize("name", EVERY)
def test_no_label_of_a_test_cell_is_seen(name: str) -> None:
    data = make_data()
    labels = data.labels.copy()
    labels[data.test] = np.random.default_rng(0).permutation(labels[data.test])
    labels[data.test[0]] = "unlabelled"  # a type that no train cell has, and a trap for scANVI
    if name == "scanvi":
        labels[data.test[0]] = TYPES[0]
    same(ask(name, data), ask(name, dataclasses.replace(data, labels=labels)))


@pytest.mark.parametrize("name", sorted(set(EVERY) - TRANSDUCTIVE - {"genept"}))
def test_train_cells_alone_are_learnt_from(name: str) -> None:
    data = make_data()
    counts = data.matrix.matrix.toarray()
    counts[data.test[5:]] = np.random.default_rng(5).poisson(4, size=counts[data.test[5:]].shape)
    out, other = ask(name, data), ask(name, with_counts(data, counts))
    kept = np.setdiff1d(np.arange(len(data.labels)), data.test[5:])
    if out.cells is not None and other.cells is not None:
        np.testing.assert_allclose(out.cells[kept], other.cells[kept], rtol=1e-5, atol=1e-5)
    else:
        assert out.predicted is not None
        assert other.predicted is not None
        np.testing.assert_array_equal(out.predicted[kept], other.predicted[kept])


@pytest.mark.parametrize("name", EVERY)
def test_what_a_peer_says_of_itself(name: str) -> None:
    peer = PEERS[name]
    assert peer.tasks <= set(TASKS)
    assert peer.n_seeds in (1, -1)
    assert peer.needs in ("", *PACKAGES)
    out = ask(name, make_data())
    for about in (peer.about, out.about):
        assert ("transductive" in about) == (name in TRANSDUCTIVE)
    assert (out.encode_cells is not None) == ("robustness" in peer.tasks)
    assert (out.encode_text is not None) == ("zero_shot" in peer.tasks)


@pytest.mark.parametrize("name", ["hvg-pca", "genept"])
def test_the_cells_encoded_again_are_the_cells(name: str) -> None:
    data = make_data()
    out = ask(name, data)
    assert out.encode_cells is not None
    assert out.cells is not None
    part = CellMatrix(data.matrix.matrix[20:40], data.matrix.gene_ids, "counts")
    np.testing.assert_allclose(out.encode_cells(part), out.cells[20:40], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_one_type_in_train_is_all_that_can_be_said(name: str) -> None:
    data = make_data()
    labels = data.labels.copy()
    labels[data.train] = TYPES[1]
    out = ask(name, dataclasses.replace(data, labels=labels))
    assert out.predicted is not None
    assert set(out.predicted) == {TYPES[1]}


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_two_types(name: str) -> None:
    data = make_data()
    labels = np.where(data.labels == TYPES[0], TYPES[0], "other")
    out = ask(name, dataclasses.replace(data, labels=labels))
    assert out.predicted is not None
    assert (out.predicted == labels)[data.test].mean() > 0.9


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"scvi", "scanvi"}))
def test_log_normalised_values_are_taken_as_they_are(name: str) -> None:
    data = make_data()
    values = np.log1p(data.matrix.matrix.toarray() * 700)  # not per 10,000
    out = ask(name, with_counts(data, values, "lognorm"))
    assert out.cells is not None or out.predicted is not None


# --- harmony ---------------------------------------------------------------------------------


def test_harmony_needs_two_batches() -> None:
    with pytest.raises(NotApplicable, match="of one batch"):
        PEERS["harmony"].embed(dataclasses.replace(make_data(), batches=np.full(150, "")), 0)


def test_harmony_brings_batches_together() -> None:
    data = make_data(n=600)
    counts = data.matrix.matrix.toarray()
    counts[data.batches == "y", 40:50] += 2
    shifted = with_counts(data, counts)

    def gap(cells: np.ndarray) -> float:
        a, b = cells[data.batches == "x"], cells[data.batches == "y"]
        return float(np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)))

    corrected, base = ask("harmony", shifted).cells, peers.pca(shifted, 0).cells
    assert corrected is not None
    assert base is not None
    assert gap(corrected) < 0.5 * gap(base)


def test_harmony_with_few_cells() -> None:
    out = ask("harmony", make_data(n=20))
    assert out.cells is not None
    assert np.isfinite(out.cells).all()


# --- scvi ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scvi", "scanvi"])
def test_scvi_needs_counts(name: str) -> None:
    data = make_data()
    logged = with_counts(data, np.log1p(data.matrix.matrix.toarray()), "lognorm")
    with pytest.raises(NotApplicable, match="counts"):
        PEERS[name].embed(logged, 0)


def test_scvi_depends_on_its_seed() -> None:
    data = make_data()
    assert not np.allclose(ask("scvi", data, 0).cells, ask("scvi", data, 1).cells)


def test_scvi_takes_one_batch_and_a_batch_of_test_cells_only() -> None:
    data = make_data()
    assert "batches" not in ask("scvi", dataclasses.replace(data, batches=np.full(150, ""))).about
    batches = np.where(data.splits == "test", "y", "x")
    assert "2 batches" in ask("scvi", dataclasses.replace(data, batches=batches)).about


def test_scanvi_needs_two_types_in_train() -> None:
    data = make_data()
    labels = np.where(data.splits == "train", TYPES[1], data.labels)
    with pytest.raises(NotApplicable, match="of one type"):
        PEERS["scanvi"].embed(dataclasses.replace(data, labels=labels), 0)


def test_unlabelled_is_no_type_of_scanvi() -> None:
    data = make_data()
    labels = np.where(data.labels == TYPES[2], "unlabelled", data.labels)
    out = ask("scanvi", dataclasses.replace(data, labels=labels))
    assert out.predicted is not None
    assert set(out.predicted) <= {*TYPES[:2], "unlabelled"}


@pytest.mark.parametrize("n", [129, 130, 257, 300])
def test_no_last_batch_of_one_cell(n: int) -> None:
    size = peers_scvi._batch_size(make_data(n=n))
    assert n % size not in (1, 2)


# --- classifiers on highly variable genes ----------------------------------------------------


def test_variable_genes_come_from_train_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hvg, "_N_GENES", 50)
    data = make_data(n_genes=400)
    counts = data.matrix.matrix.toarray()
    steady = np.linspace(0.2, 6, 370)
    counts[:, 30:] = np.random.default_rng(1).poisson(steady, (150, 370))
    data = with_counts(data, counts)
    chosen = hvg.variable_genes(data)
    assert len(chosen) == 50
    assert (np.diff(chosen) > 0).all()
    assert np.isin(np.arange(30), chosen).mean() > 0.4  # the markers; by chance 1 of 8
    counts = counts.copy()
    counts[data.test, 50:] = np.random.default_rng(0).poisson(20, (len(data.test), 350))
    np.testing.assert_array_equal(hvg.variable_genes(with_counts(data, counts)), chosen)


def test_genes_without_expression_in_train_are_no_variable_genes() -> None:
    data = make_data()
    counts = data.matrix.matrix.toarray()
    counts[data.train, 7] = 0
    assert 7 not in hvg.variable_genes(with_counts(data, counts))
    with pytest.raises(DataError, match="expressed genes"):
        hvg.variable_genes(with_counts(data, np.zeros_like(counts)))


def test_standardised_values_have_mean_0_and_deviation_1_on_train_cells() -> None:
    data = make_data()
    train = CellMatrix(data.matrix.matrix[data.train], data.matrix.gene_ids, "counts")
    values = hvg.standardised(data)(train)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=1e-4)


def test_blocks_of_cells_give_what_all_at_once_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data()
    whole = [ask(name, data) for name in ("hvg-pca", "logistic-hvg", "celltypist")]
    monkeypatch.setattr(hvg, "_BLOCK", 7)
    monkeypatch.setattr(peers, "_BLOCK", 7)
    parts = [ask(name, data) for name in ("hvg-pca", "logistic-hvg", "celltypist")]
    np.testing.assert_allclose(whole[0].cells, parts[0].cells, rtol=1e-4, atol=1e-5)
    for a, b in zip(whole[1:], parts[1:], strict=True):
        same(a, b)


def test_the_penalty_is_tuned_on_validation_cells_or_not_at_all() -> None:
    data = make_data()
    assert f"chosen on {len(data.validation)} validation cells" in ask("logistic-hvg", data).about
    splits = np.where(data.splits == "validation", "train", data.splits)
    assert "not tuned" in ask("logistic-hvg", dataclasses.replace(data, splits=splits)).about


def test_celltypist_selects_genes_and_keeps_large_data_sparse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_data(n_genes=400)
    monkeypatch.setattr(peers, "_MANY_GENES", 300)
    monkeypatch.setattr(peers, "_DENSE_BYTES", 0)
    out = ask("celltypist", data)
    assert "that it selected" in out.about
    assert out.predicted is not None
    assert (out.predicted == data.labels)[data.test].mean() > 0.8


def test_celltypist_says_what_its_own_command_says() -> None:
    with quiet():
        pytest.importorskip("celltypist")
        import anndata

        module = peer_module("celltypist", "celltypist")
    data = make_data()
    values = sparse.csr_matrix(peers.log_normalised(data.matrix), dtype=np.float32)
    values = values[np.arange(150) != 3]
    with quiet():
        train = values[data.train - (data.train > 3)]
        model = module.train(
            train,
            labels=data.labels[data.train],
            genes=np.arange(60).astype(str),
            check_expression=False,
            random_state=0,
        )
        asked = anndata.AnnData(values)
        theirs = module.annotate(asked, model=model).predicted_labels["predicted_labels"]
    out = ask("celltypist", data)
    assert out.predicted is not None
    np.testing.assert_array_equal(np.delete(out.predicted, 3), theirs.to_numpy().astype(str))


# --- genept ----------------------------------------------------------------------------------


def test_genept_is_the_weighted_mean_of_its_genes() -> None:
    data = make_data()
    counts = np.zeros_like(data.matrix.matrix.toarray())
    counts[:, 4] = 5
    counts[::2, 4], counts[::2, 9] = 1, 1
    ids = ("ENSG00000010610", "ENSG00000167286")  # CD4 and CD3D
    names = list(data.matrix.gene_ids)
    names[4], names[9] = ids
    matrix = CellMatrix(sparse.csr_matrix(counts), tuple(names), "counts")
    out = ask("genept", dataclasses.replace(data, matrix=matrix))
    first, second = WordEmbedder().encode(["CD4", "CD3D"])
    assert out.cells is not None
    np.testing.assert_allclose(out.cells[1], first, rtol=1e-5)
    both = (first + second) / np.linalg.norm(first + second)
    np.testing.assert_allclose(out.cells[0], both, rtol=1e-4, atol=1e-6)
    assert out.encode_text is not None
    np.testing.assert_array_equal(out.encode_text(["a"]), WordEmbedder().encode(["a"]))


def test_genes_are_embedded_once() -> None:
    data = make_data()
    ask("genept", data)
    ask("genept", data, seed=1)
    info = genept_module._gene_vectors.cache_info()
    assert (info.misses, info.hits) == (1, 1)


# --- packages --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in EVERY if PEERS[name].needs])
def test_a_package_that_is_not_installed_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str, package: str | None = None) -> None:
        raise ModuleNotFoundError(f"No module named '{module}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(DependencyError, match=r"pip install 'okrcell\[peers\]'") as caught:
        PEERS[name].embed(make_data(), 0)
    assert PEERS[name].needs in str(caught.value)


def test_quiet_hides_warnings_and_takes_new_log_handlers_away() -> None:
    import warnings

    root = logging.getLogger()
    before = root.level, list(root.handlers)
    with quiet():
        warnings.warn("hidden", stacklevel=1)
        root.addHandler(logging.StreamHandler())
        root.setLevel(logging.DEBUG)
        root.error("hidden")
    assert (root.level, root.handlers) == before
    with pytest.warns(UserWarning, match="seen"):
        warnings.warn("seen", stacklevel=1)
