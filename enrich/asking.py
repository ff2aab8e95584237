"""One round of paid work: what another job has bought is taken over, the rest is asked, nothing twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from okrcell.console import progress, say
from okrcell.enrich.answers import SharedAnswers, open_answers
from okrcell.enrich.batches import Waits, answer_in_batches
from okrcell.enrich.canary import canary_call, canary_problem, plan_canary, refuse_failed
from okrcell.enrich.client import Answer, Call, ChatClient, open_client, open_openai
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.dispatch import Work, dispatch
from okrcell.enrich.ledger import JUDGE, Entry, Ledger, mark_settled
from okrcell.enrich.writer import call_of, problem_of
from okrcell.errors import InternalError

__all__ = ["Asker", "How", "asking"]

_LOOK_EVERY_S = 1.0
_TITLES = {
    "write": "Writing descriptions",
    "repair": "Repairing sentences",
    "judge": "Judging sentences",
}


@dataclass(frozen=True)
class How:
    """How units are asked.

    Attributes
    ----------
    limit
        Ask about at most this many units now.
    batch_api
        Use the provider's Batch API.
    waits
        Of the Batch API.
    client
        Returns a client for a configuration, instead of the provider's own.
    """

    limit: int | None = None
    batch_api: bool = False
    waits: Waits | None = None
    client: Callable[[EnrichConfig], ChatClient] | None = None


class Asker:
    """Asks units of one job. Use :func:`asking`."""

    def __init__(
        self, ledger: Ledger, config: EnrichConfig, how: How, shared: SharedAnswers | None
    ) -> None:
        self.ledger, self.config, self.how = ledger, config, how
        self._shared, self._left = shared, how.limit
        self._runner, self._clients = asyncio.Runner(), dict[str, ChatClient]()

    def canary(self, longest_prompt: int) -> None:
        """Test the server, once per job and server.

        Raises
        ------
        ProviderError
            It fails.
        """
        bases = plan_canary(self.ledger, self.config, longest_prompt)
        refused = [e for b in bases if (e := self.ledger.last(b)) and e.state == "failed"]
        if refused:  # the server may have been put right since
            self.ledger.retry((), [entry.key for entry in refused])
        keys = self.ledger.open_keys(bases)

        def call(key: str) -> Call:
            return canary_call(self._entry(key), self.config)

        def problem(key: str, answer: Answer) -> tuple[str, str] | None:
            return canary_problem(self._entry(key), call(key), answer)

        if keys:
            self._call(self.config, Work(keys, call, problem))
        refuse_failed(self.ledger, bases, self.config)

    def ask(self, kind: str, bases: Iterable[str]) -> bool:
        """Answer the open units among some; return whether all are settled.

        Raises
        ------
        ProviderError, ConfigError
            As :func:`okrcell.enrich.dispatch.dispatch`; what was answered is kept.
        """
        bases = list(bases)
        keys = self.ledger.open_keys(bases)
        while keys and self._left != 0:
            theirs = self._once(kind, keys)
            if not theirs:
                break
            say(f"{len(theirs)} requests are being asked by another job; waiting for its answers.")
            time.sleep(_LOOK_EVERY_S)
            keys = theirs
        return not self.ledger.open_keys(bases)

    def _once(self, kind: str, keys: list[str]) -> list[str]:
        """Ask what nobody else is asking; return the rest."""
        mine, theirs = keys, list[str]()
        if self._shared is not None:
            claimed = self._shared.claim(keys)
            with self.ledger.connection as db:
                for key, (answer, problem) in claimed.found.items():
                    free = Answer(answer.text, 0, 0, answer.finish_reason)
                    mark_settled(db, key, free, problem, 0.0, reused=True)
            mine, theirs = claimed.mine, claimed.theirs
        if self._left is not None:
            mine = mine[: self._left]
            self._left -= len(mine)
        if mine:
            self._dispatch(kind, mine)
        return theirs

    def _dispatch(self, kind: str, keys: Sequence[str]) -> None:
        config = self.config.for_judge() if kind == JUDGE else self.config
        with progress(_TITLES[kind], len(keys), "requests") as advance:
            work = Work(
                keys,
                lambda key: call_of(self.ledger, self._entry(key), config),
                lambda key, answer: problem_of(kind, key, answer),
                advance,
            )
            if self.how.batch_api and kind != JUDGE:
                client: Any = open_openai(config)
                answer_in_batches(self.ledger, client, config, work, self.how.waits)
            else:
                self._call(config, work)

    def _call(self, config: EnrichConfig, work: Work) -> None:
        if config.writer not in self._clients:
            self._clients[config.writer] = (self.how.client or open_client)(config)
        dispatch(self.ledger, self._clients[config.writer], config, work, self._runner)

    def _entry(self, key: str) -> Entry:
        entry = self.ledger.entry(key)
        if entry is None:
            raise InternalError(
                f"unit {key[:12]}",
                found="no such unit",
                expected="a planned one",
                fix="Please report this.",
            )
        return entry

    def close(self) -> None:
        """Close connections, share what was bought with the user's other jobs, give up its claims."""
        with self._runner as runner:
            for client in self._clients.values():
                runner.run(client.close())
        if self._shared is not None:
            self._shared.file(self.ledger.settled())
            self._shared.close()


@contextmanager
def asking(job: Path, ledger: Ledger, config: EnrichConfig, how: How) -> Iterator[Asker]:
    """Yield an asker; whatever stops it, what was bought is shared and its claims are given up."""
    shared = open_answers(job, config) if config.pays else None
    asker = Asker(ledger, config, how, shared)
    try:
        yield asker
    finally:
        asker.close()
