"""Getting units answered: many calls in flight, shaped, retried with patience, every step in the ledger.

One event loop starts the calls; the ledger is written by the journal's thread. A call starts only once its
intent is on disk, and its answer and state go to disk together.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
import signal
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from okrcell.enrich.client import AccessError, Answer, Call, ChatClient, UnavailableError, scrub
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.journal import Journal
from okrcell.enrich.ledger import Ledger, mark_planned, mark_sent, mark_settled
from okrcell.enrich.limits import Breaker, Pace, backoff_s
from okrcell.enrich.prompts import estimate_tokens, most_tokens_in
from okrcell.errors import ConfigError, OkrcellError, ProviderError, ProviderUnavailableError

__all__ = ["Work", "dispatch"]

_BREAK_AFTER, _PROBES = 8, 5
_MOST_RATE_LIMITS = 50  # pleas for patience that one unit may meet in one run
_MOST_REFUSALS = 20  # in a row, nothing answered between: it is not about the single request
_GENTLER = 0.7  # fewer calls in flight after a plea for patience; each answer wins some back


@dataclass(frozen=True)
class Work:
    """What the dispatcher needs to know of units.

    Attributes
    ----------
    keys
        Units to be answered, in order.
    call
        Returns the call of a unit.
    problem
        Returns kind and message of what makes an answer unusable, None if it is good.
    on_settled
        Called after each unit that is answered or failed for good.
    """

    keys: Sequence[str]
    call: Callable[[str], Call]
    problem: Callable[[str, Answer], tuple[str, str] | None]
    on_settled: Callable[[], None] = lambda: None


@dataclass
class _State:
    """What one run knows beyond the ledger."""

    pending: deque[str]
    spent: float
    slots: float
    retries: list[tuple[float, str]] = field(default_factory=list)
    tries: dict[str, int] = field(default_factory=dict)
    limited: dict[str, int] = field(default_factory=dict)
    reserved: dict[str, float] = field(default_factory=dict)
    paused_until: float = 0.0
    gentle_until: float = 0.0
    in_flight: int = 0
    unsettled: int = 0
    given_up: int = 0
    refused_in_a_row: int = 0
    interrupted: bool = False
    last_error: ProviderUnavailableError | None = None
    error: OkrcellError | None = None
    crash: BaseException | None = None

    @property
    def has_more(self) -> bool:
        """Whether a unit waits to be asked."""
        return bool(self.pending or self.retries)


def dispatch(
    ledger: Ledger,
    client: ChatClient,
    config: EnrichConfig,
    work: Work,
    runner: asyncio.Runner,
) -> None:
    """Answer units.

    Ctrl-C (and SIGTERM) lets calls in flight finish; a second one leaves them.

    Parameters
    ----------
    runner
        Holds the event loop to which the client's connections belong.

    Raises
    ------
    ProviderUnavailableError
        Some units stay open because the provider did not answer.
    ProviderError
        The endpoint refuses us altogether.
    ConfigError
        The next call could pass ``max_cost_usd``.
    KeyboardInterrupt
        The run was interrupted; what was in flight is in the ledger.
    """
    runner.run(_Dispatcher(ledger, client, config, work).run())


class _Dispatcher:
    def __init__(
        self, ledger: Ledger, client: ChatClient, config: EnrichConfig, work: Work
    ) -> None:
        self.ledger, self.client, self.config, self.work = ledger, client, config, work
        totals = ledger.totals()
        # What is uncertain counts as if it had been billed at its worst.
        spent = (totals.cost_usd or 0.0) + totals.uncertain_usd
        self.state = _State(deque(work.keys), spent, float(config.concurrency))
        self.breaker = Breaker(_BREAK_AFTER, _PROBES)
        self.rng = random.Random()  # noqa: S311  (jitter of waiting times only)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self.clock, self.wake = loop.time, asyncio.Event()
        self.pace = Pace(self.config.rpm, self.config.tpm, self.clock())
        tasks: set[asyncio.Task[None]] = set()
        with (
            Journal(self.ledger.path, loop) as self.journal,
            _signals(loop, self._interrupt(tasks)),
        ):
            try:
                await self._loop(tasks)
            finally:
                # Calls in flight are paid for, whatever stops us: their answers go into the ledger.
                while tasks:
                    await asyncio.wait(tasks)
        self._raise()

    async def _loop(self, tasks: set[asyncio.Task[None]]) -> None:
        state = self.state
        while not (state.error or state.crash or state.interrupted):
            pause = self._launch(tasks)
            if state.error is not None or not (state.has_more or tasks):
                break
            self.wake.clear()
            # Something that ends wakes us; so does the time at which something may begin.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), pause)

    def _launch(self, tasks: set[asyncio.Task[None]]) -> float | None:
        """Start what may start; return the seconds until more may, None if only an answer decides."""
        state = self.state
        while state.has_more:
            now = self.clock()
            if state.in_flight >= int(state.slots) or not self.breaker.allows(state.in_flight, now):
                return max(0.01, self.breaker.closed_until - now) if state.in_flight == 0 else None
            if now < state.paused_until:
                return state.paused_until - now
            if state.retries and state.retries[0][0] <= now:
                key = state.retries[0][1]
            elif state.pending:
                key = state.pending[0]
            else:
                return state.retries[0][0] - now
            call = self.work.call(key)
            tokens = sum(estimate_tokens(call.messages, self.config.words))
            wait = self.pace.wait(tokens, now)
            if wait > 0:
                return wait
            bound = self._bound(call)
            most = self.config.max_cost_usd
            if most is not None and state.spent + sum(state.reserved.values()) + bound > most:
                if not state.in_flight and not state.unsettled:
                    state.error = _too_dear(state.spent, self.config)
                return None  # calls in flight may turn out cheaper than they could have been
            if state.retries and state.retries[0][1] == key and state.retries[0][0] <= now:
                heapq.heappop(state.retries)
            else:
                state.pending.popleft()
            self.pace.take(tokens)
            state.reserved[key] = bound
            state.in_flight += 1
            state.unsettled += 1
            task = asyncio.ensure_future(self._ask(key, call, tokens, bound))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(self._done)
        return None

    def _done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OkrcellError):
            self.state.error = self.state.error or error
        elif error is not None:
            self.state.crash = error
        self.state.unsettled -= 1
        self.wake.set()

    def _bound(self, call: Call) -> float:
        """Return the most that a call can cost."""
        if self.config.price_in is None:
            return 0.0
        return (
            self.config.cost(most_tokens_in(call.messages, dict(call.schema)), call.max_tokens)
            or 0.0
        )

    async def _ask(self, key: str, call: Call, estimated: float, bound: float) -> None:
        state, held = self.state, True
        try:
            await self.journal.write(lambda db: mark_sent(db, key, bound))
            try:
                answer = await self.client.complete(call)
            except UnavailableError as error:
                state.in_flight -= 1
                held = False
                await self._unavailable(key, error, bound)
                return
            except AccessError as error:
                state.error = state.error or error
                await self._open_again(key, "access", error)
                return
            except ProviderError as error:
                problem = "refused", scrub(str(error))
                await self.journal.write(partial(_settle, key, None, problem, None))
                self.breaker.answered()
                self.work.on_settled()
                state.refused_in_a_row += 1
                if state.refused_in_a_row >= _MOST_REFUSALS:
                    state.error = state.error or error
                return
            state.in_flight -= 1
            held = False
            self.wake.set()
            self.breaker.answered()
            state.refused_in_a_row = 0
            state.slots = min(float(self.config.concurrency), state.slots + 1 / state.slots)
            await self._settle(key, answer, estimated, bound)
        finally:
            state.in_flight -= held
            state.reserved.pop(key, None)

    async def _settle(self, key: str, answer: Answer, estimated: float, bound: float) -> None:
        cost = self.config.cost(answer.tokens_in, answer.tokens_out)
        self.state.spent += bound if cost is None else cost
        if answer.tokens_in is not None and answer.tokens_out is not None:
            self.pace.correct(estimated, answer.tokens_in + answer.tokens_out)
        problem = self.work.problem(key, answer)
        await self.journal.write(partial(_settle, key, answer, problem, cost))
        self.work.on_settled()

    async def _unavailable(self, key: str, error: UnavailableError, bound: float) -> None:
        state, now = self.state, self.clock()
        state.last_error = error
        state.spent += bound if error.may_be_billed else 0.0
        if error.is_rate_limit:
            self.breaker.answered()
            state.limited[key] = state.limited.get(key, 0) + 1
            if now >= state.gentle_until:
                state.slots, state.gentle_until = max(1.0, state.slots * _GENTLER), now + 1.0
        else:
            self.breaker.failed(now)
            state.tries[key] = state.tries.get(key, 0) + 1
        await self._open_again(key, "rate_limit" if error.is_rate_limit else "unavailable", error)
        if self.breaker.gave_up:
            state.error = state.error or error
            return
        tries, limited = state.tries.get(key, 0), state.limited.get(key, 0)
        if tries >= self.config.max_attempts or limited >= _MOST_RATE_LIMITS:
            state.given_up += 1
            return
        wait = backoff_s(min(tries + limited, 6), self.rng)
        if error.retry_after_s is not None:
            wait = error.retry_after_s
            # The server speaks to all our calls.
            state.paused_until = max(state.paused_until, now + wait)
        heapq.heappush(state.retries, (now + wait, key))

    async def _open_again(self, key: str, kind: str, error: ProviderError) -> None:
        lost = isinstance(error, UnavailableError) and error.may_be_billed
        message = scrub(str(error))
        await self.journal.write(lambda db: mark_planned(db, key, kind, message, lost=lost))

    def _interrupt(self, tasks: set[asyncio.Task[None]]) -> Callable[[], None]:
        def on_signal() -> None:
            if self.state.interrupted:
                for task in tasks:
                    task.cancel()
            self.state.interrupted = True
            self.wake.set()

        return on_signal

    def _raise(self) -> None:
        state = self.state
        if state.crash is not None:
            raise state.crash
        if state.interrupted:
            raise KeyboardInterrupt
        if state.error is not None:
            raise state.error
        if state.given_up:
            raise _gave_up(state, self.config)


def _settle(
    key: str,
    answer: Answer | None,
    problem: tuple[str, str] | None,
    cost: float | None,
    db: sqlite3.Connection,
) -> None:
    mark_settled(db, key, answer, problem, cost)


@contextlib.contextmanager
def _signals(loop: asyncio.AbstractEventLoop, handler: Callable[[], None]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM while a block runs; outside the main thread nothing can be handled."""
    names = (signal.SIGINT, signal.SIGTERM)
    try:
        for name in names:
            loop.add_signal_handler(name, handler)
    except (RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        for name in names:
            loop.remove_signal_handler(name)


def _gave_up(state: _State, config: EnrichConfig) -> ProviderUnavailableError:
    return ProviderUnavailableError(
        f"writer {config.writer}",
        found=f"{state.given_up} requests without an answer after {config.max_attempts} tries each"
        f" (last: {state.last_error.found if state.last_error else 'none'})",
        expected="an answer to each",
        fix="Run the same command again later; what is answered is kept and not paid again.",
    )


def _too_dear(spent: float, config: EnrichConfig) -> ConfigError:
    return ConfigError(
        "max_cost_usd",
        found=f"{spent:.4f} USD spent, and the next call could pass {config.max_cost_usd:g} USD",
        expected="room for the next call",
        fix="Plan the job again with a higher --max-cost and run it; what is paid is kept.",
    )
