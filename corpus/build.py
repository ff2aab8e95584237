"""Steps that fill a store's knowledge: add ontologies, add notes, then chunk, embed and index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from okrcell.artifacts import (
    Manifest,
    check_folder,
    commit,
    current_manifest,
    invalidate,
    read_manifest,
    writing,
)
from okrcell.config import fingerprint
from okrcell.console import progress
from okrcell.corpus import ontology
from okrcell.corpus.cells import load_profiles
from okrcell.corpus.chunk import CHUNKER_VERSION, chunk_documents
from okrcell.corpus.config import CorpusConfig
from okrcell.corpus.embedder import Embedder, load_embedder
from okrcell.corpus.literature import read_notes
from okrcell.corpus.store import build_index, index_identity, index_matches
from okrcell.errors import ArtifactError, DataError, ManifestError
from okrcell.schemas import METADATA_FIELDS, TABLES, read_table, write_table

__all__ = ["add_notes", "add_ontologies", "build", "init_store", "open_store", "status"]

TermScope = Literal["all", "profiles"]
_EMBED_STEP = 256


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


def add_ontologies(store: Path, names: Sequence[str], scope: TermScope = "all") -> dict[str, Any]:
    """Add the terms of bundled ontologies to a store.

    Parameters
    ----------
    scope
        ``all`` live terms, or only those that the store's ``profiles`` use, with their ancestors
        up to two steps.

    Returns
    -------
    dict
        Ontology to number of terms and release, and whether anything changed.
    """
    open_store(store)
    used = _used_terms(store) if scope == "profiles" else frozenset()
    changed, added = False, {}
    for name in names:
        terms = [t for t in ontology.terms(name) if scope == "all" or t.term_id in used]
        table = pa.Table.from_pylist([asdict(t) for t in terms], schema=TABLES["terms"].schema)
        source = fingerprint([ontology.release(name), [t.term_id for t in terms]])
        changed |= _add_table(store, "terms", name, table, source)
        added[name] = {"terms": len(terms), "release": ontology.release(name)}
    return {"reused": not changed, "ontologies": added}


def add_notes(store: Path, folder: Path) -> dict[str, Any]:
    """Add a folder of Markdown or text notes as documents; replaces the notes added before."""
    open_store(store)
    table = read_notes(folder)
    source = fingerprint(table.select(["doc_id", "text_sha256"]).to_pylist())
    changed = _add_table(store, "documents", "notes", table, source)
    return {"reused": not changed, "documents": table.num_rows}


def _add_table(store: Path, kind: str, name: str, table: pa.Table, source: str) -> bool:
    """Write one source's table as an artefact of its own; return whether anything changed."""
    with writing(store, "store"):
        folder = store / kind / name
        if current_manifest(folder, kind, config={}, inputs={name: source}):
            return False
        invalidate(folder)
        rows = write_table(folder / f"{kind}.parquet", kind, table)
        commit(folder, kind, config={}, inputs={name: source}, files={f"{kind}.parquet": rows})
        return True


def _used_terms(store: Path) -> frozenset[str]:
    used: set[str] = set()
    for profile in load_profiles(store).to_pylist():
        for field in METADATA_FIELDS:
            term_id = profile[f"{field}_ontology_term_id"]
            if term_id:
                near = {t for t, steps in ontology.ancestors(term_id).items() if steps <= 2}
                used |= near | {term_id}
    return frozenset(used)


def build(store: Path, config: CorpusConfig, *, embedder: Embedder | None = None) -> dict[str, Any]:
    """Chunk, embed and index everything a store holds; only new snippets are embedded.

    Returns
    -------
    dict
        Counts of documents and snippets by source, how many were new, and whether all was reused.
    """
    open_store(store)
    embedder = embedder or load_embedder(config.embedder)
    with writing(store, "store"):
        tables, inputs = _documents(store)
        folder = store / "knowledge"
        key = {
            "chunk_tokens": config.chunk_tokens,
            "chunker": CHUNKER_VERSION,
            "embedder": embedder.id,
        }
        manifest = current_manifest(folder, "knowledge", config=key, inputs=inputs)
        if manifest is None:
            manifest = _write_knowledge(folder, tables, key, inputs, embedder)
            reused = False
        else:
            reused = True
        identity = index_identity(manifest.fingerprint)
        if not index_matches(folder / "chroma", identity):
            snippets = read_table(folder / "snippets.parquet", "snippets", ["snippet_id", "source"])
            vectors = _read_vectors(folder, embedder)
            ids, sources = snippets["snippet_id"].to_pylist(), snippets["source"].to_pylist()
            matrix = np.stack([vectors[key] for key in ids])
            build_index(folder / "chroma", identity, ids, sources, matrix)
    return {"reused": reused, **manifest.facts}


def _documents(store: Path) -> tuple[pa.Table, dict[str, str]]:
    parts, inputs = [], {}
    for kind, convert in (("terms", _terms_as_documents), ("documents", lambda table: table)):
        for folder in sorted(path for path in (store / kind).glob("*") if path.is_dir()):
            inputs[f"{kind}/{folder.name}"] = read_manifest(folder, kind).fingerprint
            parts.append(convert(read_table(folder / f"{kind}.parquet", kind)))
    if not parts:
        raise ManifestError(
            store,
            found="no ontology and no document",
            expected="something to search in",
            fix="Run 'okrcell corpus add-ontology' or 'okrcell corpus add-literature' first.",
        )
    return pa.concat_tables(parts), inputs


def _terms_as_documents(terms: pa.Table) -> pa.Table:
    """One document per defined term: its name, definition and synonyms, as a sentence can cite it."""
    rows = []
    for term in terms.to_pylist():
        text = f"{term['label']}: {term['definition']}" if term["definition"] else term["label"]
        if term["synonyms"]:
            text = f"{text.rstrip('. ')}. Synonyms: {', '.join(term['synonyms'])}."
        rows.append(
            {
                "doc_id": term["term_id"],
                "title": term["label"],
                "year": None,
                "source": term["ontology"],
                "licence": "",
                "is_retracted": False,
                "text": text,
                "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
        )
    return pa.Table.from_pylist(rows, schema=TABLES["documents"].schema)


def _write_knowledge(
    folder: Path,
    documents: pa.Table,
    key: dict[str, Any],
    inputs: dict[str, str],
    embedder: Embedder,
) -> Manifest:
    snippets = chunk_documents(documents, embedder, key["chunk_tokens"])
    if not snippets.num_rows:
        raise DataError(
            folder.parent,
            found="no text in any document",
            expected="at least one sentence to search in",
            fix="Add an ontology or notes that are not empty, then build again.",
        )
    known = _read_vectors(folder, embedder)
    rows = [row for row in snippets.to_pylist() if row["snippet_id"] not in known]
    with progress("Embedding snippets", len(rows), "snippets") as advance:
        # Of equal length in a batch, so that little is spent on padding.
        rows.sort(key=lambda row: (row["n_tokens"], row["snippet_id"]))
        for begin in range(0, len(rows), _EMBED_STEP):
            part = rows[begin : begin + _EMBED_STEP]
            vectors = embedder.encode([row["text"] for row in part])
            known.update(zip((row["snippet_id"] for row in part), vectors, strict=True))
            advance(len(part))
    ids = snippets["snippet_id"].to_pylist()
    vector_table = pa.table(
        {
            "snippet_id": ids,
            "vector": pa.array([known[snippet_id] for snippet_id in ids], pa.list_(pa.float32())),
            "embedder": [embedder.id] * len(ids),
        }
    )
    invalidate(folder)
    files = {
        "snippets.parquet": write_table(folder / "snippets.parquet", "snippets", snippets),
        "snippet_vectors.parquet": write_table(
            folder / "snippet_vectors.parquet", "snippet_vectors", vector_table
        ),
    }
    by_source = snippets["source"].value_counts().to_pylist()
    facts = {
        "documents": documents.num_rows,
        "snippets": len(ids),
        "by_source": {entry["values"]: entry["counts"] for entry in by_source},
        "embedder": embedder.id,
    }
    return commit(folder, "knowledge", config=key, inputs=inputs, files=files, facts=facts)


def _read_vectors(folder: Path, embedder: Embedder) -> dict[str, npt.NDArray[np.float32]]:
    """Return vectors by snippet id, of this embedder only."""
    path = folder / "snippet_vectors.parquet"
    if not path.exists():
        return {}
    table = read_table(path, "snippet_vectors")
    return {
        row["snippet_id"]: np.asarray(row["vector"], dtype=np.float32)
        for row in table.to_pylist()
        if row["embedder"] == embedder.id
    }


def status(store: Path) -> dict[str, dict[str, Any]]:
    """Describe every part of a store; a part that is absent or damaged is listed as such."""
    open_store(store)
    parts = {"knowledge": "knowledge", "cells": "cells"}
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
        described[name] = {"state": "whole", "facts": dict(manifest.facts) or rows}
    return described
