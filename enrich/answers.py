"""Answers that were paid for, shared by all jobs of a user: what one job bought, no other buys again.

The file is ``answers.sqlite`` in the user's data folder; the environment variable ``OKRCELL_ANSWERS`` names
another, or ``off`` none. A job's own ledger stays the record of the job. Before a job asks, it claims its
keys here; keys that another running job has claimed are left to that job, and its answers are taken over.
Answers are filed under the request and the server that was asked, since two servers may give
different models one name.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from okrcell.artifacts import LOCK
from okrcell.enrich.client import Answer
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.ledger import LEDGER, Entry, connect, open_ledger
from okrcell.errors import ArtifactError, DataError, StorageError

__all__ = ["Claimed", "SharedAnswers", "open_answers"]

_OFF = frozenset({"off", "0", "none"})
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT, server TEXT, answer TEXT NOT NULL, finish_reason TEXT NOT NULL, tokens_in INTEGER,
    tokens_out INTEGER, error_kind TEXT, error TEXT, PRIMARY KEY (key, server)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    key TEXT, server TEXT, owner TEXT NOT NULL, PRIMARY KEY (key, server)
) WITHOUT ROWID;
"""
_PIECE = 500


@dataclass(frozen=True)
class Claimed:
    """What became of the keys that a job wanted to ask about.

    ``found`` holds answers that were bought before, each with what made it unusable if anything did; ``mine``
    are to be asked by this job; ``theirs`` another running job is asking.
    """

    found: dict[str, tuple[Answer, tuple[str, str] | None]]
    mine: list[str]
    theirs: list[str]


class SharedAnswers:
    """The open file, seen from one job."""

    def __init__(self, path: Path, job: Path, server: str) -> None:
        self.path, self._server = path, server
        self._owner = str(job.resolve())
        self._db = connect(path)
        self._db.executescript(_TABLES)

    def close(self) -> None:
        """Give up this job's claims and close the file."""
        with closing(self._db), self._db:
            self._db.execute("DELETE FROM claims WHERE owner = ?", (self._owner,))

    def known(self, keys: Sequence[str]) -> frozenset[str]:
        """Return the keys among these that have been answered."""
        return frozenset(self._found(keys))

    def _found(self, keys: Sequence[str]) -> dict[str, tuple[Answer, tuple[str, str] | None]]:
        found: dict[str, tuple[Answer, tuple[str, str] | None]] = {}
        for piece, marks in _pieces(keys):
            query = f"""SELECT key, answer, finish_reason, tokens_in, tokens_out, error_kind, error
                        FROM answers WHERE server = ? AND key IN ({marks})"""  # noqa: S608
            rows = self._db.execute(query, (self._server, *piece))
            for key, text, reason, tokens_in, tokens_out, kind, error in rows:
                problem = (kind, error or "") if kind else None
                found[key] = Answer(text, tokens_in, tokens_out, reason), problem
        return found

    def claim(self, keys: Sequence[str]) -> Claimed:
        """Look keys up and claim those that nobody has answered or is asking."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            found, owners = self._found(keys), dict[str, str]()
            for piece, marks in _pieces(keys):
                owners |= dict(
                    self._db.execute(
                        f"SELECT key, owner FROM claims WHERE server = ? AND key IN ({marks})",  # noqa: S608
                        (self._server, *piece),
                    )
                )
            alive = {owner: _is_running(owner) for owner in set(owners.values()) - {self._owner}}
            for owner in (name for name, running in alive.items() if not running):
                # It was killed before it could file what it had bought.
                self._file(
                    _bought_by(Path(owner), [k for k in keys if owners.get(k) == owner]), found
                )
            wanted = [key for key in keys if key not in found]
            theirs = [key for key in wanted if alive.get(owners.get(key, ""), False)]
            mine = sorted(set(wanted) - set(theirs))
            self._db.executemany(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?)",
                [(key, self._server, self._owner) for key in mine],
            )
        return Claimed(found, mine, theirs)

    def file(self, entries: Iterable[Entry]) -> None:
        """Store settled units; those that are there stay as they are."""
        with self._db:
            self._file(entries, {})

    def _file(
        self,
        entries: Iterable[Entry],
        found: dict[str, tuple[Answer, tuple[str, str] | None]],
    ) -> None:
        for entry in entries:
            answer = answer_of(entry)
            if answer is None:
                continue
            problem = (
                (entry.error_kind or "failed", entry.error or "")
                if entry.state == "failed"
                else None
            )
            found[entry.key] = answer, problem
            values = (answer.text, answer.finish_reason, answer.tokens_in, answer.tokens_out)
            self._db.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (entry.key, self._server, *values, *(problem or (None, None))),
            )


def answer_of(entry: Entry) -> Answer | None:
    """Return the answer of a settled unit, None where it brought none."""
    if entry.answer is None or entry.state not in {"answered", "failed"}:
        return None
    return Answer(entry.answer, entry.tokens_in, entry.tokens_out, entry.finish_reason or "stop")


def _bought_by(job: Path, keys: Sequence[str]) -> list[Entry]:
    """Return the units among ``keys`` that a job has settled; [] where its ledger is gone."""
    if not (job / LEDGER).exists():
        return []
    try:
        with open_ledger(job, read_only=True) as ledger:
            return [entry for key in keys if (entry := ledger.entry(key)) is not None]
    except (ArtifactError, DataError):
        return []


def _pieces(keys: Sequence[str]) -> Iterable[tuple[Sequence[str], str]]:
    """Yield pieces that SQLite takes in one statement, each with its question marks."""
    for at in range(0, len(keys), _PIECE):
        piece = keys[at : at + _PIECE]
        yield piece, ", ".join("?" * len(piece))


def _is_running(owner: str) -> bool:
    """Whether a process holds the lock of a job's folder."""
    from filelock import FileLock, Timeout

    path = Path(owner) / LOCK
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def open_answers(job: Path, config: EnrichConfig) -> SharedAnswers | None:
    """Open the user's file of answers; None where it is switched off.

    Raises
    ------
    StorageError
        The file cannot be made or opened.
    """
    named = os.environ.get("OKRCELL_ANSWERS", "")
    if named.lower() in _OFF:
        return None
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    path = Path(named) if named else Path(data) / "okrcell" / "answers.sqlite"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two servers may give different models one name: the base address is part of what was asked.
        return SharedAnswers(path, job, config.base_url or config.writer.partition(":")[0])
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            path,
            found=f"no usable file ({error})",
            expected="the SQLite file of answers that enrichment jobs share",
            fix="Name another with OKRCELL_ANSWERS, or set OKRCELL_ANSWERS=off to share none.",
        ) from None
