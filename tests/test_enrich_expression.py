"""What training cells say of their profiles: known markers, and nothing from cells of other splits."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np
import pyarrow.compute as pc
import pytest
from scipy import sparse

from okrcell.corpus import build, cells
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.corpus.normalise import read_overrides
from okrcell.corpus.profiles import load_cells, load_profiles
from okrcell.corpus.shards import load_matrix
from okrcell.enrich.expression import _is_telling, expression_evidence
from okrcell.enrich.names import find_names
from okrcell.enrich.sentences import split_sentences

B_CELL, MONOCYTE, NK, CD4_MEMORY = (
    "B cell",
    "CD14-positive monocyte",
    "natural killer cell",
    "memory",
)
HOLD_OUT = ("CD56+ NK", "CD8+/CD45RA+ Naive Cytotoxic")
CONSTANTS = {"tissue": "blood", "disease": "normal", "organism": "Homo sapiens"}


def by_profile(store):
    return {row["profile_id"]: [row["profile_id"]] for row in load_profiles(store).to_pylist()}


def by_label(store, found):
    rows = load_profiles(store).to_pylist()
    return {row["cell_type"]: found[row["profile_id"]] for row in rows}


@pytest.fixture(scope="module")
def expressed(store):
    return by_label(store, expression_evidence(store, by_profile(store), seed=0))


@pytest.fixture
def make_store(tmp_path, examples):
    """Make a store of cells alone from an AnnData object."""
    overrides = read_overrides(examples / "pbmc68k_labels.tsv")

    def make(adata, name="one", dataset="pbmc", constants=CONSTANTS, columns=None, **keys):
        path, store = tmp_path / f"{name}-{dataset}.h5ad", tmp_path / name
        adata.write_h5ad(path)
        if not store.exists():
            build.init_store(store)
        columns = {"cell_type": "bulk_labels", **(columns or {})}
        how = CellsConfig(dataset_id=dataset, columns=columns, constants=constants)
        config = CorpusConfig(**({"hold_out": HOLD_OUT} | keys))
        cells.add_cells(store, path, config, how, overrides)
        return store

    return make


def symbols_of(found):
    return re.findall(r"([A-Z][\w-]*) \(", found.evidence.text) if found.evidence else []


# --- what it says ------------------------------------------------------------------------------


def test_known_markers_come_out(expressed):
    assert {"CD79A", "CD79B", "MS4A1"} <= set(symbols_of(expressed[B_CELL]))
    assert {"FCGR3A", "FCN1", "CFD"} <= set(symbols_of(expressed[MONOCYTE]))
    assert {"FCER1A", "CST3", "LYZ"} <= set(symbols_of(expressed["dendritic cell"]))
    for found in expressed.values():
        assert len(symbols_of(found)) == len(set(symbols_of(found))) <= 10


def test_the_snippet_is_plain_sentences_that_do_not_name_the_type(expressed):
    evidence = expressed[B_CELL].evidence
    assert evidence.source == "expression"
    assert (evidence.doc_id, evidence.section) == ("EXPR:pbmc", "specific genes")
    assert re.fullmatch(r"expr-[0-9a-f]{24}", evidence.snippet_id)
    first, second, third = split_sentences(evidence.text)
    assert re.match(
        r"In the training cells of this profile, the genes most specific against \d other cell types "
        r"of blood are CD79A \(detected in \d+ % of cells against \d+ % of the others\), ",
        first,
    )
    assert second.startswith("Also detected in more of these training cells than of the others are")
    assert "of the dataset pbmc" in third
    for label, found in expressed.items():
        if found.evidence:
            assert find_names(found.evidence.text, [label, "B cell", "T cell", "monocyte"]) == []


def test_the_figures_are_those_of_the_training_cells(store, expressed):
    table = load_cells(store).to_pandas()
    profile = {r["cell_type"]: r["profile_id"] for r in load_profiles(store).to_pylist()}[B_CELL]
    rows = table[(table.profile_id == profile) & (table.split == "train")].row.to_numpy()
    matrix = load_matrix(store, "pbmc")
    stats = {gene.symbol: gene for gene in expressed[B_CELL].genes}
    assert len(stats) == len(expressed[B_CELL].genes) > 700
    column = matrix.gene_ids.index(stats["CD79A"].gene_id)
    share = (matrix.matrix[rows][:, [column]].toarray() > 0).mean()
    assert stats["CD79A"].fraction == pytest.approx(share, abs=1e-4)
    assert stats["CD79A"].n_cells == len(rows)
    assert stats["CD79A"].highest == stats["CD79A"].fraction
    assert stats["LYZ"].highest > stats["LYZ"].fraction_others > 0
    shown = re.search(r"CD79A \(detected in (\d+) % of cells", expressed[B_CELL].evidence.text)
    assert int(shown[1]) == round(100 * share)


def test_types_held_out_have_no_evidence(expressed):
    for label in (NK, "naive thymus-derived CD8-positive, alpha-beta T cell"):
        assert expressed[label].evidence is None
        assert expressed[label].genes == expressed[label].cell_uids == ()


def test_only_wanted_figures_are_returned(store, expressed):
    groups = by_profile(store)
    wanted = dict.fromkeys(groups, {"LYZ", "NOT_A_GENE"})
    found = by_label(store, expression_evidence(store, groups, seed=0, symbols=wanted))[B_CELL]
    assert found.evidence == expressed[B_CELL].evidence
    assert {g.symbol for g in found.genes} == {"LYZ", *symbols_of(found)}
    assert set(found.genes) <= set(expressed[B_CELL].genes)


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("MS4A1", True),
        ("TRAC", True),
        ("IGKC", True),
        ("RPS6KA1", True),
        ("RPS27A", False),
        ("RPLP0", False),
        ("MT-CO1", False),
        ("MALAT1", False),
        ("C1orf56", False),
    ],
)
def test_genes_that_may_be_named(symbol, expected):
    from okrcell.corpus.gene_tables import current

    assert _is_telling(symbol, current().by_symbol[symbol][0]) is expected


# --- whose cells feed it -----------------------------------------------------------------------


def test_no_cell_of_another_split_is_used(store, expressed):
    table = load_cells(store).to_pandas()
    train = set(table.cell_uid[table.split == "train"])
    used = {uid for found in expressed.values() for uid in found.cell_uids}
    assert used
    assert used <= train


def test_other_splits_change_nothing(make_store, adata):
    before = make_store(adata, "before")
    table = load_cells(before).to_pandas()
    other = table.row[table.split != "train"].to_numpy()
    counts = sparse.csr_matrix(adata.X).tolil()
    counts[other] = sparse.csr_matrix(adata.X)[other[::-1]] * 3
    adata.X = counts.tocsr()
    after = make_store(adata, "after")
    changed = [load_matrix(store, "pbmc").matrix for store in (before, after)]
    assert (changed[0] != changed[1]).nnz > 0
    found = [expression_evidence(store, by_profile(store), seed=0) for store in (before, after)]
    assert found[0] == found[1]


def test_the_same_seed_gives_the_same_and_cells_are_bounded(store, monkeypatch):
    from okrcell.enrich import expression

    groups = by_profile(store)
    monkeypatch.setattr(expression, "_PER_KIND", 40)
    first, second, other = (expression_evidence(store, groups, seed=s) for s in (0, 0, 1))
    assert first == second
    assert by_label(store, first)[B_CELL].cell_uids != by_label(store, other)[B_CELL].cell_uids
    of_profile = dict(
        zip(*load_cells(store).select(["cell_uid", "profile_id"]).to_pydict().values(), strict=True)
    )
    counts = defaultdict(int)
    for uid in by_label(store, first)[B_CELL].cell_uids:
        counts[of_profile[uid]] += 1
    assert max(counts.values()) == 40


def test_profiles_of_one_subject_are_pooled(store, expressed):
    ids = {row["cell_type"]: row["profile_id"] for row in load_profiles(store).to_pylist()}
    groups = {"b": ["0000", ids[B_CELL]], "none": ["0000"]}
    found = expression_evidence(store, groups, seed=0)
    assert found["b"].evidence == expressed[B_CELL].evidence
    assert found["none"].evidence is None
    assert list(found) == ["b", "none"]


# --- where little can be said ------------------------------------------------------------------


def cut(adata, **most):
    """Keep at most so many cells of a label, all of those left at 0 dropped."""
    labels = adata.obs["bulk_labels"].astype(str)
    keep = np.concatenate(
        [np.flatnonzero(labels == name.replace("_", " "))[:n] for name, n in most.items()]
    )
    return adata[np.sort(keep)].copy()


ALL_TRAIN = {"split_fractions": (1.0, 0.0, 0.0), "hold_out": ()}


def test_too_few_cells_say_nothing(make_store, adata):
    few = cut(adata, **{"CD19+_B": 19, "CD14+_Monocyte": 25, "Dendritic": 60})
    store = make_store(few, **ALL_TRAIN)
    found = by_label(store, expression_evidence(store, by_profile(store), seed=0))
    assert found[B_CELL].evidence is None
    assert found[B_CELL].genes == found[B_CELL].cell_uids == ()
    assert found[MONOCYTE].evidence is not None
    assert found[MONOCYTE].genes == ()
    assert len(found[MONOCYTE].cell_uids) == 19 + 25 + 60
    assert len(found["dendritic cell"].genes) > 700


def test_one_type_alone_gives_figures_and_no_snippet(make_store, adata):
    store = make_store(cut(adata, **{"CD19+_B": 60}), **ALL_TRAIN)
    [found] = expression_evidence(store, by_profile(store), seed=0).values()
    assert found.evidence is None
    stats = {gene.symbol: gene for gene in found.genes}
    assert stats["CD79A"].fraction == stats["CD79A"].highest > 0.8
    assert {gene.fraction_others for gene in found.genes} == {0}
    assert len(found.cell_uids) == 60


def test_an_unknown_tissue_is_not_named(make_store, adata):
    store = make_store(adata, constants={"organism": "Homo sapiens"})
    found = by_label(store, expression_evidence(store, by_profile(store), seed=0))
    assert "other cell types of these data are" in found[B_CELL].evidence.text


def test_cells_of_an_unknown_type_are_left_out(make_store, adata, expressed):
    labels = adata.obs["bulk_labels"].astype(str)
    adata.obs["bulk_labels"] = labels.where(labels != "Dendritic", "unknown")
    store = make_store(adata)
    found = by_label(store, expression_evidence(store, by_profile(store), seed=0))
    assert found["unknown"].evidence is None
    table = load_cells(store).to_pandas()
    unknown = set(table.cell_uid[(labels == "Dendritic").to_numpy()])
    assert found[B_CELL].evidence
    assert not unknown & set(found[B_CELL].cell_uids)


def test_kinds_of_a_type_are_not_compared_with_it(make_store, adata):
    labels = adata.obs["bulk_labels"].astype(str)
    naive = np.flatnonzero(labels == "CD19+ B")[::2]
    labels.iloc[naive] = "naive B cell"
    adata.obs["bulk_labels"] = labels
    store = make_store(adata, **ALL_TRAIN)
    found = by_label(store, expression_evidence(store, by_profile(store), seed=0))
    table = load_cells(store).to_pandas()
    kinds = dict(zip(table.cell_uid, labels, strict=True))
    n_others = {kinds[uid] for uid in found[B_CELL].cell_uids} - {"CD19+ B", "naive B cell"}
    assert "CD79A" in symbols_of(found[B_CELL])
    assert "CD79A" in symbols_of(found["naive B cell"])
    assert f"against {len(n_others) - 1} other" in found[B_CELL].evidence.text  # one has 8 cells


def test_the_context_is_held_where_it_can_be(make_store, adata):
    sex = np.where(np.arange(adata.n_obs) % 2, "male", "female").astype(object)
    sex[adata.obs["bulk_labels"] == "CD14+ Monocyte"] = "male"
    adata.obs["sex"] = sex
    store = make_store(adata, columns={"sex": "sex"}, **ALL_TRAIN)
    rows = {row["profile_id"]: row for row in load_profiles(store).to_pylist()}
    found = expression_evidence(store, by_profile(store), seed=0)
    table = load_cells(store).to_pandas()
    sex_of = dict(zip(table.cell_uid, sex, strict=True))
    texts = set()
    for profile_id, item in found.items():
        if item.evidence:
            assert {sex_of[uid] for uid in item.cell_uids} == {rows[profile_id]["sex"]}
            assert "and of the same disease, development stage and sex" in item.evidence.text
            texts.add(item.evidence.snippet_id)
    assert len(texts) > 4


def test_a_context_of_one_type_falls_back_to_the_tissue(make_store, adata):
    adata.obs["disease"] = np.where(
        adata.obs["bulk_labels"] == "CD14+ Monocyte", "influenza", "normal"
    )
    constants = {name: value for name, value in CONSTANTS.items() if name != "disease"}
    store = make_store(adata, constants=constants, columns={"disease": "disease"}, **ALL_TRAIN)
    found = by_label(store, expression_evidence(store, by_profile(store), seed=0))
    assert "FCN1" in symbols_of(found[MONOCYTE])
    assert "same disease" not in found[MONOCYTE].evidence.text
    assert "same disease" in found[B_CELL].evidence.text


def test_the_dataset_with_most_cells_is_asked_alone(make_store, adata):
    half = adata[::2].copy()
    half.obs_names = [f"other-{name}" for name in half.obs_names]
    store = make_store(adata, **ALL_TRAIN)
    make_store(half, dataset="half", **ALL_TRAIN)
    found = by_label(store, expression_evidence(store, by_profile(store), seed=0))
    assert found[B_CELL].evidence.doc_id == "EXPR:pbmc"
    assert all(uid.startswith("pbmc:") for uid in found[B_CELL].cell_uids)


def test_a_dataset_that_is_named_after_the_type_is_not_named(make_store, adata):
    store = make_store(adata, dataset="sorted_b-cells.2020")
    found = by_label(store, expression_evidence(store, by_profile(store), seed=0))
    assert "of one dataset" in found[B_CELL].evidence.text
    assert "of the dataset sorted_b-cells.2020" in found[MONOCYTE].evidence.text


def test_log_values_are_taken_as_they_are(make_store, adata, expressed):
    logged = sparse.csr_matrix(adata.X, dtype=np.float32)
    totals = np.asarray(logged.sum(axis=1)).ravel()
    adata.X = sparse.csr_matrix(logged.multiply(1e3 / totals[:, None])).log1p()
    store = make_store(adata)
    assert load_matrix(store, "pbmc").values == "lognorm"
    found = by_label(store, expression_evidence(store, by_profile(store), seed=0))
    assert {"CD79A", "MS4A1"} <= set(symbols_of(found[B_CELL]))
    assert found[B_CELL].genes == expressed[B_CELL].genes


def test_without_training_cells_nothing_is_said(store, monkeypatch):
    from okrcell.enrich import training_cells

    table = load_cells(store)
    untrained = table.filter(pc.not_equal(table["split"], "train"))
    monkeypatch.setattr(training_cells, "load_cells", lambda store: untrained)
    found = expression_evidence(store, by_profile(store), seed=0)
    assert {item.evidence for item in found.values()} == {None}
    assert {item.cell_uids for item in found.values()} == {()}
