"""The whole chain from one command: interrupted at four points, it ends in the same state."""

import json
import math

import pyarrow.parquet as pq
import pytest

TOML = """
[corpus]
hold_out = ["CD56+ NK", "CD8+/CD45RA+ Naive Cytotoxic"]
[train]
preset = "mlp"
epochs = 14
batch_size = 64
lr = 3e-3
bank_size = 128
precision = "fp32"
checkpoint_every = 5
[evaluate]
seeds = 1
bootstrap = 100
open_candidates = []
"""
# Rebuilt from the tables beside them, a log of time and attempts, or paths: the same by meaning, not by byte.
DERIVED = (
    "chroma/", "ledger.sqlite", ".lock", "timings.json", "/log.csv", "/logs/", "/request.json",
)  # fmt: skip


def contents(folder):
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if not any(part in name for part in DERIVED)
    }


# Figures of an evaluation: the last bits of sums depend on where arrays lie in memory, which is another
# place in a process that has built and trained everything before than in one that found it done.
FIGURES = ("evaluate/", "results.parquet", "report.html")


def without_figures(files):
    return {name: content for name, content in files.items() if not name.startswith(FIGURES)}


def figures(folder):
    table = pq.read_table(folder / "results.parquet").to_pylist()
    return {(row["task"], row["method"], row["metric"]): row["value"] for row in table}


def test_dry_run_writes_nothing(okrcell, tmp_path):
    done = okrcell("quickstart", "--out", tmp_path / "out", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {
        "input",
        "corpus",
        "enrich",
        "train",
        "evaluate",
        "robustness",
        "report",
    }
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_four_points_ends_in_the_same_state(okrcell, tmp_path):
    (tmp_path / "small.toml").write_text(TOML)

    def go(name, **kwargs):
        words = (
            "quickstart",
            "--config",
            tmp_path / "small.toml",
            "--out",
            f"{name}/out",
            "--json",
        )
        (tmp_path / name).mkdir(exist_ok=True)
        return okrcell(*words, **kwargs)

    calm = go("calm")
    assert calm.returncode == 0, calm.stderr
    # Renames of each run: among the cells, the ontologies, the knowledge, and in training.
    for kill_at in (14, 12, 24, 21):
        assert go("killed", kill_at=kill_at).returncode == -9
    killed = go("killed")
    assert killed.returncode == 0, killed.stderr
    assert "Continuing at step" in killed.stderr

    first, second = contents(tmp_path / "calm" / "out"), contents(tmp_path / "killed" / "out")
    assert sorted(first) == sorted(second)
    kept, again = without_figures(first), without_figures(second)
    assert [name for name in kept if kept[name] != again[name]] == []
    assert figures(tmp_path / "calm" / "out") == pytest.approx(
        figures(tmp_path / "killed" / "out"), abs=0.01, nan_ok=True
    )

    again = go("killed")
    assert again.stderr.count("unchanged, reused") == 12
    assert contents(tmp_path / "killed" / "out") == second

    result = json.loads(again.stdout)
    assert {line["task"] for line in result["headline"]} == {
        "clustering", "annotation", "batch", "few_shot", "zero_shot", "retrieval"
    }  # fmt: skip
    for line in result["headline"]:
        for cell in line["values"].values():
            assert cell["value"] is None or math.isfinite(cell["value"])
    folder = tmp_path / "calm" / "out"
    for name in ("corpus", "enrich", "train", "evaluate", "report.html", "results.parquet"):
        assert (folder / name).exists()
