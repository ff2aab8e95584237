"""What a writer must return: sentences that each cite snippets and quote them."""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from okrcell.errors import ProviderError

__all__ = ["FACETS", "Draft", "Facet", "Sentence", "draft_schema", "parse_draft"]

Facet = Literal["identity", "markers_function", "tissue", "disease", "development_stage", "sex"]
FACETS: tuple[Facet, ...] = get_args(Facet)
"""Aspects of a description, in the order in which they are told."""

_MAX_SENTENCES, _MAX_CHARS = 80, 2000


class Sentence(BaseModel):
    """One statement with its evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(description="One complete sentence.")
    facet: Facet
    snippet_ids: tuple[str, ...] = Field(description="Ids of the snippets that support it.")
    quote: str = Field(description="Words copied verbatim from one of these snippets.")

    @field_validator("text", "quote")
    @classmethod
    def _bounded(cls, value: str) -> str:
        # Checked here and not in the schema: strict mode does not know length limits everywhere.
        if len(value) > _MAX_CHARS:
            raise ValueError(f"at most {_MAX_CHARS} characters")
        return value


class Draft(BaseModel):
    """A description of one kind of cell, sentence by sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sentences: tuple[Sentence, ...]

    @field_validator("sentences")
    @classmethod
    def _some(cls, value: tuple[Sentence, ...]) -> tuple[Sentence, ...]:
        if not 1 <= len(value) <= _MAX_SENTENCES:
            raise ValueError(f"1 to {_MAX_SENTENCES} sentences")
        if any(not sentence.text.strip() for sentence in value):
            raise ValueError("sentences that say something")
        return value


def draft_schema() -> dict[str, Any]:
    """Return the JSON schema of a draft as OpenAI's strict mode wants it.

    Every property is required, no other is allowed, and there is no default and no reference,
    which some compatible servers ignore in silence.
    """
    schema = Draft.model_json_schema()
    sentence = schema.pop("$defs")["Sentence"]
    schema["properties"]["sentences"]["items"] = sentence
    for part in (schema, sentence):
        for value in part["properties"].values():
            value.pop("title")
    return schema


def parse_draft(text: str, where: str) -> Draft:
    """Read a writer's answer.

    Raises
    ------
    ProviderError
        It is not JSON, or not a draft.
    """
    try:
        return Draft.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the answer"
        found = f"an answer that is no description ({place}: {first['msg']})"
    except ValueError as error:
        found = f"an answer that is no JSON ({error})"
    raise ProviderError(
        where,
        found=found,
        expected="JSON that follows the schema of a description",
        fix="Use a model and an endpoint that honour structured output (json_schema, strict).",
    )
