"""Two writers behind one interface: a function from a request to an answer."""

from __future__ import annotations

from collections.abc import Callable

from okrcell.enrich.client import Answer, ChatClient, open_client
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.draft import draft_schema
from okrcell.enrich.evidence import Request
from okrcell.enrich.extractive import EXTRACTIVE_VERSION, write_extractive
from okrcell.enrich.prompts import PROMPT_VERSION, render

__all__ = ["Writer", "open_writer", "writer_version"]

Writer = Callable[[Request], Answer]
"""Answers a request with the JSON of a draft; may be called from several threads."""


def writer_version(config: EnrichConfig) -> str:
    """Return the version of what shapes the text: the extractive writer's or the prompt's."""
    return EXTRACTIVE_VERSION if config.is_extractive else PROMPT_VERSION


def open_writer(config: EnrichConfig, client: ChatClient | None = None) -> Writer:
    """Return the writer a configuration names.

    Parameters
    ----------
    client
        Used instead of the one that ``config.writer`` names.
    """
    if config.is_extractive and client is None:
        return lambda request: Answer(
            write_extractive(request, config.words).model_dump_json(), 0, 0, "stop"
        )
    chat, schema = client or open_client(config), draft_schema()
    return lambda request: chat.complete(render(request, config.words), schema)
