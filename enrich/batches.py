"""The provider's Batch API: half the price, answers within a day, nothing submitted twice.

Units are cut into parts by count and bytes. A part is noted before anything leaves; its id travels with the
batch as metadata, so that a run that was killed at any point finds its batch again on the server instead of
submitting it a second time.
"""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from okrcell.artifacts import atomic_path
from okrcell.config import fingerprint
from okrcell.console import progress, say
from okrcell.enrich.client import (
    Answer,
    UnavailableError,
    chat_payload,
    read_completion,
    scrub,
    typed_error,
)
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.dispatch import Work
from okrcell.enrich.ledger import Ledger, mark_planned, mark_settled
from okrcell.enrich.limits import backoff_s
from okrcell.enrich.prompts import most_tokens_in
from okrcell.errors import ConfigError, ProviderError, ProviderUnavailableError

__all__ = ["Waits", "answer_in_batches"]

_ENDPOINT, _WINDOW = "/v1/chat/completions", "24h"
_PART = "okrcell_part"
_OPEN = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_MOST_REFUSALS = 6
_LINES_PER_COMMIT = 500

T = TypeVar("T")


class Waits:
    """Seconds between looks at a batch, and after which a create call whose reply was lost counts as failed."""

    def __init__(self, poll_s: float = 30.0, settle_s: float = 15.0) -> None:
        self.poll_s, self.settle_s = poll_s, settle_s


def answer_in_batches(
    ledger: Ledger, client: Any, config: EnrichConfig, work: Work, waits: Waits | None = None
) -> None:
    """Answer units through batches; parts of an earlier run are found again first.

    Parameters
    ----------
    client
        The openai package's client.

    Raises
    ------
    ProviderUnavailableError
        Some units stay open.
    ProviderError
        The endpoint refuses files or batches.
    ConfigError
        The next part could pass ``max_cost_usd``.
    """
    batches = _Batches(ledger, client, config, work, waits or Waits())
    batches.finish_open_parts()
    batches.answer_rest()


class _Batches:
    def __init__(
        self, ledger: Ledger, client: Any, config: EnrichConfig, work: Work, waits: Waits
    ) -> None:
        self.ledger, self.client, self.config = ledger, client, config
        self.work, self.waits, self.db = work, waits, ledger.connection
        self.most_requests, self.refusals = config.batch_requests, 0
        self.rng = random.Random()  # noqa: S311  (jitter of waiting times only)

    # --- parts -----------------------------------------------------------------------------------

    def finish_open_parts(self) -> None:
        """Submit what was noted, and collect what was submitted, by an earlier run."""
        rows = self.db.execute(
            "SELECT part FROM batches WHERE state IN ('noted', 'submitted') ORDER BY part"
        ).fetchall()
        self._carry_through([part for (part,) in rows])

    def answer_rest(self) -> None:
        """Cut the units that are still open into parts until none is open."""
        in_vain = 0
        while keys := self._open():
            self._carry_through(self._note(keys))
            in_vain = 0 if len(self._open()) < len(keys) else in_vain + 1
            if in_vain >= self.config.max_attempts:
                raise _not_submitted(self.config, f"{len(keys)} requests that no batch answered")

    def _open(self) -> list[str]:
        found = []
        for key in self.work.keys:
            entry = self.ledger.entry(key)
            if entry is not None and entry.state in {"planned", "sent"}:
                found.append(key)
        return found

    def _note(self, keys: Sequence[str]) -> list[str]:
        """Write the parts into the ledger and their lines into files; nothing has left yet."""
        parts = []
        budget = self._budget()
        for lines in self._cut(keys, budget):
            (n,) = self.db.execute("SELECT COUNT(*) FROM batches").fetchone()
            part = fingerprint({"keys": [key for key, _, _ in lines], "number": n})[:32]
            path = self._path(part)
            with atomic_path(path) as temporary, temporary.open("wb") as handle:
                for _, line, _ in lines:
                    handle.write(line)
            with self.db:
                self.db.execute(
                    "INSERT INTO batches (part, state, n, bytes) VALUES (?, 'noted', ?, ?)",
                    (part, len(lines), path.stat().st_size),
                )
                self.db.executemany(
                    """UPDATE units SET lost = lost + (state = 'sent' AND batch IS NULL),
                       state = 'sent', attempts = attempts + 1, batch = ?, bound_usd = ?
                       WHERE key = ?""",
                    [(part, bound, key) for key, _, bound in lines],
                )
            parts.append(part)
        return parts

    def _budget(self) -> float | None:
        if self.config.max_cost_usd is None:
            return None
        totals = self.ledger.totals()
        (held,) = self.db.execute(
            "SELECT COALESCE(SUM(bound_usd), 0) FROM units WHERE state = 'sent' AND batch IS NOT NULL"
        ).fetchone()
        return (
            self.config.max_cost_usd - (totals.cost_usd or 0.0) - totals.uncertain_usd - float(held)
        )

    def _cut(
        self, keys: Sequence[str], budget: float | None
    ) -> Iterator[list[tuple[str, bytes, float]]]:
        """Yield parts of key, line and most it can cost, each within the provider's limits."""
        lines: list[tuple[str, bytes, float]] = []
        size, most_bytes = 0, int(self.config.batch_mb * 1e6)
        for key in keys:
            call = self.work.call(key)
            body = chat_payload(self.config, self.config.writer, call)
            line = json.dumps(
                {"custom_id": key, "method": "POST", "url": _ENDPOINT, "body": body},
                ensure_ascii=False,
            ).encode()
            bound = self._cost(most_tokens_in(call.messages, dict(call.schema)), call.max_tokens)
            if budget is not None:
                if (bound or 0.0) > budget:
                    if not lines and size == 0 and key == keys[0]:
                        raise _too_dear(self.config, budget)
                    break
                budget -= bound or 0.0
            if lines and (len(lines) >= self.most_requests or size + len(line) + 1 > most_bytes):
                yield lines
                lines, size = [], 0
            lines.append((key, line + b"\n", bound or 0.0))
            size += len(line) + 1
        if lines:
            yield lines

    def _path(self, part: str) -> Path:
        return self.ledger.path.parent / f"batch-{part}.jsonl"

    def _cost(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        cost = self.config.cost(tokens_in, tokens_out)
        return None if cost is None else round(cost * self.config.batch_price_factor, 8)

    # --- one part --------------------------------------------------------------------------------

    def _carry_through(self, parts: Sequence[str]) -> None:
        waiting = {part: self._submit(part) for part in parts}
        total = sum(self._row(part)[1] for part in parts)
        if not waiting:
            return
        with progress("Waiting for batches", total, "requests") as advance:
            done: dict[str, int] = dict.fromkeys(waiting, 0)
            while waiting:
                for part, batch_id in list(waiting.items()):
                    batch = self._patiently(partial(self.client.batches.retrieve, batch_id))
                    counts = batch.request_counts
                    finished = (counts.completed + counts.failed) if counts else 0
                    advance(max(0, finished - done[part]))
                    done[part] = max(done[part], finished)
                    if batch.status not in _OPEN:
                        self._collect(part, batch)
                        del waiting[part]
                if waiting:
                    time.sleep(self.waits.poll_s)

    def _row(self, part: str) -> tuple[str, int, str | None, str | None]:
        row: tuple[str, int, str | None, str | None] = self.db.execute(
            "SELECT state, n, file_id, batch_id FROM batches WHERE part = ?", (part,)
        ).fetchone()
        return row

    def _submit(self, part: str) -> str:
        """Return the id of a part's batch: the one on the server, or a new one."""
        state, _, file_id, batch_id = self._row(part)
        if state == "submitted" and batch_id:
            return batch_id
        for tries in range(1, self.config.max_attempts + 1):
            found = self._patiently(lambda: self._find(part))
            if found is None:
                file_id = file_id or self._upload(part)
                try:
                    found = self.client.batches.create(
                        input_file_id=file_id,
                        endpoint=_ENDPOINT,
                        completion_window=_WINDOW,
                        metadata={_PART: part},
                    ).id
                except Exception as error:  # noqa: BLE001  (typed below)
                    self._wait_out(error, tries)
                    continue
            with self.db:
                self.db.execute(
                    "UPDATE batches SET state = 'submitted', batch_id = ? WHERE part = ?",
                    (found, part),
                )
            self._path(part).unlink(missing_ok=True)
            return str(found)
        raise _not_submitted(self.config, f"no batch after {self.config.max_attempts} tries")

    def _wait_out(self, error: Exception, tries: int) -> None:
        """Wait until a batch whose create call got no reply would be listed, or raise."""
        typed = typed_error(error, f"writer {self.config.writer}")
        if not isinstance(typed, UnavailableError):
            raise typed from None
        lost = self.waits.settle_s if typed.may_be_billed else 0.0
        time.sleep(
            max(lost, typed.retry_after_s or min(backoff_s(tries, self.rng), self.waits.poll_s))
        )

    def _find(self, part: str) -> str | None:
        for batch in self.client.batches.list(limit=100):
            if (batch.metadata or {}).get(_PART) == part:
                return str(batch.id)
        return None

    def _upload(self, part: str) -> str:
        name = f"okrcell-{part}.jsonl"

        def upload() -> str:
            for file in self.client.files.list(purpose="batch"):
                if file.filename == name:
                    return str(file.id)
            with self._path(part).open("rb") as handle:
                return str(self.client.files.create(file=(name, handle), purpose="batch").id)

        file_id = self._patiently(upload)
        with self.db:
            self.db.execute("UPDATE batches SET file_id = ? WHERE part = ?", (file_id, part))
        return file_id

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask something that may be asked twice without harm."""
        for tries in range(1, self.config.max_attempts + 1):
            try:
                return ask()
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001  (each kind is typed below)
                typed = typed_error(error, f"writer {self.config.writer}")
                if not isinstance(typed, UnavailableError) or tries == self.config.max_attempts:
                    raise typed from None
                time.sleep(
                    typed.retry_after_s or min(backoff_s(tries, self.rng), self.waits.poll_s)
                )
        raise AssertionError("unreachable")

    # --- results ---------------------------------------------------------------------------------

    def _collect(self, part: str, batch: Any) -> None:
        """Settle a part's units from the files of an ended batch; what is missing is open again."""
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id:
                lines = self._patiently(partial(self.client.files.content, file_id)).content
                self._settle(part, lines)
        why = _why(batch)
        with self.db:
            left = self.db.execute(
                "SELECT key FROM units WHERE batch = ? AND state = 'sent'", (part,)
            ).fetchall()
            for (key,) in left:
                mark_planned(self.db, key, f"batch_{batch.status}", why)
            self.db.execute(
                "UPDATE batches SET state = ?, error = ? WHERE part = ?", (batch.status, why, part)
            )
        if batch.status != "completed" and left:
            self._refused(batch, why)

    def _settle(self, part: str, content: bytes) -> None:
        lines = [line for line in content.split(b"\n") if line.strip()]
        for at in range(0, len(lines), _LINES_PER_COMMIT):
            with self.db:
                settled = sum(self._line(part, line) for line in lines[at : at + _LINES_PER_COMMIT])
            for _ in range(settled):
                self.work.on_settled()

    def _line(self, part: str, line: bytes) -> bool:
        """Settle the unit of one line; False where it stays open or is no unit of the part."""
        try:
            row = json.loads(line)
            key, response = str(row["custom_id"]), row.get("response") or {}
            status = int(response.get("status_code") or 0)
        except (ValueError, LookupError, TypeError, AttributeError):
            return False
        mine = self.db.execute(
            "SELECT 1 FROM units WHERE key = ? AND batch = ? AND state = 'sent'", (key, part)
        ).fetchone()
        if mine is None:
            return False
        if status == 200:
            answer = read_completion(json.dumps(response.get("body")).encode())
            self._answered(self.db, key, answer)
            return True
        message = scrub(json.dumps(row.get("error") or response.get("body")))[:300]
        if status in {0, 408, 409, 429} or status >= 500:
            mark_planned(self.db, key, "unavailable", message)
            return False
        mark_settled(self.db, key, None, ("refused", message), None)
        return True

    def _answered(self, db: sqlite3.Connection, key: str, answer: Answer) -> None:
        cost = self._cost(answer.tokens_in, answer.tokens_out)
        mark_settled(db, key, answer, self.work.problem(key, answer), cost)

    def _refused(self, batch: Any, why: str) -> None:
        """Go on with smaller parts after a while, or raise where that has not helped."""
        self.refusals += 1
        if self.refusals > _MOST_REFUSALS:
            raise ProviderUnavailableError(
                f"batch {batch.id}",
                found=f"status '{batch.status}' ({why})",
                expected="a completed batch",
                fix="Run the same command again later, or set batch_requests lower; nothing is lost.",
            )
        say(
            f"Batch {batch.id} ended as '{batch.status}' ({why}); its open requests go into smaller ones."
        )
        self.most_requests = max(1, self.most_requests // 2)
        time.sleep(min(backoff_s(self.refusals, self.rng), self.waits.poll_s))


def _why(batch: Any) -> str:
    errors = getattr(batch.errors, "data", None) or []
    return scrub("; ".join(str(error.message or error.code) for error in errors))[:300]


def _too_dear(config: EnrichConfig, left: float) -> ConfigError:
    return ConfigError(
        "max_cost_usd",
        found=f"{max(0.0, left):.4f} USD left of {config.max_cost_usd:g}, and the next request could take more",
        expected="room for the next request",
        fix="Plan the job again with a higher --max-cost and run it; what is paid is kept.",
    )


def _not_submitted(config: EnrichConfig, found: str) -> ProviderError:
    return ProviderUnavailableError(
        f"writer {config.writer}",
        found=found,
        expected="batches that are created and answered",
        fix="Run the same command again later; what was noted is found again.",
    )
