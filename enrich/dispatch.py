"""Getting requests answered: a few calls at a time, retried with patience, every step in the ledger."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from okrcell.enrich.client import AccessError, Answer, UnavailableError, scrub
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.draft import parse_draft
from okrcell.enrich.ledger import Ledger
from okrcell.enrich.prompts import estimate_tokens
from okrcell.enrich.writer import Writer
from okrcell.errors import ConfigError, ProviderError, ProviderUnavailableError

__all__ = ["dispatch"]

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
_GIVE_UPS = 3  # requests given up in a row, none answered between: the provider is down


@dataclass
class _State:
    """What one run knows beyond the ledger."""

    pending: deque[str]
    tries: dict[str, int]
    retries: list[tuple[float, str]]
    flying: dict[Future[Answer], str]
    reserved: dict[str, float]
    spent: float
    paused_until: float = 0.0
    given_up: int = 0
    given_up_in_a_row: int = 0
    error: ProviderError | ConfigError | None = None


def dispatch(
    ledger: Ledger,
    writer: Writer,
    config: EnrichConfig,
    *,
    limit: int | None = None,
    on_settled: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Answer the ledger's open requests; the ledger is touched by this thread alone.

    Parameters
    ----------
    limit
        Work on at most this many requests.
    on_settled
        Called after each request that is answered or failed for good.

    Raises
    ------
    ProviderUnavailableError
        Some requests stay open because the provider did not answer.
    ProviderError
        The endpoint refuses us altogether.
    ConfigError
        The next call could pass ``max_cost_usd``.
    """
    keys = ledger.open_keys()[:limit]
    state = _State(deque(keys), {}, [], {}, {}, _spent(ledger, config) if keys else 0.0)
    pool = ThreadPoolExecutor(max_workers=config.concurrency)
    try:
        while state.error is None and (state.pending or state.retries or state.flying):
            _launch(state, ledger, writer, config, pool, clock)
            now = clock()
            due = _next_due(state, now)
            if state.flying:
                timeout = max(0.01, due - now) if due > now else None
                for future in wait(state.flying, timeout, FIRST_COMPLETED).done:
                    _settle(state, future, ledger, config, clock, on_settled)
            elif state.error is None and due > now:
                sleep(due - now)
    finally:
        # Calls in flight are paid for, whatever stops us: their answers go into the ledger.
        for future in list(state.flying):
            _settle(state, future, ledger, config, clock, on_settled)
        pool.shutdown()
    if state.error is not None:
        raise state.error
    if state.given_up:
        raise _gave_up(state.given_up, config)


def _next_due(state: _State, now: float) -> float:
    """Return when another call may start; a time that is past if only a free slot is missing."""
    if state.pending or not state.retries:
        return state.paused_until if state.pending else now
    return max(state.retries[0][0], state.paused_until)


def _spent(ledger: Ledger, config: EnrichConfig) -> float:
    """Return what the job has cost so far; lost calls count as if they had been billed."""
    totals = ledger.totals()
    if config.max_cost_usd is None:
        return 0.0
    per_call = _reserve(ledger, ledger.open_keys()[0], config)
    return (totals.cost_usd or 0.0) + totals.lost * per_call


def _reserve(ledger: Ledger, key: str, config: EnrichConfig) -> float:
    if config.max_cost_usd is None:
        return 0.0
    return config.cost(*estimate_tokens(ledger.request(key), config.words)) or 0.0


def _launch(
    state: _State,
    ledger: Ledger,
    writer: Writer,
    config: EnrichConfig,
    pool: ThreadPoolExecutor,
    clock: Callable[[], float],
) -> None:
    while len(state.flying) < config.concurrency and clock() >= state.paused_until:
        if state.retries and state.retries[0][0] <= clock():
            key = heapq.heappop(state.retries)[1]
        elif state.pending:
            key = state.pending.popleft()
        else:
            return
        reserve = _reserve(ledger, key, config)
        planned = state.spent + sum(state.reserved.values()) + reserve
        if config.max_cost_usd is not None and planned > config.max_cost_usd:
            state.error = _too_dear(state.spent, config)
            return
        state.reserved[key] = reserve
        request = ledger.request(key)
        ledger.mark_sent(key)
        state.flying[pool.submit(writer, request)] = key


def _settle(
    state: _State,
    future: Future[Answer],
    ledger: Ledger,
    config: EnrichConfig,
    clock: Callable[[], float],
    on_settled: Callable[[], None],
) -> None:
    key = state.flying.pop(future)
    reserve = state.reserved.pop(key)
    try:
        answer = future.result()
    except ProviderUnavailableError as error:
        lost = isinstance(error, UnavailableError) and error.may_be_billed
        ledger.mark_planned(key, "unavailable", scrub(str(error)), lost=lost)
        state.spent += reserve if lost else 0.0
        _retry_later(state, key, error, config, clock())
        return
    except AccessError as error:
        ledger.mark_planned(key, "access", scrub(str(error)))
        state.error = error
        return
    except ProviderError as error:
        ledger.mark_failed(key, "refused", scrub(str(error)), None, None)
        on_settled()
        return
    cost = config.cost(answer.tokens_in, answer.tokens_out)
    state.spent += reserve if cost is None else cost
    state.given_up_in_a_row = 0
    problem = _problem(answer, f"request {key[:12]}")
    if problem is None:
        ledger.mark_answered(key, answer, cost)
    else:
        ledger.mark_failed(key, *problem, answer, cost)
    on_settled()


def _problem(answer: Answer, where: str) -> tuple[str, str] | None:
    """Return kind and message of what makes an answer unusable, if anything does."""
    if answer.finish_reason != "stop":
        return answer.finish_reason, f"the model stopped with '{answer.finish_reason}', not 'stop'"
    try:
        parse_draft(answer.text, where)
    except ProviderError as error:
        return "invalid_answer", error.found
    return None


def _retry_later(
    state: _State, key: str, error: ProviderUnavailableError, config: EnrichConfig, now: float
) -> None:
    state.tries[key] = state.tries.get(key, 0) + 1
    if state.tries[key] >= config.max_attempts:
        state.given_up += 1
        state.given_up_in_a_row += 1
        if state.given_up_in_a_row >= _GIVE_UPS:
            state.error = error
        return
    asked = error.retry_after_s if isinstance(error, UnavailableError) else None
    backoff = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (state.tries[key] - 1))
    due = now + (backoff if asked is None else asked)
    if asked is not None:
        state.paused_until = max(state.paused_until, due)  # the server speaks to all our calls
    heapq.heappush(state.retries, (due, key))


def _gave_up(n: int, config: EnrichConfig) -> ProviderUnavailableError:
    return ProviderUnavailableError(
        f"writer {config.writer}",
        found=f"{n} requests without an answer after {config.max_attempts} tries each",
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
