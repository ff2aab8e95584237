"""All texts of a store as one stream of documents: ontology terms first, then literature."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from okrcell.artifacts import MANIFEST, read_manifest
from okrcell.corpus.documents import DocumentSet, open_documents
from okrcell.errors import ManifestError
from okrcell.schemas import TABLES

__all__ = ["Texts", "open_texts"]

_ROWS = 2_000


@dataclass(frozen=True)
class Texts:
    """What a store has to search in.

    Attributes
    ----------
    inputs
        Part of the store (``terms/cl``, ``documents/...``) to the fingerprint of its files.
    total
        Number of documents, terms included.
    """

    store: Path
    ontologies: tuple[str, ...]
    literature: DocumentSet
    inputs: dict[str, str]
    total: int

    def tables(self) -> Iterator[pa.Table]:
        """Yield the table ``documents`` in pieces, always in the same order."""
        for name in self.ontologies:
            path = self.store / "terms" / name / "terms.parquet"
            for batch in pq.ParquetFile(path).iter_batches(_ROWS):
                yield _terms_as_documents(batch)
        yield from self.literature.tables()


def open_texts(store: Path) -> Texts:
    """Open the finished parts of a store.

    Raises
    ------
    ManifestError
        Nothing was added to the store, or a part is damaged.
    """
    folders = sorted(path.parent for path in (store / "terms").glob(f"*/{MANIFEST}"))
    manifests = {folder.name: read_manifest(folder, "terms") for folder in folders}
    literature = open_documents(store)
    inputs = {f"terms/{name}": manifest.fingerprint for name, manifest in manifests.items()}
    inputs |= {f"documents/{name}": value for name, value in literature.inputs.items()}
    if not inputs:
        raise ManifestError(
            store,
            found="no ontology and no document",
            expected="something to search in",
            fix="Run 'okrcell corpus add-ontology' or 'okrcell corpus add-literature' first.",
        )
    terms = sum(int(m.files["terms.parquet"]["rows"]) for m in manifests.values())
    total = terms + int(literature.counts["documents"])
    return Texts(store, tuple(manifests), literature, inputs, total)


def _terms_as_documents(terms: pa.RecordBatch) -> pa.Table:
    """One document per term: its name, definition and synonyms, as a sentence can cite it."""
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
                "revision": "",
                "ids": [term["term_id"]],
                "retracts": [],
                "is_retracted": False,
                "flags": [],
                "sections": [{"name": "", "start": 0, "end": len(text)}],
                "text": text,
                "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
        )
    return pa.Table.from_pylist(rows, schema=TABLES["documents"].schema)
