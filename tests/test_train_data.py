"""From cells on disk to batches: tokens against a literal version, order, threads, several datasets."""

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from okrcell.corpus.marker_table import bundled_markers
from okrcell.corpus.shards import CellMatrix
from okrcell.errors import ConfigError, GeneCoverageError, InternalError, TrainingError
from okrcell.train import tokens
from okrcell.train.config import TrainConfig
from okrcell.train.data import Texts, load_pairs, load_texts, seen_cells
from okrcell.train.distributed import World
from okrcell.train.loader import Loader, epoch_key, mask_ratio, read
from okrcell.train.sampler import WINDOW_BLOCKS, Sampler, shuffle_quality
from okrcell.train.tokens import CLS, N_SPECIAL, PAD, column_tokens, concatenate, tokenise
from okrcell.train.variable import choose_variable, dense, with_variable

KINDS = ("T cell", "B cell", "monocyte", "neutrophil")


def cells_of(rows, values="counts"):
    rows = np.atleast_2d(np.array(rows, dtype=np.float32))
    return CellMatrix(sparse.csr_matrix(rows), tuple(f"g{i}" for i in range(rows.shape[1])), values)


def random_cells(n=40, genes=60, seed=0, values="counts"):
    rng = np.random.default_rng(seed)
    rows = rng.geometric(0.3, (n, genes)) * (rng.random((n, genes)) < rng.random((n, 1)))
    rows[3] = 0
    rows[4] = 7 * (rows[4] > 0)
    return cells_of(rows if values == "counts" else np.log1p(rows / 3), values)


def unpacked(packed):
    """Return per cell its known and its hidden {token: bin}, after checking the invariants."""
    out, k, h = [], 0, 0
    for n_known, n_hidden in zip(
        packed.known_counts.tolist(), packed.hidden_counts.tolist(), strict=True
    ):
        known = packed.known_genes[k : k + n_known].tolist()
        bins = packed.known_bins[k : k + n_known].tolist()
        assert (known[0], bins[0]) == (CLS, 0)
        assert all(token >= N_SPECIAL for token in known[1:])
        hidden = dict(
            zip(
                packed.hidden_genes[h : h + n_hidden].tolist(),
                packed.hidden_bins[h : h + n_hidden].tolist(),
                strict=True,
            )
        )
        assert not set(hidden) & set(known)
        out.append((dict(zip(known[1:], bins[1:], strict=True)), hidden))
        k, h = k + n_known, h + n_hidden
    assert k == len(packed.known_genes)
    assert h == len(packed.hidden_genes)
    assert {f.dtype for f in (packed.known_genes, packed.hidden_bins)} == {torch.int32}
    assert {packed.known_counts.dtype, packed.hidden_counts.dtype} == {torch.int64}
    return out


def literal(cells, row, columns, n_bins):
    """The binning rule, one cell at a time."""
    line = cells.matrix[row].toarray()[0].astype(np.float64)
    found = {int(columns[j]) + 2: v for j, v in enumerate(line) if v and columns[j] >= 0}
    if cells.values == "counts":
        found = {token: float(np.log1p(v)) for token, v in found.items()}
    if not found:
        return {}
    low, high = min(found.values()), max(found.values())
    return {
        token: 1 if high == low else 1 + min(int((v - low) / (high - low) * n_bins), n_bins - 1)
        for token, v in found.items()
    }


# --- tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", ["counts", "lognorm"])
@pytest.mark.parametrize("piece", [1, 200, 1 << 15])
def test_tokens_are_the_binning_rule(values, piece, monkeypatch):
    monkeypatch.setattr(tokens, "_PIECE", piece)
    cells = random_cells(values=values)
    columns = np.random.default_rng(1).permutation(60)
    columns[::7] = -1
    rows = np.random.default_rng(2).permutation(40)
    made = unpacked(tokenise(cells, rows, columns, n_bins=7, max_genes=99, key=None))
    assert [known for known, _ in made] == [literal(cells, r, columns, 7) for r in rows]
    assert all(hidden == {} for _, hidden in made)
    where = rows.tolist().index(4)
    assert set(made[where][0].values()) == {1}  # a cell of equal values
    tokens_of_one = [t for t in columns + 2 if t in made[0][0]]
    assert list(made[0][0]) == tokens_of_one  # in the order of the columns


def test_stored_zeros_empty_matrices_and_no_rows():
    matrix = sparse.csr_matrix(
        (np.array([0, 3, 0, 5], np.float32), np.array([0, 1, 2, 0]), np.array([0, 2, 3, 4])),
        shape=(3, 3),
    )
    keys = {"n_bins": 4, "max_genes": 9}
    cells = CellMatrix(matrix, ("a", "b", "c"), "counts")
    made = unpacked(tokenise(cells, np.arange(3), np.arange(3), **keys, key=1, mask_ratio=0.0))
    assert made == [({3: 1}, {}), ({}, {}), ({2: 1}, {})]
    empty = CellMatrix(sparse.csr_matrix((2, 3), dtype=np.float32), ("a", "b", "c"), "counts")
    made = tokenise(empty, np.arange(2), np.arange(3), **keys, key=1, mask_ratio=0.5)
    assert unpacked(made) == [({}, {})] * 2
    assert len(tokenise(cells, np.zeros(0, np.int64), np.arange(3), **keys, key=1)) == 0
    with pytest.raises(GeneCoverageError):
        column_tokens(("a", "b"), {"c": 0}, "x")
    assert column_tokens(("a", "c"), {"c": 4}, "x").tolist() == [-1, 4]
    assert (PAD, CLS, N_SPECIAL) == (0, 1, 2)


def test_no_choice_depends_on_the_batch_or_the_order_of_genes(monkeypatch):
    cells = random_cells()
    order = np.random.default_rng(3).permutation(60)
    other = CellMatrix(cells.matrix[:, order], tuple(f"g{i}" for i in order), "counts")
    other.matrix.sort_indices()
    ids = np.arange(1000, 1040)
    keys = {"n_bins": 9, "max_genes": 12, "mask_ratio": 0.4}
    whole = unpacked(tokenise(cells, np.arange(40), np.arange(60), key=5, ids=ids, **keys))
    assert max(len(known) + len(hidden) for known, hidden in whole) == 12
    assert any(hidden for _, hidden in whole)
    for rows in (np.arange(40)[::-1], np.array([7]), np.array([5, 39, 5])):
        part = tokenise(other, rows, order, key=5, ids=ids[rows], **keys)
        assert unpacked(part) == [whole[row] for row in rows]
    for changed in ({"key": 6, "ids": ids}, {"key": 5, "ids": ids + 1}, {"key": 5, "ids": None}):
        again = tokenise(cells, np.arange(40), np.arange(60), **changed, **keys)
        assert unpacked(again) != whole
    bare = [
        unpacked(tokenise(c, np.arange(40), cols, key=None, ids=i, **keys))
        for c, cols, i in ((cells, np.arange(60), ids), (other, order, None))
    ]
    assert bare[0] == bare[1]
    assert all(hidden == {} for _, hidden in bare[0])


def test_every_gene_is_equally_likely_to_be_chosen_and_hidden():
    n, genes = 4000, 50
    cells = cells_of(np.ones((n, genes)))
    keys = {"n_bins": 5, "max_genes": 20}
    made = tokenise(cells, np.arange(n), np.arange(genes), key=9, mask_ratio=0.25, **keys)
    assert ((made.known_counts + made.hidden_counts) == 21).all()
    hidden = np.bincount(made.hidden_genes.numpy(), minlength=genes + 2)[2:]
    chosen = np.bincount(made.known_genes.numpy(), minlength=genes + 2)[2:] + hidden
    for found, expected in ((chosen, n * 0.4), (hidden, n * 0.1)):
        assert abs(found - expected).max() < 5 * math.sqrt(expected)
    all_hidden = tokenise(cells, np.arange(3), np.arange(genes), key=9, mask_ratio=1.0, **keys)
    assert all_hidden.known_genes.tolist() == [CLS] * 3
    assert all_hidden.hidden_counts.tolist() == [20] * 3
    # Another ratio hides more of the same genes: the draw is one number per gene.
    more = unpacked(tokenise(cells, np.arange(9), np.arange(genes), key=9, mask_ratio=0.75, **keys))
    less = unpacked(made.rows(0, 9))
    assert all(set(a[1]) < set(b[1]) for a, b in zip(less, more, strict=True))


# --- pairs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A store of three datasets: other genes in each, and one that has only cells of test donors."""
    import anndata
    import pandas as pd

    from okrcell.corpus import cells
    from okrcell.corpus.build import init_store
    from okrcell.corpus.config import CellsConfig, CorpusConfig
    from okrcell.corpus.gene_tables import current

    root = tmp_path_factory.mktemp("several")
    store, names, rng = root / "store", sorted(current().coding)[:80], np.random.default_rng(4)
    init_store(store)

    def add(dataset, n, where, kinds, donors):
        genes = names[where]
        label = np.arange(n) % len(kinds)
        rate = 1 + 6 * (np.arange(len(genes)) % 3 == label[:, None])
        data = anndata.AnnData(
            sparse.csr_matrix(rng.poisson(rate).astype(np.float32)),
            obs=pd.DataFrame(
                {
                    "cell_type": np.array(kinds)[label],
                    "donor_id": [donors[i // 3 % len(donors)] for i in range(n)],
                },
                index=[f"{dataset}{i}" for i in range(n)],
            ),
            var=pd.DataFrame(index=genes),
        )
        data.write_h5ad(root / f"{dataset}.h5ad")
        how = CellsConfig(
            dataset_id=dataset,
            columns={"cell_type": "cell_type", "donor": "donor_id"},
            constants={"tissue": "blood", "organism": "Homo sapiens"},
        )
        cells.add_cells(store, root / f"{dataset}.h5ad", CorpusConfig(), how)

    donors = [f"d{i}" for i in range(10)] + ["unknown"]
    add("b", 90, slice(0, 50), KINDS[:3], donors)
    add("a", 60, slice(30, 80), KINDS[:2], donors)
    tested = {c["donor"] for c in cells.load_cells(store).to_pylist() if c["split"] == "test"}
    add("c", 12, slice(0, 80), KINDS[3:], sorted(tested))
    return store


@pytest.fixture(scope="module")
def pairs(several):
    return load_pairs(several, load_texts(several, several, "label"))


def test_pairs_are_the_rows_of_the_table(several, pairs):
    from okrcell.corpus.cells import load_cells, load_profiles
    from okrcell.corpus.shards import load_matrix

    label = {p["profile_id"]: p["cell_type"] for p in load_profiles(several).to_pylist()}
    table = [c for c in load_cells(several).to_pylist() if c["split"] == "train"]
    assert len(pairs) == len(table) > 90
    assert pairs.uids(np.arange(len(pairs))) == [c["cell_uid"] for c in table]
    assert pairs.uids(np.array([5, 0, 5])) == [table[i]["cell_uid"] for i in (5, 0, 5)]
    assert pairs.texts == pairs.cell_types == tuple(sorted(KINDS[:3]))
    assert [pairs.texts[t] for t in pairs.text] == [label[c["profile_id"]] for c in table]
    assert [pairs.cell_types[t] for t in pairs.cell_type] == [label[c["profile_id"]] for c in table]
    named = [pairs.donors[d] if d >= 0 else "unknown" for d in pairs.donor]
    assert named == [c["donor"] for c in table]
    assert -1 in pairs.donor
    assert list(pairs.donors) == sorted(pairs.donors)
    assert pairs.clean.all()
    assert pairs.prior.tolist() == [1.0] * len(pairs)
    assert [["a", "b"][d] for d in pairs.dataset] == [c["dataset_id"] for c in table]
    assert pairs.row.tolist() == [c["row"] for c in table]
    assert len(pairs.matrices) == 2  # nothing of the dataset without a training cell
    assert set(pairs.vocabulary) == {g for d in "ab" for g in load_matrix(several, d).gene_ids}
    for matrix, columns in zip(pairs.matrices, pairs.columns, strict=True):
        assert [pairs.vocabulary[i] for i in columns] == list(matrix.gene_ids)


def test_other_splits_are_read_like_the_training_pairs(several, pairs):
    labels = load_texts(several, several, "label")
    test = load_pairs(several, labels, "test", like=pairs)
    assert 0 < len(test) < 40
    assert (test.texts, test.cell_types, test.vocabulary) == (
        pairs.texts, pairs.cell_types, pairs.vocabulary,
    )  # fmt: skip
    assert test.n_without_text == 12  # the text 'neutrophil' is none of the training texts
    assert len(test.matrices) == 2
    all_same = Texts(dict.fromkeys(labels.by_profile, "B cell"), {}, {})
    with_c = load_pairs(several, all_same, "test", like=pairs)
    assert len(with_c) == len(test) + 12
    assert (with_c.cell_type == -1).sum() == 12
    assert [m.matrix.shape[0] for m in with_c.matrices] == [60, 90, 12]
    nothing = load_pairs(several, Texts({}, {}, {}), "validation", like=pairs)
    assert len(nothing) == 0
    assert nothing.uids(np.zeros(0, np.int64)) == []
    config = TrainConfig(preset="tiny")
    assert len(read(nothing, np.zeros(0, np.int64), config)) == 0
    assert seen_cells(nothing).num_rows == 0
    with pytest.raises(TrainingError, match="no cell of split 'train'"):
        load_pairs(several, Texts({}, {}, {}))
    rated = load_pairs(
        several, Texts(labels.by_profile, dict.fromkeys(labels.by_profile, 0.25), {})
    )
    assert set(rated.prior.tolist()) == {0.25}


def test_seen_cells_tell_what_was_trained_on(pairs, monkeypatch):
    from okrcell.corpus.contents import content_hashes
    from okrcell.train import data

    table = seen_cells(pairs)
    monkeypatch.setattr(data, "_ROWS", 7)
    assert seen_cells(pairs).to_pylist() == table.to_pylist()
    for at in (0, len(pairs) - 1):
        row = table.slice(at, 1).to_pylist()[0]
        cells, own = pairs.matrices[pairs.dataset[at]], pairs.row[at : at + 1]
        assert row["cell_uid"] == pairs.uids(np.array([at]))[0]
        assert [row["content"]] == content_hashes(cells, own)
        assert [row["pattern"]] == content_hashes(cells, own, only_pattern=True)


# --- order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 4])
def test_an_epoch_is_a_permutation_that_processes_share(block):
    sampler = Sampler(103, 10, 1, block)
    assert (sampler.steps_per_epoch, sampler.size) == (10, 10)
    epoch = np.concatenate([sampler.rows(2, step) for step in range(10)])
    assert epoch.dtype == np.int64
    assert len(set(epoch.tolist())) == 100
    assert set(epoch) < set(range(103))
    fresh = Sampler(103, 10, 1, block)
    for other in (3, 0, 1):
        fresh.rows(other, 0)
    shares = [[fresh.rows(2, step, rank, 5) for rank in range(5)] for step in range(10)]
    assert np.concatenate([np.concatenate(step) for step in shares]).tolist() == epoch.tolist()
    assert sampler.rows(3, 0).tolist() != sampler.rows(2, 0).tolist()
    assert Sampler(103, 10, 2, block).rows(2, 0).tolist() != sampler.rows(2, 0).tolist()


def test_odd_sizes():
    few = Sampler(3, 10, 0)
    assert (few.steps_per_epoch, few.size) == (1, 3)
    assert sorted(few.rows(0, 0).tolist()) == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"Set it to 8 or 12\."):
        Sampler(100, 10, 0).rows(0, 0, 0, 4)
    with pytest.raises(ConfigError, match=r"Set it to 8\."):
        Sampler(10, 10, 0).rows(0, 0, 0, 4)
    with pytest.raises(ConfigError, match="at most 3 processes"):
        few.rows(0, 0, 0, 4)
    with pytest.raises(TrainingError):
        Sampler(0, 10, 0)


def test_blocks_stay_near_and_mix_well():
    n, block = 30 * 8 * WINDOW_BLOCKS, 8
    sampler = Sampler(n, 64, 0, block)
    labels = np.arange(n) // (n // 20)  # twenty runs, as datasets lie in a store
    window = np.concatenate([sampler.rows(0, step) for step in range(WINDOW_BLOCKS * block // 64)])
    assert len(np.unique(window // block)) == WINDOW_BLOCKS
    assert 0.97 < shuffle_quality(sampler, labels) < 1.01
    assert shuffle_quality(Sampler(n, 64, 0), labels) == pytest.approx(1.0)
    assert shuffle_quality(sampler, np.zeros(n, np.int64)) == 1.0
    in_order = Sampler(n, 64, 0)
    in_order._orders[0] = np.arange(n)
    assert shuffle_quality(in_order, labels) < 0.05


# --- batches -----------------------------------------------------------------------------------

TINY = {"preset": "tiny", "batch_size": 12, "max_genes": 20, "seed": 3}


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_reading_several_datasets_keeps_the_order(pairs):
    config = TrainConfig(**TINY)
    index = np.random.default_rng(0).permutation(len(pairs))[:50]
    assert len(np.unique(pairs.dataset[index])) == 2
    key = epoch_key(3, 1)
    whole = read(pairs, index, config, key, 0.5)
    single = [read(pairs, index[i : i + 1], config, key, 0.5) for i in range(50)]
    assert same(whole, concatenate(single))
    assert int(whole.hidden_counts.sum()) > 0
    plain = read(pairs, index, config)
    assert int(plain.hidden_counts.sum()) == 0
    assert same(plain, read(pairs, index, config, None, 0.5))


@pytest.mark.parametrize("preset", ["tiny", "mlp"])
def test_threads_and_restarts_change_no_batch(pairs, preset):
    sampler = Sampler(len(pairs), 12, 3)
    keys = {**TINY, "preset": preset}
    stop = 2 * sampler.steps_per_epoch + 1
    calm = list(Loader(pairs, TrainConfig(**keys, workers=0), sampler, start=0, stop=stop))
    assert [step for step, _ in calm] == list(range(stop))
    threaded = Loader(
        pairs, TrainConfig(**keys, workers=2), Sampler(len(pairs), 12, 3), start=0, stop=stop
    )
    assert len(threaded) == stop
    later = Loader(pairs, TrainConfig(**keys, workers=3), sampler, start=5, stop=stop)
    for found, expected in ((list(threaded), calm), (list(later), calm[5:])):
        for (step, batch), (other, other_batch) in zip(found, expected, strict=True):
            assert step == other
            assert same(batch.cells, other_batch.cells)
            assert batch.pairs.tolist() == other_batch.pairs.tolist()
            assert batch.text.tolist() == pairs.text[batch.pairs].tolist()
    assert list(Loader(pairs, TrainConfig(**keys), sampler, start=4, stop=4)) == []


def test_processes_read_shares_of_the_same_batch(pairs):
    config, sampler = TrainConfig(**TINY, workers=0), Sampler(len(pairs), 12, 3)
    ((_, joint),) = Loader(pairs, config, sampler, start=7, stop=8)
    shares = [
        next(iter(Loader(pairs, config, sampler, World(rank, 3), start=7, stop=8)))[1]
        for rank in range(3)
    ]
    assert same(concatenate([share.cells for share in shares]), joint.cells)
    assert np.concatenate([share.pairs for share in shares]).tolist() == joint.pairs.tolist()


def test_mask_ratios_are_drawn_per_step(pairs):
    config = TrainConfig(**TINY)
    drawn = [mask_ratio(config, step) for step in range(600)]
    assert set(drawn) == {0.25, 0.5, 0.75}
    assert all(abs(drawn.count(r) - 200) < 60 for r in config.mask_ratios)
    assert drawn != [mask_ratio(config.replace(seed=4), step) for step in range(600)]
    sampler = Sampler(len(pairs), 12, 3)
    for step, batch in Loader(pairs, config, sampler, start=0, stop=4):
        n_hidden = int(batch.cells.hidden_counts.sum())
        share = n_hidden / (n_hidden + len(batch.cells.known_genes) - 12)
        assert abs(share - drawn[step]) < 0.12


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("okrcell-loader")]


def test_errors_reach_the_reader_and_leaving_early_ends_the_threads(pairs):
    config, sampler = TrainConfig(**TINY, workers=2), Sampler(len(pairs), 12, 3)
    broken = replace(
        pairs, row=np.where(np.arange(len(pairs)) == sampler.rows(0, 3)[0], 10**6, pairs.row)
    )
    seen = []

    def one_by_one():
        for step, _ in Loader(broken, config, sampler, start=0, stop=9):
            seen.append(step)

    with pytest.raises(IndexError):
        one_by_one()
    assert seen == [0, 1, 2]
    assert not loader_threads()
    running = iter(Loader(pairs, config, sampler, start=0, stop=1000))
    next(running)
    assert loader_threads()
    running.close()
    assert not loader_threads()


# --- variable genes ----------------------------------------------------------------------------


def test_dense_rows_are_log_normalised_counts():
    cells = random_cells()
    columns = np.arange(60) + 3
    columns[10:20] = -1
    chosen = np.array([3, 5, 12, 40, 62, 70])  # 12 is no column, nor is 70
    known = cells.matrix.toarray().astype(np.float64)
    known[:, 10:20] = 0
    expected = np.zeros((40, 6))
    total = np.maximum(known.sum(axis=1), 1e-9)
    for at, gene in enumerate(chosen):
        if gene - 3 < 60:
            expected[:, at] = np.log1p(known[:, gene - 3] / total * 1e4)
    rows = np.random.default_rng(0).permutation(40)
    found = dense(cells, rows, columns, chosen)
    assert found.dtype == np.float32
    assert np.allclose(found, expected[rows], atol=1e-5)
    logged = random_cells(values="lognorm")
    as_is = dense(logged, rows, columns, chosen)
    assert np.allclose(as_is[:, 3], logged.matrix.toarray()[rows, 37])
    assert dense(cells, rows[:0], columns, chosen).shape == (0, 6)
    marked = dense(cells, rows, columns, chosen, missing=np.nan)
    assert (np.isnan(marked) == (chosen == 70)).all()
    assert (np.nan_to_num(marked) == found).all()


@pytest.mark.parametrize("values", ["counts", "lognorm"])
def test_variable_genes_are_those_of_scanpy(pairs, adata, values, monkeypatch):
    import anndata
    import scanpy as sc

    from okrcell.train import variable

    counts = sparse.csr_matrix(adata.X).astype(np.float32)
    adata = anndata.AnnData(counts.astype(np.float64))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    n, genes = counts.shape
    matrix = counts if values == "counts" else sparse.csr_matrix(adata.X, dtype=np.float32)
    pairs = replace(
        pairs,
        dataset=np.zeros(n, np.int64),
        row=np.arange(n),
        matrices=(CellMatrix(matrix, tuple(map(str, range(genes))), values),),
        columns=(np.arange(genes),),
        vocabulary=tuple(map(str, range(genes))),
    )
    sc.pp.filter_genes(adata, min_cells=3)
    sc.pp.highly_variable_genes(adata, n_top_genes=200, flavor="seurat")
    expected = set(adata.var_names[adata.var["highly_variable"]].astype(int).tolist())
    found = choose_variable(pairs, 200)
    assert found.tolist() == sorted(set(found.tolist()))
    assert len(found) == 200
    assert len(expected & set(found.tolist())) >= 198
    monkeypatch.setattr(variable, "_BLOCK", 50)
    assert choose_variable(pairs, 200).tolist() == found.tolist()
    monkeypatch.setattr(variable, "_MOST_CELLS", 200)
    assert len(choose_variable(pairs, 200)) == 200


def test_variable_genes_of_several_datasets(pairs):
    both = choose_variable(pairs, 20)
    alone = []
    for number in (0, 1):
        own = np.where(pairs.dataset == number, 0, 1)
        one = replace(
            pairs,
            dataset=own,
            matrices=pairs.matrices[number : number + 1],
            columns=pairs.columns[number : number + 1],
        )
        alone.append(set(choose_variable(one, 20).tolist()))
    assert alone[0] & alone[1] <= set(both.tolist())
    assert len(set(both.tolist()) & (alone[0] | alone[1])) >= 15
    with_genes = with_variable(pairs, 20)
    assert with_genes.variable.tolist() == both.tolist()
    assert with_variable(with_genes, 5) is with_genes
    more = with_variable(pairs, 20, markers=True)
    named = {marker.gene_id for some in bundled_markers().values() for marker in some}
    assert set(more.variable_ids) == set(with_genes.variable_ids) | (named & set(pairs.vocabulary))
    assert len(more.variable) > 20
    assert more.variable.tolist() == sorted(more.variable)
    config = TrainConfig(preset="mlp", workers=0, batch_size=12)
    index = np.array([len(pairs) - 1, 0, 70, 3])
    cells = read(with_genes, index, config)
    assert cells.values.shape == (4, 20)
    for at, pair in enumerate(index):
        d = pairs.dataset[pair]
        one = dense(pairs.matrices[d], pairs.row[[pair]], pairs.columns[d], both)
        assert np.array_equal(cells.values[at].numpy(), one[0])
    with pytest.raises(InternalError, match="with_variable"):
        read(pairs, index, config)
    silent = replace(pairs, matrices=tuple(replace(m, matrix=m.matrix * 0) for m in pairs.matrices))
    for matrix in silent.matrices:
        matrix.matrix.eliminate_zeros()
    with pytest.raises(TrainingError, match="no expressed gene"):
        choose_variable(silent, 5)
