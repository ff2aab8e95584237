"""What users bring: refused through the command line, named, exit code 2, nothing half-written."""

import os
import shutil
import subprocess
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from okrcell.corpus import build


@pytest.fixture
def fresh(tmp_path):
    build.init_store(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def add(refused, fresh, tmp_path):
    """Add a broken variant of the cells; the store must be as before."""

    def call(adata, *flags, label="bulk_labels"):
        path = tmp_path / "broken.h5ad"
        if isinstance(adata, bytes):
            path.write_bytes(adata)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                adata.write_h5ad(path)
        message = refused("corpus", "add-cells", fresh, path, "--map", f"cell_type={label}", *flags)
        assert sorted(p.name for p in fresh.iterdir() if p.name != ".lock") == ["okrcell.json"]
        return message

    return call


def test_not_an_h5ad(add):
    assert "cannot be read as h5ad" in add(b"PK\x03\x04 this is an Excel file")


def test_truncated_h5ad(add, pbmc):
    whole = pbmc.read_bytes()
    assert "broken.h5ad" in add(whole[: len(whole) // 2])


def test_missing_file(refused, fresh):
    assert "no such file" in refused("corpus", "add-cells", fresh, "none.h5ad")


def test_missing_label_column_lists_the_columns(add, adata):
    message = add(adata, label="celltype")
    assert "no column 'celltype'" in message
    assert "bulk_labels, batch" in message


def test_duplicate_obs_names(add, adata):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs_names = ["twin", "twin", *adata.obs_names[2:]]
    assert "'twin' more than once" in add(adata)


def test_no_gene_resolves(add, adata):
    adata.var_names = [f"feature_{i}" for i in range(adata.n_vars)]
    message = add(adata)
    assert "0 of 765 genes" in message
    assert "feature_0" in message


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_negative_and_non_finite_values(add, adata, value):
    adata.X.data[1000] = value
    assert f"the value {value:g}" in add(adata)


def test_log_normalised_where_counts_are_declared_and_the_reverse(add, adata):
    assert "--values counts" in add(adata, "--values", "lognorm")
    adata.X.data = np.log1p(adata.X.data)
    message = add(adata, "--values", "counts")
    assert "fractions" in message
    assert "--values lognorm" in message


def test_all_zero(add, adata):
    adata.X = adata.X * 0
    assert "no value above zero" in add(adata)


def test_unknown_layer_flag_and_type(add, adata):
    assert "no layer 'spliced'" in add(adata, "--layer", "spliced")
    assert "'counts' or 'lognorm'" in add(adata, "--values", "tpm")
    assert "no such cell type" in add(adata, "--hold-out", "Neuron")
    assert "an unknown field" in add(adata, "--map", "celltype=batch")
    assert "NAME=VALUE" in add(adata, "--set", "tissue")


def test_unknown_key_in_a_configuration(refused, tmp_path):
    (tmp_path / "c.toml").write_text("[train]\nlerning_rate = 1\n")
    message = refused("quickstart", "--config", tmp_path / "c.toml", "--out", tmp_path / "out")
    assert "[train] lerning_rate" in message
    assert not (tmp_path / "out").exists()


def test_corrupted_manifest(refused, store, tmp_path):
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    (copy / "knowledge" / "manifest.json").write_text('{"kind": "know')
    assert "manifest.json" in refused("corpus", "search", copy, "T cell")
    assert "manifest.json" in refused("corpus", "build", copy)


# --- output folders ----------------------------------------------------------------------------


def test_folder_of_somebody_else(refused, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "results.xlsx").write_text("precious")
    assert "results.xlsx" in refused("quickstart", "--out", theirs)
    assert [p.name for p in theirs.iterdir()] == ["results.xlsx"]


def test_locked_folder(refused, tmp_path):
    from filelock import FileLock

    build.init_store(tmp_path / "store")
    with FileLock(tmp_path / "store" / ".lock"):
        assert "another process" in refused("corpus", "init", tmp_path / "store")


@contextmanager
def small_disk(folder: Path, options: str):
    """Mount a tmpfs, which takes privileges; without them there is no honest way to fill a disk."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("mounting a tmpfs needs root: run the tests as root to check a full disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(okrcell, refused, tmp_path, pbmc):
    disk = tmp_path / "disk"
    with small_disk(disk, "size=600k"):
        build.init_store(disk / "store")
        flags = ("add-cells", disk / "store", pbmc, "--map", "cell_type=bulk_labels")
        assert "no space left" in refused("corpus", *flags)
        assert not list((disk / "store").rglob("*.okrcell-tmp"))
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert okrcell("corpus", *flags).returncode == 0


def test_full_disk_under_the_index(refused, store, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, "size=40m"):
        shutil.copytree(store, disk / "store")
        shutil.rmtree(disk / "store" / "knowledge" / "index")
        free = os.statvfs(disk)
        (disk / "ballast").write_bytes(b"0" * (free.f_bavail * free.f_frsize - 100_000))
        assert "no space left" in refused("corpus", "build", disk / "store")


def test_read_only_folder(refused, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, "size=1m,ro"):
        assert "read-only" in refused("corpus", "init", disk / "store")


# --- doctor ------------------------------------------------------------------------------------


def test_doctor_is_content_here(okrcell, tmp_path):
    done = okrcell("doctor", "--out", tmp_path)
    assert done.returncode == 0, done.stdout
    for name in ("Python", "torch", "text model", "ontologies", "gene table", "output folder"):
        assert name in done.stdout


def test_doctor_finds_altered_weights(tmp_path, monkeypatch):
    from okrcell import doctor
    from okrcell.corpus import embedder

    copy = tmp_path / "model"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes(b"not the weights")
    monkeypatch.setattr(embedder, "minilm_path", lambda: copy)
    (wrong,) = [entry for entry in doctor.check(tmp_path) if entry.state == "wrong"]
    assert wrong.name == "text model"
    assert "pip install" in wrong.fix


@pytest.mark.parametrize("name", ["../../escaped", "a/b", ".", "x\ny", "n" * 300])
def test_dataset_id_stays_inside_the_store(refused, fresh, pbmc, name):
    flags = ("--map", "cell_type=bulk_labels", "--dataset-id", name)
    assert "dataset_id" in refused("corpus", "add-cells", fresh, pbmc, *flags)
    assert sorted(p.name for p in fresh.iterdir() if p.name != ".lock") == ["okrcell.json"]
    assert not (fresh.parent.parent / "escaped").exists()


def test_file_without_a_matrix(add, adata):
    adata.X = None
    assert "no matrix at all" in add(adata)


def test_notes_without_any_text(refused, fresh, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "empty.md").write_text("")
    assert "no file that can be read" in refused(
        "corpus", "add-literature", fresh, tmp_path / "notes"
    )
    assert "something to search in" in refused("corpus", "build", fresh)


def test_report_onto_a_folder_and_damaged_plan(refused, tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    (job / "okrcell.json").write_text('{"okrcell": "job", "schema_version": 1}')
    (job / "plan.json").write_text('{"config": ')
    assert "damaged plan" in refused("enrich", "run", job)


def test_values_out_of_range(refused, tmp_path, fresh):
    for table in ("seed = -1", "mask_ratios = []", "gamma_power = -1.0"):
        (tmp_path / "c.toml").write_text(f"[train]\n{table}\n")
        refused("train", "run", fresh, "--out", tmp_path / "r", "--config", tmp_path / "c.toml")
    assert not (tmp_path / "r").exists()
