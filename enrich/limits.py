"""How fast a job may ask: requests and tokens per minute, a server's pleas for patience, a dead endpoint."""

from __future__ import annotations

import random

__all__ = ["Breaker", "Pace", "backoff_s"]

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0


def backoff_s(tries: int, rng: random.Random) -> float:
    """Return how long to wait after the n-th failure: doubling, at most a minute, with jitter.

    Jitter keeps calls that failed together from coming back together.
    """
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (tries - 1)) * rng.uniform(0.5, 1.0)


class _Bucket:
    """A budget that refills steadily and never exceeds ``limit`` in any window of a minute."""

    def __init__(self, limit: int, now: float) -> None:
        # What a full bucket lets through at once comes off the steady rate.
        self.burst = max(1.0, limit / 60)
        self.rate = (limit - self.burst) / 60 if limit > 1 else 1 / 61
        self.level, self.at = self.burst, now

    def wait(self, amount: float, now: float) -> float:
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        missing = min(amount, self.burst) - self.level
        # A rounding error short of enough would be waited for in vain.
        return missing / self.rate if missing > 1e-9 else 0.0


class Pace:
    """Shapes requests and tokens per minute.

    Parameters
    ----------
    rpm, tpm
        Limits; None means none.
    """

    def __init__(self, rpm: int | None, tpm: int | None, now: float) -> None:
        self._requests = _Bucket(rpm, now) if rpm else None
        self._tokens = _Bucket(tpm, now) if tpm else None

    def wait(self, tokens: float, now: float) -> float:
        """Return the seconds until a call of so many tokens may start."""
        waits = [0.0]
        if self._requests:
            waits.append(self._requests.wait(1, now))
        if self._tokens:
            waits.append(self._tokens.wait(tokens, now))
        return max(waits)

    def take(self, tokens: float) -> None:
        """Count a call that starts now."""
        if self._requests:
            self._requests.level -= 1
        if self._tokens:
            self._tokens.level -= tokens

    def correct(self, estimated: float, actual: float) -> None:
        """Replace the estimate of a call's tokens by what the server counted."""
        if self._tokens:
            self._tokens.level -= actual - estimated


class Breaker:
    """Stops asking an endpoint that does not answer, and asks now and then whether it is back.

    ``after`` failures in a row with no answer between open it. While it is open one call at a time probes,
    each after a longer pause; after ``probes`` of them in vain it gives up.
    """

    def __init__(self, after: int, probes: int, first_pause_s: float = 2.0) -> None:
        self._after, self._probes, self._pause = after, probes, first_pause_s
        self.failures, self._probed, self.closed_until = 0, 0, 0.0

    @property
    def is_open(self) -> bool:
        """Whether the endpoint counts as dead."""
        return self.failures >= self._after

    @property
    def gave_up(self) -> bool:
        """Whether even the probes were in vain."""
        return self._probed > self._probes

    def allows(self, in_flight: int, now: float) -> bool:
        """Whether a call may start now."""
        return not self.is_open or (in_flight == 0 and now >= self.closed_until)

    def answered(self) -> None:
        """Note that the endpoint answered."""
        self.failures = self._probed = 0

    def failed(self, now: float) -> None:
        """Note a failure of the endpoint (not of the request, and no plea for patience)."""
        self.failures += 1
        if self.is_open:
            # Calls that were in flight when it opened are no probes of their own.
            if now >= self.closed_until:
                self._probed += 1
            pause = min(_LONGEST_WAIT_S, self._pause * 2.0 ** max(0, self._probed - 1))
            self.closed_until = max(self.closed_until, now + pause)
