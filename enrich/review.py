"""Descriptions for people to read: rows for the terminal, and one self-contained page for a browser.

Passages and answers are untrusted. They reach the page only as JSON inside script elements of a type
that no browser runs, and its own script, the only one that the page's policy lets run, puts them in as text.
(Over 300 lines: the rows, the page's data and its head are made from one reading of the job, and the
order of the values is read together with the template.)
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote as percent

import pyarrow as pa

from okrcell.artifacts import Manifest, atomic_write, read_manifest, storage_guard
from okrcell.enrich.claims import SUPPORTED
from okrcell.enrich.job import DESCRIPTIONS, EVIDENCE, KIND, REQUESTS
from okrcell.schemas import read_table

__all__ = ["CHECK_WORDS", "VERDICT_WORDS", "doc_link", "review_rows", "write_review"]

VERDICT_WORDS = {
    "supported": ("supported", "Every check passed: the cited words stand in the passage and carry the sentence."),
    "unknown_snippet": ("unknown source", "It cites nothing, or a passage that was never offered to the writer."),
    "quote_not_found": ("quote not found", "The words it quotes do not stand in the cited passage."),
    "retracted": ("retracted source", "It rests on an article that has been retracted."),
    "instruction": ("not plain prose", "It holds an instruction, markup, an address or hidden characters."),
    "names_label": ("names the type", "It names the cell type, and this job was to write without the name."),
    "unsupported": ("not supported", "The quote is there, but it does not carry what the sentence says."),
    "expression_disagrees": ("expression disagrees", "It claims a marker gene that the profile's own cells speak against."),
    "contradicted": ("contradicted", "It contradicts the profile's metadata or the ontology: another type, tissue, sex, stage or species."),
}  # fmt: skip
"""Verdict to a short name and to what it means."""

CHECK_WORDS = {
    "id_offered": "Cites only passages that were offered",
    "quote_found": "Quotes stand in the passages",
    "not_retracted": "No source is retracted",
    "no_instruction": "Plain prose, no instruction or markup",
    "label_hidden": "Does not name the cell type",
    "supported": "The quotes carry the sentence",
    "expression_agrees": "Agrees with the expression data",
    "no_contradiction": "Agrees with metadata and ontology",
}

_COLUMNS = ("type", "status", "reliability", "cells", "verdict_bits", "dropped", "profiles")
_PER_CHUNK = 100  # descriptions that the page reads at once
_PER_BATCH = 1000
_FIELD = re.compile(
    r"(tissue|disease|development stage|sex|ethnicity|assay|organism|suspension): (.*)", re.DOTALL
)
_LINKS = (
    (re.compile(r"PMID:([1-9][0-9]{0,9})"), "https://pubmed.ncbi.nlm.nih.gov/{}/"),
    (re.compile(r"PMC:([1-9][0-9]{0,9})"), "https://pmc.ncbi.nlm.nih.gov/articles/PMC{}/"),
    (re.compile(r"DOI:(10\.[0-9]{3,9}/[!-~]+)"), "https://doi.org/{}"),
    (
        re.compile(r"(CL|UBERON|MONDO|PATO|HsapDv|HANCESTRO|AfPO):([0-9]{1,10})"),
        "https://purl.obolibrary.org/obo/{}_{}",
    ),
    (re.compile(r"(EFO):([0-9]{1,10})"), "https://www.ebi.ac.uk/efo/{}_{}"),
)


@dataclass(frozen=True)
class _Member:
    """A profile that a description stands for."""

    profile_id: str
    original_text: str
    n_cells: int
    reliability: float


@dataclass(frozen=True)
class _Entry:
    """A description and its profiles, the least reliable first; ``row`` is that one's in the table."""

    row: int
    status: str
    members: tuple[_Member, ...]
    evidence_ids: tuple[str, ...]

    @property
    def order(self) -> tuple[float, str, str]:
        first = self.members[0]
        return first.reliability, first.original_text, first.profile_id

    @property
    def n_cells(self) -> int:
        return sum(member.n_cells for member in self.members)

    @property
    def cell_type(self) -> str:
        return _fields(self.members[0].original_text)[0]


@dataclass(frozen=True)
class _Review:
    """What a review shows: ``entries`` of the job's ``found`` descriptions, least reliable first."""

    manifest: Manifest
    table: pa.Table
    evidence: Mapping[str, Mapping[str, Any]]
    entries: Sequence[_Entry]
    found: int

    def rows(self) -> Iterator[tuple[_Entry, dict[str, Any], dict[str, Mapping[str, Any]]]]:
        """Yield each entry with its row and what it may cite, by snippet id; memory stays flat."""
        for at in range(0, len(self.entries), _PER_BATCH):
            piece = self.entries[at : at + _PER_BATCH]
            rows = self.table.take([entry.row for entry in piece]).to_pylist()
            for entry, row in zip(piece, rows, strict=True):
                # A masked text differs between subjects: only the profile's own counts.
                own = [self.evidence[key] for key in entry.evidence_ids]
                yield entry, row, {item["snippet_id"]: item for item in own}


def _open(job: Path, statuses: tuple[str, ...], limit: int | None) -> _Review:
    manifest = read_manifest(Path(job), KIND)
    table = read_table(Path(job) / DESCRIPTIONS, "descriptions")
    requests = {
        row["profile_id"]: row for row in read_table(Path(job) / REQUESTS, "requests").to_pylist()
    }
    evidence = {
        row["evidence_id"]: row for row in read_table(Path(job) / EVIDENCE, "evidence").to_pylist()
    }
    columns = ["profile_id", "original_text", "status", "reliability"]
    groups: dict[tuple[str, str], list[tuple[_Member, int]]] = {}
    for number, row in enumerate(table.select(columns).to_pylist()):
        request = requests[row["profile_id"]]
        member = _Member(
            row["profile_id"],
            row["original_text"],
            int(request["n_cells"] or 0),
            float(row["reliability"] or 0.0),
        )
        # The screen looks at each profile's own text: the same answer can pass for one alone.
        key = (request["request"] or f"profile {row['profile_id']}", row["status"])
        groups.setdefault(key, []).append((member, number))
    entries = []
    for (_, status), found in groups.items():
        found.sort(key=lambda pair: (pair[0].reliability, pair[0].profile_id))
        offered = requests[found[0][0].profile_id]["groups"]
        ids = dict.fromkeys(key for group in offered for key in group["evidence_ids"])
        members = tuple(member for member, _ in found)
        entries.append(_Entry(found[0][1], status, members, tuple(ids)))
    wanted = [entry for entry in entries if not statuses or entry.status in statuses]
    wanted.sort(key=lambda entry: entry.order)
    return _Review(manifest, table, evidence, wanted[:limit], len(entries))


def review_rows(
    job: Path, *, statuses: tuple[str, ...] = (), limit: int | None = None
) -> list[dict[str, Any]]:
    """Return a finished job's descriptions with what became of each sentence, least reliable first.

    Profiles that share a request are one row: ``profiles`` lists them, ``n_cells`` counts the cells of all,
    and all else is that of the least reliable. A request's descriptions of another status are another row.

    Parameters
    ----------
    statuses
        Only these; none means all.
    limit
        At most so many.

    Raises
    ------
    ManifestError
        The job is not finished, or its files were altered.
    """
    rows = []
    for entry, row, offered in _open(job, statuses, limit).rows():
        claims = []
        for claim in row["claims"]:
            cited = [
                {**c, "doc_id": offered.get(c["snippet_id"], {}).get("doc_id")}
                for c in claim["citations"]
            ]
            documents = dict.fromkeys(c["doc_id"] for c in cited if c["doc_id"])
            claims.append({**claim, "citations": cited, "documents": list(documents)})
        names = ("profile_id", "original_text", "status", "reliability", "reason", "text")
        rows.append(
            {name: row[name] for name in names}
            | {
                "n_cells": entry.n_cells,
                "profiles": [member.profile_id for member in entry.members],
                "claims": claims,
            }
        )
    return rows


def write_review(
    job: Path, out: Path, *, statuses: tuple[str, ...] = (), limit: int | None = None
) -> dict[str, Any]:
    """Write the page on which a finished job's descriptions are read beside their evidence.

    Returns
    -------
    dict
        ``path``, ``descriptions`` of the job (profiles that share one count once), how many of them are
        ``shown``, and ``bytes``.

    Raises
    ------
    ManifestError
        The job is not finished, or its files were altered.
    """
    review, out = _open(job, statuses, limit), Path(out)
    chunks, index = _content(review)
    html = _template().render(
        **_facts(review, statuses), index=_json(index), chunks=[_json(chunk) for chunk in chunks]
    )
    data = html.encode()
    with storage_guard(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, data)
    return {
        "path": str(out),
        "descriptions": review.found,
        "shown": len(review.entries),
        "bytes": len(data),
    }


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("okrcell.enrich", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sha256"] = lambda text: base64.b64encode(
        hashlib.sha256(str(text).encode()).digest()
    ).decode()
    return environment.get_template("review.html.j2")


def _json(value: object) -> Any:
    """Return JSON that cannot end the script element it stands in."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704  (nothing but this character is special there)


# --- the page's data ---------------------------------------------------------------------------


@dataclass
class _Pool:
    """Values by their position: each is written once, and referred to by number."""

    values: list[Any] = field(default_factory=list)
    places: dict[Any, int] = field(default_factory=dict)

    def place(self, key: Any, value: Any = None) -> int:
        if key not in self.places:
            self.places[key] = len(self.values)
            self.values.append(key if value is None else value)
        return self.places[key]


def _content(review: _Review) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return descriptions by the hundred with the passages that they are the first to cite, and an index.

    The index is all that filtering and sorting need; the page reads the rest when it shows it.
    """
    names: dict[str, _Pool] = {
        name: _Pool()
        for name in ("types", "statuses", "verdicts", "states", "facets", "checks", "outcomes")
    }
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    passages, chunks, starts = _Pool(), [], []
    checks = _Pool()
    for number, (entry, row, offered) in enumerate(review.rows()):
        if number % _PER_CHUNK == 0:
            starts.append(len(passages.values))
            checks = _Pool()
            chunks.append({"descriptions": [], "checks": checks.values})
        claims = [_claim(claim, offered, names, passages, checks) for claim in row["claims"]]
        chunks[-1]["descriptions"].append(_description(entry, row, claims))
        for name, value in {
            "type": names["types"].place(entry.cell_type),
            "status": names["statuses"].place(entry.status),
            "reliability": round(entry.members[0].reliability, 4),
            "cells": entry.n_cells,
            "verdict_bits": sum({1 << claim[2] for claim in claims}),
            "dropped": int(any(c["state"] == "dropped" for c in row["claims"])),
            "profiles": [member.profile_id for member in entry.members],
        }.items():
            columns[name].append(value)
    ends = [*starts, len(passages.values)][1:]
    for chunk, start, end in zip(chunks, starts, ends, strict=True):
        chunk["passages"] = passages.values[start:end]
    words = {
        "verdicts": {name: list(words) for name, words in VERDICT_WORDS.items()},
        "checks": CHECK_WORDS,
    }
    index = {name: pool.values for name, pool in names.items()} | columns
    return chunks, index | {"starts": starts, "per_chunk": _PER_CHUNK, "words": words}


def _description(entry: _Entry, row: Mapping[str, Any], claims: list[Any]) -> dict[str, Any]:
    fields = [_fields(member.original_text)[1] for member in entry.members]
    known = {name: {each.get(name, "") for each in fields} for name in fields[0]}
    return {
        "fields": [[name, values.pop()] for name, values in known.items() if len(values) == 1],
        "members": [[m.original_text, m.n_cells, m.reliability] for m in entry.members],
        "reason": row["reason"] or "",
        "text": "" if claims else row["text"] or "",
        "cosine": row["screen_cosine"],
        "coverage": row["coverage"],
        "leak": row["leak"],
        "claims": claims,
    }


def _claim(
    claim: Mapping[str, Any],
    offered: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, _Pool],
    passages: _Pool,
    checks: _Pool,
) -> list[Any]:
    """Return a sentence as the page reads it; the order of the values is known to its script too."""
    made = tuple(
        (names["checks"].place(c["check"]), names["outcomes"].place(c["outcome"]), c["detail"])
        for c in claim["checks"]
    )
    return [
        claim["sentence"],
        names["facets"].place(claim["facet"]),
        names["verdicts"].place(claim["verdict"]),
        claim["score"],
        names["states"].place(claim["state"]),
        int(claim["origin"] == "repair"),
        [_citation(c, offered.get(c["snippet_id"]), passages) for c in claim["citations"]],
        checks.place(made),
    ]


def _citation(
    citation: Mapping[str, Any], item: Mapping[str, Any] | None, passages: _Pool
) -> list[Any]:
    """Return number of the passage (or the id of one that was not offered), span, and the quote if need be."""
    if item is None:
        return [citation["snippet_id"], None, None, citation["quote"]]
    number = passages.place(
        item["evidence_id"],
        [
            item["snippet_id"],
            item["doc_id"],
            doc_link(item["doc_id"]),
            item["source"],
            item["section"],
            item["text"],
            int(bool(item["is_retracted"])),
            int(bool(item["is_masked"])),
        ],
    )
    text, start, end = item["text"], citation["start"], citation["end"]
    if start is None or end is None or not 0 <= start < end <= len(text):
        return [number, None, None, citation["quote"]]
    as_written = None if text[start:end] == citation["quote"] else citation["quote"]
    return [number, _utf16(text, start), _utf16(text, end), as_written]


def _utf16(text: str, at: int) -> int:
    """Return a position as browsers count it: characters beyond U+FFFF are two."""
    return at if text.isascii() else at + sum(character > "\uffff" for character in text[:at])


def _fields(original_text: str) -> tuple[str, dict[str, str]]:
    """Take a profile's text apart again: cell type ("" if unknown), and the other fields by name."""
    cell_type, fields, last = "", {}, ""
    for part in original_text.removesuffix(".").split("; "):
        found = _FIELD.fullmatch(part)
        if found and found[1] not in fields:
            last = found[1]
            fields[last] = found[2]
        elif last:
            fields[last] += f"; {part}"
        else:
            cell_type = f"{cell_type}; {part}" if cell_type else part
    return cell_type, fields


def doc_link(doc_id: str) -> str | None:
    """Return where a document can be read, None for an id of any other form than those we know.

    >>> doc_link("PMC:123"), doc_link("javascript:alert(1)")
    ('https://pmc.ncbi.nlm.nih.gov/articles/PMC123/', None)
    """
    for pattern, address in _LINKS:
        found = pattern.fullmatch(doc_id)
        if found:
            return address.format(*(percent(part, safe="/") for part in found.groups()))
    return None


# --- the page's head ---------------------------------------------------------------------------


def _facts(review: _Review, statuses: tuple[str, ...]) -> dict[str, Any]:
    """Return what the head of the page says about the job."""
    facts, table = review.manifest.facts, review.table
    sentences = dict(facts["sentences"])
    order = [*VERDICT_WORDS, *sorted(sentences.keys() - VERDICT_WORDS.keys())]
    return {
        "writers": sorted(set(table["writer"].to_pylist())),
        "prompt_versions": sorted(set(table["prompt_version"].to_pylist())),
        "config": review.manifest.config,
        "statuses": facts["descriptions"],
        "states": facts["sentence_states"],
        "supported": sentences.get(SUPPORTED, 0),
        "verdicts": [
            (*_verdict(name), sentences[name], name == SUPPORTED)
            for name in order
            if sentences.get(name)
        ],
        "plan": facts["plan"],
        "leak_control": facts["leak_control"],
        "profiles": table.num_rows,
        "found": review.found,
        "shown": len(review.entries),
        "only": statuses,
        "cost_usd": _total(table, "cost_usd"),
        "tokens_in": _total(table, "tokens_in"),
        "tokens_out": _total(table, "tokens_out"),
        "fingerprint": review.manifest.fingerprint,
        "producer": review.manifest.producer,
    }


def _verdict(name: str) -> tuple[str, str]:
    return VERDICT_WORDS.get(name, (name.replace("_", " "), ""))


def _total(table: pa.Table, name: str) -> float | None:
    """Return the sum of a column, None where a part of it is unknown."""
    values = table[name].to_pylist()
    return None if None in values else sum(values)
