"""What travels with a request: the passages offered to its writer, and the key that names it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from okrcell.config import fingerprint
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.draft import Facet, draft_schema
from okrcell.enrich.profile_text import Subject

if TYPE_CHECKING:
    from okrcell.corpus.knowledge import Snippet

__all__ = [
    "PIPELINE",
    "Evidence",
    "Request",
    "evidence_rows",
    "make_request",
    "request_body",
    "request_from",
]

PIPELINE = 1
"""Raised by hand when the same request should be answered anew. A commit id would re-buy all."""


@dataclass(frozen=True)
class Evidence:
    """A passage as it was offered; kept with the job, so that a run needs no store."""

    snippet_id: str
    doc_id: str
    source: str
    section: str
    text: str
    is_retracted: bool = False

    @classmethod
    def of(cls, snippet: Snippet) -> Evidence:
        """Return a snippet without its score."""
        return cls(
            snippet.snippet_id,
            snippet.doc_id,
            snippet.source,
            snippet.section,
            snippet.text,
            snippet.is_retracted,
        )


@dataclass(frozen=True)
class Request:
    """One unit of work: a subject, and per facet the evidence its sentences may cite."""

    key: str
    subject: Subject
    facets: tuple[tuple[Facet, tuple[Evidence, ...]], ...]

    @property
    def offered(self) -> dict[str, Evidence]:
        """Return all evidence by snippet id."""
        return {item.snippet_id: item for _, items in self.facets for item in items}


def make_request(
    config: EnrichConfig,
    subject: Subject,
    facets: Mapping[Facet, tuple[Evidence, ...]],
    version: str,
) -> Request:
    """Return a request and its key.

    The key is the sha256 of everything the answer depends on: model, parameters, prompt (or
    extractive writer) version, schema, pipeline number, subject and the text of each passage.

    Parameters
    ----------
    version
        Of the prompt or of the extractive writer.
    """
    canonical = {
        "pipeline": PIPELINE,
        "model": config.writer,
        "parameters": {
            "words": config.words,
            "temperature": config.temperature,
            "seed": config.seed,
        },
        "version": version,
        "schema": draft_schema(),
        "subject": subject.fields,
        "facets": [
            [facet, [[item.snippet_id, _sha256(item.text)] for item in items]]
            for facet, items in facets.items()
        ],
    }
    return Request(fingerprint(canonical), subject, tuple(facets.items()))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def request_body(request: Request) -> dict[str, Any]:
    """Return a request as JSON values, passages by id."""
    return {
        "subject": request.subject.fields,
        "facets": [[facet, [e.snippet_id for e in items]] for facet, items in request.facets],
    }


def request_from(
    key: str, body: Mapping[str, Any], evidence: Mapping[str, Mapping[str, Any]]
) -> Request:
    """Return the request that :func:`request_body` and ``asdict`` of its evidence describe."""
    return Request(
        key,
        Subject(tuple((name, label, term_id) for name, label, term_id in body["subject"])),
        tuple(
            (facet, tuple(Evidence(**evidence[snippet_id]) for snippet_id in ids))
            for facet, ids in body["facets"]
        ),
    )


def evidence_rows(request: Request) -> list[dict[str, Any]]:
    """Return the request's passages as JSON values."""
    return [asdict(item) for item in request.offered.values()]
