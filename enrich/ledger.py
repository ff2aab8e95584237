"""The job's record of work: every unit of paid work, its state, its answer and what it cost.

A unit is ``planned``, then ``sent`` (written before the call), then ``answered`` or ``failed``; the
answer and its state are one transaction. What is answered or failed is never sent again. A unit
found ``sent`` by a later run was cut off: its call may have been billed and its answer is lost, so
it is sent again and counted as lost.

The file uses SQLite's write-ahead log, which needs a local disk. One process writes (the job
folder's lock sees to that).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from okrcell.artifacts import as_storage_error
from okrcell.config import fingerprint
from okrcell.enrich.client import Answer
from okrcell.enrich.evidence import Request, request_body, request_from
from okrcell.errors import FileFormatError, SchemaVersionError

__all__ = [
    "CANARY",
    "JUDGE",
    "LEDGER",
    "REPAIR",
    "WRITE",
    "Entry",
    "Ledger",
    "ProfileRow",
    "Totals",
    "connect",
    "mark_planned",
    "mark_sent",
    "mark_settled",
    "open_ledger",
]

LEDGER = "ledger.sqlite"
CANARY, WRITE, JUDGE, REPAIR = "canary", "write", "judge", "repair"
"""Kinds of paid work."""

_VERSION = 2
_TABLES = """
CREATE TABLE evidence (evidence_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE requests (key TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE profiles (
    profile_id TEXT PRIMARY KEY, key TEXT, original_text TEXT NOT NULL, n_cells INTEGER NOT NULL,
    reason TEXT NOT NULL
);
CREATE TABLE units (
    key TEXT PRIMARY KEY,
    base TEXT NOT NULL,
    tries INTEGER NOT NULL,
    kind TEXT NOT NULL,
    parent TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('planned', 'sent', 'answered', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0,
    lost_usd REAL NOT NULL DEFAULT 0,
    error_kind TEXT,
    error TEXT,
    answer TEXT,
    finish_reason TEXT,
    tokens_in INTEGER,
    tokens_out INTEGER,
    cost_usd REAL,
    bound_usd REAL NOT NULL DEFAULT 0,
    reused INTEGER NOT NULL DEFAULT 0,
    batch TEXT,
    settled_at REAL
);
CREATE INDEX units_by_base ON units (base, tries);
CREATE INDEX units_by_parent ON units (parent, kind);
CREATE INDEX units_by_state ON units (state, kind);
CREATE INDEX units_by_time ON units (settled_at);
CREATE TABLE batches (
    part TEXT PRIMARY KEY, state TEXT NOT NULL, n INTEGER NOT NULL, bytes INTEGER NOT NULL,
    file_id TEXT, batch_id TEXT, error TEXT
);
"""
# Work that was asked for again is another unit of the same base: the last try counts.
_LAST = "tries = (SELECT MAX(tries) FROM units m WHERE m.base = u.base)"
_OF_JOB = "parent IN (SELECT key FROM profiles WHERE key IS NOT NULL)"


@dataclass(frozen=True)
class Entry:
    """One unit's row. ``answer`` is the raw text, kept for failures too."""

    key: str
    base: str
    tries: int
    kind: str
    parent: str
    body: Mapping[str, Any]
    state: str
    attempts: int
    error_kind: str | None
    error: str | None
    answer: str | None
    finish_reason: str | None
    tokens_in: int | None
    tokens_out: int | None
    cost_usd: float | None
    reused: bool


_NAMES = tuple(field.name for field in fields(Entry))


@dataclass(frozen=True)
class ProfileRow:
    """A profile of the job; ``key`` names its request, None where there is nothing to write from."""

    profile_id: str
    key: str | None
    original_text: str
    n_cells: int
    reason: str


@dataclass(frozen=True)
class Totals:
    """Sums over a ledger.

    ``calls`` counts every call that was begun; ``lost`` those whose answer never reached the ledger
    though the server may have billed them; ``uncounted`` the answers that came without token counts;
    ``uncertain_usd`` the most that both may have cost, beside ``cost_usd``; ``taken_over`` the answers
    that another job had bought.
    """

    calls: int
    lost: int
    uncounted: int
    taken_over: int
    tokens_in: int
    tokens_out: int
    cost_usd: float | None
    uncertain_usd: float


class Ledger:
    """An open ledger. Use :func:`open_ledger`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db, self.path = connection, path

    # --- the plan --------------------------------------------------------------------------------

    def plan(self, requests: Iterable[Request], profiles: Iterable[ProfileRow]) -> None:
        """Make these requests and profiles the job; answers to the same requests are kept.

        Failures that brought no answer were not paid for: they are opened again.
        """
        with self._db:
            self._db.execute("DELETE FROM profiles")
            self._db.execute(
                "UPDATE units SET state = 'planned' WHERE state = 'failed' AND answer IS NULL"
            )
            for request in requests:
                self._db.executemany(
                    "INSERT OR IGNORE INTO evidence VALUES (?, ?)",
                    [(e.evidence_id, _json(asdict(e))) for e in request.offered.values()],
                )
                self._db.execute(
                    "INSERT OR REPLACE INTO requests VALUES (?, ?)",
                    (request.key, _json(request_body(request))),
                )
                self._add(request.key, request.key, 0, WRITE, request.key, {})
            self._db.executemany(
                "INSERT INTO profiles VALUES (?, ?, ?, ?, ?)",
                [(p.profile_id, p.key, p.original_text, p.n_cells, p.reason) for p in profiles],
            )

    def add(self, kind: str, parent: str, body: Mapping[str, Any], identity: object = None) -> str:
        """Plan a unit that follows from other answers; one that is there stays as it is.

        Parameters
        ----------
        identity
            What else its answer depends on, beside kind, parent and body.

        Returns
        -------
        str
            Its base: what names it however often it is asked for again.
        """
        base = fingerprint({"kind": kind, "parent": parent, "body": body, "identity": identity})
        with self._db:
            self._add(base, base, 0, kind, parent, body)
        return base

    def _add(
        self, key: str, base: str, tries: int, kind: str, parent: str, body: Mapping[str, Any]
    ) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO units (key, base, tries, kind, parent, body, state)"
            " VALUES (?, ?, ?, ?, ?, ?, 'planned')",
            (key, base, tries, kind, parent, _json(body)),
        )

    def retry(self, kinds: Sequence[str], keys: Iterable[str] | None = None) -> Counter[str]:
        """Ask anew for failed answers, as new units beside the old; return how many by error kind.

        Parameters
        ----------
        kinds
            Only failures of these kinds; none means all.
        keys
            Only these units; by default all of the job.
        """
        opened: Counter[str] = Counter()
        wanted = None if keys is None else set(keys)
        job = "" if wanted is not None else f" AND {_OF_JOB}"
        with self._db:
            for entry in self._entries(f"u.state = 'failed' AND {_LAST}{job}"):
                kind = entry.error_kind or "failed"
                if (kinds and kind not in kinds) or (
                    wanted is not None and entry.key not in wanted
                ):
                    continue
                tries = entry.tries + 1
                key = fingerprint({"again": entry.base, "tries": tries})
                self._add(key, entry.base, tries, entry.kind, entry.parent, entry.body)
                opened[kind] += 1
        return opened

    def profiles(self) -> list[ProfileRow]:
        """Return the job's profiles by id, as they were planned."""
        query = """SELECT profile_id, key, original_text, n_cells, reason FROM profiles
                   ORDER BY profile_id"""
        return [ProfileRow(*row) for row in self._db.execute(query)]

    def request_keys(self) -> list[str]:
        """Return the keys of the job's requests, sorted."""
        query = "SELECT DISTINCT key FROM profiles WHERE key IS NOT NULL ORDER BY key"
        return [key for (key,) in self._db.execute(query)]

    def request(self, key: str) -> Request:
        """Return a request with its evidence."""
        (body,) = self._db.execute("SELECT body FROM requests WHERE key = ?", (key,)).fetchone()
        content = json.loads(body)
        ids = sorted({evidence_id for _, ids in content["groups"] for evidence_id in ids})
        marks = ", ".join("?" * len(ids))
        rows = self._db.execute(
            f"SELECT evidence_id, body FROM evidence WHERE evidence_id IN ({marks})",  # noqa: S608
            ids,
        )
        return request_from(key, content, {found: json.loads(text) for found, text in rows})

    # --- units -----------------------------------------------------------------------------------

    def open_keys(self, bases: Iterable[str] | None = None) -> list[str]:
        """Return the keys of units that still need an answer, sorted.

        Parameters
        ----------
        bases
            Of these; by default the writing of all requests of the job.
        """
        if bases is None:
            query = f"""SELECT key FROM units u WHERE kind = ? AND state IN ('planned', 'sent')
                        AND {_OF_JOB} AND {_LAST} ORDER BY key"""  # noqa: S608
            return [key for (key,) in self._db.execute(query, (WRITE,))]
        entries = [entry for base in bases if (entry := self.last(base)) is not None]
        return sorted(entry.key for entry in entries if entry.state in {"planned", "sent"})

    def entry(self, key: str) -> Entry | None:
        """Return a unit's row, None where there is none."""
        return next(self._entries("u.key = ?", (key,)), None)

    def last(self, base: str) -> Entry | None:
        """Return the last try of a piece of work, None where there is none."""
        return next(self._entries(f"base = ? AND {_LAST}", (base,)), None)

    def settled(self) -> list[Entry]:
        """Return the units that brought an answer, usable or not, and were paid for here."""
        return list(self._entries("u.answer IS NOT NULL AND u.reused = 0"))

    def entries(self, parent: str) -> list[Entry]:
        """Return all units of a request, by kind and try."""
        return list(self._entries("parent = ? ORDER BY kind, tries", (parent,)))

    def _entries(self, condition: str, values: Sequence[Any] = ()) -> Iterator[Entry]:
        query = f"SELECT {', '.join(_NAMES)} FROM units u WHERE {condition}"  # noqa: S608
        for row in self._db.execute(query, values).fetchall():
            yield Entry(**dict(zip(_NAMES, row, strict=True)) | {"body": json.loads(row[5])})

    # --- counts ----------------------------------------------------------------------------------

    def states(self, kind: str = WRITE) -> dict[str, int]:
        """Return how many of the job's units of a kind are in each state."""
        query = f"""SELECT state, COUNT(*) FROM units u WHERE kind = ? AND {_OF_JOB} AND {_LAST}
                    GROUP BY state"""  # noqa: S608
        counts = dict(self._db.execute(query, (kind,)))
        return {state: counts.get(state, 0) for state in ("planned", "sent", "answered", "failed")}

    def failures(self) -> dict[str, int]:
        """Return how many of the job's units failed, by kind of error; open ones that met one too."""
        query = f"""SELECT error_kind, COUNT(*) FROM units u WHERE error_kind IS NOT NULL
                    AND state != 'answered' AND {_OF_JOB} AND {_LAST}
                    GROUP BY error_kind ORDER BY error_kind"""  # noqa: S608
        return dict(self._db.execute(query))

    def unpaid_failures(self) -> int:
        """Return how many of the job's units failed without an answer."""
        (n,) = self._db.execute(
            f"""SELECT COUNT(*) FROM units u WHERE state = 'failed' AND answer IS NULL
                AND {_OF_JOB} AND {_LAST}"""  # noqa: S608
        ).fetchone()
        return int(n)

    def pace(self, window_s: float = 120.0) -> float | None:
        """Return the answers per second of the last while, None where there are none."""
        times = [
            at
            for (at,) in self._db.execute(
                "SELECT settled_at FROM units WHERE settled_at > ? AND reused = 0 ORDER BY settled_at",
                (time.time() - window_s,),
            )
        ]
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        return (len(times) - 1) / span if span > 0 else None

    def mean_cost(self, kind: str = WRITE) -> float | None:
        """Return the mean cost of an answer of a kind, None where none was paid for."""
        (mean,) = self._db.execute(
            "SELECT AVG(cost_usd) FROM units WHERE kind = ? AND reused = 0 AND answer IS NOT NULL",
            (kind,),
        ).fetchone()
        return None if mean is None else float(mean)

    def totals(self) -> Totals:
        """Return sums over everything the ledger ever did, units of former plans included."""
        calls, lost, lost_usd, uncounted, taken_over, tokens_in, tokens_out, cost, n_costed = (
            self._db.execute(
                """SELECT COALESCE(SUM(attempts), 0),
                      COALESCE(SUM(lost), 0) + COALESCE(SUM(state = 'sent' AND batch IS NULL), 0),
                      COALESCE(SUM(lost_usd), 0) + COALESCE(SUM(bound_usd) FILTER (
                          WHERE (state = 'sent' AND batch IS NULL)
                          OR (answer IS NOT NULL AND cost_usd IS NULL)), 0),
                      COALESCE(SUM(answer IS NOT NULL AND cost_usd IS NULL), 0),
                      COALESCE(SUM(reused), 0),
                      COALESCE(SUM(tokens_in), 0), COALESCE(SUM(tokens_out), 0),
                      COALESCE(SUM(cost_usd), 0), COUNT(cost_usd) FROM units"""
            ).fetchone()
        )
        return Totals(
            calls=calls,
            lost=lost,
            uncounted=uncounted,
            taken_over=taken_over,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            # Without prices no answer has a cost.
            cost_usd=round(cost, 8) if n_costed or not uncounted else None,
            uncertain_usd=round(lost_usd, 8),
        )

    # --- batches ---------------------------------------------------------------------------------

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, for whole transactions of the batch path and of what is taken over."""
        return self._db


# --- what the running job notes; called inside a transaction of the caller ---------------------------


def mark_sent(db: sqlite3.Connection, key: str, bound_usd: float) -> None:
    """Store the intent to call, before the call; ``bound_usd`` is the most it can cost."""
    db.execute(
        """UPDATE units SET lost = lost + (state = 'sent'),
           lost_usd = lost_usd + (state = 'sent') * bound_usd, bound_usd = ?,
           attempts = attempts + 1, state = 'sent', batch = NULL WHERE key = ?""",
        (bound_usd, key),
    )


def mark_planned(
    db: sqlite3.Connection, key: str, kind: str, error: str, *, lost: bool = False
) -> None:
    """Note a call that brought no answer; the unit stays to be done."""
    db.execute(
        """UPDATE units SET state = 'planned', error_kind = ?, error = ?, lost = lost + ?,
           lost_usd = lost_usd + ? * bound_usd, batch = NULL WHERE key = ?""",
        (kind, error, lost, lost, key),
    )


def mark_settled(
    db: sqlite3.Connection,
    key: str,
    answer: Answer | None,
    problem: tuple[str, str] | None,
    cost: float | None,
    *,
    reused: bool = False,
) -> None:
    """Store an answer, or a failure that asking again would not mend with the raw answer if any.

    Parameters
    ----------
    problem
        Kind and message of what makes the answer unusable; None if it is good.
    """
    values = (
        (answer.text, answer.finish_reason, answer.tokens_in, answer.tokens_out)
        if answer
        else (None,) * 4
    )
    db.execute(
        """UPDATE units SET state = ?, error_kind = ?, error = ?, answer = ?, finish_reason = ?,
           tokens_in = ?, tokens_out = ?, cost_usd = ?, reused = ?, settled_at = ? WHERE key = ?""",
        (
            "failed" if problem else "answered",
            *(problem or (None, None)),
            *values,
            cost,
            reused,
            time.time(),
            key,
        ),
    )


# --- opening -----------------------------------------------------------------------------------------


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a SQLite file so that a commit survives a power cut."""
    mode = "ro" if read_only else "rwc"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=30, check_same_thread=False
    )
    if not read_only:
        connection.execute("PRAGMA journal_mode = WAL")
        # NORMAL may lose the last commits at power loss, and with them the proof of payment.
        connection.execute("PRAGMA synchronous = FULL")
    return connection


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
        connection = connect(path, read_only=read_only)
        _check_version(connection, path, read_only)
        yield Ledger(connection, path)
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
