"""What a page of PubMed XML holds, read only to tell whether the page is whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.parsers import expat

from okrcell.corpus.eutils import UnusableAnswerError

__all__ = ["HistoryLostError", "lacking_records"]

_ROOTS = {"PubmedArticleSet", "PubmedBookArticleSet"}
_RECORD_PARENTS = {"MedlineCitation", "BookDocument"}
_HISTORY = re.compile(r"webenv|query_key|history|unable to obtain query", re.IGNORECASE)


class HistoryLostError(Exception):
    """The server no longer knows a search session, or the session holds other records."""

    @staticmethod
    def is_meant(message: str) -> bool:
        """Return whether a server's message is about a lost session."""
        return bool(_HISTORY.search(message))


def lacking_records(content: bytes, ids: Sequence[str], *, of_session: bool) -> frozenset[str]:
    """Return the ids that a page holds no record of.

    Parameters
    ----------
    of_session
        The page was asked for by its place in a session: records that were not expected mean that
        the session is another one.

    Raises
    ------
    UnusableAnswerError
        No whole PubMed XML, an error message in its place, or records that were not asked for.
    HistoryLostError
        The session is gone, or another one.
    """
    root, pmids, message = _scan(content)
    if root not in _ROOTS:
        message = message or f"'{content[:100].decode(errors='replace')}'"
        if HistoryLostError.is_meant(message):
            raise HistoryLostError(message)
        raise UnusableAnswerError(f"no PubMed records but {message}")
    foreign = pmids - set(ids) - {""}
    if foreign and of_session:
        raise HistoryLostError("other records than the search gave")
    if foreign:
        raise UnusableAnswerError(f"{len(foreign)} records that were not asked for")
    return frozenset(set(ids) - pmids)


def _scan(content: bytes) -> tuple[str, set[str], str]:
    """Return the root's name, the PMIDs of the records, and the text of an ERROR element."""
    parser = expat.ParserCreate()
    path: list[str] = []
    pmids: set[str] = set()
    root, text, message = "", "", ""

    def start(name: str, _attributes: object) -> None:
        nonlocal root, text
        root = root or name
        path.append(name)
        text = ""

    def end(name: str) -> None:
        nonlocal message
        path.pop()
        if name == "PMID" and path and path[-1] in _RECORD_PARENTS:
            pmids.add(text.strip())
        elif name == "ERROR":
            message = text.strip()

    def characters(data: str) -> None:
        nonlocal text
        text = data if len(text) > 300 else text + data

    def entity(*_: object) -> None:
        raise UnusableAnswerError("XML with entities of its own")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = characters, entity
    parser.buffer_text = True
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        # An error message can come as plain text, or as JSON, with status 200.
        if not root:
            return "", set(), " ".join(content[:300].decode(errors="replace").split())
        raise UnusableAnswerError(f"damaged XML: {error}") from None
    return root, pmids, message
