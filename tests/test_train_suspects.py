"""Suspects of a run: planted mismatches are found, scores mean what they say, bad input is named."""

import csv
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from okrcell.artifacts import commit, invalidate, read_manifest
from okrcell.errors import (
    ConfigError,
    FileFormatError,
    ManifestError,
    SchemaVersionError,
    StorageError,
    TrainingError,
)
from okrcell.schemas import read_table, write_table
from okrcell.train import doubt, loop
from okrcell.train.config import TrainConfig
from okrcell.train.suspect_groups import group_rows, units_of
from okrcell.train.suspects import COLUMNS, find_suspects, write_tsv

KEYS = {
    "preset": "mlp",
    "objective": "cra_plus",
    "text_source": "label",
    "epochs": 15,
    "batch_size": 64,
    "lr": 1e-3,
    "weight_decay": 0.01,
    "bank_size": 128,
    "hvgs": 500,
    "graph_components": 20,
    "precision": "fp32",
    "mismatch": 0.2,
}


@pytest.fixture(scope="module")
def noisy(store, tmp_path_factory):
    """A run with a fifth of its pairs mismatched. Do not write to it."""
    out = tmp_path_factory.mktemp("noisy") / "run"
    loop.train(store, out, out, TrainConfig(**KEYS))
    return out


@pytest.fixture(scope="module")
def found(noisy):
    return find_suspects(noisy)


# --- a run with planted noise ----------------------------------------------------------------------


def test_planted_mismatches_are_found(found):
    planted = found.facts()["planted"]
    assert planted["pairs"] == 75  # a fifth of 375
    assert planted["auroc"] > 0.85
    assert planted["precision_at_planted"] > 0.6


def test_scores_are_chances(found):
    """Of pairs with score s about s are mismatched; 375 cells do not say more than this."""
    assert found.facts()["planted"]["calibration_error"] < 0.2
    assert found.doubts.share == pytest.approx(0.2, abs=0.15)


def test_planted_noise_is_in_no_score(found):
    """Labels are those that the pairs were trained with, and nothing else of the noise is read."""
    types = np.array(found.pairs.cell_types)[found.pairs.cell_type]
    carried = np.array(found.names)[found.labels]
    assert ((types != carried) == found.planted).all()


def test_rows_say_what_a_curator_needs(found, store):
    index = found.order(0.5)
    assert len(index) >= 30
    assert (np.diff(found.doubts.chance[index]) <= 0).all()
    rows = found.rows(index)
    assert all(tuple(row) == COLUMNS for row in rows)
    first = rows[0]
    assert first["kind"] == "pair"
    assert first["cell_uid"] == f"pbmc:{first['obs_name']}"
    assert first["dataset_id"] == "pbmc"
    assert first["batch"] in ("full depth", "thinned (synthetic)")
    assert first["label_term_id"].startswith("CL:")
    assert first["suggested_term_id"].startswith("CL:")
    assert first["label"] != first["suggested"]
    assert "of its 30 nearest cells are" in first["reason"]
    assert "the model reads it as" in first["reason"]
    assert {row["agree"] for row in rows} <= {"yes", "no"}
    true = dict(
        zip(
            found.pairs.cell_uids.to_pylist(),
            np.array(found.pairs.cell_types)[found.pairs.cell_type],
            strict=True,
        )
    )
    right = [row["suggested"] == true[row["cell_uid"]] for row in rows[:30]]
    assert np.mean(right) > 0.6


def test_by_type_counts_every_pair(found):
    rows = found.by_type(0.5)
    assert sum(row["pairs"] for row in rows) == 375
    assert sum(row["distrusted"] for row in rows) == len(found.order(0.5))
    assert all(row["of_them"] <= row["distrusted"] for row in rows)


# --- the command -----------------------------------------------------------------------------------


def test_command_writes_a_list_and_prints_json(okrcell, noisy, tmp_path, found):
    out = tmp_path / "suspects.tsv"
    done = okrcell("train", "suspects", noisy, "--out", out, "--least", "0.3", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["planted"] == found.facts()["planted"]
    with out.open(newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert tuple(rows[0]) == COLUMNS
    assert said["listed"] + said["groups"] == len(rows)
    assert min(float(row["score"]) for row in rows if row["kind"] == "pair") >= 0.3
    table = okrcell("train", "suspects", noisy, "--top", "3", "--by-type")
    assert table.returncode == 0, table.stderr
    assert "most confused with" in table.stdout
    assert "nearest" in table.stdout
    assert "auroc" in table.stdout


def test_command_refuses_in_one_line(refused, noisy, tmp_path):
    assert "no manifest" in refused("train", "suspects", tmp_path)
    assert "--store" in refused("train", "suspects", noisy, "--store", tmp_path / "gone")


# --- other objectives, and refusals ----------------------------------------------------------------


def test_an_objective_that_rates_nothing_is_named(store, tmp_path):
    keys = {**KEYS, "objective": "infonce", "epochs": 1, "mismatch": 0.0}
    loop.train(store, tmp_path, tmp_path / "run", TrainConfig(**keys))
    with pytest.raises(TrainingError, match="'infonce' rates none; expected a run of cra_paper"):
        find_suspects(tmp_path / "run")


def test_an_objective_without_chances_goes_by_neighbours(store, tmp_path):
    keys = {**KEYS, "objective": "crcl", "epochs": 2}
    loop.train(store, tmp_path, tmp_path / "run", TrainConfig(**keys))
    found = find_suspects(tmp_path / "run")
    assert found.facts()["planted"]["auroc"] > 0.8


def test_damaged_and_foreign_runs_are_refused(noisy, store, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(noisy, copy)
    manifest = read_manifest(copy, "run")

    def recommit(**config):
        invalidate(copy)
        files = dict.fromkeys(manifest.files)
        keys = {**manifest.config, **config}
        commit(copy, "run", config=keys, inputs=manifest.inputs, files=files)

    whole = (copy / "pairs.parquet").read_bytes()
    (copy / "pairs.parquet").write_bytes(whole[:100])
    with pytest.raises(ManifestError, match=r"pairs\.parquet"):
        find_suspects(copy)
    recommit()
    with pytest.raises(FileFormatError, match=r"pairs\.parquet"):
        find_suspects(copy)

    (copy / "pairs.parquet").write_bytes(whole)
    table = read_table(copy / "pairs.parquet", "pairs")
    write_table(copy / "pairs.parquet", "pairs", table.slice(1))
    recommit()
    with pytest.raises(FileFormatError, match="other pairs"):
        find_suspects(copy)

    (copy / "pairs.parquet").write_bytes(whole)
    recommit(of_another_version=True)
    with pytest.raises(SchemaVersionError, match="another version"):
        find_suspects(copy)
    recommit()
    (copy / "request.json").unlink()
    with pytest.raises(ConfigError, match="no note of the store"):
        find_suspects(copy)
    assert find_suspects(copy, store).facts()["pairs"] == 375

    other = tmp_path / "store"
    shutil.copytree(store, other)
    cells = other / "cells"
    file = cells / "cells.parquet"
    write_table(file, "cells", read_table(file, "cells").slice(1))
    was = read_manifest(cells, "cells", verify=False)
    invalidate(cells)
    files = {name: entry["rows"] for name, entry in was.files.items()}
    commit(cells, "cells", config=was.config, inputs=was.inputs, files=files, facts=was.facts)
    with pytest.raises(ManifestError, match="other cells than the run was trained on"):
        find_suspects(copy, other)


# --- arithmetic ------------------------------------------------------------------------------------


def clouds(n=900, n_labels=3, spread=0.35, seed=0):
    """Cells in clouds around axes: unit rows and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels, n)
    points = np.eye(n_labels, 8)[labels] + spread * rng.standard_normal((n, 8))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points.astype(np.float32), labels


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.4])
def test_chances_are_calibrated_on_uniform_noise(rate):
    points, true = clouds(3000, 5)
    rng = np.random.default_rng(1)
    wrong = rng.random(len(true)) < rate
    labels = np.where(wrong, (true + rng.integers(1, 5, len(true))) % 5, true)
    counts = doubt.label_counts(points, labels, 5, 30, seed=0)
    assert counts.sum(axis=1).tolist() == [30] * len(labels)
    judged = doubt.doubts(counts, labels)
    assert judged.share == pytest.approx(rate, abs=0.1)
    measured = doubt.detection(judged.chance, wrong)
    assert measured["auroc"] > 0.95
    assert measured["calibration_error"] < 0.12
    at = wrong & (judged.chance >= np.quantile(judged.chance, 1 - rate / 2))
    assert (judged.other[at] == true[at]).mean() > 0.9


def test_nobody_is_doubted_where_all_agree():
    points, labels = clouds(spread=0.1)
    counts = doubt.label_counts(points, labels, 3, 30, seed=0)
    judged = doubt.doubts(counts, labels)
    assert judged.share < 0.01
    assert (judged.chance < 0.5).all()


def test_two_labels_and_lone_pairs():
    points, labels = clouds(3, 2)
    counts = doubt.label_counts(points, labels, 2, 30, seed=0)
    assert counts.sum(axis=1).tolist() == [2, 2, 2]
    judged = doubt.doubts(counts, labels)
    assert np.isfinite(judged.chance).all()
    assert (judged.other != labels).all()


def test_detection_by_hand():
    measured = doubt.detection(np.array([0.9, 0.9, 0.5, 0.1]), np.array([True, False, True, False]))
    assert measured["pairs"] == 2
    assert measured["precision_at_planted"] == 0.5
    assert measured["auroc"] == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    assert measured["calibration_error"] == pytest.approx((2 * 0.4 + 0.5 + 0.1) / 4)


def with_donors(n_donors, swapped, seed=0):
    points, true = clouds(n_donors * 120, 3, seed=seed)
    units = np.arange(len(true)) % n_donors
    labels = true.copy()
    here = np.isin(units, swapped)
    labels[here & (true == 0)], labels[here & (true == 1)] = 1, 0
    return points, labels, units


def test_an_exchanged_donor_is_found_as_a_group():
    points, labels, units = with_donors(5, [3])
    shares = doubt.unit_shares(points, labels, units, 3, seed=0)
    assert shares.sum(axis=1) == pytest.approx(np.ones(len(labels)))
    groups = doubt.doubted_groups(shares, labels, units)
    assert {group[:3] for group in groups} == {(3, 0, 1), (3, 1, 0)}
    assert doubt.is_exchange(groups) == [True, True]
    about = pa.table(
        {
            "dataset_id": ["d"] * len(labels),
            "donor": [f"donor {unit}" for unit in units],
            "batch": [""] * len(labels),
        }
    )
    rows = group_rows(points, labels, about, ("a", "b", "c"), ("CL:1", "CL:2", ""), seed=0)
    assert [row["donor"] for row in rows] == ["donor 3", "donor 3"]
    assert all("exchanged labels" in row["reason"] for row in rows)
    assert {row["suggested_term_id"] for row in rows} == {"CL:1", "CL:2"}


def test_a_large_wrong_donor_does_not_outvote_the_others():
    points, labels, units = with_donors(6, [0, 1, 2, 3])
    units = np.where(units <= 3, 0, units - 3)  # one donor of four parts, and two of one
    shares = doubt.unit_shares(points, labels, units, 3, seed=0)
    assert {group[0] for group in doubt.doubted_groups(shares, labels, units)} == {0}


def test_no_groups_without_doubt_or_without_the_label_elsewhere():
    points, labels, units = with_donors(4, [])
    shares = doubt.unit_shares(points, labels, units, 3, seed=0)
    assert doubt.doubted_groups(shares, labels, units) == []
    units = np.where(labels == 2, 9, units)  # only one donor has cells of label 2
    shares = doubt.unit_shares(points, labels, units, 3, seed=0)
    assert (shares[labels == 2] == 0).all()
    assert doubt.doubted_groups(shares, labels, units) == []
    units[:] = -1
    assert (doubt.unit_shares(points, labels, units, 3, seed=0) == 0).all()


@pytest.mark.parametrize(
    ("donors", "batches", "expected"),
    [
        ("ab-", "xxy", ([0, 1, -1], [("", "a", ""), ("", "b", "")])),
        ("aaa", "xxy", ([0, 0, 1], [("d", "", "x"), ("d", "", "y")])),
        ("aaa", "xxx", ([0, 0, 0], [("", "a", "")])),
        ("---", "-x-", ([0, 0, 0], [("d", "", "")])),
    ],
)
def test_units_are_donors_else_batches(donors, batches, expected):
    about = pa.table(
        {
            "dataset_id": ["d"] * 3,
            "donor": ["" if d == "-" else d for d in donors],
            "batch": ["" if b == "-" else b for b in batches],
        }
    )
    units, names = units_of(about)
    assert (units.tolist(), names) == expected


def test_a_list_without_rows_has_its_header(tmp_path):
    write_tsv(tmp_path / "new" / "x.tsv", [])
    assert (tmp_path / "new" / "x.tsv").read_text() == "\t".join(COLUMNS) + "\n"
    with pytest.raises(StorageError):
        write_tsv(tmp_path / "new" / "x.tsv" / "y.tsv", [])
