"""A run on files that it never saw: what is written, what is refused, what the user is told."""

import json
import os
import re
import shutil

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from okrcell.errors import (
    ConfigError,
    DuplicateNamesError,
    ExpressionValueError,
    FileFormatError,
    GeneCoverageError,
    LabelError,
    ManifestError,
    MissingColumnError,
    SchemaVersionError,
    UserError,
)
from okrcell.evaluate.apply.annotate import annotate, plan
from okrcell.evaluate.apply.embed import EMBEDDING, embed
from okrcell.evaluate.apply.setting import Request
from okrcell.train import loop
from okrcell.train.calibrate import CALIBRATION
from okrcell.train.config import TrainConfig

KEYS = {
    "preset": "mlp",
    "objective": "infonce",
    "text_source": "label",
    "epochs": 12,
    "batch_size": 64,
    "lr": 1e-3,
    "hvgs": 400,
    "precision": "fp32",
}
BLOOD = Request(tissue="blood")


@pytest.fixture(scope="module")
def run(tmp_path_factory, store):
    out = tmp_path_factory.mktemp("runs") / "run"
    loop.train(store, out.parent, out, TrainConfig(**KEYS))
    return out


@pytest.fixture
def save(adata, tmp_path):
    """Write the 700 cells, changed, as a new file."""

    def go(name="data.h5ad", **changes):
        for key, value in changes.items():
            setattr(adata, key, value)
        adata.write_h5ad(tmp_path / name)
        return tmp_path / name

    return go


def read(path):
    return anndata.read_h5ad(path)


def test_labels_scores_and_files(run, pbmc, tmp_path, adata):
    out = tmp_path / "x.h5ad"
    result = annotate(run, pbmc, out, BLOOD)
    made = read(out)
    assert list(made.obs_names) == list(adata.obs_names)
    assert (made.X != adata.X).nnz == 0
    assert list(made.obs.columns) == [
        *adata.obs.columns,
        "okrcell_cell_type",
        "okrcell_cell_type_ontology_term_id",
        "okrcell_score",
        "okrcell_broad_type",
    ]
    assert made.obsm[EMBEDDING].shape == (700, 384)
    np.testing.assert_allclose(np.linalg.norm(made.obsm[EMBEDDING], axis=1), 1, rtol=1e-5)
    scores = made.obs["okrcell_score"].to_numpy()
    assert ((scores > 0) & (scores <= 1)).all()
    record = made.uns["okrcell"]
    assert record["run_fingerprint"] == json.loads(json.dumps(record["run_fingerprint"]))
    assert record["options"]["tissue"] == "blood"
    assert record["is_calibrated"]
    table = pd.read_csv(tmp_path / "x.tsv", sep="\t")
    assert list(table["cell_id"]) == list(made.obs_names)
    assert list(table["label_1"]) == list(made.obs["okrcell_cell_type"])
    assert (table["score_1"] >= table["score_2"]).all()
    assert set(table["verdict"]) == {"named"}
    sure = table["broad_type"] != "unknown"
    assert (table["broad_score"][sure] >= 0.8).all()
    assert list(table["broad_type"]) == list(made.obs["okrcell_broad_type"])
    assert sum(row["cells"] for row in result["types"]) == 700
    # B cells and monocytes are easy, even for a minute model: markers have a say.
    b_cells = made.obs["okrcell_cell_type"] == "B cell"
    truth = made.obs["bulk_labels"].astype(str)
    assert (truth[b_cells] == "CD19+ B").mean() > 0.7
    (row,) = [row for row in result["types"] if row["cell_type"] == "B cell"]
    assert {"CD79A", "CD74"} & {marker["gene"] for marker in row["markers_higher"]}
    assert all(marker["source"] for marker in row["markers_higher"])


def test_the_same_call_writes_the_same_and_an_earlier_result_may_be_replaced(run, pbmc, tmp_path):
    out = tmp_path / "x.h5ad"
    annotate(run, pbmc, out, BLOOD)
    first = (tmp_path / "x.tsv").read_bytes()
    annotate(run, pbmc, out, BLOOD)
    assert (tmp_path / "x.tsv").read_bytes() == first
    again = tmp_path / "again.h5ad"
    annotate(run, out, again, BLOOD)  # a result may be annotated: its columns are replaced
    assert read(again).obs.columns.is_unique
    assert (tmp_path / "again.tsv").read_bytes() == first


def test_ids_symbols_versions_and_order_give_the_same_labels(run, pbmc, tmp_path, adata, save):
    annotate(run, pbmc, tmp_path / "a.h5ad", BLOOD)
    from okrcell.corpus.genes import resolve_genes

    found = resolve_genes(list(adata.var_names), np.zeros(adata.n_vars))
    ids = found.table["gene_id"].to_pylist()
    named = adata[:, np.asarray([bool(i) for i in ids])].copy()
    named.var["gene_ids"] = [f"{i}.7" for i in ids if i]
    named.var_names = [f"row{i}" for i in range(named.n_vars)]
    named = named[:, ::-1].copy()
    named.write_h5ad(tmp_path / "ids.h5ad")
    annotate(run, tmp_path / "ids.h5ad", tmp_path / "b.h5ad", BLOOD)
    one, two = (read(tmp_path / name).obs["okrcell_cell_type"] for name in ("a.h5ad", "b.h5ad"))
    assert (one.astype(str).to_numpy() == two.astype(str).to_numpy()).mean() > 0.99


def test_log_normalised_values_are_recognised(run, pbmc, tmp_path, adata):
    values = adata.X.astype(np.float64).tocsr()
    depth = np.asarray(values.sum(axis=1)).ravel()
    values.data = np.log1p(values.data * np.repeat(1e4 / depth, np.diff(values.indptr)))
    adata.X = values.astype(np.float32)
    adata.write_h5ad(tmp_path / "log.h5ad")
    one = annotate(run, pbmc, tmp_path / "a.h5ad", BLOOD)
    two = annotate(run, tmp_path / "log.h5ad", tmp_path / "b.h5ad", BLOOD)
    assert (one["values"], two["values"]) == ("counts", "lognorm")
    labels = [
        read(tmp_path / n).obs["okrcell_cell_type"].astype(str).to_numpy()
        for n in ("a.h5ad", "b.h5ad")
    ]
    assert (labels[0] == labels[1]).mean() > 0.95


def test_corrected_counts_are_counts(run, tmp_path, adata):
    adata.X.data = (adata.X.data * 1.25).astype(np.float32)
    adata.X.data[0] = 99.5
    adata.write_h5ad(tmp_path / "corrected.h5ad")
    found = annotate(run, tmp_path / "corrected.h5ad", tmp_path / "x.h5ad", BLOOD)
    assert found["values"] == "counts"
    assert any("read as counts" in note for note in found["notes"])


def test_unknown_keeps_the_best_three_in_the_table(run, pbmc, tmp_path):
    result = annotate(run, pbmc, tmp_path / "x.h5ad", Request(tissue="blood", threshold=0.6))
    made, table = read(tmp_path / "x.h5ad"), pd.read_csv(tmp_path / "x.tsv", sep="\t")
    low = made.obs["okrcell_score"].to_numpy() < 0.6
    assert 0 < low.sum() == result["unknown"] < 700
    assert (made.obs["okrcell_cell_type"][low] == "unknown").all()
    assert (table["verdict"].to_numpy() == "unknown").tolist() == low.tolist()
    assert table["label_1"].notna().all()
    calibrated = annotate(run, pbmc, tmp_path / "y.h5ad", Request(tissue="blood", unknown=True))
    assert 0 < calibrated["threshold"] < 1


def test_candidates_by_tissue_run_file_and_the_whole_ontology(run, pbmc, tmp_path, save, adata):
    told = plan(run, pbmc, Request())
    assert any("names no tissue" in note for note in told["notes"])
    assert len(told["candidates"]) > 40
    adata.obs["tissue"] = "blood"
    blood = plan(run, save(), Request())
    assert blood["candidate_set"] == "types of blood"
    labels = {c["label"] for c in blood["candidates"]}
    assert "B cell" in labels
    assert "enterocyte" not in labels
    own = plan(run, pbmc, Request(labels="run"))
    assert "B cell" in {c["label"] for c in own["candidates"]}
    table = tmp_path / "labels.tsv"
    table.write_text(
        "label\tterm_id\tdescription\nmine\tCL:0000236\t\nother\t\tA monocyte of blood\n"
    )
    found = annotate(run, pbmc, tmp_path / "x.h5ad", Request(labels=str(table)))
    assert {row["cell_type"] for row in found["types"]} <= {"mine", "other"}
    with pytest.raises(LabelError, match="no organ"):
        plan(run, pbmc, Request(tissue="Atlantis"))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "label\tterm_id\nB\tCL:9999999\nT\t\n",
            LabelError,
            r"line 2: found the term id 'CL:9999999'",
        ),
        ("label\nB\nT\nb\n", LabelError, r"line 4: found the label 'b' again"),
        ("label\tterm_id\nB\tCL:0000236\nC\tCL:0000236\n", LabelError, "again"),
        ("label\nB\n", LabelError, "1 label"),
        ("name\nB\nT\n", MissingColumnError, "the columns name"),
        ("", MissingColumnError, "an empty file"),
        ("label\n", LabelError, "0 labels"),
        ("label\tterm_id\n \tCL:0000236\n", LabelError, "an empty label"),
    ],
)
def test_bad_tables_of_labels(run, pbmc, tmp_path, text, error, message):
    table = tmp_path / "labels.tsv"
    table.write_text(text)
    with pytest.raises(error, match=message):
        plan(run, pbmc, Request(labels=str(table)))
    with pytest.raises(FileFormatError, match="no such file"):
        plan(run, pbmc, Request(labels=str(tmp_path / "absent.tsv")))


def test_own_markers_count_and_must_fit_a_candidate(run, pbmc, tmp_path):
    table = tmp_path / "labels.tsv"
    table.write_text("label\nred\nblue\n")
    markers = tmp_path / "markers.tsv"
    markers.write_text(
        "label\tpositive\nred\tCD79A,CD79B MS4A1 HLA-DRA TCL1A\nblue\tLYZ S100A8 S100A9 FCN1 CST3\n"
    )
    request = Request(labels=str(table), markers=markers)
    found = annotate(run, pbmc, tmp_path / "x.h5ad", request)
    sources = {marker["source"] for row in found["types"] for marker in row["markers_higher"]}
    assert sources == {"markers.tsv"}
    without = annotate(run, pbmc, tmp_path / "y.h5ad", Request(labels=str(table), vote=False))
    assert {row["markers_usable"] for row in without["types"]} == {0}
    markers.write_text("label\tpositive\ngreen\tCD79A\n")
    with pytest.raises(LabelError, match="none of which is a candidate"):
        plan(run, pbmc, request)
    with pytest.raises(ConfigError, match="beside --no-markers"):
        plan(run, pbmc, Request(markers=markers, vote=False))


def test_batches_are_compared_within_themselves(run, pbmc, tmp_path):
    result = annotate(run, pbmc, tmp_path / "x.h5ad", Request(tissue="blood", batch="batch"))
    assert sum(row["cells"] for row in result["types"]) == 700
    with pytest.raises(MissingColumnError, match="no column 'absent'"):
        annotate(run, pbmc, tmp_path / "y.h5ad", Request(batch="absent"))


def test_one_cell_and_cells_without_values(run, pbmc, tmp_path, adata):
    adata[:1].write_h5ad(tmp_path / "one.h5ad")
    one = annotate(run, tmp_path / "one.h5ad", tmp_path / "x.h5ad", BLOOD)
    assert [row["cells"] for row in one["types"]] == [1]
    few = adata[:40].copy()
    counts = few.X.tolil()
    counts[3] = 0
    few.X = counts.tocsr().astype(np.float32)
    few.write_h5ad(tmp_path / "few.h5ad")
    found = annotate(run, tmp_path / "few.h5ad", tmp_path / "y.h5ad", BLOOD)
    made = read(tmp_path / "y.h5ad")
    assert found["cells_without_values"] == 1
    assert any("1 cells have no value" in note for note in found["notes"])
    assert made.obs["okrcell_cell_type"].iloc[3] == "unknown"
    assert made.obs["okrcell_score"].iloc[3] == 0
    assert not made.obsm[EMBEDDING][3].any()


def test_few_genes_are_told_and_too_few_refused(run, tmp_path, adata):
    genes = np.random.default_rng(0).permutation(adata.n_vars)
    adata[:, genes[:250]].write_h5ad(tmp_path / "few.h5ad")
    found = annotate(run, tmp_path / "few.h5ad", tmp_path / "x.h5ad", BLOOD)
    assert found["coverage"]["share"] < 0.5
    assert 0 < found["coverage"]["validation_accuracy_with_so_many_genes"] <= 1
    assert "validation cells get" in found["coverage_told"]
    adata[:, genes[:9]].write_h5ad(tmp_path / "nine.h5ad")
    with pytest.raises(GeneCoverageError, match="genes that the run reads"):
        annotate(run, tmp_path / "nine.h5ad", tmp_path / "y.h5ad", BLOOD)


def test_the_narrowest_class_that_is_sure():
    from okrcell.evaluate.apply.broad import classes_of, narrowest
    from okrcell.evaluate.apply.labels import Candidates

    terms = ("CL:0000624", "CL:0000625", "CL:0000236")  # CD4 T, CD8 T, B
    classes = classes_of(Candidates("", ("a", "b", "c"), terms, ("a", "b", "c")))
    shares = np.array([[0.9, 0.05, 0.05], [0.45, 0.45, 0.1], [0.4, 0.2, 0.4]])
    found, held = narrowest(shares, classes)
    said = [classes.labels[at] for at in found]
    assert said[0] == "CD4-positive, alpha-beta T cell"
    assert said[1].endswith("T cell")
    assert "CD" not in said[1]
    assert said[2] in {"lymphocyte", "leukocyte"}
    np.testing.assert_allclose(held, [0.9, 0.9, 1.0], rtol=1e-6)
    nothing = classes_of(Candidates("", ("a", "b"), ("", ""), ("a", "b")))
    assert narrowest(np.array([[0.5, 0.5]]), nothing)[0].tolist() == [-1]


# --- refusals ----------------------------------------------------------------------------------


def _no_genes(adata):
    adata.var_names = [f"x{i}" for i in range(adata.n_vars)]


def _mixed(adata):
    values = adata.X.astype(np.float64).tocsr()
    thinned = np.repeat(
        adata.obs["batch"].astype(str).str.startswith("thinned").to_numpy(), np.diff(values.indptr)
    )
    values.data[thinned] = np.log1p(values.data[thinned] * 1.7)
    adata.X = values.astype(np.float32)


def _negative(adata):
    adata.X.data[7] = -1


def _nan(adata):
    adata.X.data[7] = np.nan


def _twice(adata):
    adata.obs_names = ["same", "same", *adata.obs_names[2:]]


def _nothing(adata):
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (_no_genes, GeneCoverageError, "0 of 765"),
        (
            _mixed,
            ExpressionValueError,
            r"two scales, by batch: counts in .*; log values in 'thinned",
        ),
        (_negative, ExpressionValueError, "the value -1"),
        (_nan, ExpressionValueError, "the value nan"),
        (_twice, DuplicateNamesError, "'same' more than once"),
        (_nothing, ExpressionValueError, "no value above zero"),
    ],
)
def test_files_that_cannot_be_used(run, tmp_path, save, adata, harm, error, message):
    harm(adata)
    data = save()
    with pytest.raises(error, match=message) as refusal:
        annotate(run, data, tmp_path / "x.h5ad", BLOOD)
    assert isinstance(refusal.value, UserError)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.h5ad"]


def test_outputs_that_are_refused(run, pbmc, tmp_path):
    mine = tmp_path / "mine.h5ad"
    shutil.copyfile(pbmc, mine)
    with pytest.raises(ConfigError, match="the same file as the input"):
        annotate(run, mine, mine, BLOOD)
    with pytest.raises(ConfigError, match="a file that okrcell did not write"):
        annotate(run, pbmc, mine, BLOOD)
    with pytest.raises(ConfigError, match="no folder"):
        annotate(run, pbmc, tmp_path / "absent" / "x.h5ad", BLOOD)
    (tmp_path / "x.tsv").write_text("gene\tvalue\n")
    with pytest.raises(ConfigError, match="x.tsv: found a file that okrcell did not write"):
        annotate(run, pbmc, tmp_path / "x.h5ad", BLOOD)
    with pytest.raises(FileFormatError, match="no h5ad file"):
        annotate(run, tmp_path / "x.tsv", tmp_path / "y.h5ad", BLOOD)
    with pytest.raises(ManifestError, match="no manifest"):
        annotate(tmp_path, pbmc, tmp_path / "y.h5ad", BLOOD)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        plan(run, pbmc, Request(threshold=1.5))


def test_a_run_of_another_format(run, pbmc, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    card = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps({**card, "format": 1}))
    manifest = json.loads((other / "manifest.json").read_text())
    from okrcell.artifacts import file_sha256

    entry = manifest["files"]["model.json"]
    entry["sha256"] = file_sha256(other / "model.json")
    entry["bytes"] = (other / "model.json").stat().st_size
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SchemaVersionError, match="a model of format 1"):
        annotate(other, pbmc, tmp_path / "x.h5ad", BLOOD)


# --- calibration and the file it is kept in ----------------------------------------------------


def test_calibration_is_part_of_the_run_and_made_anew_where_it_is_missing(run, pbmc, tmp_path):
    manifest = json.loads((run / "manifest.json").read_text())
    assert CALIBRATION in manifest["files"]
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / CALIBRATION).unlink()
    listed = manifest["files"]
    del listed[CALIBRATION]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    first = plan(run, pbmc, BLOOD)
    assert plan(copy, pbmc, BLOOD)["calibration"] == first["calibration"]
    assert (copy / CALIBRATION).read_bytes() == (run / CALIBRATION).read_bytes()
    (copy / CALIBRATION).unlink()
    (copy / "request.json").unlink()  # nor a store to make it from
    bare = plan(copy, pbmc, BLOOD)
    assert "not calibrated" in bare["calibration"]
    assert any("not calibrated" in note for note in bare["notes"])


def test_embed_writes_unit_rows_and_leaves_the_rest_alone(run, pbmc, tmp_path):
    found = embed(run, pbmc, tmp_path / "e.h5ad")
    made = read(tmp_path / "e.h5ad")
    assert made.obsm[EMBEDDING].shape == (700, found["width"])
    with h5py.File(pbmc) as one, h5py.File(tmp_path / "e.h5ad") as two:
        np.testing.assert_array_equal(one["X/data"][:], two["X/data"][:])
    assert "okrcell_cell_type" not in made.obs


def test_the_page_is_one_file_without_network(run, pbmc, tmp_path, monkeypatch):
    monkeypatch.setattr("okrcell.evaluate.cards.umap", lambda cells, seed: cells[:, :2].tolist())
    page = tmp_path / "map.html"
    annotate(run, pbmc, tmp_path / "x.h5ad", BLOOD, page=page)
    html = page.read_text()
    assert "default-src 'none'" in html
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)
    content = json.loads(re.search(r'id="cells">(.*?)</script>', html, re.DOTALL)[1])
    assert len(content["x"]) == len(content["score"]) == 700
    assert max(content["x"]) <= 1000
    annotate(run, pbmc, tmp_path / "x.h5ad", BLOOD, page=page)
    assert page.read_text() == html


def test_names_cannot_break_the_page(run, tmp_path, adata, monkeypatch):
    monkeypatch.setattr("okrcell.evaluate.cards.umap", lambda cells, seed: cells[:, :2].tolist())
    bad = "</script><img src=x onerror=alert(1)>"
    adata.obs_names = [bad, *adata.obs_names[1:]]
    table = tmp_path / "labels.tsv"
    table.write_text(f"label\tterm_id\n{bad}\tCL:0000236\nmonocyte\tCL:0000576\n")
    adata.write_h5ad(tmp_path / "bad.h5ad")
    page = tmp_path / "map.html"
    annotate(run, tmp_path / "bad.h5ad", tmp_path / "x.h5ad", Request(labels=str(table)), page=page)
    html = page.read_text()
    assert "<img" not in html
    content = json.loads(re.search(r'id="cells">(.*?)</script>', html, re.DOTALL)[1])
    assert content["cell"][0] == bad
    assert content["labels"][0] == bad


def test_a_run_without_a_job_describes_by_definitions(run, pbmc, adata):
    from okrcell.evaluate.apply.find import describe

    found = describe(run, pbmc, adata.obs_names[0])
    assert found["source"] == "Cell Ontology"
    assert any("trained without descriptions" in note for note in found["notes"])
    assert found["descriptions"][0]["claims"][0]["evidence"][0]["doc_id"].startswith("CL:")


# --- command line ------------------------------------------------------------------------------


def test_command_line(okrcell, run, pbmc, tmp_path):
    done = okrcell("annotate", run, pbmc, "--out", tmp_path / "x.h5ad", "--tissue", "blood")
    assert done.returncode == 0, done.stderr
    assert "B cell" in done.stdout
    assert "markers that are higher" in done.stdout
    assert "wrote " in done.stderr


def test_dry_run_writes_nothing_and_out_is_needed(run, pbmc):
    from typer.testing import CliRunner

    from okrcell.cli import app

    words = ["annotate", str(run), str(pbmc), "--tissue", "blood"]
    dry = CliRunner().invoke(app, [*words, "--dry-run", "--json"])
    assert len(json.loads(dry.stdout)["candidates"]) > 20
    with pytest.raises(ConfigError, match="--out: found nothing"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_killed_call_leaves_nothing_half_written(okrcell, run, pbmc, tmp_path):
    out = tmp_path / "x.h5ad"
    killed = okrcell("annotate", run, pbmc, "--out", out, "--tissue", "blood", kill_at=5)
    assert killed.returncode == -9
    assert not out.exists()
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".x")]
    annotate(run, pbmc, out, BLOOD)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["x.h5ad", "x.tsv"]
    assert os.access(out, os.W_OK)
