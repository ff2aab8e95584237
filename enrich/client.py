"""The one door to language models: langchain behind a small protocol, with typed errors.

The API key is read from the environment by the provider's own package. It is never a parameter
here, and whatever a server sends back is scrubbed of it before it is kept or shown.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.prompts import Message
from okrcell.errors import (
    ConfigError,
    DependencyError,
    ProviderError,
    ProviderUnavailableError,
)

__all__ = [
    "AccessError",
    "Answer",
    "Call",
    "ChatClient",
    "UnavailableError",
    "chat_payload",
    "open_client",
    "open_openai",
    "read_completion",
    "scrub",
    "typed_error",
]

# Long enough to spare prose: "bearer exhibiting" and "sk-channels" are words of the field.
_KEY_LIKE = re.compile(r"\bsk-[A-Za-z0-9_*.\-]{16,}|\b[Bb]earer\s+[A-Za-z0-9._\-]{20,}")
_SECRET_NAME = re.compile(r"(API_KEY|_TOKEN|_SECRET)$")
_SHOWN = 300  # characters of a provider's message
_TRANSIENT = frozenset({408, 409, 425, 429})
_ACCESS = frozenset({401, 403, 404})
_ROLES = {"system": "system", "human": "user", "ai": "assistant"}
# The call never left: nothing can have been billed.
_NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"})


@dataclass(frozen=True)
class Call:
    """One question to a model: messages, the name and JSON schema of the answer, and parameters."""

    messages: Sequence[Message]
    name: str
    schema: Mapping[str, Any]
    seed: int
    max_tokens: int


@dataclass(frozen=True)
class Answer:
    """What came back; token counts are None where the server does not report them."""

    text: str
    tokens_in: int | None
    tokens_out: int | None
    finish_reason: str


class ChatClient(Protocol):
    """A model that answers in JSON."""

    async def complete(self, call: Call) -> Answer:
        """Return the model's answer, or raise a ``ProviderError``."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class UnavailableError(ProviderUnavailableError):
    """A ``ProviderUnavailableError`` with what the ledger needs to know.

    ``retry_after_s`` is how long the server asks to wait; ``may_be_billed`` says that the call went
    out and no reply came, so that the server may have answered and billed it; ``is_rate_limit``
    that the server is well and asks for patience.
    """

    retry_after_s: float | None = None
    may_be_billed: bool = False
    is_rate_limit: bool = False


class AccessError(ProviderError):
    """The endpoint refuses us or lacks the model: no request of this job can succeed."""


def scrub(text: str) -> str:
    """Return a text without API keys: those of the environment, and whatever looks like one."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name):
            text = text.replace(value, "[key]")
    return _KEY_LIKE.sub("[key]", text)


def open_client(config: EnrichConfig, model: str | None = None) -> ChatClient:
    """Return a client of ``model``, or of ``config.writer``: ``provider:model`` as langchain reads it.

    Raises
    ------
    ConfigError
        The provider is unknown, or its key is not in the environment.
    DependencyError
        The provider's package is not installed.
    """
    name = model or config.writer
    chat = _open_model(config, name)
    if _speaks_openai(chat):
        return _OpenAIClient(chat, config, name)
    return _LangchainClient(chat, config, name)


def open_openai(config: EnrichConfig) -> Any:
    """Return the openai package's own (synchronous) client of the writer, for files and batches.

    Raises
    ------
    ConfigError
        The writer's provider does not speak OpenAI's protocol; or as :func:`open_client`.
    """
    chat = _open_model(config, config.writer)
    if not _speaks_openai(chat):
        raise ConfigError(
            "--batch-api",
            found=f"the writer {config.writer}",
            expected="a provider that speaks OpenAI's protocol for files and batches",
            fix="Run without --batch-api.",
        )
    return chat.root_client


def _open_model(config: EnrichConfig, name: str) -> Any:
    from langchain.chat_models import init_chat_model

    options: dict[str, Any] = {
        "temperature": config.temperature,
        "timeout": config.timeout_s,
        "max_retries": 0,  # the ledger retries, and counts
    }
    if config.base_url:
        options["base_url"] = config.base_url
    if name.startswith("openai:"):
        options["use_responses_api"] = False
        if not os.environ.get("OPENAI_API_KEY"):
            if not config.base_url:
                raise ConfigError(
                    f"writer {name}",
                    found="no API key",
                    expected="the environment variable OPENAI_API_KEY",
                    fix="Export the key, or name a server of your own with --base-url.",
                )
            options["api_key"] = "none"  # a local server asks for no key, the library for some
    try:
        return init_chat_model(name, **options)
    except ImportError as error:
        package = re.search(r"pip install ([\w\-]+)", str(error))
        raise DependencyError(
            f"writer {name}",
            found="no package for this provider",
            expected=f"the package {package[1] if package else 'of the provider'}",
            fix=f"Run: pip install {package[1] if package else 'langchain-PROVIDER'}",
        ) from None
    except Exception as error:  # noqa: BLE001  (each provider's package raises its own kinds)
        raise ConfigError(
            f"writer {name}",
            found=scrub(f"{type(error).__name__}: {error}")[:_SHOWN],
            expected="a PROVIDER:MODEL that langchain's init_chat_model opens",
            fix="Correct the name, or set the provider's key in the environment.",
        ) from None


def _speaks_openai(chat: Any) -> bool:
    """Whether langchain's model holds a client of the openai package."""
    import openai

    return isinstance(getattr(chat, "root_async_client", None), openai.AsyncOpenAI)


def chat_payload(config: EnrichConfig, model: str, call: Call) -> dict[str, Any]:
    """Return the body of a chat completion, for one call or for a line of a batch."""
    # Servers of others know the older name; OpenAI's newer models refuse it.
    limit = "max_tokens" if config.base_url else "max_completion_tokens"
    return {
        "model": model.partition(":")[2],
        "messages": [{"role": _ROLES[role], "content": text} for role, text in call.messages],
        "temperature": config.temperature,
        "seed": call.seed,
        limit: call.max_tokens,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": call.name, "schema": dict(call.schema), "strict": True},
        },
    }


class _OpenAIClient:
    """The openai package's client that langchain opened, asked without the layers above it.

    They cost 5 ms of processor time per call, three times what the call itself takes, and hide the
    raw body, which is kept where it is no valid answer.
    """

    def __init__(self, chat: Any, config: EnrichConfig, name: str) -> None:
        import openai

        # langchain shares one pool of connections between its models; this one is closed by us.
        pool = openai.DefaultAsyncHttpxClient()
        self._client = chat.root_async_client.copy(http_client=pool)
        self._config, self._name = config, name

    async def complete(self, call: Call) -> Answer:
        payload = chat_payload(self._config, self._name, call)
        try:
            raw = await self._client.chat.completions.with_raw_response.create(**payload)
        except Exception as error:  # noqa: BLE001  (typed below)
            raise typed_error(error, f"writer {self._name}") from None
        return read_completion(raw.content)

    async def close(self) -> None:
        await self._client.close()


def read_completion(body: bytes) -> Answer:
    """Return the answer in the body of a chat completion; an unusable body is kept as its text."""
    text = body.decode("utf-8", "replace")
    try:
        content = json.loads(text)
        choice = content["choices"][0]
        message = choice["message"]
        said, refusal = message.get("content"), message.get("refusal")
        usage = content.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        tokens_in, tokens_out = (int(n) if isinstance(n, int) else None for n in counts)
        reason = "refusal" if refusal else str(choice.get("finish_reason") or "missing")
        return Answer(scrub(str(refusal or said or "")), tokens_in, tokens_out, reason)
    except (ValueError, LookupError, TypeError, AttributeError):
        return Answer(scrub(text), None, None, "invalid_response")


class _LangchainClient:
    """Any other provider, through langchain's structured output."""

    def __init__(self, chat: Any, config: EnrichConfig, name: str) -> None:
        self._model, self._where = chat, f"writer {name}"

    async def complete(self, call: Call) -> Answer:
        schema = {"title": call.name, "description": "The answer.", **call.schema}
        try:
            structured = self._model.with_structured_output(
                schema, method="json_schema", include_raw=True
            )
            raw = (await structured.ainvoke(list(call.messages)))["raw"]
        except Exception as error:  # noqa: BLE001  (each provider's package raises its own kinds)
            raise typed_error(error, self._where) from None
        usage = raw.usage_metadata or {}
        return Answer(
            text=scrub(raw.text),
            tokens_in=usage.get("input_tokens"),
            tokens_out=usage.get("output_tokens"),
            finish_reason=_finish_reason(raw.response_metadata),
        )

    async def close(self) -> None:
        return None


def _finish_reason(metadata: Mapping[str, Any]) -> str:
    """Return the reason in OpenAI's words; other providers say the same in theirs."""
    reason = str(metadata.get("finish_reason") or metadata.get("stop_reason") or "missing")
    return "stop" if reason.lower() in {"stop", "end_turn", "stop_sequence"} else reason


def typed_error(error: Exception, where: str) -> ProviderError:
    """Return our error for a provider's: by its HTTP status, or as a lost connection."""
    status = getattr(error, "status_code", None)
    response = getattr(error, "response", None)
    found = scrub(f"{type(error).__name__}: {error}")[:_SHOWN]
    kind = type(error).__name__.lower()
    lost = status is None and any(word in kind for word in ("timeout", "connect", "network"))
    if lost or (status is not None and (status in _TRANSIENT or status >= 500)):
        unavailable = UnavailableError(
            where,
            found=found,
            expected="an endpoint that answers",
            fix="Run the same command again later; what is answered is kept.",
        )
        unavailable.may_be_billed = lost and type(error.__cause__).__name__ not in _NEVER_SENT
        unavailable.is_rate_limit = status == 429
        unavailable.retry_after_s = _retry_after(getattr(response, "headers", {}))
        return unavailable
    if status in _ACCESS:
        return AccessError(
            where,
            found=found,
            expected="an endpoint that accepts the key and knows the model",
            fix="Check the key in the environment, --writer and --base-url, then run again.",
        )
    return ProviderError(
        where,
        found=found,
        expected="an answer",
        fix="The failure is recorded; see the message for its cause.",
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: as milliseconds, seconds or a date."""
    try:
        if headers.get("retry-after-ms"):
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        try:
            return max(0.0, float(value))
        except ValueError:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None  # absent or unreadable: back off on our own
