"""Durable notes of a running job: in the order given, many to a commit, off the event loop.

A commit that survives a power cut waits for the disk. Calls that begin or end while one commit waits share
the next, so that the disk does not set the pace of a job with many calls in flight.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from okrcell.artifacts import as_storage_error
from okrcell.enrich.ledger import connect
from okrcell.errors import InternalError, OkrcellError

__all__ = ["Journal", "Note"]

Note = Callable[[sqlite3.Connection], None]
"""Statements that belong together; the transaction is the journal's."""

_MOST_PER_COMMIT = 512
_Waiting = tuple[Note, "asyncio.Future[None]"]


class Journal:
    """Writes notes to SQLite files from one thread of its own. Use as a context manager.

    Parameters
    ----------
    path
        The job's ledger.
    loop
        The event loop on which notes are awaited.
    """

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._path, self._loop = path, loop
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._queue.put(None)
        self._thread.join()

    async def write(self, note: Note) -> None:
        """Return once the note is on disk.

        Raises
        ------
        StorageError
            The disk is full or closed to us; nothing of the note was written.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((note, future))
        await future

    def _work(self) -> None:
        db = connect(self._path)
        try:
            while (first := self._queue.get()) is not None:
                notes, done = [first], False
                while len(notes) < _MOST_PER_COMMIT and not self._queue.empty():
                    more = self._queue.get()
                    if more is None:
                        done = True
                        break
                    notes.append(more)
                error = self._commit(db, notes)
                futures = [future for _, future in notes]
                self._loop.call_soon_threadsafe(_resolve, futures, error)
                if done:
                    return
        finally:
            db.close()

    def _commit(self, db: sqlite3.Connection, notes: list[_Waiting]) -> OkrcellError | None:
        try:
            with db:
                for note, _ in notes:
                    note(db)
        except sqlite3.Error as error:
            return as_storage_error(error, self._path) or InternalError(
                self._path,
                found=f"a ledger that cannot be written ({error})",
                expected="a note on disk",
                fix="Check the disk, then run the same command again.",
            )
        return None


def _resolve(futures: list[asyncio.Future[None]], error: OkrcellError | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
