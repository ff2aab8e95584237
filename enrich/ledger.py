"""The job's record of work: every request, its state, its answer and what it cost.

A request is ``planned``, then ``sent`` (written before the call), then ``answered`` or ``failed``; the
answer and its state are one transaction. What is answered or failed is never sent again. A request
found ``sent`` by a later run was cut off: its call may have been billed and its answer is lost, so
it is sent again and counted as a second attempt.

The file uses SQLite's write-ahead log, which needs a local disk. One process writes (the job
folder's lock sees to that), from one thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from okrcell.artifacts import as_storage_error
from okrcell.enrich.client import Answer
from okrcell.enrich.evidence import Request, evidence_rows, request_body, request_from
from okrcell.errors import FileFormatError, SchemaVersionError

__all__ = ["LEDGER", "Entry", "Ledger", "Totals", "open_ledger"]

LEDGER = "ledger.sqlite"
_VERSION = 1
_TABLES = """
CREATE TABLE evidence (snippet_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE requests (
    key TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('planned', 'sent', 'answered', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0,
    error_kind TEXT,
    error TEXT,
    answer TEXT,
    finish_reason TEXT,
    tokens_in INTEGER,
    tokens_out INTEGER,
    cost_usd REAL
);
CREATE TABLE profiles (
    profile_id TEXT PRIMARY KEY, key TEXT, original_text TEXT NOT NULL, reason TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class Entry:
    """One request's row. ``answer`` is the raw text, kept for failures too."""

    key: str
    state: str
    attempts: int
    error_kind: str | None
    error: str | None
    answer: str | None
    tokens_in: int | None
    tokens_out: int | None
    cost_usd: float | None


@dataclass(frozen=True)
class Totals:
    """Sums over a ledger.

    ``calls`` counts every call that was begun; ``lost`` those whose answer never reached the ledger
    though the server may have billed them.
    """

    planned: int
    sent: int
    answered: int
    failed: int
    calls: int
    lost: int
    tokens_in: int
    tokens_out: int
    cost_usd: float | None


class Ledger:
    """An open ledger. Use :func:`open_ledger`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def plan(
        self, requests: Iterable[Request], profiles: Iterable[tuple[str, str | None, str, str]]
    ) -> None:
        """Make these requests and profiles the job; answers to the same requests are kept.

        Failures that brought no answer were not paid for: they are opened again.

        Parameters
        ----------
        profiles
            Profile id, key of its request or None, original text, and why there is no request.
        """
        with self._db:
            self._db.execute("DELETE FROM profiles")
            self._db.execute(
                "UPDATE requests SET state = 'planned' WHERE state = 'failed' AND answer IS NULL"
            )
            for request in requests:
                self._db.executemany(
                    "INSERT OR REPLACE INTO evidence VALUES (?, ?)",
                    [(row["snippet_id"], _json(row)) for row in evidence_rows(request)],
                )
                self._db.execute(
                    "INSERT OR IGNORE INTO requests (key, body, state) VALUES (?, ?, 'planned')",
                    (request.key, _json(request_body(request))),
                )
            self._db.executemany("INSERT INTO profiles VALUES (?, ?, ?, ?)", profiles)

    def profiles(self) -> list[tuple[str, str | None, str, str]]:
        """Return the job's profiles by id, as they were planned."""
        query = "SELECT profile_id, key, original_text, reason FROM profiles ORDER BY profile_id"
        return list(self._db.execute(query))

    def request(self, key: str) -> Request:
        """Return a request with its evidence."""
        (body,) = self._db.execute("SELECT body FROM requests WHERE key = ?", (key,)).fetchone()
        content = json.loads(body)
        ids = sorted({snippet_id for _, ids in content["facets"] for snippet_id in ids})
        evidence = {
            snippet_id: json.loads(
                self._db.execute(
                    "SELECT body FROM evidence WHERE snippet_id = ?", (snippet_id,)
                ).fetchone()[0]
            )
            for snippet_id in ids
        }
        return request_from(key, content, evidence)

    def open_keys(self) -> list[str]:
        """Return the keys of the job's requests that still need an answer, in order of key."""
        query = """SELECT DISTINCT r.key FROM requests r JOIN profiles p ON p.key = r.key
                   WHERE r.state IN ('planned', 'sent') ORDER BY r.key"""
        return [key for (key,) in self._db.execute(query)]

    def entry(self, key: str) -> Entry | None:
        """Return a request's row, None where there is none."""
        row = self._db.execute(
            """SELECT key, state, attempts, error_kind, error, answer, tokens_in, tokens_out,
                      cost_usd FROM requests WHERE key = ?""",
            (key,),
        ).fetchone()
        return Entry(*row) if row else None

    def mark_sent(self, key: str) -> None:
        """Store the intent to call, before the call."""
        with self._db:
            self._db.execute(
                """UPDATE requests SET lost = lost + (state = 'sent'), attempts = attempts + 1,
                   state = 'sent' WHERE key = ?""",
                (key,),
            )

    def mark_planned(self, key: str, kind: str, error: str, *, lost: bool = False) -> None:
        """Note a call that brought no answer; the request stays to be done."""
        with self._db:
            self._db.execute(
                """UPDATE requests SET state = 'planned', error_kind = ?, error = ?,
                   lost = lost + ? WHERE key = ?""",
                (kind, error, lost, key),
            )

    def mark_answered(self, key: str, answer: Answer, cost: float | None) -> None:
        """Store an answer."""
        self._settle(key, "answered", None, None, answer, cost)

    def mark_failed(
        self, key: str, kind: str, error: str, answer: Answer | None, cost: float | None
    ) -> None:
        """Store a failure that asking again would not mend, with the raw answer if there is one."""
        self._settle(key, "failed", kind, error, answer, cost)

    def _settle(
        self,
        key: str,
        state: str,
        kind: str | None,
        error: str | None,
        answer: Answer | None,
        cost: float | None,
    ) -> None:
        values = (
            (answer.text, answer.finish_reason, answer.tokens_in, answer.tokens_out)
            if answer
            else (None,) * 4
        )
        with self._db:
            self._db.execute(
                """UPDATE requests SET state = ?, error_kind = ?, error = ?, answer = ?,
                   finish_reason = ?, tokens_in = ?, tokens_out = ?, cost_usd = ? WHERE key = ?""",
                (state, kind, error, *values, cost, key),
            )

    def unpaid_failures(self) -> int:
        """Return how many of the job's requests failed without an answer."""
        (n,) = self._db.execute(
            """SELECT COUNT(*) FROM requests WHERE state = 'failed' AND answer IS NULL
               AND key IN (SELECT key FROM profiles)"""
        ).fetchone()
        return int(n)

    def totals(self) -> Totals:
        """Return sums over everything the ledger ever did, requests of former plans included."""
        states = dict(
            self._db.execute(
                """SELECT state, COUNT(*) FROM requests
                   WHERE key IN (SELECT key FROM profiles) GROUP BY state"""
            )
        )
        calls, lost, tokens_in, tokens_out, cost, n_costed, n_paid = self._db.execute(
            """SELECT COALESCE(SUM(attempts), 0),
                      COALESCE(SUM(lost), 0) + COALESCE(SUM(state = 'sent'), 0),
                      COALESCE(SUM(tokens_in), 0), COALESCE(SUM(tokens_out), 0),
                      COALESCE(SUM(cost_usd), 0), COUNT(cost_usd), COUNT(answer) FROM requests"""
        ).fetchone()
        return Totals(
            planned=states.get("planned", 0),
            sent=states.get("sent", 0),
            answered=states.get("answered", 0),
            failed=states.get("failed", 0),
            calls=calls,
            lost=lost,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            cost_usd=round(cost, 8) if n_costed == n_paid else None,
        )


@contextmanager
def open_ledger(job: Path, *, read_only: bool = False) -> Iterator[Ledger]:
    """Open a job's ledger; a new one is made unless it is only to be read.

    Raises
    ------
    FileFormatError
        The file is not a ledger.
    SchemaVersionError
        It was written with another layout.
    """
    path = job / LEDGER
    connection = None
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}", uri=True, timeout=10
        )
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            # NORMAL may lose the last commits at power loss, and with them the proof of payment.
            connection.execute("PRAGMA synchronous = FULL")
        _check_version(connection, path, read_only)
        yield Ledger(connection)
    except sqlite3.DatabaseError as error:
        raise as_storage_error(error, path) or FileFormatError(
            path,
            found=f"no usable ledger ({error})",
            expected="the SQLite file that 'okrcell enrich plan' made",
            fix="Restore it from a copy; removing it forgets what was paid for.",
        ) from None
    finally:
        if connection is not None:
            connection.close()


def _check_version(connection: sqlite3.Connection, path: Path, read_only: bool) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0 and not read_only:
        connection.executescript(f"BEGIN;{_TABLES}PRAGMA user_version = {_VERSION};COMMIT;")
    elif version != _VERSION:
        raise SchemaVersionError(
            path,
            found=f"a ledger of version {version}",
            expected=f"version {_VERSION}",
            fix="Use the version of okrcell that wrote it, or plan into a new folder.",
        )


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
