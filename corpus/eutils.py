"""A polite client of NCBI's E-utilities: paced, retried, and silent about its key.

Requests go by POST, so that the key stands in no URL. It is taken out of every message that the
server or a library writes. Redirections to another host are not followed.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import IO, Any, TypeVar

from okrcell.errors import ConfigError, ProviderError, ProviderUnavailableError

__all__ = ["BASE_URL", "Eutils", "RefusedError", "UnusableAnswerError"]

BASE_URL = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"
_RATE, _RATE_WITH_KEY = 3.0, 10.0  # requests/s that NCBI allows
_MOST_BYTES = 512 << 20
_LONGEST_WAIT_S = 600.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_RETRIED = {408, 425, 429, 500, 502, 503, 504}

T = TypeVar("T")


class UnusableAnswerError(Exception):
    """An answer with status 200 that cannot be used: it is asked for again."""


class RefusedError(ProviderError):
    """The server refused a request; ``reason`` is its own message, without the key."""

    reason = ""


@dataclass
class Eutils:
    """One client; requests are made one after the other.

    Parameters
    ----------
    base_url
        Default: ``OKRCELL_EUTILS_URL``, else NCBI's. Plain http is for this machine only.
    api_key
        Default: ``NCBI_API_KEY``. It raises the rate from 3 to 10 requests/s.
    email
        Default: ``NCBI_EMAIL``. NCBI asks for it, to write to before it blocks an address.
    attempts
        How often a request is made before giving up.
    rate
        Requests/s; default: what NCBI allows.
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    email: str | None = None
    attempts: int = 6
    rate: float | None = None
    timeout_s: float = 120.0
    backoff_s: float = 1.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    requests: int = field(default=0, init=False)
    _next: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.base_url = (self.base_url or os.environ.get("OKRCELL_EUTILS_URL") or BASE_URL).rstrip(
            "/"
        )
        self.api_key = (self.api_key or os.environ.get("NCBI_API_KEY") or "").strip() or None
        self.email = (self.email or os.environ.get("NCBI_EMAIL") or "").strip() or None
        if self.api_key and not (self.api_key.isascii() and self.api_key.isalnum()):
            raise ConfigError(
                "NCBI_API_KEY",
                found="a value with other characters than letters and digits",
                expected="the key as NCBI shows it",
                fix="Set the variable to the key alone, or unset it: a key is not needed.",
            )
        url = urllib.parse.urlsplit(self.base_url)
        if url.scheme != "https" and not (url.scheme == "http" and url.hostname in _LOOPBACK):
            raise ConfigError(
                "OKRCELL_EUTILS_URL",
                found=f"'{_without_login(self.base_url)}'",
                expected="an https address",
                fix="Correct the address, or unset the variable to use NCBI's.",
            )
        self.rate = self.rate or (_RATE_WITH_KEY if self.api_key else _RATE)
        self._opener = urllib.request.build_opener(_SameHost())

    def search(self, term: str, **parameters: str | int) -> dict[str, Any]:
        """Run ``esearch`` on PubMed; return its ``esearchresult``, with ``count`` as a number.

        Raises
        ------
        ProviderError
            The query was refused, or what came back was unusable to the end.
        """
        given = {"term": term, "retmode": "json", "sort": "pub_date", **parameters}
        return self.post("esearch", given, _read_search, f"the search '{_short(term)}'")

    def post(
        self,
        tool: str,
        parameters: Mapping[str, str | int],
        read: Callable[[bytes], T],
        what: str,
    ) -> T:
        """Make a request until ``read`` accepts the answer.

        Parameters
        ----------
        read
            Returns what the answer says, or raises ``UnusableAnswerError``: then the request is
            made again, as after a dropped connection, a time-out, status 429 or a server fault.
        what
            What is asked for, as an error message names it.

        Raises
        ------
        ProviderUnavailableError
            No usable answer after all attempts, or the server asks to wait for over ten minutes.
        RefusedError
            The server refused the request itself.
        """
        fields = {"db": "pubmed", **parameters, "tool": "okrcell"}
        fields |= {"email": self.email} if self.email else {}
        fields |= {"api_key": self.api_key} if self.api_key else {}
        body = urllib.parse.urlencode(fields).encode()
        reason = ""
        for attempt in range(1, self.attempts + 1):
            wait = 0.0
            try:
                return read(self._request(tool, body))
            except urllib.error.HTTPError as error:
                with error:
                    reason = f"status {error.code}: {_short(_peek(error))}"
                    wait = _retry_after(error.headers)
                if error.code not in _RETRIED:
                    raise self._refused(what, reason) from None
            except UnusableAnswerError as error:
                reason = str(error)
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", None) or error) or type(error).__name__
            if wait > _LONGEST_WAIT_S:
                reason += f"; the server asks to wait for {wait:.0f} s"
                break
            if attempt < self.attempts:
                self.sleep(max(wait, self._pause(attempt, body)))
        raise ProviderUnavailableError(
            self.base_url or BASE_URL,
            found=self._scrub(f"no usable answer for {what} ({reason})"),
            expected=f"an answer within {self.attempts} attempts",
            fix="Run the same command again later; it continues with what is missing.",
        )

    def _request(self, tool: str, body: bytes) -> bytes:
        now = self.clock()
        if now < self._next:
            self.sleep(self._next - now)
        self._next = max(now, self._next) + 1 / (self.rate or _RATE)
        self.requests += 1
        # S310: the scheme was checked when the client was made.
        request = urllib.request.Request(f"{self.base_url}/{tool}.fcgi", data=body)  # noqa: S310
        with self._opener.open(request, timeout=self.timeout_s) as answer:
            content: bytes = answer.read(_MOST_BYTES + 1)
            length = answer.headers.get("Content-Length", "")
        if len(content) > _MOST_BYTES:
            raise UnusableAnswerError(f"an answer of over {_MOST_BYTES >> 20} MiB")
        if length.isdigit() and len(content) < int(length):
            raise UnusableAnswerError("an answer that was cut off")
        return content

    def _pause(self, attempt: int, body: bytes) -> float:
        """Seconds before the next attempt: doubling, spread by half, the same in every run."""
        digest = hashlib.sha256(self._scrub_bytes(body) + bytes([attempt])).digest()
        return float(min(self.backoff_s * 2 ** (attempt - 1), 60.0) * (0.75 + digest[0] / 510))

    def _refused(self, what: str, reason: str) -> RefusedError:
        error = RefusedError(
            self.base_url or BASE_URL,
            found=self._scrub(f"{what} refused ({reason})"),
            expected="an answer",
            fix="Correct the query, or check NCBI_API_KEY where the message is about a key.",
        )
        error.reason = self._scrub(reason)
        return error

    def _scrub(self, text: str) -> str:
        return text.replace(self.api_key, "***") if self.api_key else text

    def _scrub_bytes(self, body: bytes) -> bytes:
        return body.replace(self.api_key.encode(), b"") if self.api_key else body


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follow a redirection on the same host only: the body holds the key and the query."""

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            raise urllib.error.HTTPError(req.full_url, 403, "a redirection away", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read_search(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
        found: dict[str, Any] = answer["esearchresult"]
        error = found.get("ERROR") or answer.get("error")
        if not error:
            return {**found, "count": int(found["count"])}
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        message = content[:300].decode(errors="replace")
        raise UnusableAnswerError(f"no search result: {_short(message)} ({problem!r})") from None
    raise UnusableAnswerError(f"the search failed: {_short(str(error))}")


def _retry_after(headers: Any) -> float:
    """Return the seconds a server asks to wait, given as a number or as a date beside its own."""
    value = (headers.get("Retry-After") or "").strip()
    if value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        return max(0.0, (until - parsedate_to_datetime(headers["Date"])).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _peek(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(600).decode(errors="replace") or error.reason
    except (OSError, http.client.HTTPException):
        return str(error.reason)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _without_login(url: str) -> str:
    return url.rpartition("@")[2]
