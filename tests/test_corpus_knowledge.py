"""Chunking, embedding, the index and search: exact, resumable, refused where they do not fit."""

import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okrcell.artifacts import commit, read_manifest
from okrcell.corpus import build as builder
from okrcell.corpus import chunk, dense, fusion, index, lexical, literature, store, terms, vectors
from okrcell.corpus.chunk import chunk_documents
from okrcell.corpus.config import CorpusConfig
from okrcell.corpus.embedder import load_embedder
from okrcell.corpus.knowledge import open_knowledge
from okrcell.corpus.remote_embedder import RemoteEmbedder
from okrcell.errors import (
    ConfigError,
    DataError,
    EmbedderError,
    LockedError,
    ManifestError,
    ProviderUnavailableError,
    SchemaVersionError,
)
from okrcell.schemas import TABLES, read_table

PIECE = re.compile(r"\w{1,6}|[^\w\s]")


class Words:
    """An embedder of word counts: quick, without a model, the same for a text in any batch."""

    id, dim, max_tokens = "words:1:float32", 256, 256

    def __init__(self):
        self.seen = []

    def count_tokens(self, texts):
        return [len(ends) + 2 for ends in self.token_ends(texts)]

    def token_ends(self, texts):
        return [[match.end() for match in PIECE.finditer(text)] for text in texts]

    def encode(self, texts):
        self.seen += texts
        found = np.full((len(texts), self.dim), 1e-3, np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                found[row, int(hashlib.md5(word.encode()).hexdigest(), 16) % self.dim] += 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)


class WordPieces:
    """The default embedder's own tokenizer, without its model."""

    def __init__(self):
        from tokenizers import Tokenizer

        from okrcell.corpus.embedder import minilm_path

        self.tokenizer = Tokenizer.from_file(str(minilm_path() / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def count_tokens(self, texts):
        return [len(found.ids) for found in self.tokenizer.encode_batch(texts)]

    def token_ends(self, texts):
        found = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [[end for _, end in entry.offsets] for entry in found]


@pytest.fixture
def words():
    return Words()


def documents(*texts, **columns):
    rows = []
    for number, text in enumerate(texts):
        row = {
            "doc_id": f"T:{number}",
            "title": "",
            "year": None,
            "source": "tests",
            "licence": "",
            "revision": "",
            "ids": [],
            "retracts": [],
            "is_retracted": False,
            "flags": [],
            "sections": [{"name": "", "start": 0, "end": len(text)}],
            "text": text,
            "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        rows.append({**row, **columns})
    return pa.Table.from_pylist(rows, schema=TABLES["documents"].schema)


# --- chunker ------------------------------------------------------------------------------------


def check_chunks(text, snippets, embedder, limit):
    covered = [False] * len(text)
    for row in snippets:
        assert text[row["start"] : row["end"]] == row["text"]
        assert row["text"] == row["text"].strip() != ""
        assert not any(covered[row["start"] : row["end"]])
        covered[row["start"] : row["end"]] = [True] * len(row["text"])
        assert embedder.count_tokens([row["text"]]) == [row["n_tokens"]]
        assert row["n_tokens"] <= limit
    assert all(done or char.isspace() for done, char in zip(covered, text, strict=True))
    assert [row["start"] for row in snippets] == sorted(row["start"] for row in snippets)


TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=400),
    st.lists(
        st.sampled_from(
            [
                "T cells",
                " e.g. ",
                ". ",
                "\n\n",
                "\n",
                "CD4+",
                "x" * 90,
                "细胞",
                "。",
                "🧬",
                "; ",
                "-",
            ]
        ),
        max_size=150,
    ).map("".join),
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(TEXT, st.integers(16, 40))
def test_chunks_slice_back_and_lose_nothing(text, limit):
    embedder = Words()
    rows = chunk_documents(documents(text), embedder, limit).to_pylist()
    check_chunks(text, rows, embedder, limit)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10_000,
        "Lymphocyte" * 1000,
        "造血干细胞分化为淋巴细胞。" * 200,
        "🧬🧫🔬" * 700,
        "A sentence of a few words. " * 300,
        "word " * 3000,
        "e\u0301" * 2000,
    ],
)
def test_chunks_of_the_real_tokenizer_fit(text):
    embedder = WordPieces()
    rows = chunk_documents(documents(text), embedder, 200).to_pylist()
    check_chunks(text, rows, embedder, 200)
    assert all(len(row["text"]) <= 200 * 12 for row in rows)


def test_chunks_end_at_sentences_and_stay_in_their_section(words):
    text = "Title\n\n" + "Cells in Fig. 1 grow, e.g. here. " * 12 + "Methods " + "We did it. " * 3
    cut = text.index("Methods")
    sections = [
        {"name": "abstract", "start": 7, "end": cut},
        {"name": "methods", "start": cut, "end": len(text)},
    ]
    table = documents(text, sections=sections, flags=["hidden-text"], is_retracted=True)
    rows = chunk_documents(table, words, 40).to_pylist()
    assert [row["section"] for row in rows] == ["abstract"] * (len(rows) - 1) + ["methods"]
    assert all(row["text"].endswith("here.") for row in rows[:-1])
    assert rows[0]["start"] == 7  # the title is in no section
    assert {tuple(row["flags"]) for row in rows} == {("hidden-text", "retracted")}
    lengths = [row["n_tokens"] for row in rows[:-1]]
    assert min(lengths) > max(lengths) / 3  # no stub at the end
    assert chunk_documents(documents("a", sections=[]), words, 40).num_rows == 0


def test_snippet_ids_depend_on_content_and_version_only(words, monkeypatch):
    first = chunk_documents(documents("One. Two."), words, 40)
    assert first.equals(chunk_documents(documents("One. Two."), words, 40))
    monkeypatch.setattr(chunk, "CHUNKER_VERSION", "x")
    assert chunk_documents(documents("One. Two."), words, 40)["snippet_id"] != first["snippet_id"]


# --- a small store ------------------------------------------------------------------------------

NOTES = {
    "b": "# B cell\nB cells express MS4A1, which encodes CD20.\n# Origin\nThey arise in marrow.\n",
    "nk": "# NK\nNatural killer cells kill. They carry granzyme and NCAM1.\n",
    "treg": "# Treg\nRegulatory T cells express FOXP3. CD4-positive cells help.\n",
    "same": "# B cell too\nB cells express MS4A1, which encodes CD20.\n",
}


def write_notes(folder, notes):
    folder.mkdir(exist_ok=True)
    for name, text in notes.items():
        (folder / f"{name}.md").write_text(text)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Notes under two source names and an ontology, built. Do not write to it."""
    base = tmp_path_factory.mktemp("made")
    path = base / "store"
    builder.init_store(path)
    literature.add_literature(path, [write_notes(base / "notes", NOTES)])
    more = {f"m{i}": f"# M\nMast cell number {i} holds histamine.\n" for i in range(30)}
    literature.add_literature(path, [write_notes(base / "more", more)], source="extra")
    terms.add_ontologies(path, ["hsapdv"])
    builder.build(path, CorpusConfig(), Words())
    return path


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made, tmp_path / "store")
    return tmp_path / "store"


@contextmanager
def opened(path, embedder=None, **options):
    knowledge = open_knowledge(path, embedder or Words(), **options)
    yield knowledge
    knowledge.close()


QUERIES = ("MS4A1 encodes CD20", "natural killer", "mast cell histamine", "infant stage", "CD4+")


def answers(path, **options):
    with opened(path, **options) as knowledge:
        return [
            knowledge.search(query, k=7, mode=mode)
            for query in QUERIES
            for mode in ("dense", "lexical", "hybrid")
        ]


def test_search_in_every_mode(made):
    with opened(made) as knowledge:
        assert knowledge.sources == ("extra", "hsapdv", "notes")
        assert len(knowledge) == sum(
            builder.build(made, CorpusConfig(), Words())["by_source"].values()
        )
        for mode in ("dense", "lexical", "hybrid"):
            found = knowledge.search("MS4A1 encodes CD20", k=4, mode=mode)
            assert {s.doc_id for s in found[:2]} == {"NOTE:b", "NOTE:same"}, mode
            assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
            assert found == knowledge.search("MS4A1 encodes CD20", k=4, mode=mode)
            ties = [s for s in found if s.score == found[0].score]
            assert [s.snippet_id for s in ties] == sorted(s.snippet_id for s in ties)
            only = knowledge.search("cell", k=50, sources=["extra"], mode=mode)
            assert {s.source for s in only} == {"extra"}
            assert len(only) == 30
        assert knowledge.search("zzzz qqqq", mode="lexical") == []
        assert knowledge.search("the of", mode="lexical") == []
        assert len(knowledge.search("zzzz qqqq", k=3)) == 3  # by meaning alone
        assert len(knowledge.search("", k=3)) == 3
        assert knowledge.search("cell", sources=[]) == []
        with pytest.raises(ConfigError, match="'pubmed'"):
            knowledge.search("x", sources=["pubmed"])


def test_other_names_of_a_thing_find_it(made):
    with opened(made) as knowledge:
        assert knowledge.search("cytotoxic innate lymphocyte", mode="lexical") == []
        for mode in ("lexical", "hybrid"):
            (found,) = knowledge.search(
                "cytotoxic innate lymphocyte", k=1, mode=mode, names=["NK", "natural killer cell"]
            )
            assert found.doc_id == "NOTE:nk"


def test_snippets_by_id_and_by_document(made):
    with opened(made) as knowledge:
        snippets = knowledge.of_document("NOTE:b")
        assert [s.section for s in snippets] == ["B cell", "Origin"]
        assert all(knowledge.get(s.snippet_id) == s for s in snippets)
        for name in ("none", "", "0" * 16, "zz" * 8, "NOTE:b", "-000000000000001", "é" * 16):
            assert knowledge.get(name) is None
            assert knowledge.of_document(f"{name}?") == []


def test_beyond_exact_search_candidates_come_from_chroma(made):
    """Chroma's graph is drawn at random: it may miss a few, what it finds is scored exactly."""
    exact, missed, n = answers(made), 0, 0
    for found, best in zip(answers(made, exact_rows=3), exact, strict=True):
        assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
        assert len(found) == len(best)
        assert all(a.score <= b.score for a, b in zip(found, best, strict=True))
        score = {s.snippet_id: s.score for s in best}
        assert all(s.score == score.get(s.snippet_id, s.score) for s in found)
        missed += sum(a.score < b.score for a, b in zip(found, best, strict=True))
        n += len(best)
    assert missed <= n / 5


def test_rebuild_gives_the_same_results(copied):
    before = answers(copied)
    facts = builder.rebuild(copied, CorpusConfig(), Words())
    assert facts["by_source"]["extra"] == 30
    assert answers(copied) == before
    shutil.rmtree(copied / "knowledge" / "index")
    with pytest.raises(ManifestError, match="corpus build"):
        open_knowledge(copied, Words())
    assert builder.build(copied, CorpusConfig(), Words())["reused"]
    assert answers(copied) == before


def test_index_files_do_not_depend_on_the_run(made, tmp_path):
    """All but Chroma's, which holds random names."""
    content = []
    for name in ("one", "two"):
        shutil.copytree(made, tmp_path / name)
        builder.rebuild(tmp_path / name, CorpusConfig(), Words())
        content.append(tree(tmp_path / name))
    assert content[0] == content[1]


def tree(path):
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and "chroma" not in file.parts and file.name != ".lock"
    }


# --- incremental --------------------------------------------------------------------------------


def test_only_new_texts_are_embedded_and_told(copied, tmp_path):
    new = {"new": "# New\nMast cells express TPSAB1.\n", "again": NOTES["nk"] + "\n"}
    literature.add_literature(copied, [write_notes(tmp_path / "new", new)])
    counting = Words()
    told = builder.build(copied, CorpusConfig(), counting)
    assert counting.seen == ["Mast cells express TPSAB1."]
    assert (told["embedded"], told["new_documents"], told["new_snippets"]) == (1, 2, 2)
    assert told["repeated"] == 2  # the B cell sentence, and the natural killer note
    again = builder.build(copied, CorpusConfig(), counting)
    assert (again["reused"], again["embedded"], again["new_snippets"]) == (True, 0, 0)
    assert len(counting.seen) == 1


def test_vectors_are_those_of_the_texts(copied, tmp_path):
    literature.add_literature(copied, [write_notes(tmp_path / "new", {"x": "Some text here."})])
    builder.build(copied, CorpusConfig(), Words())
    folder = copied / "knowledge"
    texts = read_table(folder / "snippets.parquet", "snippets")
    table = read_table(folder / "snippet_vectors.parquet", "snippet_vectors")
    assert table["snippet_id"] == texts["snippet_id"]
    expected = Words().encode(texts["text"].to_pylist())
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), expected)


def test_another_embedder_starts_anew_and_is_refused_before(copied):
    class Other(Words):
        id, dim = "words:2:float32", 16

    with pytest.raises(EmbedderError, match="words:1"):
        open_knowledge(copied, Other())
    with pytest.raises(EmbedderError, match="words:1"):
        builder.rebuild(copied, CorpusConfig(), Other())
    other = Other()
    told = builder.build(copied, CorpusConfig(), other)
    assert told["kept"] == 0
    assert told["embedded"] == len(other.seen)
    with opened(copied, Other()) as knowledge:
        assert knowledge.search("natural killer", k=1)[0].doc_id == "NOTE:nk"


def test_an_embedder_that_answers_nonsense_is_refused(copied, tmp_path):
    class Broken(Words):
        id = "broken:1"

        def encode(self, texts):
            return super().encode(texts) * np.nan

    before = answers(copied)
    with pytest.raises(EmbedderError, match="not finite"):
        builder.build(copied, CorpusConfig(), Broken())
    assert answers(copied) == before  # what was built stays in use
    small = type("Small", (Words,), {"max_tokens": 100, "id": "small:1"})()
    with pytest.raises(ConfigError, match="chunk_tokens"):
        builder.build(copied, CorpusConfig(), small)


def test_nothing_to_search_in(tmp_path):
    with pytest.raises(ManifestError, match="corpus init"):
        builder.open_store(tmp_path / "none")
    builder.init_store(tmp_path / "s")
    with pytest.raises(ManifestError, match="add-ontology"):
        builder.build(tmp_path / "s", CorpusConfig(), Words())
    with pytest.raises(ManifestError, match="no manifest"):
        builder.rebuild(tmp_path / "s", CorpusConfig(), Words())
    literature.add_literature(
        tmp_path / "s", [write_notes(tmp_path / "n", {"t": "# Only a title"})]
    )
    with pytest.raises(DataError, match="no text"):
        builder.build(tmp_path / "s", CorpusConfig(), Words())


# --- damage, other versions, other writers --------------------------------------------------------


def test_an_index_of_another_version_is_refused_then_rebuilt(copied, monkeypatch):
    before = answers(copied)
    monkeypatch.setattr(store, "version", lambda name: "0.0.1")
    with pytest.raises(ManifestError, match=r"chromadb .* 0\.0\.1 .*corpus build"):
        open_knowledge(copied, Words())
    assert builder.build(copied, CorpusConfig(), Words())["reused"]
    assert answers(copied) == before
    monkeypatch.undo()
    monkeypatch.setattr(index, "LEXICAL_VERSION", "0")
    with pytest.raises(ManifestError, match="lexical"):
        open_knowledge(copied, Words())


def test_vectors_of_an_earlier_version_are_made_anew(copied, tmp_path):
    folder = copied / "knowledge"
    path = folder / "snippet_vectors.parquet"
    table = pq.read_table(path)
    old = {**table.schema.metadata, b"okrcell.version": b"1"}
    pq.write_table(table.replace_schema_metadata(old), path)
    before = read_manifest(folder, "knowledge", verify=False)
    files = {name: entry["rows"] for name, entry in before.files.items()}
    commit(
        folder,
        "knowledge",
        config=before.config,
        inputs=before.inputs,
        files=files,
        facts=before.facts,
    )
    with pytest.raises(SchemaVersionError):
        builder.rebuild(copied, CorpusConfig(), Words())
    literature.add_literature(copied, [write_notes(tmp_path / "n", {"x": "Some text."})])
    told = builder.build(copied, CorpusConfig(), Words())
    assert (told["kept"], told["embedded"] > 30) == (0, True)


@pytest.mark.parametrize("name", ["snippets.arrow", "lexical/rows", "vectors.f16", "order"])
def test_a_truncated_index_is_refused(copied, name):
    path = copied / "knowledge" / "index" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ManifestError, match="another size"):
        open_knowledge(copied, Words())


@pytest.mark.parametrize("name", ["snippets.parquet", "snippet_vectors.parquet"])
def test_a_damaged_table_is_refused_by_build_and_rebuild(copied, name):
    path = copied / "knowledge" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    for run in (builder.build, builder.rebuild):
        with pytest.raises(ManifestError, match=name.replace(".", r"\.")):
            run(copied, CorpusConfig(), Words())


def test_one_builder_at_a_time(copied, tmp_path, monkeypatch):
    from filelock import FileLock

    with monkeypatch.context() as patch:
        patch.setattr(builder, "writing", partial(builder.writing, timeout_s=0.1))
        refused_while_locked(copied, FileLock(copied / ".lock"))
    # Two that start together: one waits for the other, and both end well.
    literature.add_literature(copied, [write_notes(tmp_path / "n", {"x": "Some text."})])
    told = []
    threads = [
        threading.Thread(target=lambda: told.append(builder.build(copied, CorpusConfig(), Words())))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry["reused"] for entry in told) == [False, True]


def refused_while_locked(path, lock):
    with lock, pytest.raises(LockedError, match="another process"):
        builder.build(path, CorpusConfig(), Words())


KILLER = """
import os, signal, sys
from pathlib import Path
import chromadb.api.rust, pyarrow.dataset  # once, not in every child
sys.path.insert(0, {tests!r})
from test_corpus_knowledge import Words, builder, tree, vectors, write_notes, literature
from okrcell.corpus.config import CorpusConfig

base = Path(sys.argv[1])
vectors._BATCH = 8

def in_child(path, kill_at):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    real, left = os.replace, [kill_at]
    def replace(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    os.replace = replace
    embedder = Words()
    builder.build(path, CorpusConfig(), embedder)
    (base / "seen").write_text(str(len(embedder.seen)))
    os._exit(0)

import shutil
assert in_child(base / "calm", 0) == 0
whole, texts = tree(base / "calm"), int((base / "seen").read_text())
kill_at, spared = 0, 0
while True:
    kill_at += 1
    path = base / f"killed{{kill_at}}"
    shutil.copytree(base / "start", path)
    if in_child(path, kill_at) == 0:
        break
    assert in_child(path, 0) == 0, kill_at
    found = tree(path)
    assert found.keys() == whole.keys(), (kill_at, found.keys() ^ whole.keys())
    assert all(found[name] == whole[name] for name in whole), kill_at
    spared += texts - int((base / "seen").read_text())
    shutil.rmtree(path)
print(kill_at - 1, texts, spared)
"""


def test_killed_at_every_rename_a_build_ends_with_the_same_bytes(tmp_path):
    """Each run is a fork of one process, killed by SIGKILL; imports are paid once."""
    start = tmp_path / "start"
    builder.init_store(start)
    literature.add_literature(start, [write_notes(tmp_path / "notes", NOTES)])
    builder.build(start, CorpusConfig(), Words())
    more = {f"n{i}": f"# N\nNote {i} tells of neuron {i * 7} and glia.\n" for i in range(20)}
    literature.add_literature(start, [write_notes(tmp_path / "more", more)])
    shutil.copytree(start, tmp_path / "calm")
    program = KILLER.format(tests=os.path.dirname(__file__))  # noqa: PTH120
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    renames, texts, spared = map(int, done.stdout.split())
    assert texts == 20
    # The table of snippets and its note, the plan, three batches, vectors, report, manifest, the
    # index and its stamp, and two to swap.
    assert renames == 13
    assert spared == (0 + 8 + 16) + 20 * 7


def test_a_build_that_ran_out_of_disk_continues(refused_on_small_disk):
    refused_on_small_disk()


@pytest.fixture
def refused_on_small_disk(made, tmp_path):
    from okrcell.errors import StorageError

    def run():
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)],
            capture_output=True,
            check=False,
        )
        if mounted.returncode:
            pytest.skip("mounting a tmpfs needs root: run the tests as root to check a full disk")
        try:
            shutil.copytree(made, disk / "store")
            before = answers(disk / "store")
            literature.add_literature(
                disk / "store", [write_notes(tmp_path / "n", {"x": "Some text to add."})]
            )
            free = os.statvfs(disk)
            for spare in (4_096, 60_000, 300_000):
                (disk / "ballast").write_bytes(b"0" * (free.f_bavail * free.f_frsize - spare))
                with pytest.raises(StorageError, match="no space left"):
                    builder.build(disk / "store", CorpusConfig(), Words())
                (disk / "ballast").unlink()
                assert answers(disk / "store") == before
            assert builder.build(disk / "store", CorpusConfig(), Words())["new_documents"] == 1
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)

    return run


# --- parts ----------------------------------------------------------------------------------------


def test_words_are_read_as_ontologies_spell_them():
    assert lexical.words("The CD8+ T-cells of bodies") == ["cd8", "positive", "t", "cell", "body"]
    assert lexical.words("virus class analysis B细胞") == [
        "virus",
        "class",
        "analysis",
        "b",
        "细",
        "胞",
    ]


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=12), min_size=1, max_size=30))
def test_lexical_scores_are_bm25_of_words_and_pairs(tmp_path_factory, made_of):
    folder = tmp_path_factory.mktemp("lexical") / "index"
    texts = [" ".join(f"word{letter}" for letter in letters) for letters in made_of]
    with lexical.LexicalWriter(folder) as writer:
        writer.add(texts[:7])
        writer.add(texts[7:])
    searched = lexical.Lexical(folder)
    lengths = np.array([len(letters) for letters in made_of])
    counts = []
    for letters in made_of:
        keys = [*letters, *(a + b for a, b in zip(letters, letters[1:], strict=False))]
        counts.append({key: keys.count(key) for key in keys})
    query = ["a", "b", "c", "a"]
    expected = np.zeros(len(texts))
    for key in {*query, "ab", "bc", "ca"}:
        df = sum(key in count for count in counts)
        for row, count in enumerate(counts):
            tf = count.get(key, 0)
            shape = 0.9 * (0.6 + 0.4 * lengths[row] / max(lengths.mean(), 1))
            expected[row] += np.log1p((len(texts) - df + 0.5) / (df + 0.5)) * tf / (tf + shape)
    found, ideal = searched.scores(" ".join(f"word{letter}" for letter in query))
    assert np.allclose(found, expected, rtol=2e-3, atol=1e-3)
    assert found.max() <= ideal * 1.001


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.booleans())
def test_the_scan_holds_the_exact_best(tmp_path_factory, seed, k, close):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((300, 24)).astype(np.float32)
    if close:  # differences that half precision cannot see
        matrix = matrix[:1] + 1e-3 * matrix
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    folder = tmp_path_factory.mktemp("dense")
    table = pa.table({"vector": pa.array(list(matrix), pa.list_(pa.float32()))})
    pq.write_table(table, folder / "v.parquet")
    order = rng.permutation(300).astype(np.int32)
    dense.build_dense(folder, folder / "v.parquet", order, 24)
    bounds = {"a": (0, 100), "b": (100, 300)}
    searched = dense.Dense(folder, 24, bounds, None)
    query = matrix[7]
    for sources in (["a", "b"], ["b"]):
        allowed = order[0 if "a" in sources else 100 :]
        found = order[searched.nearest(query, k, sources)]
        scores = matrix @ query
        best = allowed[np.argsort(-scores[allowed], kind="stable")[:k]]
        assert set(best) <= set(found)


def test_fusion_keeps_the_words_and_follows_the_meaning():
    vectors = np.eye(4, dtype=np.float32)
    query = vectors[0]
    by_words = fusion.fuse(query, vectors, np.array([0, 3, 0, 0], np.float32), 3.0)
    assert np.argmax(by_words) == 1
    no_words = fusion.fuse(query, vectors, np.zeros(4, np.float32), 0.0)
    assert np.argmax(no_words) == 0
    assert fusion.fuse(query, vectors[:0], np.zeros(0, np.float32), 0.0).shape == (0,)


# --- an embedding service -------------------------------------------------------------------------

KEY = "sk-very-secret-0123456789"


class Service(http.server.ThreadingHTTPServer):
    def __init__(self):
        self.script, self.requests = [], []
        super().__init__(("127.0.0.1", 0), Answers)


class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(body["input"])
        status, make = self.server.script.pop(0) if self.server.script else (200, good)
        if status == 0:
            self.connection.close()
            return
        content = json.dumps(make(body["input"])).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        if status == 429:
            self.send_header("retry-after", "7")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


def good(texts):
    rows = [
        {"object": "embedding", "index": i, "embedding": [len(text), 1.0, 2.0]}
        for i, text in enumerate(texts)
    ]
    return {"object": "list", "model": "m", "data": rows[::-1], "usage": {}}


def refusal(texts):
    return {"error": {"message": f"Incorrect API key provided: {KEY}"}}


@pytest.fixture
def service(monkeypatch):
    server = Service()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def naps(monkeypatch):
    slept = []
    monkeypatch.setattr(RemoteEmbedder.__init__, "__defaults__", (slept.append,))
    return slept


def test_remote_vectors_are_unit_rows_in_order(service):
    remote = RemoteEmbedder.from_environment("m")
    assert (remote.dim, remote.id[:11]) == (3, "openai:m:3:")
    texts = [f"text {'x' * i}" for i in range(300)] + ["text "]
    found = remote.encode(texts)
    assert np.allclose(np.linalg.norm(found, axis=1), 1)
    assert np.array_equal(found[0], found[-1])
    expected = np.array([[len(text), 1, 2] for text in texts], np.float32)
    assert np.allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True))
    sizes = [len(request) for request in service.requests[1:]]
    assert sizes == [128, 128, 44]  # equal texts are sent once
    assert remote.encode([]).shape == (0, 3)
    long = "word. " * 9_000
    assert remote.count_tokens([long])[0] > remote.max_tokens
    assert np.isfinite(remote.encode([long])).all()


def test_remote_trouble_is_retried_and_then_named(service, naps):
    service.script = [(429, refusal), (503, good), (0, good)]
    remote = RemoteEmbedder.from_environment("m")
    assert naps == [7.0, 1.0, 2.0]
    service.script = [(500, refusal)] * 9
    with pytest.raises(ProviderUnavailableError, match="7 times.*finished batches are kept") as no:
        remote.encode(["x"])
    assert KEY not in str(no.value)
    assert "[key]" in str(no.value)
    service.script = [(401, refusal)]
    naps.clear()
    with pytest.raises(EmbedderError, match="OPENAI_API_KEY") as refused:
        remote.encode(["x"])
    assert KEY not in str(refused.value)
    assert naps == []
    assert KEY not in remote.id


@pytest.mark.parametrize(
    "broken",
    [
        lambda texts: {"data": []},
        lambda texts: {"data": [{"index": 0, "embedding": [1.0, 2.0]}]},
        lambda texts: {"data": [{"index": 1, "embedding": [1.0, 2.0, 3.0]}]},
        lambda texts: {"data": [{"index": 0, "embedding": [0.0, 0.0, 0.0]}]},
        lambda texts: {"data": [{"index": 0, "embedding": ["a", None, 1.0]}]},
        lambda texts: {"nothing": "of use"},
    ],
)
def test_remote_nonsense_is_refused(service, broken):
    remote = RemoteEmbedder.from_environment("m")
    service.script = [(200, broken)]
    with pytest.raises(EmbedderError, match="not one usable vector per text"):
        remote.encode(["x"])


def test_a_key_is_asked_for_only_where_one_is_needed(service, monkeypatch):
    load_embedder.cache_clear()
    monkeypatch.delenv("OPENAI_API_KEY")
    assert load_embedder("openai:m").dim == 3
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        load_embedder("openai:other")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ConfigError, match="openai:MODEL"):
        load_embedder("openai:")


def test_a_store_built_by_a_service_continues_after_trouble(service, naps, tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "_BATCH", 2)
    path = tmp_path / "store"
    builder.init_store(path)
    literature.add_literature(path, [write_notes(tmp_path / "notes", NOTES)])
    remote = RemoteEmbedder.from_environment("m")
    service.script = [(200, good)] + [(502, good)] * 7
    with pytest.raises(ProviderUnavailableError):
        builder.build(path, CorpusConfig(), remote)
    service.requests.clear()
    told = builder.build(path, CorpusConfig(), remote)
    assert told["embedded"] == 4
    assert sum(map(len, service.requests)) == 2  # the first batch was kept
    with opened(path, remote) as knowledge:
        assert knowledge.search("granzyme", k=1, mode="lexical")[0].doc_id == "NOTE:nk"
