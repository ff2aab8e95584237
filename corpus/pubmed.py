"""PubMed records of a query, over E-utilities, into a store: planned, paged, resumable.

A plan pins the PMIDs of every page before the first is fetched, so that a page means the same
records however often a download is killed, whatever PubMed adds meanwhile, and with a new server
session. Pages are files of their own under ``downloads/``; what is there is never fetched again.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from okrcell.artifacts import atomic_write, check_folder, writing
from okrcell.corpus.eutils import Eutils
from okrcell.corpus.pubmed_pages import Page, fetch_pages
from okrcell.corpus.pubmed_search import Found, find_records, search_range
from okrcell.errors import ConfigError, DataError, ManifestError

__all__ = ["LIMIT", "PAGE_SIZE", "add_pubmed", "plan_pubmed"]

LIMIT = 9_999
"""Records of one search that PubMed lets be reached; larger results are cut by entry date."""

PAGE_SIZE = 200
_PLAN_VERSION = 1
_SECONDS_PER_REQUEST = 1.5  # a page of 200 records, sent and checked; NCBI's load varies


@dataclass(frozen=True)
class _Plan:
    query: str
    most: int
    found: int
    out_of_reach: int
    pages: list[Page]


def plan_pubmed(
    query: str,
    max_records: int,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    email: str | None = None,
    client: Eutils | None = None,
) -> dict[str, Any]:
    """Count what a query finds and what fetching it would take; fetches and writes nothing.

    Returns
    -------
    dict
        ``found``, ``to_fetch`` (at most ``max_records``), ``requests`` and ``minutes``, both
        estimated for a download from the start.

    Raises
    ------
    ConfigError
        An empty query or no positive maximum.
    DataError
        The query finds nothing.
    ProviderError
        The server refused the query, or cannot be reached.
    """
    query = _check(query, max_records)
    client = client or Eutils(base_url, api_key, email)
    found = search_range(client, query, most=0).count
    if not found:
        raise _nothing(query)
    to_fetch = min(found, max_records)
    requests = 1 + math.ceil(to_fetch / PAGE_SIZE)
    if to_fetch > LIMIT:
        requests += 8 + 2 * math.ceil(to_fetch / LIMIT)
    seconds = requests * max(_SECONDS_PER_REQUEST, 1 / (client.rate or 1))
    return {
        "found": found,
        "to_fetch": to_fetch,
        "requests": requests,
        "minutes": round(seconds / 60, 1),
    }


def add_pubmed(
    store: Path,
    query: str,
    max_records: int,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    email: str | None = None,
    source: str | None = None,
    page_size: int = PAGE_SIZE,
    limit: int = LIMIT,
    client: Eutils | None = None,
) -> dict[str, Any]:
    """Fetch the records that a PubMed query finds, newest first, and add them as documents.

    A download that was cut off continues with the pages it lacks. A finished one is brought up to
    date: only records that it has not are fetched.

    Parameters
    ----------
    max_records
        Upper bound of the records; the newest are taken.
    base_url, api_key, email
        Default: ``OKRCELL_EUTILS_URL``, ``NCBI_API_KEY``, ``NCBI_EMAIL``; see ``eutils.Eutils``.
    source
        As of ``literature.add_literature``.
    limit
        Records of one search that the server lets be reached.

    Returns
    -------
    dict
        ``found``, ``fetched`` and ``kept`` (records downloaded now and before), ``undelivered``
        (ids without a record), ``out_of_reach``, ``requests``, and what ``add_literature`` says.

    Raises
    ------
    ConfigError, DataError
        As of ``plan_pubmed``.
    ProviderError
        A page could not be fetched; the message names it. What was fetched is kept.
    LockedError
        Another process downloads the same query.
    """
    from okrcell.corpus.build import open_store
    from okrcell.corpus.literature import add_literature

    open_store(store)
    query = _check(query, max_records)
    client = client or Eutils(base_url, api_key, email)
    digest = hashlib.sha256(query.encode()).hexdigest()
    folder = store / "downloads" / f"pubmed-{digest[:16]}"
    check_folder(folder, "download")
    with writing(folder, "download"):
        plan, found = _load(folder, query), None
        missing = [] if plan is None else _missing(plan, folder)
        if plan is None or not missing or plan.most != max_records:
            found = find_records(client, query, max_records, limit)
            if not found.ids:
                raise _nothing(query)
            plan = _extend(plan, folder, found, query, max_records, page_size)
            _save(plan, folder)
            missing = _missing(plan, folder)
        fetched, undelivered = fetch_pages(client, query, plan.pages, missing, folder, found)
        paths = [page.path(folder) for page in plan.pages]
        facts = add_literature(store, paths, source=source)
    planned = sum(len(page.ids) for page in missing)
    return {
        "reused": facts["reused"],
        "query": query,
        "found": plan.found,
        "fetched": fetched,
        "kept": sum(len(page.ids) for page in plan.pages) - planned,
        "undelivered": undelivered,
        "out_of_reach": plan.out_of_reach,
        "requests": client.requests,
        **{key: value for key, value in facts.items() if key != "reused"},
    }


def _check(query: str, max_records: int) -> str:
    query = " ".join(query.split())
    if not query or max_records < 1:
        raise ConfigError(
            "--pubmed" if not query else "--max",
            found="an empty query" if not query else str(max_records),
            expected="a query as the PubMed page takes it, and at least one record",
            fix="Correct the flag.",
        )
    return query


def _nothing(query: str) -> DataError:
    return DataError(
        f"PubMed query '{query}'",
        found="no record",
        expected="at least one",
        fix="Try the query on the PubMed page; a field tag or a quotation mark may be wrong.",
    )


# --- the plan ----------------------------------------------------------------------------------


def _load(folder: Path, query: str) -> _Plan | None:
    path = folder / "plan.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("version") != _PLAN_VERSION:
            return None  # of another version of okrcell: planned anew; pages are by their PMIDs
        pages = [Page(**page) for page in content.pop("pages")]
        plan = _Plan(**content, pages=pages)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            path,
            found=f"an unreadable plan ({error!r})",
            expected="the plan as okrcell wrote it",
            fix=f"Remove {folder} and run the same command again.",
        ) from None
    return plan if plan.query == query else None


def _save(plan: _Plan, folder: Path) -> None:
    content = {"version": _PLAN_VERSION, **asdict(plan)}
    atomic_write(folder / "plan.json", json.dumps(content, indent=1) + "\n")


def _missing(plan: _Plan, folder: Path) -> list[Page]:
    return [page for page in plan.pages if not page.path(folder).exists()]


def _extend(
    old: _Plan | None, folder: Path, found: Found, query: str, most: int, page_size: int
) -> _Plan:
    """Return a plan of what was found: pages on disk stay, the rest is cut into new ones."""
    done = [page for page in old.pages if page.path(folder).exists()] if old else []
    have = {pmid for page in done for pmid in page.ids}
    last = max((page.number for page in done), default=0)
    pages = list(done)
    if have:
        ids = [pmid for pmid in found.ids if pmid not in have]
        for start in range(0, len(ids), page_size):
            last += 1
            pages.append(Page(last, ids[start : start + page_size]))
    else:
        for part in found.parts:
            for start in range(0, len(part.ids), page_size):
                last += 1
                ids = part.ids[start : start + page_size]
                pages.append(Page(last, ids, list(part.days), start))
    return _Plan(query, most, found.count, found.out_of_reach, pages)
