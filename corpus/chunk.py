"""Documents to snippets: pieces under a token limit whose offsets slice back to the document."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import pyarrow as pa

from okrcell.corpus.embedder import Embedder
from okrcell.errors import InternalError
from okrcell.schemas import TABLES

__all__ = ["CHUNKER_VERSION", "chunk_documents"]

CHUNKER_VERSION = "1"
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t]*$", re.MULTILINE)


def chunk_documents(documents: pa.Table, embedder: Embedder, max_tokens: int) -> pa.Table:
    """Cut documents into snippets, never across a heading, at paragraph or sentence ends first.

    Parameters
    ----------
    documents
        Table ``documents``.
    max_tokens
        Upper bound in word pieces, special tokens included.

    Returns
    -------
    pyarrow.Table
        Table ``snippets``; ``text == document[start:end]`` and ids that depend on nothing else.
    """
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(
        chunk_size=max_tokens,
        chunk_overlap=0,
        length_function=lambda text: embedder.count_tokens([text])[0],
        separators=["\n\n", "\n", ". ", "; ", " ", ""],
        keep_separator="end",
        strip_whitespace=True,
    )
    listed = documents.to_pylist()
    lengths = embedder.count_tokens([document["text"] for document in listed]) if listed else []
    rows = []
    for document, n_tokens in zip(listed, lengths, strict=True):
        text: str = document["text"]
        for section, begin, stop in _sections(text):
            position = begin
            whole = [text[begin:stop].strip()]  # most definitions fit: no need to ask the splitter
            for piece in whole if n_tokens <= max_tokens else splitter.split_text(text[begin:stop]):
                start = text.find(piece, position, stop)
                if start < 0:
                    raise InternalError(
                        document["doc_id"],
                        found="a snippet that is not part of its document",
                        expected="verbatim pieces",
                        fix="Please report this document.",
                    )
                position = start + len(piece)
                key = f"{document['doc_id']}|{document['text_sha256']}|{start}|{position}|{CHUNKER_VERSION}"
                rows.append(
                    {
                        "snippet_id": hashlib.sha256(key.encode()).hexdigest()[:16],
                        "doc_id": document["doc_id"],
                        "source": document["source"],
                        "section": section,
                        "start": start,
                        "end": position,
                        "text": piece,
                        "flags": ["retracted"] if document["is_retracted"] else [],
                    }
                )
    counts = embedder.count_tokens([row["text"] for row in rows]) if rows else []
    for row, n_tokens in zip(rows, counts, strict=True):
        row["n_tokens"] = n_tokens
    return pa.Table.from_pylist(rows, schema=TABLES["snippets"].schema)


def _sections(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield heading, start and end of the text below each heading."""
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    bounds = [("", 0, headings[0].start() if headings else len(text))]
    bounds += [(h[1], h.end(), end) for h, end in zip(headings, ends, strict=False)]
    yield from ((name, start, end) for name, start, end in bounds if text[start:end].strip())
