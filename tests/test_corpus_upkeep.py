"""Verify, export and import: every kind of damage is a finding, every kind of bad archive refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from okrcell.artifacts import read_manifest
from okrcell.corpus import build, importing, upkeep
from okrcell.corpus.cells import add_cells, load_cells
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.corpus.knowledge import open_knowledge
from okrcell.corpus.literature import add_literature
from okrcell.corpus.shards import load_matrix
from okrcell.corpus.terms import add_ontologies
from okrcell.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    FileFormatError,
    ForeignFolderError,
    LockedError,
    ManifestError,
    SchemaVersionError,
    StorageError,
)

OBO = """format-version: 1.2
data-version: toy/2026-01-01
ontology: toy

[Term]
id: TOY:1
name: cell
def: "The unit of life." [PMID:1]

[Term]
id: TOY:2
name: lymphocyte
def: "A white blood cell of the adaptive immune system." []
is_a: TOY:1 ! cell

[Term]
id: TOY:3
name: B cell
def: "A lymphocyte that makes antibodies." []
synonym: "B lymphocyte" EXACT []
is_a: TOY:2 ! lymphocyte
"""


class WordEmbedder:
    """Bags of hashed words: fast, and equal on every machine."""

    id, dim, max_tokens = "words:1", 16, 64

    def encode(self, texts):
        found = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                found[row, hashlib.sha256(word.encode()).digest()[0] % self.dim] += 1
            found[row, 0] += 0.5
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def count_tokens(self, texts):
        return [len(text.split()) + 2 for text in texts]

    def token_ends(self, texts):
        return [[i for i in range(1, len(t) + 1) if i == len(t) or t[i] == " "] for t in texts]


EMBEDDER = WordEmbedder()
CONFIG = CorpusConfig(chunk_tokens=48)


def make_cells(folder: Path) -> Path:
    import anndata
    import pandas as pd
    from scipy import sparse

    rng = np.random.default_rng(0)
    genes = ["CD4", "MS4A1", "CD79A", "NKG7", "LYZ", "CD8A", "GNLY", "PTPRC", "CD3D", "CD14"]
    counts = rng.poisson(1.0, (40, len(genes))).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {"cell_type": ["B cell", "lymphocyte"] * 20, "donor_id": [f"d{i % 4}" for i in range(40)]},
        index=[f"c{i}" for i in range(40)],
    )
    data = anndata.AnnData(sparse.csr_matrix(counts), obs, pd.DataFrame(index=genes))
    path = folder / "toy.h5ad"
    data.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, examples) -> Path:
    """A store with all kinds of parts. Do not write to it."""
    folder = tmp_path_factory.mktemp("upkeep")
    (folder / "toy.obo").write_text(OBO)
    store = folder / "store"
    build.init_store(store)
    add_ontologies(store, [str(folder / "toy.obo")])
    notes = folder / "notes"
    notes.mkdir()
    for note in sorted((examples / "notes").glob("*.md"))[:3]:
        shutil.copy(note, notes)
    add_literature(store, [notes])
    add_cells(
        store,
        make_cells(folder),
        CONFIG,
        CellsConfig(dataset_id="toy", constants={"tissue": "blood", "organism": "Homo sapiens"}),
    )
    build.build(store, CONFIG, EMBEDDER)
    return store


@pytest.fixture
def store(whole, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


@pytest.fixture(scope="module")
def archive(whole, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "store.zip"
    upkeep.export_store(whole, path, include_cells=True)
    return path


def failures(store: Path) -> dict[str, upkeep.Finding]:
    """Return what is wrong, as 'part: check'."""
    found = upkeep.verify(store)
    for finding in found:
        assert finding.ok == (not finding.detail) == (not finding.remedy)
    return {f"{f.part}: {f.check}": f for f in found if not f.ok}


def part_of(store: Path, parent: str) -> Path:
    (folder,) = (store / parent).iterdir()
    return folder


def reseal(folder: Path) -> None:
    """Let a manifest say what the files are now, as a bug of a writer would."""
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    for name, entry in body["files"].items():
        content = (folder / name).read_bytes()
        entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    path.write_text(json.dumps(body))


def rewrite(path: Path, change) -> None:
    """Change a table's rows and keep its kind and version."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    reseal(path.parent)


def search(store: Path) -> list[list[dict]]:
    knowledge = open_knowledge(store, EMBEDDER)
    found = [
        [asdict(s) for s in knowledge.search("cell that makes antibodies", k=5, mode=mode)]
        for mode in ("hybrid", "dense", "lexical")
    ]
    knowledge.close()
    return found


# --- verify ------------------------------------------------------------------------------------


def test_a_whole_store_has_no_failure_and_every_kind_of_check(whole):
    assert not failures(whole)
    parts = {finding.part.partition("/")[0] for finding in upkeep.verify(whole)}
    assert parts == {"terms", "documents", "datasets", "cells", "knowledge"}


def test_verify_changes_nothing(store):
    def state():
        return {
            p.relative_to(store): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(store.rglob("*"))
            if p.is_file() and "chroma" not in p.parts
        }

    before = state()
    upkeep.verify(store)
    assert state() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-3]), "bytes, not"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\x00"), "other content"),
        (lambda p: p.unlink(), "no such file"),
    ],
)
@pytest.mark.parametrize("part", ["terms", "documents", "datasets", "cells", "knowledge"])
def test_damaged_files_are_found_in_every_part(store, part, change, words):
    folder = store / part if part in {"cells", "knowledge"} else part_of(store, part)
    file = sorted(p for p in folder.glob("*.parquet"))[0]
    change(file)
    found = failures(store)
    name = folder.relative_to(store).as_posix()
    finding = found[f"{name}: every file is as its manifest says"]
    assert words in finding.detail
    assert file.name in finding.detail
    assert "okrcell corpus" in finding.remedy


def test_unfinished_parts_and_other_versions_are_findings(store):
    part_of(store, "terms").joinpath("manifest.json").unlink()
    folder = part_of(store, "documents")
    body = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(body | {"schema_version": 99}))
    (store / "cells" / "manifest.json").write_text("{")
    found = failures(store)
    assert "no manifest" in found["terms/toy: finished, by this version"].detail
    assert "version 99" in found[f"documents/{folder.name}: finished, by this version"].detail
    assert "JSON" in found["cells: finished, by this version"].detail


def test_snippets_that_are_no_pieces_of_their_documents(store):
    def change(rows):
        rows[0]["start"] += 1
        rows[1]["text"] += "!"
        rows[2]["doc_id"] = "NOTE:nowhere"
        rows[3]["snippet_id"] = rows[4]["snippet_id"]

    rewrite(store / "knowledge" / "snippets.parquet", change)
    found = failures(store)
    assert found["knowledge: every snippet is text[start:end] of its document"].detail[:2] == "2:"
    assert "1 snippets" in found["knowledge: every snippet has a document"].detail
    assert "1 repeated" in found["knowledge: every snippet id occurs once"].detail
    assert "knowledge: snippets and vectors are one to one" in found
    index = found["knowledge: the index is of these snippets"]
    assert "other tables" in index.detail
    assert "rebuild" in index.remedy


def test_vectors_of_another_length_embedder_or_snippet(store):
    def change(rows):
        rows[0]["vector"] = [2.0] * 16
        rows[1]["vector"] = [float("nan")] * 16
        rows[2]["embedder"] = "other"
        rows[3]["snippet_id"] = "0" * 16

    rewrite(store / "knowledge" / "snippet_vectors.parquet", change)
    found = failures(store)
    assert found["knowledge: every vector has unit length"].detail.startswith("2:")
    assert "other" in found["knowledge: all vectors are of one embedder"].detail
    assert "1 snippets without" in found["knowledge: snippets and vectors are one to one"].detail


def test_an_index_that_is_gone_or_damaged(store):
    (store / "knowledge" / "index" / "order").unlink()
    finding = failures(store)["knowledge: the index is of these snippets"]
    assert "lacks files" in finding.detail
    shutil.rmtree(store / "knowledge" / "index")
    assert "no index" in failures(store)["knowledge: the index is of these snippets"].detail
    build.build(store, CONFIG, EMBEDDER)
    assert not failures(store)


def test_a_chroma_folder_that_does_not_answer(store):
    for path in (store / "knowledge" / "index" / "chroma").rglob("*"):
        if path.is_file():
            path.write_bytes(b"not a database" * 99)
    assert list(failures(store)) == ["knowledge: the index is of these snippets"]


def test_knowledge_of_other_texts(store, tmp_path):
    (tmp_path / "new.txt").write_text("A new note about mast cells.")
    add_literature(store, [tmp_path / "new.txt"])
    found = failures(store)
    (finding,) = found.values()
    assert finding.check == "made from the terms and documents that are there"
    assert "corpus build" in finding.remedy


def test_texts_that_cannot_be_compared_are_said_to_be_so(store):
    file = part_of(store, "terms") / "terms.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    found = failures(store)
    finding = found["knowledge: every snippet is text[start:end] of its document"]
    assert "not checked" in finding.detail


def test_terms_and_documents_at_odds_with_themselves(store):
    def repeat(rows):
        rows[1]["term_id"] = rows[0]["term_id"]
        rows[2]["parents"] = ["TOY:404"]

    def alter(rows):
        rows[0]["text"] += "?"
        rows[1]["sections"][0]["end"] = 10**6

    rewrite(part_of(store, "terms") / "terms.parquet", repeat)
    folder = part_of(store, "documents")
    rewrite(folder / "documents.parquet", alter)
    found = failures(store)
    assert "TOY:1" in found["terms/toy: every term id occurs once"].detail
    assert "TOY:404" in found["terms/toy: every parent is known"].detail
    name = f"documents/{folder.name}"
    assert f"{name}: every text has the sha256 of its row" in found
    assert f"{name}: sections lie within their text, in order" in found


def test_cells_at_odds_with_their_matrix(store):
    folder = store / "datasets" / "toy"

    def change(rows):
        rows[1]["row"] = 7
        rows[2]["profile_id"] = "nobody"

    rewrite(folder / "cells.parquet", change)
    pointers = np.fromfile(folder / "indptr.i64", "<i8")
    values = np.fromfile(folder / "values.f32", "<f4")
    columns = np.fromfile(folder / "indices.i32", "<i4")
    pointers[3] = -5
    values[:3] = [np.nan, -1, np.inf]
    columns[4] = 99
    np.append(pointers, pointers[-1]).tofile(folder / "indptr.i64")
    values.tofile(folder / "values.f32")
    columns.tofile(folder / "indices.i32")
    reseal(folder)
    found = {name.partition(": ")[2]: f for name, f in failures(store).items() if "toy" in name}
    assert set(found) == {
        "cells are numbered as in the matrix",
        "every cell has a known profile",
        "profiles count their cells",
        "the matrix has a row for every cell",
        "row pointers rise",
        "every value belongs to a gene",
        "values are finite and not negative",
    }
    assert found["values are finite and not negative"].detail == "3 are not"
    assert "cells: gathered from the datasets that are there" in failures(store)


def test_a_short_matrix_and_a_table_of_another_version(store):
    folder = store / "datasets" / "toy"
    values = np.fromfile(folder / "values.f32", "<f4")
    values[:-2].tofile(folder / "values.f32")
    reseal(folder)
    table = pq.read_table(store / "cells" / "profiles.parquet")
    old = {**table.schema.metadata, b"okrcell.version": b"0"}
    pq.write_table(table.replace_schema_metadata(old), store / "cells" / "profiles.parquet")
    reseal(store / "cells")
    found = failures(store)
    assert "datasets/toy: matrix files agree in length" in found
    assert "version 0" in found["cells: readable"].detail


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(ManifestError):
        upkeep.verify(tmp_path)


# --- export and import -------------------------------------------------------------------------


def test_round_trip_gives_the_same_tables_and_the_same_results(whole, archive, tmp_path):
    target = tmp_path / "new" / "store"
    report = upkeep.import_store(archive, target)
    assert not report["reused"]
    assert not (target / "knowledge" / "index").exists()
    result = build.build(target, CONFIG, EMBEDDER)
    assert result["reused"]
    assert search(target) == search(whole)
    assert not failures(target)
    assert load_cells(target).equals(load_cells(whole))
    matrices = [load_matrix(path, "toy").matrix for path in (target, whole)]
    assert (matrices[0] != matrices[1]).nnz == 0
    assert upkeep.import_store(archive, target)["reused"]


def test_the_same_store_gives_the_same_bytes(whole, archive, store, tmp_path):
    for path in store.rglob("*"):
        os.utime(path, (1, 1))
    for name, source in (("a.zip", whole), ("b.zip", store)):
        report = upkeep.export_store(source, tmp_path / name, include_cells=True)
        assert (tmp_path / name).read_bytes() == archive.read_bytes()
        assert report["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    imported = tmp_path / "imported"
    upkeep.import_store(archive, imported)
    upkeep.export_store(imported, tmp_path / "c.zip", include_cells=True)
    assert (tmp_path / "c.zip").read_bytes() == archive.read_bytes()


def test_only_finished_tables_and_manifests_are_exported(store, tmp_path):
    folder = part_of(store, "terms")
    (folder / "notes.txt").write_text("mine")
    (store / "terms" / "half").mkdir()
    (store / "terms" / "half" / "terms.parquet").write_text("half")
    report = upkeep.export_store(store, tmp_path / "a.zip")
    assert report["left_out"] == {
        "cells": "cells",
        "datasets/toy": "cells",
        "terms/half": "unfinished",
    }
    with zipfile.ZipFile(tmp_path / "a.zip") as opened:
        names = opened.namelist()
    assert names[0] == "okrcell-export.json"
    assert {Path(name).suffix for name in names} == {".json", ".parquet"}
    assert not [name for name in names if "half" in name or "index" in name or "datasets" in name]
    assert upkeep.export_store(store, tmp_path / "a.zip")["parts"] == report["parts"]


def test_damaged_stores_and_wrong_targets_are_not_exported(store, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for target in (tmp_path / "mine.txt", tmp_path):
        with pytest.raises((ForeignFolderError, ConfigError)):
            upkeep.export_store(store, target)
    with pytest.raises(ConfigError, match="inside the store"):
        upkeep.export_store(store, store / "a.zip")
    file = part_of(store, "terms") / "terms.parquet"
    file.write_bytes(file.read_bytes() + b"\x00")
    with pytest.raises(ManifestError, match=r"terms\.parquet"):
        upkeep.export_store(store, tmp_path / "a.zip")
    file.unlink()
    with pytest.raises(ManifestError, match="no such file"):
        upkeep.export_store(store, tmp_path / "a.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.txt", "store"]
    build.init_store(tmp_path / "empty")
    with pytest.raises(ManifestError, match="no finished part"):
        upkeep.export_store(tmp_path / "empty", tmp_path / "a.zip")


def test_import_beside_other_parts(archive, tmp_path, store):
    (tmp_path / "other.obo").write_text(OBO.replace("TOY", "OTHER").replace("toy", "other"))
    target = tmp_path / "target"
    build.init_store(target)
    add_ontologies(target, [str(tmp_path / "other.obo")])
    assert "terms/toy" in upkeep.import_store(archive, target)["parts"]
    assert {p.name for p in (target / "terms").iterdir()} == {"toy", "other"}
    folder = part_of(store, "terms")
    body = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match="another 'terms/toy'"):
        upkeep.import_store(archive, store)


def test_import_replaces_what_was_left_unfinished(archive, tmp_path):
    target = tmp_path / "store"
    build.init_store(target)
    (target / "knowledge").mkdir()
    (target / "knowledge" / "snippets.parquet").write_text("half")
    upkeep.import_store(archive, target)
    read_manifest(target / "knowledge", "knowledge")


def test_import_is_told_of_another_writer(archive, tmp_path, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(importing, "writing", partial(importing.writing, timeout_s=0.1))
    target = tmp_path / "store"
    build.init_store(target)
    with FileLock(target / ".lock"), pytest.raises(LockedError):
        upkeep.import_store(archive, target)
    assert not (target / "terms").exists()


def test_import_of_nothing(tmp_path):
    for path, words in ((tmp_path / "none.zip", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(DataError, match=words):
            upkeep.import_store(path, tmp_path / "store")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine").write_text("")
    with pytest.raises(ForeignFolderError):
        upkeep.export_store(tmp_path / "foreign", tmp_path / "b.zip")


KILLED = """
import os, signal, sys
from pathlib import Path
real, left = os.replace, [int(sys.argv[1])]
def replace(*args, **kwargs):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
os.replace = replace
from okrcell.corpus import upkeep
if sys.argv[2] == "import":
    upkeep.import_store(Path(sys.argv[3]), Path(sys.argv[4]))
else:
    upkeep.export_store(Path(sys.argv[4]), Path(sys.argv[3]), include_cells=True)
"""


def killed(at: int, *words: object) -> int:
    command = [sys.executable, "-c", KILLED, str(at), *map(str, words)]
    return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode


@pytest.mark.parametrize("at", [1, 4])
def test_a_killed_import_is_continued(archive, whole, tmp_path, at):
    target = tmp_path / "store"
    assert killed(at, "import", archive, target) == -9
    upkeep.import_store(archive, target)
    assert not (target / ".importing").exists()
    upkeep.export_store(target, tmp_path / "b.zip", include_cells=True)
    assert (tmp_path / "b.zip").read_bytes() == archive.read_bytes()


def test_a_killed_export_leaves_no_archive(whole, archive, tmp_path):
    target = tmp_path / "a.zip"
    assert killed(1, "export", target, whole) == -9
    assert not target.exists()
    upkeep.export_store(whole, target, include_cells=True)
    assert target.read_bytes() == archive.read_bytes()


# --- archives that are not what they should be --------------------------------------------------


def repack(archive: Path, target: Path, change) -> Path:
    """Write an archive whose entries (name to content) have been changed."""
    with zipfile.ZipFile(archive) as opened:
        entries = {info.filename: opened.read(info) for info in opened.infolist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as opened:
        for name, content in entries.items():
            opened.writestr(name, content)
    return target


def edit(name: str, **changes):
    def change(entries):
        entries[name] = json.dumps(json.loads(entries[name]) | changes).encode()

    return change


def add(name: str, content: bytes = b"x"):
    return lambda entries: entries.update({name: content})


def listed(name: str, content: bytes = b"x"):
    """Add a file that the manifest lists as it should."""

    def change(entries):
        manifest = json.loads(entries["terms/toy/manifest.json"])
        sha256 = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"sha256": sha256, "bytes": len(content), "rows": None}
        entries["terms/toy/manifest.json"] = json.dumps(manifest).encode()
        entries[f"terms/toy/{name}"] = content

    return change


def flip(entries):
    content = entries["terms/toy/terms.parquet"]
    entries["terms/toy/terms.parquet"] = content[:-1] + bytes([content[-1] ^ 1])


def other_table_version(entries):
    import io

    table = pq.read_table(io.BytesIO(entries["terms/toy/terms.parquet"]))
    sink = io.BytesIO()
    changed = {**table.schema.metadata, b"okrcell.version": b"1"}
    pq.write_table(table.replace_schema_metadata(changed), sink)
    listed("terms.parquet", sink.getvalue())(entries)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (add("../evil.parquet"), FileFormatError, "evil"),
        (add("/etc/evil.json"), FileFormatError, "evil"),
        (add("terms/../../evil.parquet"), FileFormatError, "evil"),
        (add("terms\\..\\evil.parquet"), FileFormatError, "evil"),
        (add("C:/evil.json"), FileFormatError, "evil"),
        (add("terms/toy/"), FileFormatError, "terms/toy/"),
        (add("terms/toy/evil.py"), FileFormatError, "evil"),
        (add("knowledge/index/chroma/chroma.sqlite3"), FileFormatError, "chroma"),
        (add("knowledge/index/okrcell-index.json"), FileFormatError, "index"),
        (add("okrcell.json"), FileFormatError, "okrcell.json"),
        (add("terms/toy/more.parquet"), FileFormatError, "no manifest lists"),
        (add("terms/toy/TERMS.parquet"), FileFormatError, "two entries"),
        (add("terms/more/manifest.json", b"{}"), FileFormatError, "no manifest lists"),
        (listed("evil.sh"), FileFormatError, "evil"),
        (listed("more.parquet"), FileFormatError, "Parquet"),
        (lambda e: e.pop("terms/toy/terms.parquet"), FileFormatError, "no 'terms/toy/terms"),
        (lambda e: e.pop("terms/toy/manifest.json"), FileFormatError, "manifest"),
        (lambda e: e.pop("okrcell-export.json"), FileFormatError, "okrcell-export"),
        (add("okrcell-export.json", b"[1]"), FileFormatError, "JSON"),
        (add("okrcell-export.json", b"[" * 100_000), FileFormatError, "JSON"),
        (add("okrcell-export.json", b'{"okrcell": "else"}'), FileFormatError, "no export"),
        (edit("okrcell-export.json", version=99), SchemaVersionError, "99"),
        (edit("okrcell-export.json", parts=["../x"]), FileFormatError, "a part named"),
        (edit("okrcell-export.json", parts=["terms/toy"] * 2), FileFormatError, "manifest"),
        (edit("okrcell-export.json", parts=[]), FileFormatError, "no manifest lists"),
        (edit("terms/toy/manifest.json", schema_version=99), SchemaVersionError, "99"),
        (edit("terms/toy/manifest.json", kind="documents"), FileFormatError, "another kind"),
        (edit("terms/toy/manifest.json", files=[]), FileFormatError, "incomplete"),
        (edit("terms/toy/manifest.json", files={"a.json": 1}), FileFormatError, "size and sha256"),
        (flip, ManifestError, "other content"),
        (other_table_version, SchemaVersionError, "table 'terms'"),
    ],
)
def test_bad_archives_are_refused_and_leave_nothing(archive, tmp_path, change, error, words):
    bad = repack(archive, tmp_path / "bad.zip", change)
    with pytest.raises(error, match=words):
        upkeep.import_store(bad, tmp_path / "store")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.zip"]


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR])
def test_links_and_devices_are_refused(archive, tmp_path, mode):
    bad = repack(archive, tmp_path / "bad.zip", lambda entries: None)
    with zipfile.ZipFile(bad, "a") as opened:
        info = zipfile.ZipInfo("terms/toy/link.json")
        info.create_system, info.external_attr = 3, (mode | 0o777) << 16
        opened.writestr(info, "/etc/passwd")
    with pytest.raises(FileFormatError, match="link"):
        upkeep.import_store(bad, tmp_path / "store")


def test_entries_that_say_another_size_are_refused(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        size = opened.getinfo("terms/toy/terms.parquet").file_size
    at = content.rindex(b"terms/toy/terms.parquet") - 46  # its entry in the directory
    assert content[at : at + 4] == b"PK\x01\x02"
    assert int.from_bytes(content[at + 24 : at + 28], "little") == size
    content[at + 24 : at + 28] = (size - 9).to_bytes(4, "little")
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(FileFormatError, match="bytes, not"):
        upkeep.import_store(tmp_path / "bad.zip", tmp_path / "store")


def test_a_bomb_is_refused_before_it_is_unpacked(archive, tmp_path, monkeypatch):
    def swell(entries):
        listed("bomb.i64", bytes(1 << 24))(entries)

    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive) as opened:
        entries = {info.filename: opened.read(info) for info in opened.infolist()}
    swell(entries)
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in entries.items():
            opened.writestr(name, content)
    free = shutil._ntuple_diskusage(10**9, 10**9, 1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(StorageError, match="free"):
        upkeep.import_store(bad, tmp_path / "store")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.zip"]


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.999])
def test_truncated_archives_are_refused(archive, tmp_path, cut):
    content = archive.read_bytes()
    (tmp_path / "bad.zip").write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(FileFormatError, match="zip"):
        upkeep.import_store(tmp_path / "bad.zip", tmp_path / "store")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.zip"]


def test_damaged_content_of_an_archive_is_refused(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo("knowledge/snippets.parquet")
    content[info.header_offset + 200] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises((FileFormatError, ManifestError)):
        upkeep.import_store(tmp_path / "bad.zip", tmp_path / "store")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.zip"]
