"""Files and batches of the stand-in provider of ``openai_server``: kept in memory, with faults."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from openai_faults import Behaviour, draw
from openai_wire import Lost, Refused, parse

__all__ = ["Batches"]

Fields = dict[str, Any]

_FINAL = ("completed", "failed", "expired", "cancelled")
_TURN = 50  # lines of a batch before other requests get their turn


@dataclasses.dataclass
class _Batch:
    fields: Fields
    lines: list[tuple[str, int, bytes]]  # custom id, how many times submitted, the line
    problems: list[Fields]
    born: float
    polls: int = 0
    done: int = 0
    outputs: list[Fields] = dataclasses.field(default_factory=list)
    errors: list[Fields] = dataclasses.field(default_factory=list)
    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)

    def enter(self, status: str) -> None:
        if self.fields["status"] != status:
            self.fields |= {"status": status, f"{status}_at": int(time.time())}


class Batches:
    """The files and batches of one server.

    Parameters
    ----------
    answer
        Maps the body of a line, the times its custom id was submitted, and the custom id to an HTTP
        status and a reply, and bills what it answers.
    """

    def __init__(
        self, how: Behaviour, answer: Callable[[Fields, int, str], tuple[int, Any]]
    ) -> None:
        self._how, self._answer = how, answer
        self.submitted: Counter[str] = Counter()
        self.files: dict[str, tuple[Fields, bytes]] = {}
        self._batches: dict[str, _Batch] = {}
        self._n_files = self._n_batches = 0

    async def route(
        self, method: str, path: list[str], query: dict[str, str], content_type: str, raw: bytes
    ) -> Fields | bytes | None:
        """Return the reply to a request for ``/v1/`` and ``path``; None if it is not for us."""
        match [method, *path]:
            case ["POST", "files"]:
                return self._upload(content_type, raw)
            case ["GET", "files"]:
                wanted = query.get("purpose")
                found = [fields for fields, _ in self.files.values()]
                return _page([f for f in found if wanted in (None, f["purpose"])], query)
            case ["GET", "files", file_id]:
                return self._file(file_id)[0]
            case ["GET", "files", file_id, "content"]:
                return self._file(file_id)[1]
            case ["DELETE", "files", file_id]:
                self._file(file_id)
                del self.files[file_id]
                return {"id": file_id, "object": "file", "deleted": True}
            case ["POST", "batches"]:
                return await self._create(parse(raw))
            case ["GET", "batches"]:
                return _page(list((await self.advance_all()).values()), query)
            case ["GET", "batches", batch_id]:
                return await self._advance(self._batch(batch_id), poll=True)
            case ["POST", "batches", batch_id, "cancel"]:
                return await self._cancel(self._batch(batch_id))
        return None

    async def advance_all(self) -> dict[str, Fields]:
        """Bring every batch to where its age says it is."""
        for batch in list(self._batches.values()):
            await self._advance(batch)
        return self.snapshot()

    def snapshot(self) -> dict[str, Fields]:
        """Return every batch's fields by its id, oldest first."""
        return {name: dict(batch.fields) for name, batch in self._batches.items()}

    # --- files -----------------------------------------------------------------------------------

    def _store(self, data: bytes, filename: str, purpose: str) -> Fields:
        self._n_files += 1
        fields: Fields = {"id": f"file-{self._n_files:06d}", "object": "file", "bytes": len(data)}
        fields |= {"created_at": int(time.time()), "filename": filename, "purpose": purpose}
        fields |= {"status": "processed"}
        self.files[fields["id"]] = (fields, data)
        return fields

    def _upload(self, content_type: str, raw: bytes) -> Fields:
        boundary = re.search(r'boundary="?([^";]+)', content_type)
        if not boundary:
            raise Refused(400, "Expected multipart/form-data with a boundary.")
        parts: dict[str, tuple[str, bytes]] = {}
        for part in (b"\r\n" + raw).split(b"\r\n--" + boundary[1].encode())[1:-1]:
            head, _, data = part.partition(b"\r\n\r\n")
            names = dict(re.findall(r'\b(name|filename)="([^"]*)"', head.decode()))
            parts[names["name"]] = (names.get("filename", ""), data)
        if not {"file", "purpose"} <= set(parts):
            raise Refused(400, "Expected the fields 'file' and 'purpose'.")
        return self._store(parts["file"][1], parts["file"][0], parts["purpose"][1].decode())

    def _file(self, file_id: str) -> tuple[Fields, bytes]:
        if file_id not in self.files:
            raise Refused(404, f"No such File object: {file_id}")
        return self.files[file_id]

    # --- batches ---------------------------------------------------------------------------------

    def _batch(self, batch_id: str) -> _Batch:
        if batch_id not in self._batches:
            raise Refused(404, f"No batch found with id '{batch_id}'.")
        return self._batches[batch_id]

    async def _create(self, asked: Fields) -> Fields:
        how = self._how
        about, data = self._file(str(asked.get("input_file_id")))
        if about["purpose"] != "batch":
            raise Refused(400, f"Invalid purpose '{about['purpose']}': expected 'batch'.")
        if asked.get("endpoint") != "/v1/chat/completions":
            raise Refused(400, f"Invalid endpoint {asked.get('endpoint')!r}.")
        if asked.get("completion_window") != "24h":
            raise Refused(400, "Invalid completion_window: expected '24h'.")
        read, problems = await _read_input(data, how)
        self._n_batches += 1
        if not problems and self._n_batches <= how.fail_first:
            message = "Enqueued token limit reached. Please try again once some batches end."
            problems = [_problem("token_limit_exceeded", message)]
        if not problems:
            self.submitted.update(custom_id for custom_id, _ in read)
        now = int(time.time())
        fields: Fields = {
            "id": f"batch_{self._n_batches:06d}",
            "object": "batch",
            "status": "validating",
        }
        fields |= {name: asked[name] for name in ("endpoint", "input_file_id", "completion_window")}
        fields |= {"created_at": now, "expires_at": now + 86_400, "metadata": asked.get("metadata")}
        fields |= {"errors": None, "output_file_id": None, "error_file_id": None}
        fields |= {"request_counts": {"total": len(read), "completed": 0, "failed": 0}}
        lines = [(custom_id, self.submitted[custom_id], line) for custom_id, line in read]
        self._batches[fields["id"]] = _Batch(fields, lines, problems, time.monotonic())
        if self._n_batches <= how.drop_create_response:
            raise Lost
        return dict(fields)

    async def _advance(self, batch: _Batch, *, poll: bool = False) -> Fields:
        """Bring a batch to where its polls or its age say it is, and return its fields."""
        how = self._how
        async with batch.lock:
            batch.polls += poll
            age = time.monotonic() - batch.born
            share = age / how.batch_s if how.batch_s else batch.polls / max(1, how.batch_polls)
            status = batch.fields["status"]
            if status == "cancelling":
                self._end(batch, "cancelled")
            elif status not in _FINAL and share >= 1 / 3:
                if batch.problems:
                    batch.fields["errors"] = {"object": "list", "data": batch.problems}
                    batch.enter("failed")
                else:
                    n_lines = len(batch.lines)
                    batch.enter("in_progress")
                    await self._work(batch, n_lines if share >= 2 / 3 else int(n_lines * share))
                    if share >= 2 / 3:
                        batch.enter("finalizing")
                    if share >= 1:
                        late = any(line["error"] for line in batch.errors)
                        self._end(batch, "expired" if late else "completed")
            return dict(batch.fields)

    async def _work(self, batch: _Batch, until: int) -> None:
        """Answer a batch's lines up to a number."""
        how = self._how
        while batch.done < until:
            custom_id, times, line = batch.lines[batch.done]
            batch.done += 1
            name = f"{batch.fields['id'].replace('_', '_req_')}_{batch.done:06d}"
            result: Fields = {"id": name, "custom_id": custom_id, "response": None, "error": None}
            if draw(how.seed, "expire", custom_id, times) < how.expire_share:
                message = "This request could not be executed before the completion window expired."
                result["error"] = {"code": "batch_expired", "message": message}
                batch.errors.append(result)
            else:
                status, reply = self._answer(json.loads(line)["body"], times, custom_id)
                result["response"] = {"status_code": status, "request_id": name, "body": reply}
                (batch.outputs if status == 200 else batch.errors).append(result)
            if batch.done % _TURN == 0:
                await asyncio.sleep(0)
        counts = {"completed": len(batch.outputs), "failed": len(batch.errors)}
        batch.fields["request_counts"] = {"total": len(batch.lines), **counts}

    def _end(self, batch: _Batch, status: str) -> None:
        random.Random(f"{self._how.seed}|{batch.fields['id']}").shuffle(batch.outputs)
        for kind, lines in (("output", batch.outputs), ("error", batch.errors)):
            if lines:
                data = "".join(json.dumps(line) + "\n" for line in lines).encode()
                stored = self._store(data, f"{batch.fields['id']}_{kind}.jsonl", "batch_output")
                batch.fields[f"{kind}_file_id"] = stored["id"]
        batch.lines, batch.outputs, batch.errors = [], [], []  # the files have them now
        batch.enter(status)

    async def _cancel(self, batch: _Batch) -> Fields:
        async with batch.lock:
            if batch.fields["status"] in _FINAL:
                status = batch.fields["status"]
                raise Refused(409, f"Cannot cancel a batch with status '{status}'.")
            batch.enter("cancelling")
            return dict(batch.fields)


def _page(items: list[Fields], query: dict[str, str]) -> Fields:
    """Return a page of a list, newest first, that begins behind the id ``after``."""
    items = items if query.get("order") == "asc" else items[::-1]
    names = [item["id"] for item in items]
    if "after" in query:
        if query["after"] not in names:
            raise Refused(400, f"No object found with id '{query['after']}'.")
        items = items[names.index(query["after"]) + 1 :]
    limit = int(query.get("limit", "20"))
    page = items[:limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
    return {"object": "list", "data": page, "has_more": len(items) > limit, **ends}


def _problem(code: str, message: str, line: int | None = None) -> Fields:
    return {"code": code, "message": message, "param": None, "line": line}


async def _read_input(data: bytes, how: Behaviour) -> tuple[list[tuple[str, bytes]], list[Fields]]:
    """Return custom id and line of a batch's requests, and what is wrong with its input."""
    read: list[tuple[str, bytes]] = []
    problems, known, models = [], set(), set()
    lines = [line for line in data.split(b"\n") if line.strip()]
    if not lines:
        problems.append(_problem("empty_file", "The input file is empty."))
    if len(lines) > how.max_batch_requests:
        problems.append(_problem("too_many_tasks", f"{len(lines)} requests are too many."))
    if len(data) > how.max_batch_bytes:
        problems.append(_problem("file_too_large", f"{len(data)} bytes are too many."))
    for number, line in enumerate(lines, 1):
        if number % _TURN == 0:
            await asyncio.sleep(0)
        try:
            asked = json.loads(line)
            custom_id, where = str(asked["custom_id"]), (asked["method"], asked["url"])
            models.add(str(asked["body"]["model"]))
        except (ValueError, KeyError, TypeError):
            problems.append(_problem("invalid_json_line", "This line is no request.", number))
            continue
        if where != ("POST", "/v1/chat/completions"):
            problems.append(_problem("invalid_url", f"Not the batch's endpoint: {where}", number))
        if custom_id in known:
            problems.append(_problem("duplicate_custom_id", f"{custom_id!r} is taken.", number))
        known.add(custom_id)
        read.append((custom_id, line))
    if len(models) > 1:
        problems.append(_problem("mismatched_model", f"Several models: {sorted(models)}"))
    return read, problems
