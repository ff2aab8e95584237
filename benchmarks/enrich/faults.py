"""A job under faults and kills: nothing lost, nothing paid twice, the same bytes at the end.

    python benchmarks/enrich/faults.py --out faults.json

2,000 profiles, a provider that goes wrong with every fifth request or attempt, and a run that is
SIGKILLed 25 times at random. The undisturbed run meets the same faults of content (they depend on the
request) and none of transport.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from output import publish
from provider import Provider, Terms, profiles, provider

os.environ |= {"OPENAI_API_KEY": "sk-benchmark-0123456789", "NO_PROXY": "127.0.0.1"}
FAULTS = {"faults": "mix20", "stall_s": 2, "drip_s": 0.3, "retry_after": 0.5, "latency": 0.25}
RUN = [sys.executable, "-m", "okrcell", "enrich", "run"]


def plan(job: Path, url: str, n: int) -> None:
    from okrcell.corpus.embedder import load_embedder
    from okrcell.enrich import job as jobs
    from okrcell.enrich.config import EnrichConfig

    config = EnrichConfig(
        writer="openai:m",
        base_url=url,
        timeout_s=1.5,
        max_attempts=8,
        concurrency=32,
        price_in=0.15,
        price_out=0.6,
        expression=False,
        canary=False,
    )
    jobs.plan(job, job, config, knowledge=Terms(), embedder=load_embedder(), profiles=profiles(n))


def killed(job: Path, server: Provider, kills: int, seed: int) -> tuple[int, list[float]]:
    """Run and kill a job over and over; return the units in flight at the kills, and the waits."""
    from okrcell.enrich.ledger import open_ledger

    rng, in_flight, waits = random.Random(seed), 0, []
    for _ in range(kills):
        before = sum(server.stats()["received"].values())
        child = subprocess.Popen(
            [*RUN, str(job)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while child.poll() is None and sum(server.stats()["received"].values()) == before:
            time.sleep(0.05)
        waits.append(rng.uniform(0.0, 1.5))
        time.sleep(waits[-1])
        child.kill()
        child.wait()
        with open_ledger(job, read_only=True) as ledger:
            in_flight += ledger.states()["sent"] + ledger.states("repair")["sent"]
    return in_flight, waits


def finish(job: Path) -> float:
    start = time.monotonic()
    for _ in range(20):
        done = subprocess.run([*RUN, str(job)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return time.monotonic() - start
    raise SystemExit(done.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="not needed")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from okrcell.enrich.job import load_descriptions
    from okrcell.enrich.ledger import open_ledger

    with tempfile.TemporaryDirectory() as folder:
        calm, rough = Path(folder) / "calm", Path(folder) / "rough"
        os.environ["OKRCELL_ANSWERS"] = str(Path(folder) / "calm.sqlite")
        quiet = {key: FAULTS[key] for key in ("latency",)}
        with provider(**quiet, faults="content10") as server:
            plan(calm, server.url, arguments.n)
            seconds = finish(calm)
            calm_billed = len(server.stats()["billed"])
        os.environ["OKRCELL_ANSWERS"] = str(Path(folder) / "rough.sqlite")
        with provider(**FAULTS) as server:
            plan(rough, server.url, arguments.n)
            in_flight, _ = killed(rough, server, arguments.kills, arguments.seed)
            finish(rough)
            stats = server.stats()
        bill = ["tokens_in", "tokens_out", "cost_usd"]
        one, other = load_descriptions(calm), load_descriptions(rough)
        differs = [name for name in one.column_names if one[name] != other[name]]
        same = one.drop_columns(bill).equals(other.drop_columns(bill))
        table = other.to_pylist()
        with open_ledger(rough, read_only=True) as ledger:
            totals, settled = ledger.totals(), ledger.settled()
            failures = ledger.failures()
        billed, received = len(stats["billed"]), sum(stats["received"].values())
        counted = {row["hash"] for row in stats["billed"]}
        answered = len(settled)
        states = {
            s: sum(row["status"] == s for row in table) for s in ("accepted", "rejected", "failed")
        }
        faults = sum(stats["faults"].values())
        lost_billed = billed - answered
        rows = [
            ["profiles, each in one final state", f"{len(table)}: {states}"],
            ["SIGKILLs; calls in flight at them", f"{arguments.kills}; {in_flight}"],
            ["requests received; faults met", f"{received}; {faults}"],
            ["answers in the ledger (paid, usable or not)", answered],
            ["calls billed by the server", billed],
            ["of these without an answer in the ledger", lost_billed],
            ["calls that the ledger counts as lost", totals.lost],
            ["distinct requests billed", len(counted)],
            [
                "requests with an answer that were paid again",
                answered - len({e.key for e in settled}),
            ],
            ["calls begun, as the ledger counts them", totals.calls],
            ["export equal to the undisturbed run's, but for the bill", "yes" if same else "NO"],
            ["columns that differ", ", ".join(differs) or "none: the file has the same bytes"],
        ]
        notes = [
            f"The undisturbed run billed {calm_billed} calls in {seconds:.0f} s.",
            "Billed without an answer are replies that were reset, stalled or cut off by a kill: each is among "
            "the calls that the ledger counts as lost "
            f"({'holds' if lost_billed <= totals.lost else 'DOES NOT HOLD'}), which also count calls that "
            "may not have been billed.",
            "The fault 'duplicate' is an answer with two choices, for both of which the server counts tokens: where it "
            "struck, the bill differs from the undisturbed run's, and the export says so.",
            f"Answers that no retry mends, by kind: {failures}.",
        ]
    caption = f"{arguments.n:,} profiles, 20 % faults, {arguments.kills} kills"
    publish(
        {
            "title": "Faults and kills",
            "command": "python benchmarks/enrich/faults.py --out faults.json",
            "tables": [{"caption": caption, "columns": ["what", "found"], "rows": rows}],
            "notes": notes,
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
