"""What travels with a request: the passages offered to its writer, and the key that names it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from okrcell.config import fingerprint
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.draft import Draft, Facet, answer_schema
from okrcell.enrich.profile_text import Subject

if TYPE_CHECKING:
    from okrcell.corpus.knowledge import Snippet

__all__ = [
    "EXPRESSION",
    "GROUPS",
    "PIPELINE",
    "Evidence",
    "GeneStat",
    "Group",
    "Request",
    "make_request",
    "request_body",
    "request_from",
]

PIPELINE = 2
"""Raised by hand when the same request should be answered anew. A commit id would re-buy all."""

EXPRESSION = "expression"
"""Source of the snippet that a profile's own cells give."""

Group = Facet | Literal["passages"]
"""Evidence is offered per facet; the paper's single query offers one group of passages."""
GROUPS: tuple[Group, ...] = (*get_args(Facet), "passages")


@dataclass(frozen=True)
class Evidence:
    """A passage as it was offered; kept with the job, so that a run needs no store.

    ``is_masked`` says that the names of the cell type were taken out of ``text``, which is then what
    quotes are held against.
    """

    snippet_id: str
    doc_id: str
    source: str
    section: str
    text: str
    is_retracted: bool = False
    is_masked: bool = False

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

    @property
    def evidence_id(self) -> str:
        """Identity of the passage as offered (a masked text differs between subjects)."""
        return _sha256(f"{self.snippet_id}\n{self.text}")[:32]


@dataclass(frozen=True)
class GeneStat:
    """How a gene is expressed in a subject's training cells; it is checked against, not shown.

    Attributes
    ----------
    fraction
        Share of the subject's cells in which the gene is detected.
    fraction_others
        The same over the cells of other types of the tissue.
    highest
        Highest such share of any one cell type of the tissue, this one included: where even this is low, the
        data cannot speak about the gene.
    n_cells
        The subject's cells that were looked at.
    """

    symbol: str
    gene_id: str
    fraction: float
    fraction_others: float
    highest: float
    n_cells: int


@dataclass(frozen=True)
class Request:
    """One unit of writing: a subject, and per group the evidence its sentences may cite.

    ``genes`` holds what the training cells say of genes that the evidence names; it takes no part in
    the key, since no writer sees it. ``mask_label`` asks for a text without the cell type's names.
    """

    key: str
    subject: Subject
    groups: tuple[tuple[Group, tuple[Evidence, ...]], ...]
    genes: tuple[GeneStat, ...] = ()
    mask_label: bool = False

    @property
    def offered(self) -> dict[str, Evidence]:
        """Return all evidence by snippet id."""
        return {item.snippet_id: item for _, items in self.groups for item in items}

    def evidence(self, facet: Facet) -> tuple[Evidence, ...]:
        """Return what may speak for a facet: its own group, and ungrouped passages."""
        return tuple(
            item for group, items in self.groups if group in {facet, "passages"} for item in items
        )


def make_request(
    config: EnrichConfig,
    subject: Subject,
    groups: Mapping[Group, tuple[Evidence, ...]],
    version: str,
    genes: tuple[GeneStat, ...] = (),
) -> Request:
    """Return a request and its key.

    The key is the sha256 of everything the answer depends on: model, parameters, prompt (or
    extractive writer) version, schema, pipeline number, subject, and id and text of each passage.

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
            "mask_label": config.mask_label,
        },
        "version": version,
        "schema": answer_schema(Draft),
        "subject": subject.fields,
        "groups": [
            [group, [[item.snippet_id, _sha256(item.text)] for item in items]]
            for group, items in groups.items()
        ],
    }
    return Request(fingerprint(canonical), subject, tuple(groups.items()), genes, config.mask_label)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def request_body(request: Request) -> dict[str, Any]:
    """Return a request as JSON values, passages by id."""
    return {
        "subject": request.subject.fields,
        "groups": [[group, [e.evidence_id for e in items]] for group, items in request.groups],
        "genes": [list(asdict(gene).values()) for gene in request.genes],
        "mask_label": request.mask_label,
    }


def request_from(
    key: str, body: Mapping[str, Any], evidence: Mapping[str, Mapping[str, Any]]
) -> Request:
    """Return the request that :func:`request_body` and ``asdict`` of its evidence describe."""
    return Request(
        key,
        Subject(tuple((name, label, term_id) for name, label, term_id in body["subject"])),
        tuple(
            (group, tuple(Evidence(**evidence[evidence_id]) for evidence_id in ids))
            for group, ids in body["groups"]
        ),
        tuple(GeneStat(*values) for values in body["genes"]),
        bool(body["mask_label"]),
    )
