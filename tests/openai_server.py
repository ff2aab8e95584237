"""A stand-in for a paid provider: OpenAI's chat, files and batches over real sockets, with faults.

In a thread: ``with FakeOpenAI(latency=0.1, faults="mix20") as server: server.url``. As a process,
which a killed client cannot harm: ``python tests/openai_server.py --latency 1 --faults mix20``
prints ``READY http://127.0.0.1:PORT/v1``. What it billed is in ``server.stats`` or behind
``GET /admin/stats``; ``POST /admin/config`` and ``POST /admin/reset`` change and clear it.

An answer is computed and billed when its request arrives, so what becomes of the connection
afterwards changes nothing: a provider bills a client that is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import resource
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import parse_qs, urlsplit

sys.path.append(str(Path(__file__).parent))  # the tests are no package
from openai_batches import Batches
from openai_faults import (
    STATUS,
    WRITERS,
    Behaviour,
    Fault,
    message_text,
    minimal,
    named_fault,
    prose,
    spoil,
    write_draft,
    write_obedient,
)
from openai_wire import (
    Lost,
    Refused,
    Reply,
    checked,
    digest_of,
    error_body,
    failure,
    parse,
    prompt_tokens,
    reset,
    send,
)

__all__ = ["WRITERS", "Behaviour", "FakeOpenAI", "Fault", "main"]

Body = dict[str, Any]


class _State:
    """What the server keeps: replaced as a whole by ``reset``."""

    def __init__(self, server: FakeOpenAI) -> None:
        self.billed: list[dict[str, Any]] = []
        self.received: Counter[str] = Counter()
        self.fault_counts: Counter[str] = Counter()
        self.arrivals: list[list[Any]] = []  # monotonic time, tokens, HTTP status (0: reset)
        self.admitted: deque[list[Any]] = deque()  # the arrivals in the current window
        self.window_tokens = 0
        self.flight: set[asyncio.StreamReader] = set()
        self.max_in_flight = self.limited = 0
        self.authorizations: set[str] = set()
        self.crashes: list[str] = []
        self.batches = Batches(
            server.behaviour,
            lambda body, times, custom_id: server._line(self, body, times, custom_id),
        )


class _Connection(asyncio.StreamReaderProtocol):
    """Tells when the client hangs up: what it no longer waits for is not in flight."""

    def __init__(self, server: FakeOpenAI) -> None:
        self.reader, self.server = asyncio.StreamReader(limit=2**20), server
        super().__init__(self.reader, server._connection)

    def eof_received(self) -> bool | None:
        self.server.state.flight.discard(self.reader)
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.state.flight.discard(self.reader)
        super().connection_lost(exc)


class FakeOpenAI:
    """The server, in a thread of its own between ``start`` and ``close`` (or ``with``).

    Parameters
    ----------
    port
        0 takes a free one.
    log
        Folder for ``events.jsonl``, written line by line, and ``stats.json``, written at the end.
    behaviour
        Fields of ``Behaviour``.
    """

    def __init__(self, *, port: int = 0, log: Path | None = None, **behaviour: Any) -> None:
        self.behaviour, self.url = Behaviour(), ""
        self.configure(**behaviour)
        self.state = _State(self)
        self._port, self._log_to = port, log
        self._log_file: TextIO | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None

    # --- for the test ----------------------------------------------------------------------------

    def __enter__(self) -> FakeOpenAI:
        return self.start()

    def __exit__(self, *args: object) -> None:
        self.close()

    def start(self) -> FakeOpenAI:
        ready = threading.Event()

        def work() -> None:
            try:
                asyncio.run(self.serve(ready.set))
            except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
                self._failure = error
            ready.set()

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
        ready.wait()
        if self._failure:
            raise self._failure
        return self

    def close(self) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    @property
    def stats(self) -> dict[str, Any]:
        """What the server saw and billed until now."""
        if self._loop is None:
            return self._collect()
        return asyncio.run_coroutine_threadsafe(self._stats(), self._loop).result(30)

    def configure(self, **changes: Any) -> None:
        """Change fields of ``behaviour``, also while the server runs."""
        defaults = {field.name: field.default for field in dataclasses.fields(Behaviour)}
        if not set(changes) <= set(defaults):
            raise ValueError(f"unknown behaviour {sorted(set(changes) - set(defaults))}")
        named_fault(changes.get("faults", ""), 0, {}, "", 1)  # refuses an unknown name
        for name, value in changes.items():
            default = defaults[name]
            if default is None and not (value is None or callable(value)):
                raise ValueError(f"{name} is a function: set it in the server's process")
            setattr(self.behaviour, name, value if default is None else type(default)(value))

    def reset(self) -> None:
        """Forget bills, files and batches; the behaviour stays."""
        self.state = _State(self)

    async def serve(self, ready: Callable[[], None]) -> None:
        """Serve in this loop until stopped; ``ready`` is called once the URL is known."""
        loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self._port, backlog=4096
        )
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        if self._log_to:
            self._log_to.mkdir(parents=True, exist_ok=True)
            self._log_file = (self._log_to / "events.jsonl").open("a", buffering=1)
        self._loop = loop
        ready()
        await self._stop.wait()
        self._loop = None
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # the sockets close in the loop's next turns
        if self._log_to and self._log_file:
            self._log_file.close()
            (self._log_to / "stats.json").write_text(json.dumps(self._collect()))

    # --- HTTP ------------------------------------------------------------------------------------

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except Lost:
            reset(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client hung up, or was killed
        except asyncio.CancelledError:
            writer.transport.abort()  # the server closes
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether another may follow on this connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        headers = {}
        for line in head[1:-2]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        state = self.state
        try:
            if "transfer-encoding" in headers:
                raise Refused(411, "Send a Content-Length.")
            if (method, target) == ("POST", "/v1/chat/completions"):
                await self._chat(state, reader, writer, raw, headers.get("authorization", ""))
            else:
                await send(writer, (200, await self._route(method, target, headers, raw), {}))
        except Refused as refused:
            await send(writer, (refused.status, refused.payload, {}))
        except (Lost, ConnectionError):
            raise
        except Exception as error:  # noqa: BLE001  (a writer or fault of the test may raise any)
            state.crashes.append(repr(error))
            await send(writer, (500, error_body(f"The test server failed: {error!r}"), {}))
        return headers.get("connection", "").lower() != "close"

    async def _route(
        self, method: str, target: str, headers: dict[str, str], raw: bytes
    ) -> Body | bytes:
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        match [method, *url.path.strip("/").split("/")]:
            case ["GET", "v1", "models"]:
                model = {"id": "fake-1", "object": "model", "created": 0, "owned_by": "tests"}
                return {"object": "list", "data": [model]}
            case ["GET", "admin", "stats"]:
                return await self._stats()
            case ["POST", "admin", "config"]:
                try:
                    self.configure(**parse(raw))
                except (TypeError, ValueError) as error:
                    raise Refused(400, str(error)) from None
                return {}
            case ["POST", "admin", "reset"]:
                self.reset()
                return {}
            case [_, "v1", *path]:
                kind = headers.get("content-type", "")
                found = await self.state.batches.route(method, path, query, kind, raw)
                if found is not None:
                    return found
        raise Refused(404, f"Invalid URL ({method} {url.path})")

    # --- chat ------------------------------------------------------------------------------------

    async def _chat(
        self,
        state: _State,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        raw: bytes,
        key: str,
    ) -> None:
        how = self.behaviour
        state.flight.add(reader)
        state.max_in_flight = max(state.max_in_flight, len(state.flight))
        state.authorizations.add(key)
        arrival = [time.monotonic(), 0, 400]
        state.arrivals.append(arrival)
        try:
            fault, reply = self._decide(state, arrival, checked(parse(raw)), key)
            cut = fault.transport in ("reset", "stall", "reset_mid_body")
            arrival[2] = 0 if cut else reply[0]
            await asyncio.sleep(how.latency)
            if fault.transport == "stall":
                await asyncio.sleep(how.stall_s if fault.seconds is None else fault.seconds)
            if fault.transport in ("reset", "stall"):
                raise Lost
            drip_s = 0.0
            if fault.transport == "drip":
                drip_s = how.drip_s if fault.seconds is None else fault.seconds
            await send(writer, reply, drip_s=drip_s, cut=cut)
        finally:
            state.flight.discard(reader)

    def _decide(
        self, state: _State, arrival: list[Any], body: Body, key: str
    ) -> tuple[Fault, Reply]:
        """Return what becomes of a request: a fault, if any, and the reply; bill an answer."""
        digest = digest_of(body)
        state.received[digest] += 1
        attempt = state.received[digest]
        arrival[1] = prompt_tokens(self._seen(body))
        wait = self._over_limit(state, arrival)
        fault = Fault() if wait else self._fault(state, body, digest, attempt)
        if wait:
            state.limited += 1
            limited = error_body("Rate limit reached.", "rate_limit_exceeded")
            reply: Reply = (429, limited, {"Retry-After": f"{wait:.3f}"})
        elif fault.transport in STATUS:
            reply = failure(fault, self.behaviour)
        elif fault.transport == "reset":
            reply = (0, b"", {})
        else:
            answer = self._answer(state, body, digest, fault, key)
            state.window_tokens += state.billed[-1]["tokens_out"]
            arrival[1] += state.billed[-1]["tokens_out"]
            reply = (200, answer, {})
        event = {"at": arrival[0], "hash": digest, "attempt": attempt, "status": reply[0]}
        self._log(event | {"content": fault.content, "transport": fault.transport})
        return fault, reply

    def _over_limit(self, state: _State, arrival: list[Any]) -> float:
        """Admit an arrival and return 0, or return the seconds after which to try again."""
        how, admitted = self.behaviour, state.admitted
        while admitted and admitted[0][0] <= arrival[0] - how.window_s:
            state.window_tokens -= admitted.popleft()[1]
        # Alone in the window, even a request above the limit passes: waiting would not help it.
        over = bool(how.rpm) and len(admitted) >= how.rpm
        over_tokens = how.tpm and admitted and state.window_tokens + arrival[1] > how.tpm
        if over or over_tokens:
            return max(0.001, admitted[0][0] + how.window_s - arrival[0])
        admitted.append(arrival)
        state.window_tokens += arrival[1]
        return 0.0

    def _fault(self, state: _State, body: Body, digest: str, attempt: int) -> Fault:
        how = self.behaviour
        if how.fault:
            fault = how.fault(body, attempt) or Fault()
        else:
            fault = named_fault(how.faults, how.seed, body, digest, attempt) or Fault()
        if fault.transport:
            state.fault_counts[fault.transport] += 1
        return fault

    def _seen(self, body: Body) -> Body:
        """Return the body as the model sees it, which may be the end of the prompt only."""
        left = self.behaviour.truncate_prompt
        if not left:
            return body
        messages: list[Any] = []
        for message in reversed(body["messages"]):
            text = message_text(message)[-left:] if left else ""
            messages.insert(0, {**message, "content": text})
            left -= len(text)
        return {**body, "messages": messages}

    def _answer(
        self, state: _State, body: Body, digest: str, fault: Fault, key: str, custom_id: str = ""
    ) -> Body:
        """Return a chat completion, and bill it."""
        how, seen = self.behaviour, self._seen(body)
        written = how.writer(seen) if how.writer else self._write(seen, key)
        written = prose(written) if how.schema_ignoring else written
        content, finish, refusal = spoil(written, fault.content)
        if fault.content:
            state.fault_counts[fault.content] += 1
        texts = [content]
        if fault.transport == "duplicate":  # the second is as valid, but not the same
            other = spoil(written, "invented_quotes")[0]
            texts.append("{}" if other == content else other)
        tokens_in = prompt_tokens(seen)
        tokens_out = sum(len(text or refusal or "") // 4 + 1 for text in texts)
        bill: dict[str, Any] = {"hash": digest, "custom_id": custom_id}
        bill |= {"tokens_in": tokens_in, "tokens_out": tokens_out}
        state.billed.append(bill)
        self._log({"billed": bill})
        answer: Body = {
            "id": f"chatcmpl-{digest[:24]}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body.get("model", "fake-1"),
        }
        if fault.content != "no_choices":
            answer["choices"] = [
                {
                    "index": number,
                    "message": {"role": "assistant", "content": text, "refusal": refusal},
                    "finish_reason": finish,
                }
                for number, text in enumerate(texts)
            ]
        if not how.no_usage:
            usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}
            answer["usage"] = usage | {"total_tokens": tokens_in + tokens_out}
        return answer

    def _write(self, body: Body, key: str) -> str:
        asked = (body.get("response_format") or {}).get("json_schema") or {}
        name = asked.get("name", "Draft")
        if name not in WRITERS:
            return json.dumps(minimal(asked.get("schema", {})))
        if self.behaviour.obedient and WRITERS[name] is write_draft:
            return write_obedient(body, key.removeprefix("Bearer "))
        return WRITERS[name](body)

    def _line(self, state: _State, body: Body, times: int, custom_id: str) -> tuple[int, Any]:
        """Answer one line of a batch; of the transport faults only the statuses apply."""
        try:
            digest = digest_of(checked(body))
        except Refused as refused:
            return refused.status, refused.payload
        fault = self._fault(state, body, digest, times)
        if fault.transport in STATUS:
            return STATUS[fault.transport], error_body("The server failed.", "server_error")
        # Not ``duplicate``: a batch's answers are made once.
        return 200, self._answer(state, body, digest, Fault(fault.content), "", custom_id)

    # --- the books -------------------------------------------------------------------------------

    async def _stats(self) -> dict[str, Any]:
        await self.state.batches.advance_all()
        return self._collect()

    def _collect(self) -> dict[str, Any]:
        state = self.state
        return {
            "billed": list(state.billed),
            "tokens_in": sum(bill["tokens_in"] for bill in state.billed),
            "tokens_out": sum(bill["tokens_out"] for bill in state.billed),
            "received": dict(state.received),
            "arrivals": [list(arrival) for arrival in state.arrivals],
            "in_flight": len(state.flight),
            "max_in_flight": state.max_in_flight,
            "limited": state.limited,
            "faults": dict(state.fault_counts),
            "crashes": list(state.crashes),
            "authorizations": sorted(state.authorizations),
            "submitted": dict(state.batches.submitted),
            "files": sorted(state.batches.files),
            "batches": state.batches.snapshot(),
        }

    def _log(self, event: dict[str, Any]) -> None:
        if self._log_file:
            self._log_file.write(json.dumps(event) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; every plain field of ``Behaviour`` is an option."""
    parser = argparse.ArgumentParser(description="A stand-in for OpenAI's API, with faults.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path, help="folder for events.jsonl and stats.json")
    for field in dataclasses.fields(Behaviour):
        option = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(option, action="store_true")
        elif field.default is not None:
            parser.add_argument(option, type=type(field.default), default=field.default)
    server = FakeOpenAI(**vars(parser.parse_args(argv)))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection takes one

    def ready() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server._stop.set)
        print(f"READY {server.url}", flush=True)

    asyncio.run(server.serve(ready))


if __name__ == "__main__":
    main()
