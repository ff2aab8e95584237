"""Configuration of the enrich stage."""

from __future__ import annotations

from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from okrcell.config import StageConfig
from okrcell.errors import ConfigError

__all__ = ["EXTRACTIVE", "EnrichConfig"]

EXTRACTIVE = "extractive"
_EXECUTION = frozenset({"base_url", "concurrency", "timeout_s", "max_attempts", "max_cost_usd"})


class EnrichConfig(StageConfig):
    """Keys of the TOML table ``[enrich]``.

    The paper leaves top-K, the screening threshold, the sampling parameters and the screening text
    encoder's treatment open; each is a key here, with the default we chose.

    Attributes
    ----------
    writer
        ``extractive`` (offline, deterministic: sentences taken from the snippets) or
        ``provider:model`` as langchain's ``init_chat_model`` reads it, such as
        ``openai:gpt-4o-mini``. The paper uses DeepSeek-V3. The API key comes from the provider's
        environment variable (``OPENAI_API_KEY``) and is never stored.
    base_url
        Root of an OpenAI-compatible endpoint (``http://host:8000/v1``). It belongs to where a job
        runs, not to what it makes: the same job goes on behind another host without paying again.
    words
        Length aimed at. The paper asks for 550 to 600; the default fits the 256 word pieces that
        the default embedder reads whole.
    snippets_per_facet
        The paper's top-K, whose value it does not give; here per facet, not per description.
    support_threshold
        A sentence counts as supported when the cosine of its vector and its quote's reaches this.
        Not in the paper, which does not check sentences.
    screen_alpha
        The paper's reliability threshold: a description whose vector's cosine with that of the
        original text is lower is rejected. The paper gives no value, and its encoder is another.
    screen_full
        Cosine from which the screen's part of the reliability is 1; at ``screen_alpha`` it is 0.
    temperature, seed
        Sampling parameters sent to the model; the paper gives none.
    concurrency, timeout_s, max_attempts
        Calls in flight, seconds per call, and tries per request within one run.
    max_cost_usd
        Stop before a call that could take the job beyond this; needs both prices.
    price_in, price_out
        US dollars per million tokens. Without them costs are unknown, not zero.
    embedder
        Must be the one the store was built with.
    """

    writer: str = EXTRACTIVE
    base_url: str | None = None
    words: int = Field(default=150, ge=40, le=2000)
    snippets_per_facet: int = Field(default=4, ge=1, le=20)
    support_threshold: float = Field(default=0.4, ge=-1, le=1)
    screen_alpha: float = Field(default=0.2, ge=-1, le=1)
    screen_full: float = Field(default=0.6, ge=-1, le=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int = Field(default=0, ge=0)
    concurrency: int = Field(default=4, ge=1, le=256)
    timeout_s: float = Field(default=60.0, gt=0)
    max_attempts: int = Field(default=4, ge=1, le=20)
    max_cost_usd: float | None = Field(default=None, ge=0)
    price_in: float | None = Field(default=None, ge=0)
    price_out: float | None = Field(default=None, ge=0)
    embedder: str = "minilm"

    @field_validator("writer")
    @classmethod
    def _known_form(cls, value: str) -> str:
        provider, colon, model = value.partition(":")
        if value != EXTRACTIVE and not (provider and colon and model):
            raise ValueError(f"'{EXTRACTIVE}' or PROVIDER:MODEL, such as openai:gpt-4o-mini")
        return value

    @field_validator("base_url")
    @classmethod
    def _no_credentials(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("an http or https address, such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            # Not a ValueError: pydantic would repeat the address, and with it the secret.
            raise ConfigError(
                "base_url",
                found="an address that carries credentials or a query",
                expected="scheme, host, port and path only",
                fix="Put the key into the environment variable OPENAI_API_KEY.",
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.screen_full <= self.screen_alpha:
            raise ValueError("screen_full must be above screen_alpha")
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("price_in and price_out go together")
        if self.max_cost_usd is not None and self.price_in is None and self.writer != EXTRACTIVE:
            raise ValueError("max_cost_usd needs price_in and price_out")
        return self

    @property
    def is_extractive(self) -> bool:
        """Whether descriptions are written offline."""
        return self.writer == EXTRACTIVE

    def content(self) -> dict[str, Any]:
        """Return the keys that shape the descriptions; how a job is run is left out."""
        return self.model_dump(mode="json", exclude=set(_EXECUTION))

    def cost(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """Return US dollars, or None where a price or a count is unknown."""
        if self.price_in is None or self.price_out is None:
            return 0.0 if self.is_extractive else None
        if tokens_in is None or tokens_out is None:
            return None
        return round((tokens_in * self.price_in + tokens_out * self.price_out) / 1e6, 8)
