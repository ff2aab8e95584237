"""Build a store's knowledge: chunk, embed, index; written aside, and swapped in when it is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from okrcell.artifacts import (
    MANIFEST,
    Manifest,
    atomic_write,
    check_folder,
    commit,
    current_manifest,
    file_sha256,
    invalidate,
    read_manifest,
    read_note,
    storage_guard,
    writing,
)
from okrcell.config import fingerprint
from okrcell.console import progress
from okrcell.corpus.chunk import CHUNKER_VERSION, chunk_documents
from okrcell.corpus.config import CorpusConfig
from okrcell.corpus.embedder import Embedder, load_embedder
from okrcell.corpus.index import build_index, index_state
from okrcell.corpus.swap import BUILDING, KNOWLEDGE, WORK, finish_swap, swap
from okrcell.corpus.texts import Texts, open_texts
from okrcell.corpus.vectors import embed_snippets, vector_tables
from okrcell.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    EmbedderError,
    ManifestError,
    SchemaVersionError,
)
from okrcell.schemas import empty, read_table, write_batches

__all__ = ["build", "init_store", "open_store", "rebuild", "status"]

_SNIPPETS, _VECTORS = "snippets.parquet", "snippet_vectors.parquet"
_CHUNKED, _REPORT = "chunked.json", "report.json"
_NOTHING_NEW = {"new_documents": 0, "new_snippets": 0, "embedded": 0, "kept": 0}


def init_store(store: Path) -> None:
    """Make an empty store, or confirm that the folder is one."""
    with writing(store, "store"):
        pass


def open_store(store: Path) -> None:
    """Refuse a path that is not a store."""
    check_folder(store, "store")
    if not (store / "okrcell.json").exists():
        raise ManifestError(
            store,
            found="no store",
            expected="a folder made by 'okrcell corpus init'",
            fix=f"Run 'okrcell corpus init {store}' first, or check the path.",
        )


def build(store: Path, config: CorpusConfig, embedder: Embedder | None = None) -> dict[str, Any]:
    """Chunk, embed and index everything a store holds; only new texts are embedded.

    The knowledge that was built before stays in use until the new one is whole. A build that was
    killed continues where it stopped.

    Returns
    -------
    dict
        ``reused`` (nothing had changed), ``documents``, ``snippets``, ``by_source``, ``embedder``,
        ``dim``; ``duplicates`` (records left out because another of the same id is newer),
        ``repeated`` (snippets whose text an earlier one has); and of this build: ``new_documents``,
        ``new_snippets``, ``embedded`` and ``kept`` (distinct texts).

    Raises
    ------
    ManifestError
        Nothing was added to the store, or a part of it is damaged.
    DataError
        No document has any text.
    """
    open_store(store)
    embedder = embedder or load_embedder(config.embedder)
    if config.chunk_tokens > embedder.max_tokens:
        raise ConfigError(
            "[corpus] chunk_tokens",
            found=f"{config.chunk_tokens}",
            expected=f"at most {embedder.max_tokens}, which is what {embedder.id} reads",
            fix="Lower chunk_tokens, or use another embedder.",
        )
    with writing(store, "store"):
        corpus = open_texts(store)
        key = {
            "chunk_tokens": config.chunk_tokens,
            "chunker": CHUNKER_VERSION,
            "embedder": embedder.id,
        }
        finish_swap(store)
        folder, aside = store / KNOWLEDGE, store / BUILDING
        manifest = current_manifest(folder, KNOWLEDGE, config=key, inputs=corpus.inputs)
        if manifest is not None:
            shutil.rmtree(aside, ignore_errors=True)
            if index_state(folder, manifest):
                build_index(folder, manifest)
            return {"reused": True, **manifest.facts, **_NOTHING_NEW}
        manifest = current_manifest(aside, KNOWLEDGE, config=key, inputs=corpus.inputs)
        if manifest is None:
            manifest = _write_tables(store, corpus, key, embedder)
        if index_state(aside, manifest):
            build_index(aside, manifest)
        report = read_note(aside / WORK / _REPORT)
        swap(store)
        return {"reused": False, **manifest.facts, **(report or _NOTHING_NEW)}


def rebuild(store: Path, config: CorpusConfig, embedder: Embedder | None = None) -> dict[str, Any]:
    """Make the index again from the snippet tables: the same tables give the same results.

    Raises
    ------
    ManifestError
        The store was never built, or its tables are damaged.
    EmbedderError
        The vectors were made by another embedder than the one asked for.
    """
    open_store(store)
    wanted = (embedder or load_embedder(config.embedder)).id
    with writing(store, "store"):
        finish_swap(store)
        manifest = read_manifest(store / KNOWLEDGE, KNOWLEDGE)
        read_table(store / KNOWLEDGE / _VECTORS, "snippet_vectors", ["snippet_id"])
        if manifest.facts["embedder"] != wanted:
            raise EmbedderError(
                store / KNOWLEDGE,
                found=f"vectors made by {manifest.facts['embedder']}",
                expected=f"vectors made by {wanted}",
                fix="Use the same --embedder, or run 'okrcell corpus build' with this one.",
            )
        build_index(store / KNOWLEDGE, manifest)
    return {name: manifest.facts[name] for name in ("snippets", "by_source", "embedder")}


def _write_tables(store: Path, corpus: Texts, key: dict[str, Any], embedder: Embedder) -> Manifest:
    """Write both snippet tables aside and commit them there; continue what a killed build left."""
    aside, work = store / BUILDING, store / BUILDING / WORK
    known = _known(store / KNOWLEDGE)
    invalidate(aside)
    with storage_guard(aside):
        work.mkdir(parents=True, exist_ok=True)
    snippets = aside / _SNIPPETS
    facts = _chunk(snippets, work / _CHUNKED, corpus, key, embedder)
    run = embed_snippets(work, snippets, known, embedder)
    n = write_batches(
        aside / _VECTORS, "snippet_vectors", vector_tables(snippets, run, embedder.id)
    )
    report = {**_news(known, snippets), "embedded": run.embedded, "kept": run.kept}
    atomic_write(work / _REPORT, json.dumps(report) + "\n")
    facts |= {
        "repeated": n - len(run.vectors),
        "embedder": embedder.id,
        "dim": embedder.dim,
    }
    return commit(
        aside,
        KNOWLEDGE,
        config=key,
        inputs=corpus.inputs,
        files={_SNIPPETS: n, _VECTORS: n},
        facts=facts,
    )


def _known(folder: Path) -> Path | None:
    """Return the knowledge built before, where its vectors can be taken over."""
    if not (folder / MANIFEST).exists():
        return None
    try:
        for name in ("snippets", "snippet_vectors"):
            read_table(folder / f"{name}.parquet", name, ["snippet_id"])
    except SchemaVersionError:
        return None
    return folder


def _chunk(
    snippets: Path, note: Path, corpus: Texts, key: dict[str, Any], embedder: Embedder
) -> dict[str, Any]:
    """Write the table ``snippets`` unless a killed build has; return what is known of it."""
    made_from = fingerprint({"config": key, "inputs": corpus.inputs})
    before = read_note(note)
    if before.get("made_from") == made_from and _matches(snippets, before.get("sha256")):
        return dict(before["facts"])
    by_source: dict[str, int] = {}
    documents = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal documents
        with progress("Cutting documents", corpus.total, "documents") as advance:
            for table in corpus.tables():
                chunked = chunk_documents(table, embedder, key["chunk_tokens"])
                documents += table.num_rows
                for entry in chunked["source"].value_counts().to_pylist():
                    source = entry["values"]
                    by_source[source] = by_source.get(source, 0) + entry["counts"]
                yield chunked
                advance(table.num_rows)

    if not write_batches(snippets, "snippets", tables()):
        raise DataError(
            snippets.parent.parent,
            found="no text in any document",
            expected="at least one sentence to search in",
            fix="Add an ontology or documents that are not empty, then build again.",
        )
    facts = {
        "documents": documents,
        "duplicates": corpus.literature.counts["duplicates"],
        "snippets": sum(by_source.values()),
        "by_source": dict(sorted(by_source.items())),
    }
    done = {"made_from": made_from, "sha256": file_sha256(snippets), "facts": facts}
    atomic_write(note, json.dumps(done, sort_keys=True) + "\n")
    return facts


def _matches(path: Path, sha256: object) -> bool:
    return path.exists() and file_sha256(path) == sha256


def _news(known: Path | None, snippets: Path) -> dict[str, int]:
    """Count the documents and snippets that the knowledge built before does not have."""
    columns = ["snippet_id", "doc_id"]
    now = read_table(snippets, "snippets", columns)
    before = read_table(known / _SNIPPETS, "snippets", columns) if known else empty("snippets")
    counts = {}
    for name, column in (("new_documents", "doc_id"), ("new_snippets", "snippet_id")):
        distinct = now[column].unique()
        counts[name] = len(distinct) - int(
            pc.sum(pc.is_in(distinct, value_set=before[column].unique())).as_py() or 0
        )
    return counts


def status(store: Path) -> dict[str, dict[str, Any]]:
    """Describe every part of a store; a part that is absent or damaged is listed as such."""
    open_store(store)
    parts = {KNOWLEDGE: KNOWLEDGE, "cells": "cells"}
    for kind, pattern in (
        ("dataset", "datasets/*"),
        ("terms", "terms/*"),
        ("documents", "documents/*"),
    ):
        parts |= {
            str(p.relative_to(store)): kind for p in sorted(store.glob(pattern)) if p.is_dir()
        }
    described = {}
    for name, kind in sorted(parts.items()):
        try:
            manifest = read_manifest(store / name, kind)
        except ArtifactError as error:
            described[name] = {"state": f"not usable: {error.found}", "facts": {}}
            continue
        rows = {file: entry["rows"] for file, entry in manifest.files.items() if entry["rows"]}
        problem = index_state(store / name, manifest) if kind == KNOWLEDGE else ""
        state = f"whole, but not searchable: {problem}" if problem else "whole"
        described[name] = {"state": state, "facts": dict(manifest.facts) or rows}
    return described
