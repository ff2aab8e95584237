"""Read the next block while this one is worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

__all__ = ["prefetched"]

ItemT = TypeVar("ItemT")


def prefetched(items: Iterator[ItemT]) -> Iterator[ItemT]:
    """Yield the items of an iterator that runs one item ahead in a thread of its own.

    HDF5, zlib and TileDB release the interpreter while they read, so that reading and checking
    overlap. Exceptions arrive where the item would have. At most three items exist at a time.
    """
    ready: queue.Queue[tuple[ItemT | None, BaseException | None]] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(item: ItemT | None, error: BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(item, None):
                    return
        except BaseException as error:  # noqa: BLE001  (raised again in the reading thread)
            put(None, error)
            return
        put(None, None)

    thread = threading.Thread(target=run, daemon=True, name="okrcell-prefetch")
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stop.set()
        thread.join()
