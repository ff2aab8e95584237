"""PubMed searches whose every record can be reached: one search, or one for each span of days."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from okrcell.console import say
from okrcell.corpus.eutils import Eutils
from okrcell.errors import ProviderUnavailableError

__all__ = ["Found", "Part", "find_records", "search_range"]

# Wide enough for any entry date; halving it leaves the empty ends within a few searches.
_FIRST, _LAST = date(1800, 1, 1), date(2200, 12, 31)


@dataclass(frozen=True)
class Part:
    """The result of one search: ``days`` is empty, or the first and last entry date."""

    days: tuple[str, ...]
    count: int
    ids: list[str]
    web_env: str
    query_key: str


@dataclass(frozen=True)
class Found:
    """All that a query finds, newest first: its count, and the parts that are to be fetched.

    ``out_of_reach`` records of the query cannot be listed: more than the limit on one day, or
    without an entry date.
    """

    count: int
    out_of_reach: int
    parts: list[Part]

    @property
    def ids(self) -> list[str]:
        """PMIDs of all parts, in order, each once."""
        return list(dict.fromkeys(pmid for part in self.parts for pmid in part.ids))


def search_range(client: Eutils, query: str, *, most: int, days: tuple[str, ...] = ()) -> Part:
    """Search, on the history server, all days or a span of entry dates; list up to ``most`` ids."""
    span = {"datetype": "edat", "mindate": days[0], "maxdate": days[1]} if days else {}
    found = client.search(query, usehistory="y", retmax=most, **span)
    ids = [str(pmid) for pmid in found.get("idlist") or ()]
    lacking = min(most, found["count"]) - len(ids)
    if lacking > 0 or not all(pmid.isdigit() for pmid in ids):
        raise ProviderUnavailableError(
            f"PubMed query '{query}'",
            found=f"a list of {len(ids)} ids where {min(most, found['count'])} were asked for",
            expected="the ids of the records",
            fix="Run the same command again later.",
        )
    _tell(found)
    return Part(
        days, found["count"], ids, str(found.get("webenv", "")), str(found.get("querykey", ""))
    )


def find_records(client: Eutils, query: str, most: int, limit: int) -> Found:
    """List up to ``most`` records of a query, the newest first.

    PubMed lists only the first ``limit`` records of a search. A larger result is halved by entry
    date until each span has no more; spans are taken from the newest until ``most`` are listed.
    """
    whole = search_range(client, query, most=min(most, limit))
    if whole.count <= limit or most <= limit:
        return Found(whole.count, 0, [whole] if whole.ids else [])
    parts: list[Part] = []
    listed = 0
    for part in _spans(client, query, limit, _FIRST, _LAST, whole.count):
        if part.count > limit:
            say(
                f"PubMed: {part.count - limit} records of {part.days[0]} cannot be listed; "
                "narrow the query to reach them"
            )
        parts.append(replace(part, ids=part.ids[: most - listed]))
        listed += len(parts[-1].ids)
        if listed >= most:
            return Found(whole.count, 0, parts)
    return Found(whole.count, max(0, whole.count - listed), parts)


def _spans(
    client: Eutils, query: str, limit: int, first: date, last: date, count: int
) -> Iterator[Part]:
    """Yield the searches that cover a span of ``count`` records, the newest first.

    The older half's count follows from the newer half's, so most halves are never searched.
    """
    if first == last or count <= limit:
        part = search_range(client, query, most=limit, days=_days(first, last))
        if part.ids:
            yield part
        return
    middle = first + (last - first) // 2
    newer_first = middle + timedelta(days=1)
    newer = search_range(client, query, most=limit, days=_days(newer_first, last))
    if newer.count > limit:
        yield from _spans(client, query, limit, newer_first, last, newer.count)
    elif newer.ids:
        yield newer
    if count > newer.count:
        yield from _spans(client, query, limit, first, middle, count - newer.count)


def _days(first: date, last: date) -> tuple[str, str]:
    return first.strftime("%Y/%m/%d"), last.strftime("%Y/%m/%d")


def _tell(found: dict[str, Any]) -> None:
    """Pass on what PubMed says of words that it did not find or left out."""
    for message in _messages([found.get("errorlist"), found.get("warninglist")]):
        say(f"PubMed: {message}")


def _messages(value: object, about: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, entry in sorted(value.items()):
            yield from _messages(entry, str(name))
    elif isinstance(value, list):
        for entry in value:
            yield from _messages(entry, about)
    elif isinstance(value, str) and value:
        yield f"{about}: {value}" if about else value
