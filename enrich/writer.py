"""What is asked of a model per kind of work, and the writer that asks none."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from okrcell.enrich.client import Answer, Call
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.draft import Draft, Judgements, Repair, answer_schema, parse_answer
from okrcell.enrich.evidence import Request
from okrcell.enrich.extractive import EXTRACTIVE_VERSION, write_extractive
from okrcell.enrich.ledger import JUDGE, REPAIR, WRITE, Entry, Ledger
from okrcell.enrich.prompts import PROMPT_VERSION, render, render_judge, render_repair
from okrcell.errors import InternalError, ProviderError

__all__ = ["ANSWERS", "call_of", "problem_of", "write_offline", "writer_version"]

ANSWERS: Mapping[str, type[Draft | Repair | Judgements]] = {
    WRITE: Draft,
    REPAIR: Repair,
    JUDGE: Judgements,
}
"""Kind of work to the form of its answer."""


def writer_version(config: EnrichConfig) -> str:
    """Return the version of what shapes the text: the extractive writer's or the prompt's."""
    return EXTRACTIVE_VERSION if config.is_extractive else PROMPT_VERSION


def write_offline(request: Request, config: EnrichConfig) -> Answer:
    """Return the extractive writer's answer."""
    draft = write_extractive(request, config.words)
    return Answer(draft.model_dump_json(), 0, 0, "stop")


@cache
def schema_of(kind: str) -> dict[str, Any]:
    """Return the JSON schema of a kind of answer."""
    return answer_schema(ANSWERS[kind])


def call_of(ledger: Ledger, entry: Entry, config: EnrichConfig) -> Call:
    """Return the call that a unit stands for.

    Parameters
    ----------
    config
        Of the model that is asked: for a judge, ``config.for_judge()``.
    """
    request = ledger.request(entry.parent)
    if entry.kind == WRITE:
        messages = render(request, config.words)
    elif entry.kind == REPAIR:
        draft = ledger.entry(str(entry.body["answer_of"]))
        if draft is None or draft.answer is None:
            raise InternalError(
                f"unit {entry.key[:12]}",
                found="no answer to repair",
                expected="the answer that it names",
                fix="Please report this.",
            )
        messages = render_repair(request, config.words, draft.answer, entry.body["failing"])
    else:
        messages = render_judge(entry.key, entry.body["pairs"])
    return Call(
        messages,
        ANSWERS[entry.kind].__name__,
        schema_of(entry.kind),
        config.seed + entry.tries,
        config.most_tokens_out,
    )


def problem_of(kind: str, key: str, answer: Answer) -> tuple[str, str] | None:
    """Return kind and message of what makes an answer unusable, None if it is good."""
    reason = answer.finish_reason
    if reason != "stop":
        return reason, f"the model stopped with '{reason}', not 'stop'"
    try:
        parse_answer(ANSWERS[kind], answer.text, f"unit {key[:12]}")
    except ProviderError as error:
        return ("empty_answer" if not answer.text.strip() else "invalid_answer"), error.found
    return None
