"""Atomic writes, manifests, locks and the file system's refusals."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from okrcell import artifacts
from okrcell.errors import (
    ForeignFolderError,
    LockedError,
    ManifestError,
    SchemaVersionError,
    StorageError,
)


def make(folder: Path, text: str = "content") -> artifacts.Manifest:
    with artifacts.writing(folder, "run"):
        artifacts.invalidate(folder)
        artifacts.atomic_write(folder / "a.txt", text)
        return artifacts.commit(
            folder, "run", config={"k": 1}, inputs={"x": "1"}, files={"a.txt": 1}
        )


def test_manifest_round_trip_and_identity(tmp_path):
    made = make(tmp_path / "f")
    read = artifacts.read_manifest(tmp_path / "f", "run")
    assert read == made
    assert make(tmp_path / "g").fingerprint == made.fingerprint
    assert make(tmp_path / "h", "other").fingerprint != made.fingerprint
    assert (tmp_path / "f" / "manifest.json").read_bytes() == (
        tmp_path / "g" / "manifest.json"
    ).read_bytes()


def test_current_only_for_the_same_inputs_and_config(tmp_path):
    make(tmp_path / "f")
    ask = artifacts.current_manifest
    assert ask(tmp_path / "f", "run", config={"k": 1}, inputs={"x": "1"})
    assert ask(tmp_path / "f", "run", config={"k": 2}, inputs={"x": "1"}) is None
    assert ask(tmp_path / "f", "run", config={"k": 1}, inputs={"x": "2"}) is None
    assert ask(tmp_path / "nothing", "run", config={}, inputs={}) is None
    artifacts.invalidate(tmp_path / "f")
    assert ask(tmp_path / "f", "run", config={"k": 1}, inputs={"x": "1"}) is None


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", ManifestError),
        ("[]", ManifestError),
        ('{"schema_version": 99}', SchemaVersionError),
        ('{"schema_version": 1, "kind": "run"}', ManifestError),
    ],
)
def test_damaged_manifest(tmp_path, content, error):
    make(tmp_path / "f")
    (tmp_path / "f" / "manifest.json").write_text(content)
    with pytest.raises(error, match=r"manifest\.json"):
        artifacts.read_manifest(tmp_path / "f", "run")


def test_altered_and_missing_files(tmp_path):
    make(tmp_path / "f")
    (tmp_path / "f" / "a.txt").write_text("CONTENT")
    with pytest.raises(ManifestError, match=r"a\.txt: found other content"):
        artifacts.read_manifest(tmp_path / "f", "run")
    (tmp_path / "f" / "a.txt").unlink()
    with pytest.raises(ManifestError, match=r"a\.txt: found no such file"):
        artifacts.read_manifest(tmp_path / "f", "run")
    with pytest.raises(ManifestError, match="kind 'run'"):
        artifacts.read_manifest(tmp_path / "f", "job")


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.docx").write_text("precious")
    with (
        pytest.raises(ForeignFolderError, match="did not write"),
        artifacts.writing(tmp_path / "theirs", "run"),
    ):
        pass
    assert [p.name for p in (tmp_path / "theirs").iterdir()] == ["thesis.docx"]
    make(tmp_path / "ours")
    with (
        pytest.raises(ForeignFolderError, match="kind 'run'"),
        artifacts.writing(tmp_path / "ours", "store"),
    ):
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ForeignFolderError, match="found a file"),
        artifacts.writing(tmp_path / "file", "run"),
    ):
        pass


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "a.txt"
    artifacts.atomic_write(target, "old")

    def fail() -> None:
        with artifacts.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_second_writer_is_told(tmp_path):
    code = (
        "import sys, time; from okrcell import artifacts; from pathlib import Path\n"
        "with artifacts.writing(Path(sys.argv[1]), 'run'):\n"
        "    print('locked', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "f")], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "locked"
        with pytest.raises(LockedError), artifacts.writing(tmp_path / "f", "run", timeout_s=0.2):
            pass
        other.kill()  # a killed writer holds nothing
    make(tmp_path / "f")


def test_leftovers_of_a_killed_writer_do_not_make_a_folder_foreign(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / f".okrcell.json.1{artifacts.TEMP_SUFFIX}").write_text("{")
    make(folder)
    assert sorted(p.name for p in folder.iterdir() if p.name != ".lock") == [
        "a.txt",
        "manifest.json",
        "okrcell.json",
    ]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "no space left"),
        (OSError(errno.EROFS, "Read-only file system", "x"), "read-only"),
        (RuntimeError("Query error: database or disk is full"), "no space left"),
    ],
)
def test_refusals_of_the_file_system(error, said):
    found = artifacts.as_storage_error(error, "x")
    assert isinstance(found, StorageError)
    assert said in str(found)
    assert artifacts.as_storage_error(ValueError("something else"), "x") is None


def test_marker_and_manifest_hold_no_clock(tmp_path):
    make(tmp_path / "f")
    text = (tmp_path / "f" / "manifest.json").read_text() + (
        tmp_path / "f" / "okrcell.json"
    ).read_text()
    assert "time" not in text
    assert "date" not in text
    assert json.loads(text.partition('{"okrcell"')[0])["kind"] == "run"
    assert os.access(tmp_path / "f", os.W_OK)
