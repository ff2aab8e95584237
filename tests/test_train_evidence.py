"""What speaks for a pair's text: readings and consensus against literal code, and planted mistakes found."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import sparse

from okrcell.corpus.marker_table import markers_of_term
from okrcell.corpus.shards import CellMatrix
from okrcell.train.config import TrainConfig
from okrcell.train.consensus import weigh
from okrcell.train.data import Kind, Pairs
from okrcell.train.evidence import SOURCES, pair_evidence
from okrcell.train.readings import fit_readings, log_likelihoods

B, T, NK, MONO = "CL:0000236", "CL:0000084", "CL:0000623", "CL:0001054"
TERMS = (B, T, NK, MONO)
PER_TYPE, N_GENES = 40, 120


def made_pairs(seed: int = 0, *, markers: bool = True) -> Pairs:
    """160 cells of four types; the first genes are markers of the types, the others tell them apart too."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(4), PER_TYPE)
    named = [[m.gene_id for m in markers_of_term(term) if m.sign > 0][:4] for term in TERMS]
    ids = list(dict.fromkeys(gene for genes in named for gene in genes))
    n_marker = len(ids)
    ids += [f"ENSG9{number:010d}" for number in range(N_GENES - n_marker)]
    means = rng.gamma(0.3, 2.0, (4, N_GENES))
    means[:, :n_marker] = 0.05
    if markers:
        for number, genes in enumerate(named):
            means[number, [ids.index(gene) for gene in genes]] = 4.0
    counts = rng.poisson(means[truth] * rng.gamma(8, 1 / 8, (len(truth), 1))).astype(np.float32)
    order = np.argsort(ids)
    matrix = CellMatrix(sparse.csr_matrix(counts[:, order]), tuple(sorted(ids)), "counts")
    n = len(truth)
    return Pairs(
        cell_uids=pa.chunked_array([[f"c{i}" for i in range(n)]]),
        dataset=np.zeros(n, dtype=np.int64), row=np.arange(n), text=truth.copy(),
        texts=tuple(f"text {i}" for i in range(4)), prior=np.ones(n, dtype=np.float32),
        cell_type=truth, cell_types=tuple("BTNM"), donor=np.full(n, -1), donors=(),
        clean=np.ones(n, dtype=bool), n_without_text=0, matrices=(matrix,),
        columns=(np.arange(N_GENES),), vocabulary=matrix.gene_ids,
        kinds=tuple(Kind(label, term) for label, term in zip("BTNM", TERMS, strict=True)),
        text_kind=np.arange(4),
    )  # fmt: skip


def config(**keys: object) -> TrainConfig:
    return TrainConfig(
        **(
            {"objective": "cra_plus", "neighbours": 10, "graph_genes": 60, "graph_components": 6}
            | keys
        )
    )


def wrong(pairs: Pairs, share: float, seed: int = 1) -> Pairs:
    rng = np.random.default_rng(seed)
    at = rng.permutation(len(pairs))[: round(share * len(pairs))]
    text = pairs.text.copy()
    text[at] = (text[at] + rng.integers(1, 4, len(at))) % 4
    return replace(pairs, text=text, clean=text == pairs.text)


def auroc(reliable: np.ndarray, clean: np.ndarray) -> float:
    return float((reliable[clean][:, None] > reliable[~clean][None]).mean())


# --- readings ----------------------------------------------------------------------------------


def test_a_reading_is_the_discriminant_without_the_pair_itself():
    rng = np.random.default_rng(0)
    kinds = np.array([0] * 9 + [1] * 6 + [2] + [4] * 4)
    x = rng.standard_normal((20, 3)) + kinds[:, None]
    found = fit_readings(torch.from_numpy(x).float(), torch.from_numpy(kinds), 5)
    values = log_likelihoods(found, slice(3, 18), torch.from_numpy(kinds[3:18])).double().numpy()
    within = np.zeros((3, 3))
    for kind in np.unique(kinds):
        own = x[kinds == kind]
        within += (own - own.mean(0)).T @ (own - own.mean(0))
    within /= 20
    within = 0.9 * within + 0.1 * np.trace(within) / 3 * np.eye(3)
    inverse = np.linalg.inv(within)
    for row in range(3, 18):
        expected = np.full(5, -1e4)
        for kind in (0, 1, 2, 4):
            others = np.flatnonzero((kinds == kind) & (np.arange(20) != row))
            if len(others):
                gap = x[row] - x[others].mean(0)
                wider = 1 + 1 / len(others)
                expected[kind] = -0.5 * (gap @ inverse @ gap / wider + 3 * math.log(wider))
        if kinds[row] == 2:  # the only pair of its kind: nothing speaks against it
            expected[2] = expected[[0, 1, 4]].max()
        np.testing.assert_allclose(values[row - 3], expected, rtol=1e-3, atol=1e-3)


# --- consensus ---------------------------------------------------------------------------------


@pytest.mark.parametrize("witness", [0.0, 0.5, 1.0])
def test_the_consensus_is_its_equations(witness: float):
    rng = np.random.default_rng(0)
    n, size, n_kinds, sources = 30, 3, 5, 2
    kinds = np.array([rng.permutation(n_kinds)[:size] for _ in range(n)])
    valid = np.ones((n, size), dtype=bool)
    kinds[4, 2], valid[4, 2] = kinds[4, 0], False
    f = rng.standard_normal((n, size, sources)).astype(np.float32)
    f[:, 0, 0] += 1
    f[~valid] = 0
    found, facts = weigh(
        torch.from_numpy(f), torch.from_numpy(kinds), torch.from_numpy(valid), n_kinds,
        witness=witness,
    )  # fmt: skip
    share = np.bincount(kinds[:, 0], minlength=n_kinds) / n
    table = 0.8 * np.eye(n_kinds) + 0.2 * share
    b = np.full(sources, 0.5)
    for _ in range(16):
        p = np.exp(f.astype(float) @ b) * valid
        p /= p.sum(1, keepdims=True)
        said = table[kinds, kinds[:, :1]]
        returned = p * said**witness
        returned /= returned.sum(1, keepdims=True)
        q = p * said
        q /= q.sum(1, keepdims=True)
        last = table
        counted = np.zeros((n_kinds, n_kinds))
        for i in range(n):
            for s in range(size):
                counted[kinds[i, s], kinds[i, 0]] += q[i, s]
        counted += 2 * share
        table = counted / counted.sum(1, keepdims=True)
        before = b
        mean = np.einsum("ns,nsf->nf", p, f)
        slope = (np.einsum("ns,nsf->nf", q, f) - mean).mean(0) - 2e-3 * b
        curve = (np.einsum("ns,nsf,nsg->fg", p, f, f) - mean.T @ mean) / n
        step = np.linalg.solve(curve + 2e-3 * np.eye(sources), slope)
        b = np.maximum(b + np.clip(step, -0.25, 0.25), 0)
    np.testing.assert_allclose(found.numpy(), returned, atol=1e-4)
    assert facts["weights"] == pytest.approx(before, abs=1e-3)
    assert facts["kept"] == pytest.approx(float((np.diagonal(last) * share).sum()), abs=1e-3)
    assert (found.numpy()[~valid] == 0).all()


def test_sources_that_say_nothing_leave_every_pair_its_text():
    kinds = torch.tensor([[0, 1], [1, 0], [0, 1], [2, 0]] * 10)
    valid = torch.ones_like(kinds, dtype=torch.bool)
    found, _ = weigh(torch.zeros(40, 2, 1), kinds, valid, 3, witness=0.5)
    assert (found[:, 0] > found[:, 1]).all()


# --- pairs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_mismatched_pairs_are_found_and_the_right_text_is_suggested(share: float):
    truth = made_pairs()
    pairs = wrong(truth, share)
    found = pair_evidence(pairs, config(), seed=0)
    assert found.texts_NS.dtype == np.int32
    assert np.array_equal(found.texts_NS[:, 0], pairs.text)
    np.testing.assert_allclose(found.chances_NS.sum(1), 1, atol=1e-5)
    assert list(found.facts["weights"]) == list(SOURCES)
    assert auroc(found.chances_NS[:, 0], pairs.clean) > 0.95
    best = found.texts_NS[np.arange(len(pairs)), found.chances_NS.argmax(1)]
    assert (best == truth.text).mean() > 0.9


def test_clean_pairs_are_believed():
    found = pair_evidence(made_pairs(), config(), seed=0)
    assert (found.chances_NS[:, 0] > 0.5).mean() > 0.97


def test_markers_stand_when_most_pairs_are_wrong():
    """All cells of two types have changed texts, as when two labels are mistaken for each other in most."""
    truth = made_pairs()
    text = truth.text.copy()
    swapped = np.flatnonzero((truth.text < 2) & (np.arange(len(truth)) % 10 < 7))
    text[swapped] = 1 - text[swapped]
    pairs = replace(truth, text=text, clean=text == truth.text)
    with_markers = pair_evidence(pairs, config(), seed=0)
    without = pair_evidence(pairs, config(markers=False), seed=0)
    assert auroc(with_markers.chances_NS[:, 0], pairs.clean) > 0.95
    assert auroc(without.chances_NS[:, 0], pairs.clean) < 0.8


@pytest.mark.parametrize(
    "keys", [{"neighbours": 0}, {"readings": False}, {"markers": False}, {"witness": 0.0},
             {"debias": False}, {"keep_texts": 1}],
)  # fmt: skip
def test_every_source_is_a_switch(keys: dict[str, object]):
    pairs = wrong(made_pairs(), 0.3)
    whole, part = (pair_evidence(pairs, config(**k), seed=0) for k in ({}, keys))
    assert not np.allclose(whole.chances_NS[:, 0], part.chances_NS[:, 0], atol=1e-4)
    np.testing.assert_allclose(part.chances_NS.sum(1), 1, atol=1e-5)
    if "keep_texts" in keys:
        assert part.texts_NS.shape == (len(pairs), 2)


def test_without_any_source_and_without_kinds_it_still_stands():
    pairs = replace(wrong(made_pairs(), 0.3), kinds=(), text_kind=None)
    found = pair_evidence(pairs, config(neighbours=0, readings=False, markers=False), seed=0)
    assert (found.chances_NS.argmax(1) == 0).all()
    named = pair_evidence(pairs, config(neighbours=0, readings=False), seed=0)
    assert (named.chances_NS.argmax(1) == 0).all()  # "text 0" names no gene


def test_texts_of_one_type_are_one_kind():
    """A cell's own wording stays; of another type it gets the wording of the nearest cell."""
    truth = made_pairs()
    texts = tuple(f"text {i}" for i in range(8))  # two per type: even and odd cells
    text = 2 * truth.text + np.arange(len(truth)) % 2
    pairs = replace(truth, text=text, texts=texts, text_kind=np.arange(8) // 2)
    found = pair_evidence(pairs, config(), seed=0)
    assert (found.chances_NS.argmax(1) == 0).mean() > 0.97
    assert found.texts_NS.shape[1] == 4
    kinds = found.texts_NS // 2
    assert all(len(set(row)) == 4 for row in kinds.tolist())
    at = 7
    text[at] = 2  # a B cell with a text of T cells
    noisy = replace(pairs, text=text)
    found = pair_evidence(noisy, config(), seed=0)
    assert found.texts_NS[at, found.chances_NS[at].argmax()] in (0, 1)


def test_it_is_a_function_of_its_arguments():
    pairs = wrong(made_pairs(), 0.3)
    one, other = (pair_evidence(pairs, config(), seed=3) for _ in range(2))
    assert np.array_equal(one.texts_NS, other.texts_NS)
    assert np.array_equal(one.chances_NS, other.chances_NS)
    assert one.facts == other.facts
