"""Pages of PubMed records, fetched one by one into files; a saved page is never fetched again."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from okrcell.artifacts import atomic_write
from okrcell.console import progress, say
from okrcell.corpus.eutils import Eutils, RefusedError, UnusableAnswerError
from okrcell.corpus.pubmed_search import Found, search_range
from okrcell.corpus.pubmed_xml import HistoryLostError, lacking_records

__all__ = ["Page", "fetch_pages"]


@dataclass(frozen=True)
class Page:
    """One file to be: its number, its PMIDs in the server's order, and where they stood.

    ``start`` is the position in the result of the entry dates ``days`` (two dates, or none for a
    result in one piece); -1 where the page gathers records that an earlier plan did not have.
    """

    number: int
    ids: list[str]
    days: list[str] = field(default_factory=list)
    start: int = -1

    def path(self, folder: Path) -> Path:
        """Return the page's file in the folder of its download."""
        return folder / f"page-{self.number:05d}.xml.gz"


def fetch_pages(
    client: Eutils,
    query: str,
    pages: list[Page],
    missing: list[Page],
    folder: Path,
    found: Found | None,
) -> tuple[int, int]:
    """Fetch the missing pages, each saved before the next is asked for.

    Parameters
    ----------
    pages, missing
        All pages of the plan, and those without a file.
    found
        The search that the plan was just made from, whose sessions are still open; None: an
        earlier plan is continued.

    Returns
    -------
    tuple
        How many records came, and how many ids gave none.

    Raises
    ------
    ProviderError
        A page could not be fetched.
    """
    sessions = _Sessions(client, query, pages, found)
    fetched = undelivered = 0
    total = len(pages)
    with progress("Fetching from PubMed", len(missing), "pages") as advance:
        for done, page in enumerate(missing):
            kept = total - len(missing) + done
            what = f"page {page.number} of {total} ({kept} pages are kept in {folder})"
            content, delivered = _fetch_page(client, sessions, page, what)
            atomic_write(page.path(folder), gzip.compress(content, mtime=0))
            fetched += delivered
            undelivered += len(page.ids) - delivered
            advance(1)
    return fetched, undelivered


def _fetch_page(client: Eutils, sessions: _Sessions, page: Page, what: str) -> tuple[bytes, int]:
    """Fetch by the search session where its result is as planned, else by the PMIDs themselves."""
    for session in sessions.of(page):
        where: dict[str, str | int] = {
            "WebEnv": session[0],
            "query_key": session[1],
            "retstart": page.start,
            "retmax": len(page.ids),
            "retmode": "xml",
        }
        try:
            return client.post("efetch", where, _reader(page.ids, of_session=True), what)
        except HistoryLostError:
            continue
        except RefusedError as error:
            if not HistoryLostError.is_meant(error.reason):
                raise
    by_id = {"id": ",".join(page.ids), "retmode": "xml"}
    return client.post("efetch", by_id, _reader(page.ids, of_session=False), what)


def _reader(ids: list[str], *, of_session: bool) -> Callable[[bytes], tuple[bytes, int]]:
    """Return a check of one page's answer: a record that is lacking twice is one PubMed has not."""
    before: frozenset[str] = frozenset()

    def read(content: bytes) -> tuple[bytes, int]:
        nonlocal before
        lacking = lacking_records(content, ids, of_session=of_session)
        if lacking and lacking != before:
            before = lacking
            raise UnusableAnswerError(f"{len(lacking)} of {len(ids)} records are lacking")
        return content, len(ids) - len(lacking)

    return read


class _Sessions:
    """Search sessions of the server by range of days; a lost one is opened again, once a page."""

    def __init__(self, client: Eutils, query: str, pages: list[Page], found: Found | None) -> None:
        self._client, self._query, self._pages = client, query, pages
        self._open: dict[tuple[str, ...], tuple[str, str] | None] = {}
        for part in found.parts if found else ():
            self._open[part.days] = (part.web_env, part.query_key)

    def of(self, page: Page) -> Iterator[tuple[str, str]]:
        """Yield the open session for a page, then one opened anew; none where results changed."""
        days = tuple(page.days)
        if page.start < 0 or (days in self._open and self._open[days] is None):
            return
        if (known := self._open.get(days)) is not None:
            yield known
        self._open[days] = self._renew(days)
        if (renewed := self._open[days]) is not None:
            yield renewed
            self._open[days] = None

    def _renew(self, days: tuple[str, ...]) -> tuple[str, str] | None:
        pages = [p for p in self._pages if tuple(p.days) == days and p.start >= 0]
        planned = [pmid for page in pages for pmid in page.ids]
        now = search_range(self._client, self._query, most=len(planned), days=days)
        if now.ids[: len(planned)] == planned:
            return now.web_env, now.query_key
        span = f" of {days[0]} to {days[1]}" if days else ""
        say(
            f"PubMed: the result{span} has changed since it was planned ({now.count} records now); "
            "the records as planned are fetched by their ids; run again later for new ones"
        )
        return None
