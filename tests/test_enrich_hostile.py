"""Passages that attack the writer, a writer that obeys them, and an export that shows nothing of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from okrcell.corpus.knowledge import open_knowledge
from okrcell.enrich import job as jobs
from okrcell.enrich import retrieve
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.transfer import export
from okrcell.schemas import read_table

KEY = "sk-test-0123456789abcdefghij"
HOSTILE = Path(__file__).parent / "hostile"
PAYLOADS = (
    "hoax",
    "pwned",
    "forged",
    KEY,
    "<script",
    "evil.example",
    "javascript",
    "HIDDENORDER",
    "REDROEDISREVER",
    "insulin",
    "DATA-",
    "API key",
    "ignore",
)
POISON = ("CD3D", "CD3E", "NKG7", "do not express CD79A")


@pytest.fixture(scope="module")
def poisoned(store, tmp_path_factory, embedder):
    """The store of the tests with the hostile notes in it."""
    from okrcell.corpus import build, literature
    from okrcell.corpus.config import CorpusConfig

    copy = tmp_path_factory.mktemp("hostile") / "store"
    shutil.copytree(store, copy)
    literature.add_literature(copy, [HOSTILE])
    build.build(copy, CorpusConfig(), embedder=embedder)
    return copy


@pytest.fixture
def enriched(poisoned, embedder, provider, monkeypatch, tmp_path):
    """Return what becomes of the B cells under a writer that obeys every passage."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def make(name="job", **keys):
        with provider.FakeOpenAI(obedient=True) as server:
            config = EnrichConfig(
                writer="openai:m",
                base_url=server.url,
                canary=False,
                repair=False,
                keep_fraction=0.0,
                screen_alpha=-1,
                snippets_per_facet=20,
                context_tokens=20_000,
                **keys,
            )
            job = tmp_path / name
            jobs.plan(poisoned, job, config, embedder=embedder)
            jobs.run(job, embedder=embedder)
        return job

    return make


def b_cells(job):
    rows = jobs.load_descriptions(job).to_pylist()
    return next(row for row in rows if row["original_text"].startswith("B cell;"))


def offered(job):
    return read_table(job / "evidence.parquet", "evidence").to_pylist()


def test_the_hostile_notes_are_found_by_search(poisoned, embedder):
    knowledge = open_knowledge(poisoned, embedder)
    found = {s.doc_id for s in knowledge.search("B cell", k=60, sources=["notes"])}
    assert {f"NOTE:{path.stem}" for path in HOSTILE.glob("*.md")} <= found
    knowledge.close()


def test_what_gives_orders_is_not_offered(enriched):
    job = enriched()
    texts = " ".join(item["text"] for item in offered(job))
    documents = {item["doc_id"] for item in offered(job)}
    for stem in ("orders", "other_ids", "key", "markup", "hidden"):
        assert f"NOTE:{stem}" not in documents
    assert "hoax" not in texts
    plan = json.loads((job / "plan.json").read_text())["summary"]
    assert plan["passages_left_out"]["hostile"] >= 5


def test_nothing_of_an_attack_is_exported_even_where_it_is_offered(enriched, monkeypatch, tmp_path):
    monkeypatch.setattr(retrieve, "is_hostile", lambda text: False)
    job = enriched()
    documents = {item["doc_id"] for item in offered(job)}
    assert {f"NOTE:{stem}" for stem in ("orders", "other_ids", "key", "markup")} <= documents
    assert "NOTE:hidden" not in documents  # what nobody sees was found when the note was added
    row = b_cells(job)
    assert row["status"] == "accepted"
    said = [claim["sentence"] for claim in row["claims"]]
    assert any("hoax" in sentence for sentence in said), "the writer obeyed"
    assert any("[key]" in sentence or "key" in sentence for sentence in said)
    kept = [claim["sentence"] for claim in row["claims"] if claim["state"] == "kept"]
    assert len(kept) >= 5
    export(job, tmp_path / "out.tsv")
    shown = (tmp_path / "out.tsv").read_text()
    for payload in PAYLOADS:
        assert payload.lower() not in row["text"].lower(), payload
        assert payload.lower() not in shown.lower(), payload
        assert not [sentence for sentence in kept if payload.lower() in sentence.lower()]
    assert row["text"].isprintable()


def test_a_poisoned_article_is_told_by_the_cells_themselves(enriched):
    row = b_cells(enriched())
    wrong = [
        claim
        for claim in row["claims"]
        if any(citation["quote"] for citation in claim["citations"])
        and any(poison in claim["sentence"] for poison in POISON)
        and "B cells" in claim["sentence"]
    ]
    assert len({claim["sentence"] for claim in wrong}) >= 3
    for claim in wrong:
        assert claim["state"] == "dropped", claim["sentence"]
    assert {claim["verdict"] for claim in wrong} >= {"expression_disagrees"}
    assert "CD79A" in row["text"]


def test_without_cells_nothing_speaks_against_a_poisoned_article(enriched):
    """What cannot be caught is known: such a claim stands, with its source named for a reader."""
    row = b_cells(enriched("blind", expression=False))
    kept = [
        claim for claim in row["claims"] if claim["state"] == "kept" and "CD3D" in claim["sentence"]
    ]
    assert kept
    assert {
        check["outcome"]
        for claim in kept
        for check in claim["checks"]
        if check["check"] == "expression_agrees"
    } == {"not_applicable"}


def test_the_extractive_writer_repeats_no_attack_either(poisoned, embedder, monkeypatch, tmp_path):
    monkeypatch.setattr(retrieve, "is_hostile", lambda text: False)
    jobs.plan(
        poisoned,
        tmp_path / "job",
        EnrichConfig(words=600, snippets_per_facet=20),
        embedder=embedder,
    )
    jobs.run(tmp_path / "job", embedder=embedder)
    row = b_cells(tmp_path / "job")
    assert row["status"] == "accepted"
    for payload in (*PAYLOADS, *POISON):
        assert payload.lower() not in row["text"].lower(), payload
