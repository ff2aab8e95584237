"""Paired tests, several seeds, evaluations put beside each other, and runs that are killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from okrcell.artifacts import read_manifest
from okrcell.errors import ConfigError, ManifestError
from okrcell.evaluate.assemble import merge
from okrcell.evaluate.compare import compare_pairs, holm, paired_p, to_comparisons
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.folder import UNITS
from okrcell.evaluate.intervals import Bootstrap, standard_error, weighted_mean
from okrcell.evaluate.rows import Row, TaskResult
from okrcell.evaluate.run import run
from okrcell.evaluate.specs import parse_methods
from okrcell.evaluate.suite import DataSpec
from okrcell.evaluate.units import combine, load_unit, save_unit
from okrcell.schemas import read_table

FILES = ("results.parquet", "comparisons.parquet", "details.json", "manifest.json")
QUICK = EvaluateConfig(tasks=("annotation", "few_shot"), bootstrap=100, seeds=2, shots=(1,))
GENES = ("CD3D", "CD3E", "MS4A1", "CD79A", "LYZ", "S100A9", "NKG7", "GNLY", "PPBP", "FCER1A",
         "CST3", "IL7R")  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    code = np.arange(90) % 3
    rates = 1.0 + 6.0 * (np.arange(12) // 4 == code[:, None])
    obs = pd.DataFrame(
        {"cell_type": np.asarray(["B cell", "T cell", "monocyte"])[code]},
        index=[f"c{i}" for i in range(90)],
    )
    adata = AnnData(
        rng.poisson(rates).astype(np.float32), obs=obs, var=pd.DataFrame(index=list(GENES))
    )
    adata.obsm["X_a"] = rng.normal(size=(90, 4)) + 4 * np.eye(3, 4)[code]
    adata.obsm["X_b"] = rng.normal(size=(90, 4)) + 1 * np.eye(3, 4)[code]
    adata.write_h5ad(tmp_path / "toy.h5ad")
    return tmp_path / "toy.h5ad"


# --- tests of differences -----------------------------------------------------------------------


def test_holm_by_hand_and_with_undefined_values() -> None:
    found = holm([0.01, 0.04, 0.03, float("nan")])
    np.testing.assert_allclose(found[:3], [0.03, 0.06, 0.06])
    assert np.isnan(found[3])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_a_paired_test_is_that_of_student() -> None:
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(1)
    a, b = rng.normal(0.3, 1, size=40), rng.normal(0, 1, size=40)
    boot = Bootstrap(40, 4000, 0)
    draws = boot.apply(weighted_mean(a)) - boot.apply(weighted_mean(b))
    p, half = paired_p(float((a - b).mean()), draws, boot.n_units)
    expected = ttest_rel(a, b)
    assert p == pytest.approx(expected.pvalue, rel=0.1)
    low, high = expected.confidence_interval(0.95)
    assert 2 * half == pytest.approx(high - low, rel=0.05)


def test_two_equal_methods_over_few_donors_are_rarely_told_apart() -> None:
    """At a nominal 5 %, with eight donors who differ in how well either method does."""
    rng = np.random.default_rng(2)
    donors = np.repeat(np.arange(8), 12)
    low, n = 0, 400
    for trial in range(n):
        skill = 0.7 + 0.12 * rng.normal(size=(2, 8))[:, donors]
        right = (rng.random((2, len(donors))) < skill).astype(float)
        boot = Bootstrap(len(donors), 200, trial, donors)
        draws = [boot.apply(weighted_mean(values)) for values in right]
        difference = float(right[0].mean() - right[1].mean())
        low += paired_p(difference, draws[0] - draws[1], boot.n_units)[0] < 0.05
    assert 0.02 < low / n < 0.08


def test_methods_that_never_differ_and_that_always_do() -> None:
    same = np.full(100, 0.2)
    assert paired_p(0.0, same - same, 50) == (1.0, 0.0)
    p, half = paired_p(1.0, np.ones(100), 5)
    assert (p, half) == (0.0625, 0.0)
    assert all(np.isnan(paired_p(float("nan"), same, 50)))
    assert all(np.isnan(paired_p(0.1, same, 1)))


def _result(method: str, value: float, draws: Any, n: int = 50, units: int = 50) -> TaskResult:
    result = TaskResult()
    row = Row("annotation", method, "accuracy (linear)", value, 0.0, 1.0, n, "0")
    result.put(row, np.asarray(draws, dtype=float), units)
    return result


def test_only_methods_that_were_asked_the_same_are_paired() -> None:
    rng = np.random.default_rng(3)
    results = {
        "a": _result("a", 0.9, rng.normal(0.9, 0.02, 200)),
        "b": _result("b", 0.5, rng.normal(0.5, 0.02, 200)),
        "fewer cells": _result("fewer cells", 0.5, rng.normal(0.5, 0.02, 200), n=40),
        "random": _result("random", 0.1, rng.normal(0.1, 0.02, 200)),
    }
    pairs = compare_pairs("d", "annotation", results, ["accuracy (linear)", "none"])
    assert [(p["method_a"], p["method_b"]) for p in pairs] == [("a", "b")]
    table = to_comparisons(pairs * 3).to_pylist()
    assert [row["p_adjusted"] for row in table][0] == pytest.approx(3 * table[0]["p"])


# --- several seeds ------------------------------------------------------------------------------


def test_seeds_are_averaged_and_their_spread_is_in_the_interval() -> None:
    rng = np.random.default_rng(4)
    values = (0.5, 0.6, 0.7)
    parts = [_result("m", v, rng.normal(v, 0.01, 2000)) for v in values]
    joined = combine(parts, [0, 1, 2])
    (row,) = joined.rows
    assert (row.value, row.seed) == (pytest.approx(0.6), "0,1,2")
    from scipy.stats import t

    half = t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert row.ci_high - row.ci_low == pytest.approx(2 * half, rel=0.1)
    few = [_result("m", v, v + np.asarray([-0.01, 0.0, 0.01, 0.02, -0.02])) for v in values]
    joined = combine(few, [0, 1, 2])
    assert len(joined.draws["accuracy (linear)"]) == 5
    assert joined.draws["accuracy (linear)"].mean() == pytest.approx(0.6)
    assert combine(parts[:1], [0]) is parts[0]


def test_a_metric_that_some_seeds_lack_says_which_had_it() -> None:
    parts = [_result("m", 0.5, np.full(100, 0.5)), TaskResult()]
    (row,) = combine(parts, [3, 4]).rows
    assert row.seed == "3"


def test_few_donors_widen_the_interval() -> None:
    donors = np.repeat(np.arange(6), 10)
    values = np.repeat(np.random.default_rng(5).normal(0.5, 0.1, 6), 10)
    boot = Bootstrap(60, 2000, 0, donors)
    draws = boot.apply(weighted_mean(values))
    expected = values[::10].std(ddof=1) / np.sqrt(6)
    assert standard_error(draws, 6) == pytest.approx(expected, rel=0.05)
    low, high = boot.interval(float(values.mean()), draws)
    assert (high - low) / 2 == pytest.approx(2.571 * expected, rel=0.05)


def test_a_unit_survives_the_way_to_disk(tmp_path: Path) -> None:
    result = _result("m", 0.1234567891234, np.linspace(0, 1, 7))
    result.details, result.notes = {"x": [1.5, float("nan")]}, ["a note"]
    save_unit(tmp_path, "u.json", result, {"accuracy (linear)"})
    back = load_unit(tmp_path, "u.json")
    assert back is not None
    assert back.rows[0].value == pytest.approx(0.1234567891234, abs=1e-8)
    np.testing.assert_allclose(back.draws["accuracy (linear)"], np.linspace(0, 1, 7), atol=1e-6)
    assert (back.units, back.details, back.notes) == (
        {"accuracy (linear)": 50},
        {"x": [1.5, None]},
        ["a note"],
    )
    (tmp_path / "u.json").write_text("{")
    assert load_unit(tmp_path, "u.json") is None
    assert load_unit(tmp_path, "none.json") is None


# --- evaluations beside each other --------------------------------------------------------------


def test_compared_evaluations_equal_one_of_all_methods(file: Path, tmp_path: Path) -> None:
    specs = (DataSpec(path=file),)
    run(parse_methods(["obsm:X_a"], QUICK), specs, tmp_path / "a", QUICK)
    run(parse_methods(["obsm:X_b"], QUICK), specs, tmp_path / "b", QUICK)
    both = parse_methods(["obsm:X_a", "obsm:X_b"], QUICK)
    run(both, specs, tmp_path / "both", QUICK, n_asked=2)
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    for name in ("results", "comparisons"):
        tables = [
            read_table(tmp_path / folder / f"{name}.parquet", name).to_pylist()
            for folder in ("both", "merged")
        ]
        key = lambda row: (row["metric"], row.get("method", row.get("method_a")))  # noqa: E731
        assert sorted(tables[0], key=key) == sorted(tables[1], key=key)
    details = json.loads((tmp_path / "merged" / "details.json").read_text())
    assert details["asked"] == ["X_a", "X_b"]
    assert read_manifest(tmp_path / "merged", "evaluation").facts["methods"][:2] == ["X_a", "X_b"]


def test_one_name_for_two_methods_gets_the_folder_behind_it(file: Path, tmp_path: Path) -> None:
    specs = (DataSpec(path=file),)
    run(parse_methods(["m=obsm:X_a"], QUICK), specs, tmp_path / "a", QUICK)
    run(parse_methods(["m=obsm:X_b"], QUICK), specs, tmp_path / "b", QUICK)
    summary = merge([tmp_path / "a", tmp_path / "b", tmp_path / "a"], tmp_path / "merged")
    assert summary["methods"] == ["m", "m (b)", "majority"]
    (tmp_path / "x").mkdir()
    run(parse_methods(["m=pca"], QUICK), specs, tmp_path / "x" / "b", QUICK)
    summary = merge([tmp_path / "a", tmp_path / "b", tmp_path / "x" / "b"], tmp_path / "three")
    assert summary["methods"] == ["m", "m (b)", "m (b 2)", "majority"]
    with pytest.raises(ConfigError, match="one of the evaluations"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "a")


def test_what_cannot_be_compared_is_refused(file: Path, tmp_path: Path) -> None:
    specs = (DataSpec(path=file),)
    run(parse_methods(["obsm:X_a"], QUICK), specs, tmp_path / "a", QUICK)
    other = QUICK.replace(bootstrap=200)
    run(parse_methods(["obsm:X_b"], other), specs, tmp_path / "b", other)
    with pytest.raises(ConfigError, match="bootstrap"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    named = (DataSpec(path=file, hold_out=("T cell",)),)
    run(parse_methods(["obsm:X_b"], QUICK), named, tmp_path / "c", QUICK)
    with pytest.raises(ConfigError, match="other cells or labels under the name toy"):
        merge([tmp_path / "a", tmp_path / "c"], tmp_path / "out2")
    with pytest.raises(ManifestError):
        merge([tmp_path / "none"], tmp_path / "out3")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out3").exists()


KILLER = """
import os, sys
from okrcell import artifacts
from okrcell.cli import main
left = [int(sys.argv.pop(1))]
move = os.replace
def counted(*paths, **options):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), 9)
    return move(*paths, **options)
os.replace = counted
main()
"""


def _command(file: Path, out: Path) -> list[str]:
    (out.parent / "keys.toml").write_text("[evaluate]\nbootstrap = 100\nseeds = 2\nshots = [1]\n")
    return [
        "evaluate", "run", "obsm:X_a", "--data", str(file), "--out", str(out), "--baselines", "random",
        "--tasks", "annotation,few_shot", "--config", str(out.parent / "keys.toml"),
    ]  # fmt: skip


def test_a_killed_evaluation_ends_in_the_same_bytes(file: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    subprocess.run(
        [sys.executable, "-m", "okrcell", *_command(file, whole)], check=True, capture_output=True
    )
    n_units = len(list((whole / UNITS).iterdir()))
    for kill_at in (n_units // 2, n_units + 2):
        out = tmp_path / f"killed{kill_at}"
        command = [sys.executable, "-c", KILLER, str(kill_at), *_command(file, out)]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == -9, done.stderr.decode()[-500:]
        assert not (out / "manifest.json").exists()
        subprocess.run(
            [sys.executable, "-m", "okrcell", *_command(file, out)], check=True, capture_output=True
        )
        for name in FILES:
            assert (out / name).read_bytes() == (whole / name).read_bytes(), (kill_at, name)
