"""The job engine against a provider that misbehaves: nothing lost, nothing paid twice, limits kept."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from okrcell.corpus import ontology
from okrcell.enrich import client as clients
from okrcell.enrich.answers import open_answers
from okrcell.enrich.asking import How, asking
from okrcell.enrich.batches import Waits
from okrcell.enrich.client import Answer, Call, scrub
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.evidence import Evidence, make_request
from okrcell.enrich.journal import Journal
from okrcell.enrich.ledger import WRITE, ProfileRow, open_ledger
from okrcell.enrich.limits import Breaker, Pace, backoff_s
from okrcell.enrich.profile_text import Subject
from okrcell.errors import (
    ConfigError,
    ProviderError,
    ProviderUnavailableError,
    StorageError,
)

KEY = "sk-test-0123456789abcdefghij"


@pytest.fixture(autouse=True)
def api_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(scope="module")
def terms():
    return [term for term in ontology.terms("cl") if term.definition][:400]


def evidence(term):
    return Evidence(f"s-{term.term_id}", term.term_id, "cl", "", f"{term.label}: {term.definition}")


@pytest.fixture
def planned(tmp_path, terms):
    """Plan ``n`` requests into a folder."""

    def plan(n, config, name="job"):
        job = tmp_path / name
        job.mkdir(exist_ok=True)
        requests = []
        for number in range(n):
            term, other = terms[number], terms[(number + 1) % len(terms)]
            subject = Subject((("cell_type", term.label, term.term_id),))
            groups = {"identity": (evidence(term),), "markers_function": (evidence(other),)}
            requests.append(make_request(config, subject, groups, "v"))
        rows = [ProfileRow(f"p{n:05d}", r.key, "x", 1, "") for n, r in enumerate(requests)]
        with open_ledger(job) as ledger:
            ledger.plan(requests, rows)
        return job

    return plan


def settings(server, **more):
    base = {"writer": "openai:m", "base_url": server.url, "price_in": 1.0, "price_out": 10.0}
    fast = {"timeout_s": 1.0, "max_attempts": 6, "concurrency": 16, "canary": False}
    return EnrichConfig(**{**base, **fast, **more})


@contextmanager
def asker(job, config, **how):
    with open_ledger(job) as ledger, asking(job, ledger, config, How(**how)) as found:
        yield found


def ask(job, config, **how):
    with asker(job, config, **how) as found:
        return found.ask(WRITE, found.ledger.request_keys())


def ledger_of(job):
    return open_ledger(job, read_only=True)


def billed(server):
    return [row["hash"] for row in server.stats["billed"]]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Back off a hundredth of the time."""
    from okrcell.enrich import dispatch

    monkeypatch.setattr(dispatch, "backoff_s", lambda tries, rng: backoff_s(tries, rng) / 100)


# --- pieces ------------------------------------------------------------------------------------


def test_backoff_doubles_with_jitter_and_ends():
    rng = random.Random(0)
    for tries, most in ((1, 1), (2, 2), (3, 4), (10, 60)):
        waits = [backoff_s(tries, rng) for _ in range(50)]
        assert most / 2 <= min(waits) < max(waits) <= most


@pytest.mark.parametrize(("rpm", "tpm"), [(120, None), (None, 6000), (60, 100_000), (1, None)])
def test_no_window_of_a_minute_exceeds_the_limits(rpm, tpm):
    pace, now, started, rng = Pace(rpm, tpm, 0.0), 0.0, [], random.Random(1)
    while now < 400 and len(started) < 3000:
        tokens = rng.randint(20, 80)
        wait = pace.wait(tokens, now)
        if wait:
            now += wait
            continue
        pace.take(tokens)
        started.append((now, tokens))
    for at, _ in started:
        window = [(t, n) for t, n in started if at <= t < at + 60]
        assert len(window) <= (rpm or 10**9)
        assert sum(n for _, n in window) <= (tpm or 10**9) + 80
    # And what is allowed is used.
    if rpm and rpm > 1 and not tpm:
        assert len([t for t, _ in started if 60 <= t < 360]) >= 0.95 * 5 * rpm


def test_the_breaker_opens_probes_and_gives_up():
    breaker = Breaker(after=3, probes=2, first_pause_s=2.0)
    for _ in range(3):
        assert breaker.allows(1, 0.0)
        breaker.failed(0.0)
    assert breaker.is_open
    assert not breaker.allows(0, 1.0)
    assert not breaker.allows(1, 2.5)
    assert breaker.allows(0, 2.5)
    breaker.answered()
    assert breaker.allows(5, 2.6)
    now = 10.0
    for _ in range(3):
        breaker.failed(now)
    while not breaker.gave_up:
        now = breaker.closed_until
        breaker.failed(now)
    assert now > 15


def test_notes_are_durable_and_share_commits(tmp_path):
    path = tmp_path / "a.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (n INTEGER)")
    db.close()

    async def main():
        loop = asyncio.get_running_loop()
        with Journal(path, loop) as journal:
            await asyncio.gather(
                *(
                    journal.write(lambda db, n=n: db.execute("INSERT INTO t VALUES (?)", (n,)))
                    for n in range(200)
                )
            )
            with sqlite3.connect(path) as other:
                assert other.execute("SELECT COUNT(*) FROM t").fetchone() == (200,)
            other.close()
            with pytest.raises(Exception, match="cannot be written"):
                await journal.write(lambda db: db.execute("INSERT INTO nowhere VALUES (1)"))
            await journal.write(lambda db: db.execute("INSERT INTO t VALUES (1)"))

    asyncio.run(main())


def test_scrub_takes_keys_and_spares_prose(monkeypatch):
    monkeypatch.setenv("OTHER_API_KEY", "abcdefgh-12345")
    text = scrub(f"{KEY} abcdefgh-12345 sk-channels Bearer of news")
    assert text == "[key] [key] sk-channels Bearer of news"


# --- faults ------------------------------------------------------------------------------------


def test_every_transport_fault_is_outlived_and_every_content_fault_recorded(planned, provider):
    with provider.FakeOpenAI(faults="mix30", stall_s=1.5, retry_after=0.2, drip_s=0.2) as server:
        job = planned(120, settings(server))
        assert ask(job, settings(server))
        stats = server.stats
    assert stats["crashes"] == []
    with ledger_of(job) as ledger:
        states, totals, failures = ledger.states(), ledger.totals(), ledger.failures()
        settled = ledger.settled()
    assert states["planned"] == states["sent"] == 0
    assert states["answered"] > 80
    assert sum(failures.values()) == states["failed"] == 120 - states["answered"]
    assert all(entry.answer is not None for entry in settled)
    # What the server billed is in the ledger: as an answer, or as a lost call.
    assert len(settled) <= len(billed(server)) <= len(settled) + totals.lost
    assert totals.calls == sum(stats["received"].values())


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("truncated_length", "length"),
        ("truncated_stop", "invalid_answer"),
        ("invalid_json", "invalid_answer"),
        ("refusal", "refusal"),
        ("empty", "empty_answer"),
        ("no_choices", "invalid_response"),
        ("whitespace_flood", "length"),
        ("fenced_prose", "invalid_answer"),
    ],
)
def test_unusable_answers_are_failures_with_their_text(planned, provider, fault, kind):
    with provider.FakeOpenAI(faults=fault) as server:
        job = planned(2, settings(server))
        assert ask(job, settings(server))
        assert ask(job, settings(server))  # settled: not asked again
        assert len(billed(server)) == 2
    with ledger_of(job) as ledger:
        assert ledger.failures() == {kind: 2}
        for entry in ledger.settled():
            assert (entry.state, entry.error_kind) == ("failed", kind)
            assert entry.answer is not None
            assert entry.answer or fault == "empty"


def test_retried_failures_are_new_units_with_another_seed(planned, provider):
    seeds = []

    def fault(body, attempt):
        seeds.append(body["seed"])
        return provider.Fault(content="refusal") if body["seed"] == 0 else None

    with provider.FakeOpenAI(fault=fault) as server:
        job = planned(2, settings(server))
        ask(job, settings(server))
        with open_ledger(job) as ledger:
            assert ledger.retry(("length",)) == {}
            assert ledger.retry(()) == {"refusal": 2}
        assert ask(job, settings(server))
    with ledger_of(job) as ledger:
        assert ledger.states()["answered"] == 2
        assert len(ledger.settled()) == 4
    assert sorted(seeds) == [0, 0, 1, 1]


def test_retry_after_is_honoured_for_all_calls(planned, provider):
    first = threading.Event()

    def fault(body, attempt):
        if first.is_set():
            return None
        first.set()
        return provider.Fault(transport="429_seconds", seconds=1)

    with provider.FakeOpenAI(fault=fault) as server:
        job = planned(3, settings(server, concurrency=1))
        begin = time.monotonic()
        assert ask(job, settings(server, concurrency=1))
        assert time.monotonic() - begin >= 1.0
        with ledger_of(job) as ledger:
            assert (ledger.totals().calls, ledger.totals().lost) == (4, 0)


def test_a_dead_endpoint_leaves_the_job_open(planned, provider, monkeypatch):
    from okrcell.enrich import dispatch

    monkeypatch.setattr(dispatch, "Breaker", lambda after, probes: Breaker(after, probes, 0.01))
    with provider.FakeOpenAI(faults="503") as server:
        config = settings(server, max_attempts=20)
        job = planned(30, config)
        with pytest.raises(ProviderUnavailableError, match="503"):
            ask(job, config)
        assert sum(server.stats["received"].values()) < 60
        server.configure(faults="")
        assert ask(job, config)
        assert len(billed(server)) == len(set(billed(server))) == 30


def test_nothing_listens(planned, provider):
    with provider.FakeOpenAI() as server:
        config = settings(server, max_attempts=2)
    job = planned(2, config)
    with pytest.raises(ProviderUnavailableError, match="Connection error"):
        ask(job, config)
    with ledger_of(job) as ledger:
        assert ledger.totals().lost == 0  # the call never left


class Refusing(BaseHTTPRequestHandler):
    """Says that the request is wrong, whatever it is."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"error": {"message": "unknown parameter: seed", "code": "bad"}}'
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.n += 1

    def log_message(self, *args):
        pass


@pytest.fixture
def refusing():
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        server.n, server.status, server.url = 0, 400, f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_parameter_that_is_refused_every_time_stops_the_run(planned, refusing):
    config = settings(refusing, concurrency=1)
    job = planned(60, config)
    with pytest.raises(ProviderError, match="unknown parameter"):
        ask(job, config)
    assert refusing.n == 20
    with ledger_of(job) as ledger:
        assert ledger.failures() == {"refused": 20}
        assert ledger.unpaid_failures() == 20
        assert ledger.settled() == []


def test_a_refused_key_stops_at_once_and_settles_nothing(planned, refusing):
    refusing.status = 401
    config = settings(refusing, concurrency=1)
    job = planned(5, config)
    with pytest.raises(ProviderError, match="key"):
        ask(job, config)
    assert refusing.n == 1
    with ledger_of(job) as ledger:
        assert ledger.states()["planned"] == 5


# --- limits ------------------------------------------------------------------------------------


def test_the_budget_is_never_passed(planned, provider):
    with provider.FakeOpenAI(latency=0.02) as server:
        for budget in (0.02, 0.05, 0.11):
            config = settings(server, max_cost_usd=budget, concurrency=8)
            job = planned(60, config)
            with pytest.raises(ConfigError, match="max_cost_usd"):
                ask(job, config)
            with ledger_of(job) as ledger:
                totals = ledger.totals()
            spent = sum(
                r["tokens_in"] * 1e-6 + r["tokens_out"] * 1e-5 for r in server.stats["billed"]
            )
            assert totals.cost_usd == pytest.approx(spent)
            assert 0 < spent <= budget
        # A larger budget goes on where the smaller one stopped.
        assert ask(job, settings(server, max_cost_usd=10.0))
        assert len(billed(server)) == len(set(billed(server))) == 60


def test_rates_are_shaped(planned, provider):
    with provider.FakeOpenAI(rpm=600, window_s=6.0) as server:
        config = settings(server, rpm=540, concurrency=64)
        job = planned(60, config)
        assert ask(job, config)
        assert server.stats["limited"] == 0


def test_concurrency_is_kept(planned, provider):
    with provider.FakeOpenAI(latency=0.05) as server:
        config = settings(server, concurrency=7)
        job = planned(40, config)
        assert ask(job, config)
        assert server.stats["max_in_flight"] == 7


def test_limit_answers_so_many_now(planned, provider):
    with provider.FakeOpenAI() as server:
        job = planned(9, settings(server))
        assert not ask(job, settings(server), limit=4)
        assert len(billed(server)) == 4
        assert ask(job, settings(server))
        assert len(set(billed(server))) == len(billed(server)) == 9


# --- across jobs -------------------------------------------------------------------------------


def test_another_job_pays_nothing_for_what_one_has_bought(planned, provider):
    with provider.FakeOpenAI() as server:
        one, two = planned(8, settings(server)), planned(12, settings(server), "two")
        ask(one, settings(server))
        assert ask(two, settings(server))
        assert len(set(billed(server))) == len(billed(server)) == 12
        with ledger_of(two) as ledger:
            assert (ledger.totals().taken_over, ledger.totals().calls) == (8, 4)
            assert ledger.totals().cost_usd > 0


def test_another_server_is_another_model(planned, provider):
    with provider.FakeOpenAI() as one, provider.FakeOpenAI() as two:
        ask(planned(3, settings(one)), settings(one))
        ask(planned(3, settings(two), "two"), settings(two))
        assert len(billed(one)) == len(billed(two)) == 3


CHILD = """
import sys
from pathlib import Path
from okrcell.artifacts import writing
from okrcell.enrich.asking import How, asking
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.ledger import WRITE, open_ledger
job, config = Path(sys.argv[1]), EnrichConfig.model_validate_json(sys.argv[2])
with writing(job, "job"), open_ledger(job) as ledger, asking(job, ledger, config, How()) as asker:
    print("asking", flush=True)
    asker.ask(WRITE, ledger.request_keys())
"""


def start(job, config, **more):
    (job / "okrcell.json").write_text('{"okrcell": "job", "schema_version": 1}')
    command = [sys.executable, "-c", CHILD, str(job), config.model_dump_json()]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ, **more)


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_jobs_at_once_pay_once(planned, provider):
    with provider.FakeOpenAI(latency=0.3) as server:
        config = settings(server, concurrency=2, timeout_s=5.0)
        jobs = [planned(12, config), planned(12, config, "two")]
        children = [start(job, config) for job in jobs]
        for child in children:
            _, err = child.communicate(timeout=120)
            assert child.returncode == 0, err
        assert len(billed(server)) == len(set(billed(server))) == 12
        for job in jobs:
            with ledger_of(job) as ledger:
                assert ledger.states()["answered"] == 12


def test_what_a_killed_job_bought_is_found(planned, provider):
    with provider.FakeOpenAI(latency=0.2) as server:
        config = settings(server, concurrency=1, timeout_s=5.0)
        one, two = planned(6, config), planned(6, config, "two")
        child = start(one, config)
        until(lambda: len(billed(server)) >= 4)
        child.kill()
        child.communicate(timeout=20)
        with ledger_of(one) as ledger:
            bought = len(ledger.settled())
        assert bought >= 3
        assert ask(two, config)
        with ledger_of(two) as ledger:
            assert ledger.totals().taken_over == bought


# --- interrupts --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_finishes_what_is_in_flight(planned, provider, name):
    with provider.FakeOpenAI(latency=1.0) as server:
        config = settings(server, concurrency=4, timeout_s=20.0)
        job = planned(40, config)
        child = start(
            job, config, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
        )
        until(lambda: len(billed(server)) >= 6)
        child.send_signal(getattr(signal, name))
        _, err = child.communicate(timeout=60)
        assert b"KeyboardInterrupt" in err
        with ledger_of(job) as ledger:
            states = ledger.states()
            assert states["sent"] == 0
            assert states["answered"] == len(billed(server)) < 40
            assert ledger.totals().lost == 0


def test_sigkill_at_random_loses_only_what_is_in_flight(planned, provider):
    rng, lost = random.Random(3), 0
    with provider.FakeOpenAI(
        latency=0.1, faults="mix20", stall_s=1.0, retry_after=0.1, drip_s=0.1
    ) as server:
        config = settings(server, concurrency=4, timeout_s=0.8)
        job = planned(100, config)
        for _ in range(4):
            before = len(billed(server))
            child = start(job, config)
            wanted = before + rng.randint(5, 20)
            until(lambda at=wanted: len(billed(server)) >= at)
            child.kill()
            child.communicate(timeout=20)
            with ledger_of(job) as ledger:
                lost += ledger.states()["sent"]
        assert ask(job, config)
        with ledger_of(job) as ledger:
            states, totals, settled = ledger.states(), ledger.totals(), ledger.settled()
        assert states["planned"] == states["sent"] == 0
        assert len(settled) == 100
        assert len(settled) <= len(billed(server)) <= len(settled) + totals.lost
        assert totals.calls >= sum(server.stats["received"].values())
        assert totals.calls - sum(server.stats["received"].values()) <= lost


# --- the canary --------------------------------------------------------------------------------


def test_a_good_server_passes_once_per_job(planned, provider):
    with provider.FakeOpenAI() as server:
        config = settings(server)
        job = planned(1, config)
        for _ in range(2):
            with asker(job, config) as found:
                found.canary(20_000)
        assert len(billed(server)) == 2


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ({"schema_ignoring": True}, "ignored the JSON schema"),
        ({"truncate_prompt": 2000}, "read .* tokens of a prompt|did not return the first"),
        ({"faults": "truncated_length"}, "'length', not with 'stop'"),
        ({"faults": "503"}, "503"),
    ],
)
def test_a_bad_server_is_refused_before_it_is_paid(planned, provider, behaviour, why):
    with provider.FakeOpenAI(**behaviour) as server:
        config = settings(server, max_attempts=2)
        job = planned(3, config)
        with pytest.raises(ProviderError, match=why), asker(job, config) as found:
            found.canary(20_000)
        server.configure(schema_ignoring=False, truncate_prompt=0, faults="")
        with asker(job, config) as found:  # put right since
            found.canary(20_000)


def test_a_cut_prompt_is_noticed_without_usage_too(planned, provider):
    with provider.FakeOpenAI(truncate_prompt=2000, no_usage=True) as server:
        job = planned(1, settings(server))
        with pytest.raises(ProviderError, match="first"), asker(job, settings(server)) as found:
            found.canary(8000)


# --- the Batch API -----------------------------------------------------------------------------

QUICK = Waits(poll_s=0.05, settle_s=0.05)


def in_batches(job, config):
    return ask(job, config, batch_api=True, waits=QUICK)


def submissions(server):
    return server.stats["submitted"]


def test_batches_are_cut_by_count_and_bytes(planned, provider):
    with provider.FakeOpenAI(faults="content20") as server:
        config = settings(server, batch_requests=7)
        job = planned(30, config)
        assert in_batches(job, config)
        assert len(server.stats["batches"]) == 5
        config = settings(server, batch_mb=0.03, words=151)
        two = planned(30, config, "two")
        assert in_batches(two, config)
        assert set(submissions(server).values()) == {1}
        for found in (job, two):
            with ledger_of(found) as ledger:
                totals, states = ledger.totals(), ledger.states()
            assert states["planned"] == states["sent"] == 0
            assert states["answered"] + states["failed"] == 30
            assert totals.lost == 0
        assert list(two.glob("batch-*")) == []
    with ledger_of(two) as ledger:
        for entry in ledger.settled():
            if entry.cost_usd is not None:  # half the price
                full = config.cost(entry.tokens_in, entry.tokens_out)
                assert entry.cost_usd == pytest.approx(full / 2)


def test_an_expired_part_is_asked_again_and_what_is_done_is_kept(planned, provider):
    with provider.FakeOpenAI(expire_share=0.4) as server:
        config = settings(server, max_attempts=20)
        job = planned(25, config)
        assert in_batches(job, config)
        assert len(billed(server)) == len(set(billed(server))) == 25
        assert len(server.stats["batches"]) > 1


def test_a_refused_batch_goes_into_smaller_ones(planned, provider):
    with provider.FakeOpenAI(fail_first=2) as server:
        config = settings(server)
        job = planned(20, config)
        assert in_batches(job, config)
        assert len(billed(server)) == len(set(billed(server))) == 20


def test_a_batch_whose_creation_got_no_reply_is_found(planned, provider):
    with provider.FakeOpenAI(drop_create_response=1) as server:
        config = settings(server)
        job = planned(10, config)
        assert in_batches(job, config)
        assert len(server.stats["batches"]) == 1
        assert set(submissions(server).values()) == {1}


BATCH_CHILD = """
import os, signal, sys
from pathlib import Path
from okrcell.enrich import batches
from okrcell.enrich.asking import How, asking
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.ledger import WRITE, open_ledger
job, config, point = Path(sys.argv[1]), EnrichConfig.model_validate_json(sys.argv[2]), sys.argv[3]
name, _, when = point.partition(":")
real = getattr(batches._Batches, name)
def killed(self, *args):
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *args)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(batches._Batches, name, killed)
waits = batches.Waits(poll_s=0.05, settle_s=0.05)
with open_ledger(job) as ledger, asking(job, ledger, config, How(batch_api=True, waits=waits)) as asker:
    asker.ask(WRITE, ledger.request_keys())
"""


@pytest.mark.parametrize(
    "point",
    [
        "_note:before",
        "_note:after",
        "_find:after",
        "_upload:after",
        "_submit:after",
        "_collect:before",
        "_settle:after",
        "_collect:after",
    ],
)
def test_a_kill_at_any_point_submits_nothing_twice(planned, provider, point):
    with provider.FakeOpenAI(batch_polls=1) as server:
        config = settings(server, batch_requests=6)
        job = planned(10, config)
        command = [sys.executable, "-c", BATCH_CHILD, str(job), config.model_dump_json(), point]
        done = subprocess.run(
            command, capture_output=True, timeout=120, check=False, env=os.environ
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert in_batches(job, config)
        assert set(submissions(server).values()) == {1}
        assert len(billed(server)) == len(set(billed(server))) == 10
        with ledger_of(job) as ledger:
            assert ledger.states()["answered"] == 10


def test_a_kill_inside_the_create_call_submits_nothing_twice(planned, provider):
    """The batch exists on the server, and nothing here knows its id."""
    with provider.FakeOpenAI() as server:
        config = settings(server)
        job = planned(5, config)
        code = BATCH_CHILD.replace(
            "real = getattr(batches._Batches, name)", "real = lambda *a: None"
        ).replace(
            "setattr(batches._Batches, name, killed)",
            "from openai.resources.batches import Batches\n"
            "create = Batches.create\n"
            "def cut(self, **kwargs):\n"
            "    create(self, **kwargs)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "Batches.create = cut",
        )
        command = [sys.executable, "-c", code, str(job), config.model_dump_json(), "x"]
        done = subprocess.run(
            command, capture_output=True, timeout=120, check=False, env=os.environ
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert in_batches(job, config)
        assert len(server.stats["batches"]) == 1
        assert set(submissions(server).values()) == {1}


def test_the_budget_holds_for_batches(planned, provider):
    with provider.FakeOpenAI() as server:
        config = settings(server, max_cost_usd=0.05)
        job = planned(60, config)
        with pytest.raises(ConfigError, match="max_cost_usd"):
            in_batches(job, config)
        with ledger_of(job) as ledger:
            assert 0 < ledger.totals().cost_usd <= 0.05


# --- other providers ---------------------------------------------------------------------------


def test_any_langchain_model_is_asked_through_structured_output():
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage

    asked = {}

    class Model(GenericFakeChatModel):
        def with_structured_output(self, schema, **options):
            asked.update(options, schema=schema)

            class Bound:
                async def ainvoke(_, messages):
                    asked["messages"] = messages
                    return {"raw": await self.ainvoke(messages), "parsed": None}

            return Bound()

    message = AIMessage(
        content='{"a": 1}',
        usage_metadata={"input_tokens": 7, "output_tokens": 3, "total_tokens": 10},
        response_metadata={"stop_reason": "end_turn"},
    )
    client = clients._LangchainClient(Model(messages=iter([message])), EnrichConfig(), "other:m")
    call = Call([("system", "s"), ("human", "h")], "Draft", {"type": "object"}, 0, 10)
    assert asyncio.run(client.complete(call)) == Answer('{"a": 1}', 7, 3, "stop")
    assert asked["schema"]["title"] == "Draft"
    assert asked["include_raw"]


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to look like one" * 20, None]
)
def test_a_shared_file_that_cannot_be_used_says_how_to_go_on(tmp_path, monkeypatch, content):
    (tmp_path / "a").write_bytes(content or b"")
    monkeypatch.setenv("OKRCELL_ANSWERS", str(tmp_path / "a" if content else tmp_path / "a" / "b"))
    with pytest.raises(StorageError, match="OKRCELL_ANSWERS=off"):
        open_answers(tmp_path, EnrichConfig(writer="openai:m"))


def test_the_shared_file_can_be_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv("OKRCELL_ANSWERS", "off")
    assert open_answers(tmp_path, EnrichConfig(writer="openai:m")) is None


def test_the_key_is_sent_and_kept_nowhere(planned, provider, capfd):
    reply = json.dumps({"leak": KEY})
    with provider.FakeOpenAI(writer=lambda body: reply) as server:
        job = planned(3, settings(server))
        ask(job, settings(server))
        assert server.stats["authorizations"] == [f"Bearer {KEY}"]
    for path in job.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
    out, err = capfd.readouterr()
    assert KEY not in out + err
