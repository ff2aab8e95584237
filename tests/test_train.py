"""Tokens, the tower, the objectives against their equations, and runs that survive."""

import json
import math

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse

import okrcell
from okrcell.corpus.shards import CellMatrix, load_matrix
from okrcell.errors import FileFormatError, GeneCoverageError, ManifestError, TrainingError
from okrcell.train import loop, losses
from okrcell.train.config import PRESETS, TrainConfig
from okrcell.train.cra import CrossModalRobustAlignment
from okrcell.train.data import Texts, batch_order, load_pairs, load_texts, read_batch
from okrcell.train.encoder import CellEncoder, mask_bins
from okrcell.train.tokens import CLS, N_SPECIAL, PAD, column_tokens, tokenise

TINY = {
    "preset": "tiny",
    "text_source": "label",
    "epochs": 4,
    "batch_size": 100,
    "bank_size": 150,
    "lr": 1e-3,
    "checkpoint_every": 2,
    "max_genes": 24,
}


def cells(rows, values="counts"):
    return CellMatrix(
        sparse.csr_matrix(np.array(rows, dtype=np.float32)), ("g0", "g1", "g2", "g3"), values
    )


# --- tokens ------------------------------------------------------------------------------------


def test_tokens_are_non_zero_genes_in_equal_bins():
    matrix = cells([[0, 1, 10, 100], [5, 0, 0, 0], [0, 0, 0, 0]])
    columns = column_tokens(matrix.gene_ids, {"g1": 0, "g2": 1, "g3": 2}, "x")
    made = tokenise(
        matrix, np.arange(3), columns, n_bins=4, max_genes=9, rng=np.random.default_rng(0)
    )
    assert made.genes.tolist() == [[CLS, 2, 3, 4], [CLS, PAD, PAD, PAD], [CLS, PAD, PAD, PAD]]
    low, middle, high = np.log1p([1, 10, 100])
    expected = 1 + int((middle - low) / (high - low) * 4)
    assert made.bins.tolist() == [[0, 1, expected, 4], [0] * 4, [0] * 4]


def test_log_normalised_values_are_not_logged_again():
    matrix = cells([[1, 2, 3, 5]], "lognorm")
    columns = np.arange(4)
    made = tokenise(
        matrix, np.arange(1), columns, n_bins=4, max_genes=9, rng=np.random.default_rng(0)
    )
    assert made.bins.tolist() == [[0, 1, 2, 3, 4]]


def test_long_cells_are_sampled_and_foreign_genes_refused():
    matrix = cells([[1, 2, 3, 5]])
    made = tokenise(
        matrix, np.arange(1), np.arange(4), n_bins=4, max_genes=2, rng=np.random.default_rng(0)
    )
    assert made.genes.shape == (1, 3)
    with pytest.raises(GeneCoverageError):
        column_tokens(("a", "b"), {"c": 0}, "x")


# --- tower -------------------------------------------------------------------------------------


@pytest.fixture
def tower():
    torch.manual_seed(0)
    return CellEncoder(TrainConfig(preset="tiny", n_bins=8, dropout=0.0), 4, 16).eval()


def tokens_of(rows):
    return tokenise(
        cells(rows),
        np.arange(len(rows)),
        np.arange(4),
        n_bins=8,
        max_genes=9,
        rng=np.random.default_rng(0),
    )


def test_padding_and_order_do_not_matter(tower):
    alone = tower(tokens_of([[1, 2, 0, 0]])).cell
    padded = tower(tokens_of([[1, 2, 0, 0], [1, 2, 3, 4]])).cell
    assert torch.allclose(alone[0], padded[0], atol=1e-6)
    assert torch.allclose(padded.norm(dim=1), torch.ones(2), atol=1e-5)
    made = tokens_of([[1, 2, 3, 4]])
    order = [0, 3, 1, 4, 2]
    shuffled = type(made)(made.genes[:, order], made.bins[:, order])
    assert torch.allclose(tower(made).cell, tower(shuffled).cell, atol=1e-5)


def test_nobody_reads_a_hidden_value(tower):
    """Known/unknown attention: changing a masked gene's value or presence changes no other state."""
    made = tokens_of([[1, 2, 3, 4]])
    hidden = torch.tensor([[False, False, True, False, True]])
    other = type(made)(made.genes, made.bins.clone())
    other.bins[hidden] = 1
    a, b = tower(made, hidden).states, tower(other, hidden).states
    assert torch.equal(a, b)
    swapped = type(made)(made.genes.clone(), made.bins)
    swapped.genes[0, 2] = N_SPECIAL
    c = tower(swapped, hidden).states
    visible = [0, 1, 3]
    assert torch.allclose(a[:, visible], c[:, visible], atol=1e-6)
    assert not torch.allclose(a[:, 2], c[:, 2], atol=1e-4)


def test_masks_spare_cls_and_padding(tower):
    made = tokens_of([[1, 2, 0, 0], [1, 2, 3, 4]])
    hidden = mask_bins(made, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(hidden, made.genes >= N_SPECIAL)
    gep, gepc = tower.gene_loss(tower(made, hidden), made, hidden)
    assert gep > 0
    assert gepc > 0
    nothing = torch.zeros_like(hidden)
    assert tower.gene_loss(tower(made, nothing), made, nothing)[0] == 0


def test_gepc_is_the_bilinear_form_gene_by_gene(tower):
    made = tokens_of([[1, 2, 3, 4], [4, 0, 0, 1]])
    hidden = mask_bins(made, 0.6, torch.Generator().manual_seed(1))
    encoded = tower(made, hidden)
    slow = []
    for b, t in hidden.nonzero().tolist():
        by_bin = tower.gepc_cell(encoded.states[b, 0]).view(8, -1)
        logits = by_bin @ tower.gepc_query(tower.gene(made.genes[b, t]))
        slow.append(-torch.log_softmax(logits, 0)[made.bins[b, t] - 1])
    assert torch.allclose(
        tower.gene_loss(encoded, made, hidden)[1], torch.stack(slow).mean(), atol=1e-5
    )


def test_presets():
    assert PRESETS["paper"] == (128, 6, 4, 128)
    assert PRESETS["base"] == (512, 12, 8, 512)


# --- objectives against slow, literal equations ------------------------------------------------


def slow_cca(c, t, w, cb, tb, tau, omega, lam):
    """The paper's section on CCA, pair by pair, with the math module."""

    def match(query, keys):
        logits = [float(query @ key) / tau for key in keys]
        top = max(logits)
        exps = [math.exp(x - top) for x in logits]
        return [e / sum(exps) for e in exps]

    out = []
    for i in range(len(c)):
        ct, tc = match(c[i], [*t, *tb]), match(t[i], [*c, *cb])
        positive = -float(w[i]) * (math.log(ct[i]) + math.log(tc[i]))
        negative = 0.0
        for s in (ct, tc):
            total = sum(math.tan(x) for x in s)
            negative += sum(math.tan(x) for j, x in enumerate(s) if j != i) / total**omega
        out.append(positive + lam * negative)
    return out


def unit(n, seed=0, dim=6):
    values = torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=1)


CASES = {
    "plain": (unit(4), unit(4, 1), unit(3, 2), unit(3, 3)),
    "one pair": (unit(1), unit(1, 1), unit(2, 2), unit(2, 3)),
    "empty bank": (unit(4), unit(4, 1), unit(0), unit(0)),
    "all texts the same": (unit(4), unit(1).repeat(4, 1), unit(2, 2), unit(2, 3)),
    "all cells the same": (unit(1).repeat(4, 1), unit(4), unit(2, 2), unit(2, 3)),
    "perfect": (unit(4), unit(4), unit(2, 2), unit(2, 3)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tau", [0.07, 1.0])
@pytest.mark.parametrize("omega", [0.0, 0.5, 1.0])
def test_cca_is_its_equation(name, tau, omega):
    c, t, cb, tb = CASES[name]
    w = torch.linspace(0, 1, len(c), dtype=torch.float64)
    config = TrainConfig(tau=tau, omega=omega)
    leaf = c.clone().requires_grad_()
    loss, _ = losses.cca(leaf, t, w, config, (cb, tb) if len(cb) else None)
    assert loss.tolist() == pytest.approx(
        slow_cca(c, t, w, cb, tb, tau, omega, 5.0), rel=1e-9, abs=1e-9
    )
    loss.sum().backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()
    if name == "plain":
        step = 1e-6
        moved = c.clone()
        moved[1, 2] += step
        rise = sum(slow_cca(moved, t, w, cb, tb, tau, omega, 5.0)) - sum(
            slow_cca(c, t, w, cb, tb, tau, omega, 5.0)
        )
        assert float(leaf.grad[1, 2]) == pytest.approx(rise / step, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("tau", [1e-3, 10.0])
def test_extreme_temperatures_stay_finite(tau):
    c, t = unit(4).float().requires_grad_(), unit(4, 1).float()
    loss, _ = losses.cca(c, t, torch.zeros(4), TrainConfig(tau=tau))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(c.grad).all()


def test_infonce_is_its_equation_and_equal_texts_are_harmless():
    c, t = unit(4), unit(4, 1)
    slow = 0.0
    for a, b in ((c, t), (t, c)):
        for i in range(4):
            logits = [float(a[i] @ b[j]) / 0.1 for j in range(4)]
            slow += (math.log(sum(map(math.exp, logits))) - logits[i]) / 8
    assert float(losses.infonce(c, t, 0.1)) == pytest.approx(slow)
    same = unit(1, 1).repeat(4, 1)
    leaf = c.clone().requires_grad_()
    losses.infonce(leaf, same, 0.1).backward()
    text_to_cell = torch.autograd.grad(
        torch.nn.functional.cross_entropy(same @ leaf.T / 0.1, torch.arange(4)) / 2, leaf
    )[0]
    assert torch.allclose(leaf.grad, text_to_cell)  # the cell-to-text half has no gradient at all


def test_reliability_and_curriculum():
    c, t = unit(5), unit(5, 1)
    both = [losses.rel_sym(c, t, 0.2, how) for how in ("mean", "min", "product")]
    assert all(((r >= 0) & (r <= 1)).all() for r in both)
    assert (both[1] <= both[0]).all()
    assert (both[2] <= both[1] + 1e-12).all()
    assert losses.rel_sym(c, c, 1e-3, "min").tolist() == pytest.approx([1.0] * 5)

    q = torch.tensor([0.0, 1.0, 3.9])
    assert losses.rel_stab(q, 0.0, 1.0, 3.0).tolist() == pytest.approx(
        [1, 1, math.exp(-(3.9**2) / 2)]
    )
    assert losses.rel_stab(q, 0.0, 0.0, 3.0).tolist() == [1, 1, 1]

    config = TrainConfig()
    assert losses.gamma(0, config) == 2
    assert losses.gamma(1, config) == 10
    assert losses.gamma(0.25, config) == 6
    hard = torch.tensor([1.0, 20.0])
    early, late = losses.sample_weights(hard, 0.1, config), losses.sample_weights(hard, 0.9, config)
    assert early[1] / early[0] == pytest.approx(math.exp(losses.gamma(0.1, config) - 20))
    assert late[1] / late[0] == pytest.approx(2 / (0.5 + 1 / losses.gamma(0.9, config)))
    assert float(early.mean()) == pytest.approx(1)
    assert float(late.mean()) == pytest.approx(1)


def test_bank_is_a_queue_in_order_and_stability_is_a_standard_deviation(tower):
    config = TrainConfig(preset="tiny", n_bins=8, bank_size=3, dropout=0.0, momentum=0.5)
    cra = CrossModalRobustAlignment(config, tower, torch.ones(4), 16)
    made = tokens_of([[1, 2, 0, 0], [1, 2, 3, 4]])
    for fill, seed in ((2, 1), (3, 2)):
        texts = torch.nn.functional.normalize(
            torch.randn(2, 16, generator=torch.Generator().manual_seed(seed))
        )
        cra.after_step(tower, made, texts)
        assert cra.bank_state.tolist() == [2 * seed % 3, fill]
    assert torch.equal(cra.text_bank[0], texts[1])
    assert torch.equal(cra.text_bank[2], texts[0])

    history = []
    for epoch in range(2, 7):
        vectors = torch.nn.functional.normalize(
            torch.randn(4, 16, generator=torch.Generator().manual_seed(epoch)), dim=1
        )
        history.append(losses.rel_sym(vectors, vectors.flip(0), config.sigma, "mean", cra._banks()))
        cra._reliability(vectors, vectors.flip(0), torch.arange(4), epoch, cra._banks())
    expected = torch.stack(history).std(dim=0, correction=0)
    assert torch.allclose(torch.sqrt(cra.m2 / cra.count), expected, atol=1e-5)


def test_the_prior_of_a_text_scales_its_positive_weight(tower):
    vectors = torch.nn.functional.normalize(torch.randn(4, 16), dim=1)
    prior = torch.tensor([1.0, 0.5, 0.0, 0.25])
    for keys in ({}, {"cca": False}):
        config = TrainConfig(
            preset="tiny", n_bins=8, dropout=0.0, negative_weight=0.0, psw=False, **keys
        )
        parts = [
            CrossModalRobustAlignment(config, tower, one_hot, 16)(
                vectors, vectors.flip(0), torch.arange(4), epoch=1, progress=0.5
            )
            for one_hot in torch.eye(4)
        ]
        weighted = CrossModalRobustAlignment(config, tower, prior, 16)(
            vectors, vectors.flip(0), torch.arange(4), epoch=1, progress=0.5
        )
        assert torch.isclose(weighted, (torch.stack(parts) * prior).sum())


def test_reliability_reaches_the_pairs_and_can_be_left_out(store, tmp_path):
    labels = load_texts(store, tmp_path, "label").by_profile
    rated = Texts(labels, dict.fromkeys(labels, 0.25), {})
    pairs = load_pairs(store, rated)
    assert pairs.prior.tolist() == [0.25] * 375
    texts = torch.nn.functional.normalize(torch.randn(len(pairs.texts), 384), dim=1)
    for used, value in ((True, 0.25), (False, 1.0)):
        config = TrainConfig(**TINY, reliability_prior=used)
        assert loop._Run(config, pairs, texts).cra.prior.tolist() == [value] * 375


# --- runs --------------------------------------------------------------------------------------


def test_sampler_is_a_permutation_and_a_pure_function():
    order = batch_order(103, 10, 1, 2)
    assert order.shape == (10, 10)
    assert len(set(order.ravel().tolist())) == 100
    assert np.array_equal(order, batch_order(103, 10, 1, 2))
    assert not np.array_equal(order, batch_order(103, 10, 1, 3))
    assert batch_order(3, 10, 0, 0).shape == (1, 3)


def test_only_training_cells_are_read(store, tmp_path):
    pairs = load_pairs(store, load_texts(store, tmp_path, "label"))
    assert len(pairs) == 375
    assert pairs.prior.tolist() == [1.0] * 375
    assert "natural killer cell" not in pairs.texts
    batch = read_batch(pairs, np.arange(4), TrainConfig(**TINY), np.random.default_rng(0))
    assert batch.tokens.genes.shape[0] == 4
    with pytest.raises(TrainingError, match="no cell of split 'train'"):
        load_pairs(store, Texts({}, {}, {}))


@pytest.mark.parametrize("objective", ["infonce", "cra_paper"])
def test_a_killed_run_ends_byte_identical(okrcell, store, tmp_path, objective):
    lines = "\n".join(f"{k} = {json.dumps(v)}" for k, v in TINY.items())
    (tmp_path / "c.toml").write_text(f"[train]\n{lines}\n")

    def go(name, *flags, **kwargs):
        return okrcell(
            "train", "run", store, "--out", tmp_path / name, "--config", tmp_path / "c.toml",
            "--objective", objective, *(flags or ("--seed", "3")), **kwargs,
        )  # fmt: skip

    calm = go("calm")
    assert calm.returncode == 0, calm.stderr
    assert go("killed", kill_at=4).returncode == -9  # marker, two checkpoints, then dead
    resumed = go("killed")
    assert "Continuing at step 4 of 12" in resumed.stderr
    names = sorted(p.name for p in (tmp_path / "calm").iterdir())
    assert "resume.safetensors" not in names
    for name in names:
        assert (tmp_path / "calm" / name).read_bytes() == (
            tmp_path / "killed" / name
        ).read_bytes(), name
    assert "reused" in go("killed").stdout
    # Another seed into the finished folder, killed between the weights and the manifest: it goes on.
    again = go("killed", "--seed", "4", kill_at=7)
    assert again.returncode == -9
    assert not (tmp_path / "killed" / "manifest.json").exists()
    assert go("killed", "--seed", "4").returncode == 0


@pytest.fixture(scope="module")
def run(store, tmp_path_factory, embedder):
    out = tmp_path_factory.mktemp("run") / "run"
    config = TrainConfig(
        **{**TINY, "objective": "infonce", "epochs": 12, "batch_size": 64, "max_genes": 200}
    )
    loop.train(store, out, out, config, embedder=embedder)
    return out


def test_a_trained_model_names_cells_it_never_saw(run, store):
    from okrcell.corpus.cells import load_cells, load_profiles

    model = okrcell.load(run)
    vectors = model.encode_cells(load_matrix(store, "pbmc"))
    profiles = {p["profile_id"]: p["cell_type"] for p in load_profiles(store).to_pylist()}
    rows = load_cells(store).to_pylist()
    seen = sorted({profiles[r["profile_id"]] for r in rows if r["split"] == "train"})
    guesses = np.array(seen)[(vectors @ model.encode_text(seen).T).argmax(axis=1)]
    test = [
        i for i, r in enumerate(rows) if r["split"] == "test" and profiles[r["profile_id"]] in seen
    ]
    truth = np.array([profiles[rows[i]["profile_id"]] for i in test])
    majority = max(np.mean(truth == label) for label in seen)
    assert np.mean(guesses[test] == truth) > majority + 0.15
    history = json.loads((run / "history.json").read_text())
    assert history[-1]["align"] < history[0]["align"]
    assert history[-1]["gep"] < history[0]["gep"]


def test_anndata_in_any_gene_order_gives_the_same_vectors(run, adata, store):
    model = okrcell.load(run)
    expected = model.encode_cells(load_matrix(store, "pbmc"))[:20]
    back = adata[:20, ::-1].copy()
    assert np.allclose(model.encode_cells(back), expected, atol=1e-4)
    foreign = anndata.AnnData(np.ones((2, 2), dtype=np.float32))
    foreign.var_names = ["x", "y"]
    with pytest.raises(GeneCoverageError):
        model.encode_cells(foreign)


def test_loading_is_strict(run, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    from okrcell.artifacts import commit, invalidate

    with pytest.raises(ManifestError):
        okrcell.load(tmp_path)
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    tensors = load_file(copy / "weights.safetensors")
    tensors.pop("projector.bias")
    save_file(tensors, copy / "weights.safetensors")
    with pytest.raises(ManifestError, match="other content"):
        okrcell.load(copy)
    invalidate(copy)
    files = {"weights.safetensors": None, "model.json": None}
    commit(copy, "run", config={}, inputs={}, files=files)
    with pytest.raises(FileFormatError, match=r"projector\.bias"):
        okrcell.load(copy)


def test_an_exploding_loss_stops_with_the_step(store, tmp_path, embedder):
    class Broken:
        id, dim = "broken:0:float32", 8

        def encode(self, texts):
            return np.full((len(texts), 8), np.nan, dtype=np.float32)

    with pytest.raises(TrainingError, match="step 0"):
        loop.train(store, tmp_path, tmp_path / "r", TrainConfig(**TINY), embedder=Broken())


def test_one_text_is_nothing_to_learn_from(store, tmp_path, monkeypatch):
    monkeypatch.setattr(
        loop,
        "load_texts",
        lambda s, j, source: Texts(
            dict.fromkeys(load_texts(s, j, "label").by_profile, "cell"), {}, {}
        ),
    )
    with pytest.raises(TrainingError, match="one text"):
        loop.train(store, tmp_path, tmp_path / "r", TrainConfig(**TINY))


def test_a_damaged_checkpoint_is_named(store, tmp_path, embedder):
    out = tmp_path / "r"
    out.mkdir()
    (out / "okrcell.json").write_text('{"okrcell": "run", "schema_version": 1}')
    (out / "resume.safetensors").write_bytes(b"torn")
    with pytest.raises(FileFormatError, match=r"resume\.safetensors"):
        loop.train(store, tmp_path, out, TrainConfig(**TINY), embedder=embedder)
