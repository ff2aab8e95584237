"""Documents to snippets: pieces under a token limit whose offsets slice back to the document."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from okrcell.corpus.embedder import Embedder
from okrcell.schemas import TABLES

__all__ = ["CHUNKER_VERSION", "chunk_documents"]

CHUNKER_VERSION = "2"
_CHARS_PER_TOKEN = 12  # more than any prose; a run of 10,000 letters can be a single word piece
_ABBREVIATIONS = (
    r"(?<!\bal\.)(?<!\bFig\.)(?<!\bFigs\.)(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bvs\.)(?<!\bcf\.)"
)
# Where a piece may end, best first; each match ends where the next piece may begin.
_ENDS = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(rf"(?:[.!?][\"'”’)\]]*{_ABBREVIATIONS}\s+(?![a-z])|[。！？]\s*|\n\s*)"),
    re.compile(r"[;:,]\s+|[；，、]\s*"),
    re.compile(r"\s+"),
)
_LATEST = 0.4  # an end earlier than this share of the room is left for a finer kind of end


@dataclass(frozen=True)
class _Span:
    """A stretch of one document's text, in characters."""

    row: int
    section: str
    start: int
    end: int


def chunk_documents(documents: pa.Table, embedder: Embedder, max_tokens: int) -> pa.Table:
    """Cut documents into snippets, never across a section, at paragraph or sentence ends first.

    Parameters
    ----------
    documents
        Table ``documents``; text outside its sections does not count. A few thousand rows at a
        time keep memory flat.
    max_tokens
        Upper bound in word pieces, special tokens included.

    Returns
    -------
    pyarrow.Table
        Table ``snippets``; ``text == document[start:end]`` and ids that depend on nothing else.
        Only white space is left out. Retracted documents give snippets with the flag ``retracted``,
        and every flag of a document is carried by its snippets.
    """
    listed = documents.to_pylist()
    texts: list[str] = [document["text"] for document in listed]
    spans = [
        span
        for row, document in enumerate(listed)
        for name, start, end in _sections(document)
        if (span := _trimmed(texts[row], _Span(row, name, start, end)))
    ]
    pieces = _fit(spans, texts, embedder, max_tokens)
    rows, seen = [], set()
    for span, n_tokens in pieces:
        document = listed[span.row]
        place = (span.row, span.start, span.end)
        if place in seen:  # a document that lists a section twice
            continue
        seen.add(place)
        rows.append(
            {
                "snippet_id": _snippet_id(document, span),
                "doc_id": document["doc_id"],
                "source": document["source"],
                "section": span.section,
                "start": span.start,
                "end": span.end,
                "text": texts[span.row][span.start : span.end],
                "n_tokens": n_tokens,
                "flags": _flags(document),
            }
        )
    return pa.Table.from_pylist(rows, schema=TABLES["snippets"].schema)


def _sections(document: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    length = len(document["text"])
    for section in document["sections"] or ():
        yield section["name"], max(section["start"], 0), min(section["end"], length)


def _flags(document: dict[str, Any]) -> list[str]:
    flags = set(document["flags"] or ())
    return sorted(flags | {"retracted"} if document["is_retracted"] else flags)


def _snippet_id(document: dict[str, Any], span: _Span) -> str:
    key = (
        f"{document['doc_id']}|{document['text_sha256']}|{span.start}|{span.end}|{CHUNKER_VERSION}"
    )
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _trimmed(text: str, span: _Span) -> _Span | None:
    """Return the span without white space at its ends, or None where nothing is left."""
    piece = text[span.start : span.end]
    start = span.start + len(piece) - len(piece.lstrip())
    end = span.end - (len(piece) - len(piece.rstrip()))
    return _Span(span.row, span.section, start, end) if start < end else None


def _fit(
    spans: list[_Span], texts: list[str], embedder: Embedder, max_tokens: int
) -> list[tuple[_Span, int]]:
    """Return spans that fit, with their number of word pieces, in reading order.

    Each round asks the tokenizer about all open spans at once. A cut span is counted again on its
    own: a tokenizer may need more word pieces for two halves of a word than for the word.
    """
    if not spans:
        return []
    special = embedder.count_tokens([""])[0]
    room, most_chars = max_tokens - special, max_tokens * _CHARS_PER_TOKEN
    done: dict[int, list[tuple[_Span, int]]] = {}
    pending = list(enumerate(spans))
    while pending:
        ends = embedder.token_ends([texts[s.row][s.start : s.end] for _, s in pending])
        again: list[tuple[int, _Span]] = []
        for (origin, span), token_ends in zip(pending, ends, strict=True):
            length = span.end - span.start
            if length == 1 or (len(token_ends) <= room and length <= most_chars):
                done.setdefault(origin, []).append((span, len(token_ends) + special))
                continue
            parts = _cut(texts[span.row], span, token_ends, room, most_chars)
            again += [(origin, part) for part in parts]
        pending = again
    return [
        piece
        for origin in range(len(spans))
        for piece in sorted(done.get(origin, ()), key=lambda piece: piece[0].start)
    ]


def _cut(
    text: str, span: _Span, token_ends: Sequence[int], room: int, most_chars: int
) -> list[_Span]:
    """Cut a span that is too long into at least two parts, greedily, each as long as fits."""
    piece = text[span.start : span.end]
    ends = [[match.end() for match in kind.finditer(piece)] for kind in _ENDS]
    cuts, begin, first = [0], 0, 0
    while len(token_ends) - first > room or len(piece) - begin > most_chars:
        left = len(token_ends) - first
        # The last two parts share what is left, so that none is a stub.
        take = room if left > 1.5 * room else min(room, (left + 1) // 2 + room // 8)
        last = min(first + max(take, 1), len(token_ends)) - 1
        limit = token_ends[last] if last >= first else len(piece)
        # White space after the last word piece belongs to no piece: an end may lie behind it.
        limit = min(limit, begin + most_chars)
        while limit < len(piece) and piece[limit].isspace():
            limit += 1
        cut = _best_end(ends, begin, limit)
        if cut >= len(piece):  # as happens where characters are cut and not word pieces
            cut = max(begin + 1, (begin + len(piece)) // 2)
        cuts.append(cut)
        begin, first = cut, bisect_right(token_ends, cut)
    if len(cuts) == 1 or (len(cuts) == 2 and cuts[1] >= len(piece)):
        cuts = [0, max(1, len(piece) // 2)]
    bounds = zip(cuts, [*cuts[1:], len(piece)], strict=True)
    parts = (
        _trimmed(text, _Span(span.row, span.section, span.start + a, span.start + b))
        for a, b in bounds
    )
    return [part for part in parts if part]


def _best_end(ends: Sequence[Sequence[int]], begin: int, limit: int) -> int:
    """Return the last good place to end a part that begins at ``begin`` and may reach ``limit``."""
    earliest = begin + _LATEST * (limit - begin)
    for places in ends:
        index = bisect_right(places, limit) - 1
        if index >= 0 and places[index] > max(earliest, begin):
            return places[index]
    return max(limit, begin + 1)
