"""Is the server what it says? Two cheap calls before a job spends: schemas honoured, prompts read whole.

Compatible servers fail open: they accept a schema and ignore it, or cut a long prompt without a word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from okrcell.enrich.client import Answer, Call
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.ledger import CANARY, Entry, Ledger
from okrcell.errors import ProviderError

__all__ = ["canary_call", "canary_problem", "plan_canary", "refuse_failed"]

_VERSION = 1
_SCHEMA, _PROMPT = "schema", "prompt"
_LEAST_LONG = 1500  # words of filler; more where the job's own prompts are longer
_CHARS_PER_WORD = 6.0
_FEWEST_TOKENS_PER_CHAR = 1 / 8  # English text takes about one token for four characters
_MAX_TOKENS = 256
_WORDS = (
    "the tissue was cut into thin slices and stored in cold buffer before the cells were counted "
    "again by two people who did not know which sample they had been given on that day"
).split()
_SCHEMA_FORM: dict[str, Any] = {
    "type": "object",
    "title": "CanarySchema",
    "properties": {
        "colour": {"type": "string", "enum": ["teal", "ochre"]},
        "count": {"type": "integer"},
        "words": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["colour", "count", "words"],
    "additionalProperties": False,
}
_PROMPT_FORM: dict[str, Any] = {
    "type": "object",
    "title": "CanaryPrompt",
    "properties": {"first": {"type": "string"}, "last": {"type": "string"}},
    "required": ["first", "last"],
    "additionalProperties": False,
}


def plan_canary(ledger: Ledger, config: EnrichConfig, longest_prompt: int) -> list[str]:
    """Plan the two calls for a model and server that have not passed yet; return their bases.

    Parameters
    ----------
    longest_prompt
        Characters of the job's longest prompt, which the server must be able to read.
    """
    identity = [_VERSION, config.writer, config.base_url]
    n_words = max(_LEAST_LONG, int(longest_prompt / _CHARS_PER_WORD))
    bodies: list[dict[str, Any]] = [{"test": _SCHEMA}, {"test": _PROMPT, "words": n_words}]
    return [ledger.add(CANARY, CANARY, body, identity) for body in bodies]


def canary_call(entry: Entry, config: EnrichConfig) -> Call:
    """Return the call of a canary."""
    if entry.body["test"] == _SCHEMA:
        # Nothing in the words asks for the form: only a server that holds to schemas returns it.
        messages = [
            ("system", "You answer in one short sentence of plain prose, never in JSON."),
            ("human", "What is a cell?"),
        ]
        return Call(messages, "CanarySchema", _SCHEMA_FORM, config.seed, _MAX_TOKENS)
    first, last = _code_words(entry.key)
    n_words = int(entry.body["words"])
    filler = " ".join(_WORDS[at % len(_WORDS)] for at in range(n_words))
    messages = [
        ("system", f'The first code word is "{first}". Return both code words.'),
        (
            "human",
            f'{filler}\nThe last code word is "{last}". Return the first and the last code word.',
        ),
    ]
    return Call(messages, "CanaryPrompt", _PROMPT_FORM, config.seed, _MAX_TOKENS)


def _code_words(key: str) -> tuple[str, str]:
    digest = hashlib.sha256(f"canary|{key}".encode()).hexdigest()
    return f"alder{digest[:6]}", f"birch{digest[6:12]}"


def canary_problem(entry: Entry, call: Call, answer: Answer) -> tuple[str, str] | None:
    """Return what a canary's answer gives away, None if the server passed."""
    if answer.finish_reason != "stop":
        return "canary", f"it ended an answer with '{answer.finish_reason}', not with 'stop'"
    content = _object(answer.text)
    if entry.body["test"] == _SCHEMA:
        good = (
            set(content) == {"colour", "count", "words"}
            and content["colour"] in {"teal", "ochre"}
            and isinstance(content["count"], int)
            and isinstance(content["words"], list)
        )
        return None if good else ("canary", "it ignored the JSON schema that it was sent")
    n_chars = sum(len(text) for _, text in call.messages)
    if answer.tokens_in is not None and answer.tokens_in < n_chars * _FEWEST_TOKENS_PER_CHAR:
        return "canary", f"it read {answer.tokens_in} tokens of a prompt of {n_chars} characters"
    first, last = _code_words(entry.key)
    missing = [
        where
        for where, word in (("first", first), ("last", last))
        if word not in str(content.get(where))
    ]
    if missing:
        return "canary", f"it did not return the {' and '.join(missing)} word of a long prompt"
    return None


def _object(text: str) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def refuse_failed(ledger: Ledger, bases: list[str], config: EnrichConfig) -> None:
    """Raise ``ProviderError`` if the server failed a canary."""
    entries = [ledger.last(base) for base in bases]
    failed = [entry.error or "failed" for entry in entries if entry and entry.state == "failed"]
    if failed:
        raise ProviderError(
            f"writer {config.writer}",
            found=f"a server that failed its test before the first paid call: {'; '.join(failed)}",
            expected="JSON schemas honoured and prompts read whole",
            fix="Raise the server's context length, use a model and server with structured output, or"
            " go on all the same with --no-canary: what does not fit is recorded as failed.",
        )
