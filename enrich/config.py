"""Configuration of the enrich stage."""

from __future__ import annotations

from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from okrcell.config import StageConfig
from okrcell.errors import ConfigError

__all__ = ["EXTRACTIVE", "OFFLINE", "EnrichConfig"]

EXTRACTIVE, OFFLINE = "extractive", "offline"
_EXECUTION = frozenset(
    {
        "base_url",
        "canary",
        "concurrency",
        "rpm",
        "tpm",
        "timeout_s",
        "max_attempts",
        "max_cost_usd",
        "batch_requests",
        "batch_mb",
        "batch_price_factor",
    }
)


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
    retrieval
        ``facets``: evidence per facet. ``paper``: one templated query of cell type, tissue, sex and
        development stage (P).
    snippets_per_facet, top_k
        The paper's top-K, whose value it does not give: per facet, and for the paper's single query.
    context_tokens
        Most tokens of evidence per request; the least useful passages are left out first.
    diversity
        Weight of novelty against relevance in choosing passages (MMR): 0 ranks by relevance alone.
    expression
        Offer what the profile's own training cells express as a snippet. Switch it off for texts that
        are candidates of a zero-shot test on these cells.
    mask_label
        Write without the names, synonyms and telling abbreviations of the cell type.
    support
        What judges whether a quote supports a sentence: ``offline``, ``nli:NAME`` (a cross-encoder by
        name or path) or ``judge:PROVIDER:MODEL`` (a language model, paid).
    support_threshold
        A sentence counts as supported from this score in [0, 1] on.
        Not in the paper, which does not check sentences.
    keep_fraction
        A description is accepted without its failing sentences if at least this share is supported.
    repair
        Ask a model once more about failing sentences, with the verdicts.
    screen_alpha
        The paper's reliability threshold: a description whose vector's cosine with that of the
        original text is lower is rejected. The paper gives no value, and its encoder is another.
    screen_full
        Cosine from which the screen's part of the reliability is 1; at ``screen_alpha`` it is 0.
    temperature, seed
        Sampling parameters sent to the model; the paper gives none.
    max_tokens
        Most tokens of an answer; by default six times what the words should take.
    concurrency, rpm, tpm, timeout_s, max_attempts
        Calls in flight, requests and tokens per minute, seconds per call, and tries per request
        within one run.
    canary
        Before the first call, test that the server honours schemas and reads long prompts whole.
    max_cost_usd
        Stop before a call that could take the job beyond this; needs both prices.
    price_in, price_out
        US dollars per million tokens. Without them costs are unknown, not zero.
    judge_price_in, judge_price_out
        The same for the judge; by default the writer's.
    batch_requests, batch_mb, batch_price_factor
        Most requests and megabytes per file of the Batch API, and its price against single calls.
    embedder
        Must be the one the store was built with.
    """

    writer: str = EXTRACTIVE
    base_url: str | None = None
    words: int = Field(default=150, ge=40, le=2000)
    retrieval: Literal["facets", "paper"] = "facets"
    snippets_per_facet: int = Field(default=4, ge=1, le=20)
    top_k: int = Field(default=10, ge=1, le=100)
    context_tokens: int = Field(default=3000, ge=200)
    diversity: float = Field(default=0.3, ge=0, le=1)
    expression: bool = True
    mask_label: bool = False
    support: str = OFFLINE
    support_threshold: float = Field(default=0.5, ge=0, le=1)
    keep_fraction: float = Field(default=0.7, ge=0, le=1)
    repair: bool = True
    screen_alpha: float = Field(default=0.2, ge=-1, le=1)
    screen_full: float = Field(default=0.6, ge=-1, le=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int = Field(default=0, ge=0)
    max_tokens: int | None = Field(default=None, ge=16)
    canary: bool = True
    concurrency: int = Field(default=32, ge=1, le=1024)
    rpm: int | None = Field(default=None, ge=1)
    tpm: int | None = Field(default=None, ge=1)
    timeout_s: float = Field(default=60.0, gt=0)
    max_attempts: int = Field(default=4, ge=1, le=20)
    max_cost_usd: float | None = Field(default=None, ge=0)
    price_in: float | None = Field(default=None, ge=0)
    price_out: float | None = Field(default=None, ge=0)
    judge_price_in: float | None = Field(default=None, ge=0)
    judge_price_out: float | None = Field(default=None, ge=0)
    batch_requests: int = Field(default=50_000, ge=1, le=50_000)
    batch_mb: float = Field(default=190.0, gt=0, le=200)
    batch_price_factor: float = Field(default=0.5, gt=0, le=1)
    embedder: str = "minilm"

    @field_validator("writer")
    @classmethod
    def _known_form(cls, value: str) -> str:
        provider, colon, model = value.partition(":")
        if value != EXTRACTIVE and not (provider and colon and model):
            raise ValueError(f"'{EXTRACTIVE}' or PROVIDER:MODEL, such as openai:gpt-4o-mini")
        return value

    @field_validator("support")
    @classmethod
    def _known_judge(cls, value: str) -> str:
        kind, _, name = value.partition(":")
        model = name.partition(":")
        good = {OFFLINE: value == OFFLINE, "nli": bool(name), "judge": bool(model[0] and model[2])}
        if not good.get(kind, False):
            raise ValueError(f"'{OFFLINE}', nli:NAME or judge:PROVIDER:MODEL")
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
        if (self.judge_price_in is None) != (self.judge_price_out is None):
            raise ValueError("judge_price_in and judge_price_out go together")
        priced = self.price_in is not None or (self.is_extractive and not self._unpriced_judge)
        if self.max_cost_usd is not None and not priced:
            raise ValueError("max_cost_usd needs price_in and price_out")
        return self

    @property
    def _unpriced_judge(self) -> bool:
        return self.judge is not None and self.judge_price_in is None

    @property
    def is_extractive(self) -> bool:
        """Whether descriptions are written offline."""
        return self.writer == EXTRACTIVE

    @property
    def pays(self) -> bool:
        """Whether a language model is asked, to write or to judge."""
        return not self.is_extractive or self.judge is not None

    @property
    def judge(self) -> str | None:
        """The language model that judges support, as ``provider:model``; None where none does."""
        kind, _, name = self.support.partition(":")
        return name if kind == "judge" else None

    def for_judge(self) -> Self:
        """Return this configuration with the judge in the place of the writer, at its prices."""
        prices = (
            {"price_in": self.judge_price_in, "price_out": self.judge_price_out}
            if self.judge_price_in is not None
            else {}
        )
        return self.replace(writer=self.judge, **prices)

    @property
    def most_tokens_out(self) -> int:
        """The limit of an answer's tokens that is sent with a call."""
        return self.max_tokens or max(512, int(self.words * 1.4 * 6))

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
