"""What goes over the wire of ``openai_server``: bodies in, replies and errors out."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import json
import math
import socket
import struct
import time
from typing import Any

from openai_faults import STATUS, Behaviour, Fault, message_text

__all__ = [
    "Lost",
    "Refused",
    "Reply",
    "checked",
    "digest_of",
    "error_body",
    "failure",
    "parse",
    "prompt_tokens",
    "reset",
    "send",
]

Body = dict[str, Any]
Reply = tuple[int, Body | bytes, dict[str, str]]
"""HTTP status, body, further headers."""

_REASON = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests"}
_PIECES = 20  # of a dripping answer


class Refused(Exception):
    """The request is answered by an error."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.payload = status, error_body(message, code)


class Lost(Exception):
    """The connection is reset instead of answered."""


def error_body(message: str, code: str | None = None) -> Body:
    """Return an error as OpenAI words it."""
    kind = code or "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def parse(raw: bytes) -> Body:
    """Return a request's JSON body."""
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refused(400, "We could not parse the JSON body of your request.")
    return body


async def send(
    writer: asyncio.StreamWriter, reply: Reply, *, drip_s: float = 0.0, cut: bool = False
) -> None:
    """Send a reply: at once, in pieces over ``drip_s``, or cut off by a reset in mid-body."""
    status, payload, headers = reply
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    kind = "application/octet-stream" if data is payload else "application/json"
    lines = [f"HTTP/1.1 {status} {_REASON.get(status, 'Status')}", f"Content-Type: {kind}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, f"Content-Length: {len(data)}", "\r\n"]).encode()
    if cut:
        writer.write(head + data[: len(data) // 2])
        await writer.drain()
        await asyncio.sleep(0.01)  # a reset at once would overtake the half that was sent
        raise Lost
    size = max(1, math.ceil(len(data) / _PIECES)) if drip_s else len(data)
    writer.write(head + data[:size])
    for start in range(size, len(data), size or 1):
        await asyncio.sleep(drip_s / _PIECES)
        writer.write(data[start : start + size])
    await writer.drain()


def reset(writer: asyncio.StreamWriter) -> None:
    """Reset a connection, which is ruder than to close it."""
    with contextlib.suppress(OSError):  # the client may have hung up first
        now = struct.pack("ii", 1, 0)  # linger for 0 s
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
    writer.transport.abort()


def failure(fault: Fault, how: Behaviour) -> Reply:
    """Return the reply of a transport fault that is a status."""
    status, headers = STATUS[fault.transport], {}
    seconds = how.retry_after if fault.seconds is None else fault.seconds
    if fault.transport == "429_seconds":
        headers["Retry-After"] = f"{seconds:g}"
    if fault.transport == "429_date":
        when = math.ceil(time.time() + seconds)
        headers["Retry-After"] = email.utils.formatdate(when, usegmt=True)
    if status == 502:  # a gateway in front of the provider speaks HTML
        return status, b"<html><h1>502 Bad Gateway</h1></html>", headers
    code = "rate_limit_exceeded" if status == 429 else "server_error"
    return status, error_body(f"The server had an error ({status}).", code), headers


def checked(body: Body) -> Body:
    """Return the body of a chat request that we can answer."""
    messages = body.get("messages") if isinstance(body, dict) else None
    if not messages or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise Refused(400, "Missing or empty 'messages'.")
    if body.get("stream"):
        raise Refused(400, "This server does not stream.")
    return body


def digest_of(body: Body) -> str:
    """Return the hash of a body, whatever the order of its keys."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def prompt_tokens(body: Body) -> int:
    """Return the tokens of messages and schema, at four bytes each."""
    n_bytes = sum(len(message_text(message).encode()) for message in body["messages"])
    schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
    n_schema = len(json.dumps(schema, separators=(",", ":"))) if schema else 0
    return n_bytes // 4 + 10 + n_schema // 4
