"""Suites and h5ad files: columns, labels, splits, genes, embeddings, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from okrcell.errors import (
    ConfigError,
    DataError,
    ExpressionValueError,
    FileFormatError,
    GeneCoverageError,
    LabelError,
    MissingColumnError,
)
from okrcell.evaluate import tables
from okrcell.evaluate.candidates import merge_types, type_texts
from okrcell.evaluate.columns import tidy_labels
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.run import describe, load, run
from okrcell.evaluate.specs import BASELINES, parse_methods
from okrcell.evaluate.splits import assign
from okrcell.evaluate.suite import DataSpec, read_suite, suite_of
from okrcell.evaluate.tables import load_h5ad
from okrcell.schemas import read_table

GENES = ("CD3D", "CD3E", "MS4A1", "CD79A", "LYZ", "S100A9", "NKG7", "GNLY", "PPBP", "FCER1A",
         "CST3", "IL7R", "CD14", "FCGR3A", "CD8A", "CD8B", "CCR7", "SELL", "GZMB", "PRF1")  # fmt: skip
TYPES = ("B cell", "T cell", "monocyte")


def make_file(path: Path, n: int = 90, seed: int = 0, **columns: Any) -> Path:
    """Cells of three types on 20 real genes, six donors, two batches, one embedding in obsm."""
    rng = np.random.default_rng(seed)
    code = np.arange(n) % 3
    rates = np.full((n, len(GENES)), 1.0)
    for row, which in enumerate(code):
        rates[row, 6 * which : 6 * which + 6] = 6.0
    obs = pd.DataFrame(
        {
            "cell_type": np.asarray(TYPES)[code],
            "donor_id": [f"d{i % 6}" for i in rng.permutation(n)],
            "batch": np.where(np.arange(n) % 2, "x", "y"),
            **columns,
        },
        index=[f"cell{i}" for i in range(n)],
    )
    adata = AnnData(
        rng.poisson(rates).astype(np.float32), obs=obs, var=pd.DataFrame(index=list(GENES))
    )
    adata.obsm["X_good"] = rng.normal(size=(n, 5)) + 5 * np.eye(3, 5)[code]
    adata.obsm["X_noise"] = rng.normal(size=(n, 5))
    adata.write_h5ad(path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make_file(tmp_path / "toy.h5ad")


def first(spec: DataSpec) -> Any:
    return load_h5ad(spec, 0)[0]


# --- splits -----------------------------------------------------------------------------------


def test_splits_by_donor_batch_random_and_column(file: Path) -> None:
    by_donor, by_batch, at_random = load_h5ad(
        DataSpec(path=file, split=("donor", "batch", "random")), 0
    )
    for name in ("train", "validation", "test"):
        others = by_donor.donors[by_donor.splits != name]
        assert not set(by_donor.donors[by_donor.splits == name]) & set(others)
    assert set(by_batch.batches[by_batch.test]).isdisjoint(by_batch.batches[by_batch.train])
    assert len(by_batch.validation) > 0
    counts = {
        name: int((at_random.splits == name).sum()) for name in ("train", "validation", "test")
    }
    assert counts == {"train": 54, "validation": 18, "test": 18}
    assert len({d.sha256 for d in (by_donor, by_batch, at_random)}) == 3
    assert first(DataSpec(path=file)).split == "donor"


def test_a_split_column_is_taken_as_it_is_and_checked(tmp_path: Path) -> None:
    words = np.where(np.arange(90) % 4 == 0, "test", "train")
    donors = np.where(words == "test", "d1", "d2")
    path = make_file(tmp_path / "a.h5ad", mine=words, donor_id=donors)
    data = first(DataSpec(path=path, split="column:mine"))
    assert (data.splits == words).all()
    both = make_file(tmp_path / "both.h5ad", mine=words)
    with pytest.raises(DataError, match="6 donors with cells in train and in test"):
        first(DataSpec(path=both, split="column:mine"))
    bad = make_file(tmp_path / "b.h5ad", mine=np.where(words == "test", "holdout", "train"))
    with pytest.raises(DataError, match="the values holdout"):
        first(DataSpec(path=bad, split="column:mine"))


@settings(max_examples=25, deadline=None)
@given(st.permutations(list(range(30))), st.integers(0, 5))
def test_splits_do_not_depend_on_the_order_of_cells(order: list[int], seed: int) -> None:
    uids = np.asarray([f"c{i}" for i in range(30)])
    labels = np.asarray(["a", "b", "c"])[np.arange(30) % 3]
    donors = np.asarray([f"d{i % 5}" for i in range(30)])
    for how in ("random", "donor"):
        plain, _ = assign(how, uids, labels, donors, donors, None, (), seed, "x")
        mixed, _ = assign(
            how, uids[order], labels[order], donors[order], donors[order], None, (), seed, "x"
        )
        assert (plain[order] == mixed).all()


def test_held_out_types_are_unseen_and_one_donor_is_refused(file: Path, tmp_path: Path) -> None:
    data = first(DataSpec(path=file, hold_out=("T cell",)))
    assert data.unseen == {"T cell"}
    with pytest.raises(DataError, match="no cells of the held-out types NK"):
        first(DataSpec(path=file, hold_out=("NK",)))
    one = make_file(tmp_path / "one.h5ad", donor_id=["d"] * 90)
    with pytest.raises(DataError, match=r"1 donor \(d\)"):
        first(DataSpec(path=one, split="donor"))


def test_donors_on_both_sides_are_said(file: Path) -> None:
    data = first(DataSpec(path=file, split="random"))
    assert any("6 donors have cells in train and in test" in note for note in data.notes)


# --- labels -----------------------------------------------------------------------------------


def test_labels_with_blanks_and_other_case_are_one_label_and_reported(tmp_path: Path) -> None:
    labels = np.asarray(TYPES, dtype=object)[np.arange(90) % 3]
    labels[:3] = ["B cell ", "t CELL", "unknown"]
    path = make_file(tmp_path / "x.h5ad", cell_type=labels)
    data = first(DataSpec(path=path))
    assert data.types == TYPES
    said = " ".join(data.notes)
    assert "1 labels with blanks to spare were tidied ('B cell ')" in said
    assert "'t CELL' as 'T cell'" in said
    assert "1 cells without a cell type label were left out" in said
    assert len(data.labels) == 89


def test_tidying_changes_nothing_tidy() -> None:
    labels = np.asarray(["a", "b", "a"])
    assert tidy_labels(labels)[1] == []


def test_terms_come_from_names_columns_tables_or_mappings(file: Path, tmp_path: Path) -> None:
    assert first(DataSpec(path=file)).term_ids["B cell"] == "CL:0000236"
    own = {"B cell": "CL:0000787", "T cell": "CL:9999999"}
    data = first(DataSpec(path=file, terms=own))
    assert data.term_ids["B cell"] == "CL:0000787"
    assert data.term_ids["T cell"] == ""  # no such term
    assert any("2 types have no Cell Ontology term" in note for note in data.notes)
    table = tmp_path / "terms.tsv"
    table.write_text("dataset\tlabel\tcl_id\ntoy\tB cell\tCL:0000787\nother\tT cell\tCL:0000787\n")
    data = first(DataSpec(path=file, terms=table))
    assert (data.term_ids["B cell"], data.term_ids["T cell"]) == ("CL:0000787", "")
    column = make_file(tmp_path / "y.h5ad", cell_type_ontology_term_id=["CL:0000787"] * 90)
    assert set(first(DataSpec(path=column)).term_ids.values()) == {"CL:0000787"}
    table.write_text("a\tb\n")
    with pytest.raises(MissingColumnError, match="no column label, cl_id"):
        first(DataSpec(path=file, terms=table))


def test_texts_are_given_or_the_definitions_of_the_terms(file: Path, tmp_path: Path) -> None:
    data = first(DataSpec(path=file))
    assert data.text_kind == "definition"
    assert data.descriptions["B cell"].startswith("B cell: ")
    table = tmp_path / "texts.tsv"
    table.write_text(
        "label\tcl_id\ttext\nB cell\t\tTells of B.\n\tCL:0000084\tTells of T.\nmonocyte\t\tM.\n"
    )
    data = first(DataSpec(path=file, texts=table))
    assert data.text_kind == "description"
    assert data.descriptions == {"B cell": "Tells of B.", "T cell": "Tells of T.", "monocyte": "M."}


def test_types_with_one_cell_and_in_one_split_only_are_said(tmp_path: Path) -> None:
    labels = np.asarray(TYPES, dtype=object)[np.arange(90) % 3]
    labels[5] = "mast cell"
    data = first(DataSpec(path=make_file(tmp_path / "z.h5ad", cell_type=labels), split="random"))
    assert any("types with one cell: mast cell" in note for note in data.notes)
    assert "mast cell" in data.seen


# --- what is refused ----------------------------------------------------------------------------


def test_bad_files_name_what_is_wrong(file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no such file"):
        first(DataSpec(path=tmp_path / "none.h5ad"))
    (tmp_path / "text.h5ad").write_text("no")
    with pytest.raises(FileFormatError, match="cannot be read as h5ad"):
        first(DataSpec(path=tmp_path / "text.h5ad"))
    with pytest.raises(
        MissingColumnError, match=r"no column 'celltype' \(label\).*cell_type, donor_id"
    ):
        first(DataSpec(path=file, label="celltype"))
    with pytest.raises(MissingColumnError, match="no layer 'counts'"):
        first(DataSpec(path=file, layer="counts"))
    with pytest.raises(MissingColumnError, match="no obsm 'X_bad'.*X_good"):
        load_h5ad(DataSpec(path=file), 0, ["X_bad"])
    with pytest.raises(LabelError, match="no labelled cell"):
        first(DataSpec(path=make_file(tmp_path / "u.h5ad", cell_type=["unknown"] * 90)))
    with pytest.raises(LabelError, match="1 cell type"):
        first(DataSpec(path=make_file(tmp_path / "o.h5ad", cell_type=["B cell"] * 90)))


def test_values_and_genes_are_checked(tmp_path: Path) -> None:
    import anndata

    adata = anndata.read_h5ad(make_file(tmp_path / "v.h5ad"))
    adata.X[4, 2] = -1
    adata.write_h5ad(tmp_path / "negative.h5ad")
    with pytest.raises(ExpressionValueError, match="cell 4, column 2"):
        first(DataSpec(path=tmp_path / "negative.h5ad"))
    adata.X[4, 2] = 0.5
    adata.X[5, 2] = 456.5
    adata.write_h5ad(tmp_path / "fractions.h5ad")
    with pytest.raises(ExpressionValueError, match="neither counts nor log-normalised"):
        first(DataSpec(path=tmp_path / "fractions.h5ad"))
    assert (
        first(DataSpec(path=tmp_path / "fractions.h5ad", values="counts")).matrix.values == "counts"
    )
    adata.var_names = [f"Gene{i}" for i in range(20)]
    adata.write_h5ad(tmp_path / "genes.h5ad")
    with pytest.raises(GeneCoverageError, match="genes"):
        first(DataSpec(path=tmp_path / "genes.h5ad", values="counts"))


def test_too_little_memory_is_foretold(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BYTES_PER_VALUE", 10**13)
    with pytest.raises(DataError, match="GB to evaluate.*free here"):
        first(DataSpec(path=file))


def test_a_copied_cell_is_a_leak(tmp_path: Path) -> None:
    import anndata

    adata = anndata.read_h5ad(make_file(tmp_path / "d.h5ad"))
    data = first(DataSpec(path=tmp_path / "d.h5ad"))
    adata.X[data.test[0]] = adata.X[data.train[0]]
    adata.write_h5ad(tmp_path / "d.h5ad")
    with pytest.raises(DataError, match=f"test d:cell{data.test[0]} = train d:cell{data.train[0]}"):
        first(DataSpec(path=tmp_path / "d.h5ad"))


# --- suite files --------------------------------------------------------------------------------


def test_a_suite_names_data_relative_to_itself(file: Path, tmp_path: Path) -> None:
    suite = tmp_path / "s.toml"
    suite.write_text(
        'root = "."\n[evaluate]\nbootstrap = 200\n[[data]]\npath = "toy.h5ad"\nsplit = "random"\n'
    )
    read = read_suite(suite)
    assert (read.name, read.evaluate.bootstrap, read.data[0].title) == ("s", 200, "toy")
    assert read.data[0].path.resolve() == file.resolve()
    specs, keys = suite_of([suite], root=tmp_path / "elsewhere")
    assert specs[0].path == tmp_path / "elsewhere" / "toy.h5ad"
    assert keys is not None
    specs, keys = suite_of([file], columns={"cell_type": "louvain"}, split=["random"])
    assert (specs[0].label, specs[0].split, keys) == ("louvain", ("random",), None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = [", "not TOML"),
        ("[[data]]\npath = 'a'\nbatches = 'b'\n", "batches"),
        ("[[data]]\npath = 'a'\nsplit = 'study'\n", "split 'study'"),
        ("name = 'x'\n", "data"),
        ("[evaluate]\nseed = -1\n[[data]]\npath = 'a'\n", "evaluate.seed"),
        ("[[data]]\npath = 'a'\n[[data]]\npath = 'b/a.h5ad'\n", "a name given twice"),
    ],
)
def test_a_bad_suite_is_refused_with_the_key(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(content)
    with pytest.raises((ConfigError, FileFormatError), match=words):
        read_suite(path)


def test_the_shipped_suites_are_whole() -> None:
    folder = Path(__file__).resolve().parent.parent / "suites"
    if not folder.is_dir():
        pytest.skip("the suites are not part of the installed package")
    cells = read_suite(folder / "cells.toml")
    assert len(cells.data) == 8
    assert read_suite(folder / "quickstart.toml").evaluate.allow_named_types


# --- the whole way, from a file ----------------------------------------------------------------

QUICK = EvaluateConfig(
    tasks=("annotation", "few_shot"),
    bootstrap=100,
    seeds=2,
    shots=(1,),
    dropout=(0.5,),
    thinning=(0.5,),
)


def test_an_embedding_in_the_file_is_judged_beside_baselines(file: Path, tmp_path: Path) -> None:
    methods = parse_methods(["obsm:X_good", "noise=obsm:X_noise"], QUICK, extra=("random",))
    specs = (DataSpec(path=file, split=("donor", "random")),)
    plan = describe(methods, specs, tmp_path / "out", QUICK)
    assert (plan["units_missing"], plan["units_finished"]) == (9, 0)
    assert [entry["split"] for entry in plan["data"]] == ["donor", "random"]
    summary = run(methods, specs, tmp_path / "out", QUICK)
    assert summary["methods"] == ["X_good", "noise", "random", "majority"]
    rows = read_table(tmp_path / "out" / "results.parquet", "results").to_pylist()
    assert {row["dataset"] for row in rows} == {"toy", "toy/random"}
    value = {(row["method"], row["metric"]): row for row in rows if row["dataset"] == "toy"}
    good = value[("X_good", "accuracy (linear)")]
    assert good["value"] > 0.9 > value[("majority", "accuracy (linear)")]["value"]
    assert value[("random", "accuracy (linear)")]["seed"] == "0,1"
    pairs = read_table(tmp_path / "out" / "comparisons.parquet", "comparisons").to_pylist()
    better = next(
        p
        for p in pairs
        if (p["method_a"], p["method_b"], p["metric"], p["dataset"])
        == ("X_good", "noise", "accuracy (linear)", "toy")
    )
    assert not any("random" in (p["method_a"], p["method_b"]) for p in pairs)
    assert better["difference"] > 0.3
    assert better["p"] <= better["p_adjusted"] < 0.05
    assert describe(methods, specs, tmp_path / "out", QUICK)["units_missing"] == 0
    details = json.loads((tmp_path / "out" / "details.json").read_text())
    assert [entry["label"] for entry in details["datasets"]] == ["toy", "toy/random"]
    assert details["asked"] == ["X_good"]


def test_text_vectors_beside_an_embedding_allow_zero_shot(file: Path, tmp_path: Path) -> None:
    vectors = 5 * np.eye(3, 5)
    np.savez(
        tmp_path / "t.npz", texts=np.asarray(["B cell", "CL:0000084", "monocyte"]), vectors=vectors
    )
    config = QUICK.replace(tasks=("zero_shot", "retrieval"))
    methods = parse_methods(
        [f"mine=obsm:X_good,texts={tmp_path / 't.npz'}", "mine2=obsm:X_good"], config
    )
    run(methods, (DataSpec(path=file),), tmp_path / "out", config)
    rows = read_table(tmp_path / "out" / "results.parquet", "results").to_pylist()
    value = {(row["method"], row["metric"]): row["value"] for row in rows}
    assert value[("mine", "accuracy (all)")] > 0.9
    assert value[("mine", "R@1 (cell to text, graded)")] > 0.9
    assert not any(method == "mine2" for method, _ in value)
    np.savez(tmp_path / "t.npz", texts=np.asarray(["B cell"]), vectors=vectors[:1])
    methods = parse_methods([f"obsm:X_good,texts={tmp_path / 't.npz'}"], config)
    with pytest.raises(DataError, match=r"no vector for 2 types of toy \(T cell, monocyte\)"):
        run(methods, (DataSpec(path=file),), tmp_path / "out", config)
    (tmp_path / "t.npz").write_text("no")
    with pytest.raises(FileFormatError, match="npz"):
        parse_methods([f"obsm:X_good,texts={tmp_path / 't.npz'}"], config)


def test_embeddings_of_the_wrong_shape_or_with_nan_are_refused(tmp_path: Path) -> None:
    import anndata

    adata = anndata.read_h5ad(make_file(tmp_path / "n.h5ad"))
    adata.obsm["X_good"][7, 0] = np.nan
    adata.obsm["X_flat"] = np.ones((90, 3))
    adata.write_h5ad(tmp_path / "n.h5ad")
    for key, words in (
        ("X_good", "not finite in 1 cells .n:cell7."),
        ("X_flat", "the same vector"),
    ):
        with pytest.raises(DataError, match=words):
            run(
                parse_methods([f"obsm:{key}"], QUICK),
                (DataSpec(path=tmp_path / "n.h5ad"),),
                tmp_path / key,
                QUICK,
            )


FUNCTION = """
import numpy as np

def embed(adata, seed):
    assert set(adata.obs["cell_type"][adata.obs["split"] != "train"]) == {""}
    return {"cells": np.asarray(adata.X.todense()), "predicted": np.full(adata.n_obs, "B cell")}

def short(adata, seed):
    return np.zeros((3, 2))
"""


def test_a_python_function_is_a_method_and_sees_no_test_label(file: Path, tmp_path: Path) -> None:
    (tmp_path / "lab.py").write_text(FUNCTION)
    methods = parse_methods([f"ours={tmp_path / 'lab.py'}:embed"], QUICK)
    run(methods, (DataSpec(path=file),), tmp_path / "out", QUICK)
    rows = read_table(tmp_path / "out" / "results.parquet", "results").to_pylist()
    value = {(row["method"], row["metric"]): row["value"] for row in rows}
    assert value[("ours", "accuracy (linear)")] > 0.8
    assert value[("ours", "accuracy (own)")] < 0.6
    with pytest.raises(DataError, match=r"shape \(3, 2\)"):
        run(
            parse_methods([f"{tmp_path / 'lab.py'}:short"], QUICK),
            (DataSpec(path=file),),
            tmp_path / "s",
            QUICK,
        )
    with pytest.raises(ConfigError, match="nothing to call"):
        parse_methods(["no_such_module:embed"], QUICK)


def test_all_data_are_looked_at_before_anything_is_computed(file: Path, tmp_path: Path) -> None:
    specs = (DataSpec(path=file), DataSpec(path=tmp_path / "gone.h5ad"))
    with pytest.raises(FileFormatError, match="gone"):
        run(parse_methods(["pca"], QUICK), specs, tmp_path / "out", QUICK)
    assert not (tmp_path / "out").exists()


def test_a_store_needs_descriptions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--descriptions"):
        load(DataSpec(path=tmp_path), QUICK)


def test_baselines_are_known_methods() -> None:
    assert [m.name for m in parse_methods(BASELINES, QUICK)] == list(BASELINES)


WRONG = """
import numpy as np
def nan_texts(adata, seed):
    return {"cells": np.asarray(adata.X.todense()), "encode_text": lambda t: np.full((len(t), 20), np.nan)}
def zero_texts(adata, seed):
    return {"cells": np.asarray(adata.X.todense()), "encode_text": lambda t: np.zeros((len(t), 20))}
def wide_texts(adata, seed):
    return {"cells": np.asarray(adata.X.todense()), "encode_text": lambda t: np.ones((len(t), 3))}
def raises(adata, seed):
    raise RuntimeError("out of luck")
def leaves(adata, seed):
    raise SystemExit(0)
def words(adata, seed):
    return ["a"] * adata.n_obs
def nothing(adata, seed):
    return {}
def few(adata, seed):
    return {"predicted": np.asarray(["B cell"] * 3)}
def prints(adata, seed):
    print("not JSON")
    return adata.X
number = 3
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nan_texts", "not finite, or nothing but zeros, for"),
        ("zero_texts", "nothing but zeros"),
        ("wide_texts", r"shape \(\d+, 3\)"),
        ("raises", r"RuntimeError: out of luck \(wrong.py, line"),
        ("leaves", "SystemExit"),
        ("words", "no array of numbers"),
        ("nothing", "a dict of nothing"),
        ("few", r"predicted labels of shape \(3,\)"),
    ],
)
def test_wrong_functions_are_refused_with_a_reason(
    file: Path, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    config = QUICK.replace(tasks=("annotation", "zero_shot"), open_candidates=())
    methods = parse_methods([f"{tmp_path / 'wrong.py'}:{name}"], config)
    with pytest.raises((ConfigError, DataError), match=words):
        run(methods, (DataSpec(path=file),), tmp_path / "out", config)
    with pytest.raises(ConfigError, match="nothing to call"):
        parse_methods([f"{tmp_path / 'wrong.py'}:number"], config)


def test_what_a_function_prints_does_not_reach_stdout(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    methods = parse_methods([f"{tmp_path / 'wrong.py'}:prints"], QUICK)
    run(methods, (DataSpec(path=file),), tmp_path / "out", QUICK)
    assert "not JSON" not in capsys.readouterr().out


def test_a_refined_method_takes_its_own_base(file: Path, tmp_path: Path) -> None:
    np.savez(
        tmp_path / "t.npz",
        texts=np.asarray(["B cell", "T cell", "monocyte"]),
        vectors=5 * np.eye(3, 5),
    )
    config = QUICK.replace(tasks=("zero_shot",))
    spec = f"obsm:X_good,texts={tmp_path / 't.npz'}+grit"
    methods = parse_methods(["X_good=random", spec], config)  # the base has a name that is taken
    run(methods, (DataSpec(path=file),), tmp_path / "out", config)
    rows = read_table(tmp_path / "out" / "results.parquet", "results").to_pylist()
    value = {(row["method"], row["metric"]): row["value"] for row in rows}
    assert value[("X_good+grit", "accuracy (all)")] > 0.9 > value[("X_good", "accuracy (all)")]


def test_names_of_data_differ_and_flags_that_do_nothing_are_refused(
    file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="a name given twice"):
        suite_of([file, file])
    with pytest.raises(ConfigError, match="every way of splitting once"):
        suite_of([file], split=["random", "random"])
    with pytest.raises(ConfigError, match="none of donor, batch, random"):
        suite_of([file], split=["study"])
    suite = tmp_path / "s.toml"
    suite.write_text('[[data]]\npath = "toy.h5ad"\n')
    with pytest.raises(ConfigError, match="does not apply to suites"):
        suite_of([suite], split=["random"])
    with pytest.raises(ConfigError, match="not use"):
        suite_of([file], columns={"tissue": "x"})


def test_donors_that_differ_in_blanks_or_case_are_one(tmp_path: Path) -> None:
    names = np.asarray(["d1", "D1", "d1 ", "d2", "d3", "d4"])[np.arange(90) % 6]
    data = first(DataSpec(path=make_file(tmp_path / "w.h5ad", donor_id=names), split="donor"))
    assert len(set(data.donors.tolist())) == 4


def test_types_of_one_term_are_one_in_zero_shot(tmp_path: Path) -> None:
    labels = np.asarray(["B cell", "B lymphocyte", "T cell"], dtype=object)[np.arange(90) % 3]
    path = make_file(tmp_path / "m.h5ad", cell_type=labels)
    terms = {"B cell": "CL:0000236", "B lymphocyte": "CL:0000236", "T cell": "CL:0000084"}
    data = first(DataSpec(path=path, terms=terms))
    merged = merge_types(data)
    assert merged.types == ("B cell", "T cell")
    assert merged.names_of("B cell") == ("B cell", "B lymphocyte")
    assert set(merged.labels[data.labels == "B lymphocyte"]) == {"B cell"}
    assert merge_types(merged) is merged
    assert type_texts(merged, "label")[0] == ("B cell", "B lymphocyte")


MARKED = {"B cell": "CL:0000236", "T cell": "CL:0000084", "monocyte": "CL:0000576"}
HEADS = ("B cell", "monocyte", "T cell")


def marked_file(path: Path, n: int = 450) -> Path:
    """Cells of three types that express the genes of their type, and hardly others; one embedding."""
    rng = np.random.default_rng(1)
    code = np.arange(n) % 3
    rates = np.full((n, len(GENES)), 0.05)
    own = {"B cell": (2, 3), "T cell": (0, 1, 11), "monocyte": (4, 5, 10, 12)}
    for row, which in enumerate(code):
        rates[row, list(own[TYPES[which]])] = 5.0
        rates[row, 13:] = 1.0
    obs = pd.DataFrame(
        {"cell_type": np.asarray(TYPES)[code], "donor_id": [f"d{i % 6}" for i in range(n)]},
        index=[f"cell{i}" for i in range(n)],
    )
    adata = AnnData(
        rng.poisson(rates).astype(np.float32), obs=obs, var=pd.DataFrame(index=list(GENES))
    )
    order = np.asarray([HEADS.index(TYPES[which]) for which in code])
    adata.obsm["X_weak"] = rng.normal(size=(n, 5)) + 0.5 * np.eye(3, 5)[order]
    adata.write_h5ad(path)
    np.savez(path.with_suffix(".npz"), texts=np.asarray(HEADS), vectors=np.eye(3, 5))
    return path


def test_markers_vote_alone_and_beside_other_scores(tmp_path: Path) -> None:
    path = marked_file(tmp_path / "marked.h5ad")
    weak = f"obsm:X_weak,texts={path.with_suffix('.npz')}"
    config = QUICK.replace(tasks=("zero_shot", "retrieval"), open_candidates=("cl",))
    methods = parse_methods(
        [weak, f"{weak}+markers", f"{weak}+grit+markers", "markers", "markers+grit"], config
    )
    assert [m.name for m in methods[3:]] == ["markers", "markers+grit"]
    assert all(m.tasks == {"zero_shot"} for m in methods[1:])
    assert len({m.identity for m in methods}) == len(methods)
    out = tmp_path / "out"
    spec = DataSpec(path=path, terms=MARKED, split="random")
    run(methods, (spec,), out, config)
    rows = read_table(out / "results.parquet", "results").to_pylist()
    value = {(row["method"], row["metric"]): row["value"] for row in rows}
    base, key = methods[0].name, "accuracy (all)"
    assert value[(base, key)] < 0.8
    assert value[(f"{base}+markers", key)] > max(0.85, value[(base, key)] + 0.1)
    assert value[(f"{base}+grit+markers", key)] > 0.9
    assert value[("markers", key)] > 0.95
    assert value[("markers+grit", key)] > 0.95
    # Among all terms the markers alone are near, and are asked without any text.
    assert value[("markers", "ontology_credit (all, all CL)")] > 0.3
    details = json.loads((out / "details.json").read_text())
    told = details["datasets"][0]["tasks"]["zero_shot"]["markers"]["markers"]
    assert ["MS4A1", 1, "okrcell:markers"] in told["B cell"]
    assert "retrieval" not in {row["task"] for row in rows if row["method"] == "markers"}


def test_labels_do_not_reach_the_vote(tmp_path: Path) -> None:
    import dataclasses

    from okrcell.evaluate.marker_method import alone, voted_scores

    path = marked_file(tmp_path / "marked.h5ad")
    data = first(DataSpec(path=path, terms=MARKED, split="random"))
    method = alone(data, 0)
    nothing = np.zeros((len(data.test), 3), dtype=np.float32)
    votes = voted_scores(method, data, "test", nothing)
    shuffled = dataclasses.replace(data, labels=np.roll(data.labels, 1))
    assert shuffled.types == data.types
    np.testing.assert_array_equal(votes, voted_scores(method, shuffled, "test", nothing))


def test_markers_of_a_description_keep_their_citations(tmp_path: Path) -> None:
    import dataclasses

    from okrcell.corpus.marker_table import Marker
    from okrcell.evaluate.marker_method import type_markers, voting_details

    data = first(DataSpec(path=marked_file(tmp_path / "marked.h5ad"), split="random"))
    data = dataclasses.replace(
        data,
        term_ids={},
        descriptions={"T cell": "It expresses CD3D.", "B cell": "x", "monocyte": "It lacks CD3E."},
        cited={"B cell": (Marker("ENSG00000156738", "MS4A1", 1, "snip1 snip2"),)},
    )
    told = dict(zip(data.types, type_markers(data), strict=True))
    assert [(m.symbol, m.sign, m.source) for m in told["T cell"]] == [
        ("CD3D", 1, "description of T cell")
    ]
    assert told["B cell"][0].source == "snip1 snip2"
    assert told["monocyte"][0].sign == -1
    bare = dataclasses.replace(data, descriptions=dict.fromkeys(data.types, "no gene"))
    assert "no marker of T cell, monocyte" in voting_details(bare)[1][0]


def test_markers_beside_a_method_without_texts_are_refused() -> None:
    with pytest.raises(ConfigError, match="knows no texts"):
        parse_methods(["pca+markers"], QUICK)
