"""What a writer must return: sentences that each cite snippets and quote them."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from okrcell.errors import ProviderError

__all__ = [
    "FACETS",
    "Citation",
    "Draft",
    "Facet",
    "Judgements",
    "Repair",
    "Sentence",
    "answer_schema",
    "parse_answer",
]

Facet = Literal["identity", "markers_function", "tissue", "disease", "development_stage", "sex"]
FACETS: tuple[Facet, ...] = get_args(Facet)
"""Aspects of a description, in the order in which they are told."""

_MAX_SENTENCES, _MAX_CHARS, _MAX_CITATIONS = 80, 2000, 8


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


AnswerT = TypeVar("AnswerT", bound=_Answer)


class Citation(_Answer):
    """A snippet that supports a sentence, and where it says so."""

    snippet_id: str = Field(description="Id of an offered passage.")
    quote: str = Field(description="Words copied verbatim from that passage.")


class Sentence(_Answer):
    """One statement with its evidence."""

    text: str = Field(description="One complete sentence.")
    facet: Facet
    citations: tuple[Citation, ...] = Field(description="The passages that support it, quoted.")

    @field_validator("text")
    @classmethod
    def _says_something(cls, value: str) -> str:
        # Checked here and not in the schema: strict mode does not know length limits everywhere.
        if not value.strip() or len(value) > _MAX_CHARS:
            raise ValueError(f"a sentence of at most {_MAX_CHARS} characters")
        return value

    @field_validator("citations")
    @classmethod
    def _bounded(cls, value: tuple[Citation, ...]) -> tuple[Citation, ...]:
        if len(value) > _MAX_CITATIONS or any(len(c.quote) > _MAX_CHARS for c in value):
            raise ValueError(f"at most {_MAX_CITATIONS} quotes of {_MAX_CHARS} characters")
        return value

    @property
    def snippet_ids(self) -> tuple[str, ...]:
        """Ids of the cited snippets, in order, each once."""
        return tuple(dict.fromkeys(citation.snippet_id for citation in self.citations))

    @property
    def quotes(self) -> tuple[str, ...]:
        """The quotes, in order."""
        return tuple(citation.quote for citation in self.citations)


class Draft(_Answer):
    """A description of one kind of cell, sentence by sentence."""

    sentences: tuple[Sentence, ...]

    @field_validator("sentences")
    @classmethod
    def _some(cls, value: tuple[Sentence, ...]) -> tuple[Sentence, ...]:
        if not 1 <= len(value) <= _MAX_SENTENCES:
            raise ValueError(f"1 to {_MAX_SENTENCES} sentences")
        return value


class Repaired(_Answer):
    """A sentence that stands in for a failing one."""

    index: int = Field(description="Number of the failing sentence that it replaces.")
    sentence: Sentence


class Repair(_Answer):
    """Replacements for failing sentences; a number that is left out gives its sentence up."""

    repairs: tuple[Repaired, ...]

    @field_validator("repairs")
    @classmethod
    def _once(cls, value: tuple[Repaired, ...]) -> tuple[Repaired, ...]:
        if len({item.index for item in value}) < len(value) or len(value) > _MAX_SENTENCES:
            raise ValueError("at most one replacement for each number")
        return value


class _Judged(_Answer):
    index: int = Field(description="Number of the sentence.")
    verdict: Literal["supported", "partly", "unsupported", "contradicted"]


class Judgements(_Answer):
    """What a judge model says of each numbered sentence."""

    judgements: tuple[_Judged, ...]


def answer_schema(kind: type[_Answer]) -> dict[str, Any]:
    """Return the JSON schema of an answer as OpenAI's strict mode wants it.

    Every property is required, no other is allowed, and there is no default and no reference,
    which some compatible servers ignore in silence.
    """
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(part: Any, top: bool = False) -> Any:
        if isinstance(part, list):
            return [inline(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inline(definitions[part["$ref"].rpartition("/")[2]])
        return {
            name: {key: inline(value) for key, value in entry.items()}
            if name == "properties"
            else inline(entry)
            for name, entry in part.items()
            if top or name != "title"
        }

    inlined: dict[str, Any] = inline(schema, top=True)
    return inlined


def parse_answer(kind: type[AnswerT], text: str, where: str) -> AnswerT:
    """Read a model's answer.

    Raises
    ------
    ProviderError
        It is not JSON, or not what the schema asks for.
    """
    try:
        return kind.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the answer"
        found = f"an answer that does not fit the schema ({place}: {first['msg']})"
    except (ValueError, RecursionError) as error:
        found = f"an answer that is no JSON ({error})"
    raise ProviderError(
        where,
        found=found,
        expected=f"JSON that follows the schema '{kind.__name__}'",
        fix="Use a model and an endpoint that honour structured output (json_schema, strict).",
    )
