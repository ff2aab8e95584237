"""The one door to language models: langchain behind a small protocol, with typed errors.

The API key is read from the environment by the provider's own package. It is never a parameter
here, and whatever a server sends back is scrubbed of it before it is kept or shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.prompts import Message
from okrcell.errors import (
    ConfigError,
    DependencyError,
    ProviderError,
    ProviderUnavailableError,
)

__all__ = ["AccessError", "Answer", "ChatClient", "UnavailableError", "open_client", "scrub"]

# Long enough to spare prose: "bearer exhibiting" and "sk-channels" are words of the field.
_KEY_LIKE = re.compile(r"\bsk-[A-Za-z0-9_*.\-]{16,}|\b[Bb]earer\s+[A-Za-z0-9._\-]{20,}")
_SECRET_NAME = re.compile(r"(API_KEY|_TOKEN|_SECRET)$")
_SHOWN = 300  # characters of a provider's message
_TRANSIENT = frozenset({408, 409, 425, 429})
_ACCESS = frozenset({401, 403, 404})


@dataclass(frozen=True)
class Answer:
    """What came back; token counts are None where the server does not report them."""

    text: str
    tokens_in: int | None
    tokens_out: int | None
    finish_reason: str


class ChatClient(Protocol):
    """A model that answers in JSON; safe to call from several threads."""

    def complete(self, messages: Sequence[Message], schema: dict[str, Any]) -> Answer:
        """Return the model's answer, or raise a ``ProviderError``."""
        ...


class UnavailableError(ProviderUnavailableError):
    """A ``ProviderUnavailableError`` with what the ledger needs to know.

    ``retry_after_s`` is how long the server asks to wait; ``may_be_billed`` says that the call went
    out and no reply came, so that the server may have answered and billed it.
    """

    retry_after_s: float | None = None
    may_be_billed: bool = False


class AccessError(ProviderError):
    """The endpoint refuses us or lacks the model: no request of this job can succeed."""


def scrub(text: str) -> str:
    """Return a text without API keys: those of the environment, and whatever looks like one."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name):
            text = text.replace(value, "[key]")
    return _KEY_LIKE.sub("[key]", text)


def open_client(config: EnrichConfig) -> ChatClient:
    """Return the client of ``config.writer``, read as ``provider:model`` by langchain.

    Raises
    ------
    ConfigError
        The provider is unknown, or its key is not in the environment.
    DependencyError
        The provider's package is not installed.
    """
    from langchain.chat_models import init_chat_model

    options: dict[str, Any] = {
        "temperature": config.temperature,
        "timeout": config.timeout_s,
        "max_retries": 0,  # the ledger retries, and counts
    }
    if config.base_url:
        options["base_url"] = config.base_url
    if config.writer.startswith("openai:"):
        options |= {"seed": config.seed, "use_responses_api": False}
        if not os.environ.get("OPENAI_API_KEY"):
            if not config.base_url:
                raise ConfigError(
                    f"writer {config.writer}",
                    found="no API key",
                    expected="the environment variable OPENAI_API_KEY",
                    fix="Export the key, or name a server of your own with --base-url.",
                )
            options["api_key"] = "none"  # a local server asks for no key, the library for some
    try:
        return _LangchainClient(init_chat_model(config.writer, **options), config)
    except ImportError as error:
        package = re.search(r"pip install ([\w\-]+)", str(error))
        raise DependencyError(
            f"writer {config.writer}",
            found="no package for this provider",
            expected=f"the package {package[1] if package else 'of the provider'}",
            fix=f"Run: pip install {package[1] if package else 'langchain-PROVIDER'}",
        ) from None
    except Exception as error:  # noqa: BLE001  (each provider's package raises its own kinds)
        raise ConfigError(
            f"writer {config.writer}",
            found=scrub(f"{type(error).__name__}: {error}")[:_SHOWN],
            expected="a PROVIDER:MODEL that langchain's init_chat_model opens",
            fix="Correct --writer, or set the provider's key in the environment.",
        ) from None


class _LangchainClient:
    def __init__(self, model: Any, config: EnrichConfig) -> None:
        self._model, self._where = model, f"writer {config.writer}"
        # "strict" is OpenAI's word; the packages of other providers refuse it.
        self._options = {"strict": True} if config.writer.startswith("openai:") else {}

    def complete(self, messages: Sequence[Message], schema: dict[str, Any]) -> Answer:
        try:
            structured = self._model.with_structured_output(
                schema, method="json_schema", include_raw=True, **self._options
            )
            raw = structured.invoke(list(messages))["raw"]
        except Exception as error:  # noqa: BLE001  (each provider's package raises its own kinds)
            cut = _cut_short(error)
            if cut is not None:
                return cut
            raise _typed(error, self._where) from None
        refusal = raw.additional_kwargs.get("refusal")
        usage = raw.usage_metadata or {}
        return Answer(
            text=scrub(refusal or raw.text),
            tokens_in=usage.get("input_tokens"),
            tokens_out=usage.get("output_tokens"),
            finish_reason="refusal" if refusal else _finish_reason(raw.response_metadata),
        )


def _finish_reason(metadata: dict[str, Any]) -> str:
    """Return the reason in OpenAI's words; other providers say the same in theirs."""
    reason = str(metadata.get("finish_reason") or metadata.get("stop_reason") or "missing")
    return "stop" if reason.lower() in {"stop", "end_turn", "stop_sequence"} else reason


def _cut_short(error: Exception) -> Answer | None:
    """Return the answer inside the errors that openai raises for answers it deems incomplete.

    Such an answer is paid for, so its text and usage are kept like any other's.
    """
    completion = getattr(error, "completion", None)
    if completion is None or not completion.choices:
        return None
    choice, usage = completion.choices[0], completion.usage
    return Answer(
        text=scrub(choice.message.content or ""),
        tokens_in=usage.prompt_tokens if usage else None,
        tokens_out=usage.completion_tokens if usage else None,
        finish_reason=str(choice.finish_reason),
    )


def _typed(error: Exception, where: str) -> ProviderError:
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
        unavailable.may_be_billed = lost
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


def _retry_after(headers: Any) -> float | None:
    try:
        return max(0.0, float(headers.get("retry-after")))
    except (TypeError, ValueError):
        return None  # absent, or a date: back off on our own
