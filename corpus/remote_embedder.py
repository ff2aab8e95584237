"""Text to vectors by a service that speaks the OpenAI embeddings protocol.

The key is read from the environment by name, sent to the service, and shown nowhere: what a server
sends back is scrubbed of it. Nothing is downloaded to count tokens, so lengths are estimates; they
bound requests and snippets well below what such models read.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from okrcell.corpus.embedder import encode_long
from okrcell.errors import ConfigError, EmbedderError, ProviderUnavailableError

__all__ = ["RemoteEmbedder"]

_DEFAULT_URL = "https://api.openai.com/v1"
_MAX_TOKENS = 8191
_BATCH_TEXTS, _BATCH_TOKENS = 128, 30_000
_ATTEMPTS, _FIRST_WAIT_S, _LONGEST_WAIT_S, _TIMEOUT_S = 7, 0.5, 60.0, 60.0
_TRANSIENT = frozenset({408, 409, 425, 429})
_SHOWN = 300
_KEY_LIKE = re.compile(r"\bsk-[A-Za-z0-9_*.\-]{8,}|\b[Bb]earer\s+[A-Za-z0-9._\-]{8,}")
# Four letters make about one token of byte-pair encodings; other scripts take one per character.
_PIECE = re.compile(r"[A-Za-z]{1,4}|\d{1,3}|\S")


class RemoteEmbedder:
    """An ``Embedder`` behind HTTP. Open it with :meth:`from_environment`.

    Parameters
    ----------
    client
        An ``openai.OpenAI``, or anything with ``embeddings.create``; it must not retry itself.
    host
        Host and port of the service: part of ``id``, as a hash.
    key
        The secret, to scrub messages of.
    """

    max_tokens = _MAX_TOKENS

    def __init__(
        self,
        client: Any,
        model: str,
        host: str,
        key: str,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client, self._model, self._key, self._sleep = client, model, key, sleep
        self._where = f"embedder openai:{model}"
        self.dim = 0  # not known before the first answer
        self.dim = int(self._request(["cell"]).shape[1])
        self.id = f"openai:{model}:{self.dim}:{hashlib.sha256(host.encode()).hexdigest()[:8]}"

    @classmethod
    def from_environment(cls, model: str) -> Self:
        """Open a service by ``OPENAI_API_KEY`` and ``OPENAI_BASE_URL``.

        Raises
        ------
        ConfigError
            No key in the environment and no service of one's own; or no name of a model.
        EmbedderError
            The service refuses, or gives no usable vectors.
        ProviderUnavailableError
            It does not answer, after several attempts.
        """
        from openai import OpenAI

        url = os.environ.get("OPENAI_BASE_URL") or _DEFAULT_URL
        key = os.environ.get("OPENAI_API_KEY", "")
        if not key and url == _DEFAULT_URL:
            raise ConfigError(
                f"embedder openai:{model}",
                found="no API key",
                expected="the environment variable OPENAI_API_KEY",
                fix="Export the key, or name a server of your own in OPENAI_BASE_URL.",
            )
        if not model:
            raise ConfigError(
                "embedder openai:",
                found="no model",
                expected="openai:MODEL",
                fix="Name a model of the service, such as openai:text-embedding-3-small.",
            )
        client = OpenAI(
            api_key=key or "none", base_url=url, max_retries=0, timeout=_TIMEOUT_S
        )  # a server of one's own asks for no key, the library for some
        return cls(client, model, urlsplit(url).netloc.rpartition("@")[2], key)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return estimated numbers of tokens; see the module's docstring."""
        return [len(ends) for ends in self.token_ends(texts)]

    def token_ends(self, texts: Sequence[str]) -> list[list[int]]:
        """Return where each estimated token ends."""
        return [[match.end() for match in _PIECE.finditer(text)] for text in texts]

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32 [n, dim], unit rows; equal texts are sent once."""
        return encode_long(self, texts, self._encode_fitting)

    def _encode_fitting(
        self, texts: Sequence[str], lengths: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dim), np.float32)
        for rows in _requests(lengths):
            vectors[rows] = self._request([texts[row] for row in rows])
        return vectors

    def _request(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Send one request, again after a pause where that may help."""
        wait = _FIRST_WAIT_S
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                # A service may refuse an empty text; a space means the same.
                answer = self._client.embeddings.create(
                    model=self._model,
                    input=[text or " " for text in texts],
                    encoding_format="float",
                )
            except Exception as error:  # noqa: BLE001  (the library's kinds are told by status)
                status = getattr(error, "status_code", None)
                lost = status is None and any(
                    word in type(error).__name__.lower() for word in ("timeout", "connect")
                )
                if not lost and not (status and (status in _TRANSIENT or status >= 500)):
                    raise self._refused(error) from None
                if attempt == _ATTEMPTS:
                    raise self._unavailable(error) from None
                self._sleep(min(max(wait, _retry_after(error)), _LONGEST_WAIT_S))
                wait *= 2
                continue
            return self._vectors(answer, len(texts))
        raise AssertionError("unreachable")

    def _vectors(self, answer: Any, n: int) -> npt.NDArray[np.float32]:
        try:
            rows = sorted(answer.data, key=lambda row: row.index)
            found = np.array([row.embedding for row in rows], dtype=np.float64)
            whole = [row.index for row in rows] == list(range(n))
            whole = whole and found.ndim == 2 and found.shape[1] == (self.dim or found.shape[1])
            norms = np.linalg.norm(found, axis=-1, keepdims=True)
            whole = whole and found.shape[1] > 0 and bool(np.isfinite(found).all())
            whole = whole and bool((norms > 0).all())
        except (AttributeError, TypeError, ValueError, IndexError):
            whole = False
        if not whole:
            raise EmbedderError(
                self._where,
                found="an answer that is not one usable vector per text",
                expected=f"{n} finite vectors of "
                + (f"{self.dim} dimensions" if self.dim else "one length"),
                fix="Check that the model is one for embeddings and did not change meanwhile.",
            )
        return np.asarray(found / norms, dtype=np.float32)

    def _refused(self, error: Exception) -> EmbedderError:
        return EmbedderError(
            self._where,
            found=self._shown(error),
            expected="a service that accepts the key and knows the model",
            fix="Check OPENAI_API_KEY, OPENAI_BASE_URL and the name of the model.",
        )

    def _unavailable(self, error: Exception) -> ProviderUnavailableError:
        return ProviderUnavailableError(
            self._where,
            found=f"{self._shown(error)}, {_ATTEMPTS} times",
            expected="a service that answers",
            fix="Run the same command again later: finished batches are kept.",
        )

    def _shown(self, error: Exception) -> str:
        text = f"{type(error).__name__}: {error}"
        if self._key:
            text = text.replace(self._key, "[key]")
        return _KEY_LIKE.sub("[key]", text)[:_SHOWN]


def _requests(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield rows of each request, in order, bounded by number and by tokens."""
    rows: list[int] = []
    tokens = 0
    for row, length in enumerate(lengths):
        if rows and (len(rows) == _BATCH_TEXTS or tokens + length > _BATCH_TOKENS):
            yield rows
            rows, tokens = [], 0
        rows.append(row)
        tokens += length
    if rows:
        yield rows


def _retry_after(error: Exception) -> float:
    try:
        return float(error.response.headers.get("retry-after"))  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError):
        return 0.0  # absent, or a date
