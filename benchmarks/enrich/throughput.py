"""How fast a job asks: against a bare asyncio loop with the openai client, and the same prompts and server.

python benchmarks/enrich/throughput.py --out throughput.json
python benchmarks/enrich/throughput.py --n 1000 --latency 0 --out quick.json
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import tempfile
import threading
import time
from pathlib import Path

from output import publish
from provider import Terms, profiles, provider

os.environ |= {"OPENAI_API_KEY": "sk-benchmark-0123456789", "OKRCELL_ANSWERS": "off"}
os.environ["NO_PROXY"] = "127.0.0.1"
CONCURRENCY = 64


def planned(job: Path, n: int, url: str, embedder) -> tuple:
    from okrcell.enrich import job as jobs
    from okrcell.enrich.config import EnrichConfig

    config = EnrichConfig(
        writer="openai:m",
        base_url=url,
        concurrency=CONCURRENCY,
        price_in=0.15,
        price_out=0.6,
        canary=False,
        repair=False,
        expression=False,
    )
    table = profiles(n)
    start = time.monotonic()
    jobs.plan(job, job, config, knowledge=Terms(), embedder=embedder, profiles=table)
    return config, time.monotonic() - start


def bare(job: Path, config) -> dict[str, float]:
    """Send the same requests from as many workers as there are calls in flight."""
    import openai

    from okrcell.enrich.client import chat_payload
    from okrcell.enrich.ledger import open_ledger
    from okrcell.enrich.writer import call_of

    with open_ledger(job, read_only=True) as ledger:
        keys = ledger.open_keys()

        async def main() -> None:
            client = openai.AsyncOpenAI(base_url=config.base_url, max_retries=0)
            waiting = iter(keys)

            async def worker() -> None:
                for key in waiting:
                    call = call_of(ledger, ledger.entry(key), config)
                    await client.chat.completions.create(
                        **chat_payload(config, config.writer, call)
                    )

            await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
            await client.close()

        return clocked(lambda: asyncio.run(main()), len(keys))


def structured(job: Path, config, most: int) -> dict[str, float]:
    """The same through langchain's structured output, which most projects use."""
    from langchain.chat_models import init_chat_model

    from okrcell.enrich.ledger import open_ledger
    from okrcell.enrich.writer import call_of

    with open_ledger(job, read_only=True) as ledger:
        keys = ledger.open_keys()[:most]
        model = init_chat_model(
            config.writer, base_url=config.base_url, max_retries=0, use_responses_api=False
        )

        async def main() -> None:
            waiting = iter(keys)

            async def worker() -> None:
                for key in waiting:
                    call = call_of(ledger, ledger.entry(key), config)
                    schema = {"title": call.name, "description": "d", **call.schema}
                    ask = model.with_structured_output(
                        schema, method="json_schema", include_raw=True, strict=True
                    )
                    await ask.ainvoke(list(call.messages))

            await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))

        return clocked(lambda: asyncio.run(main()), len(keys))


def ours(job: Path, config) -> dict[str, float]:
    from okrcell.enrich.asking import How, asking
    from okrcell.enrich.ledger import WRITE, open_ledger

    memory: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            memory.append(resident())

    with open_ledger(job) as ledger, asking(job, ledger, config, How()) as asker:
        keys = ledger.request_keys()
        watcher = threading.Thread(target=watch)
        watcher.start()
        found = clocked(lambda: asker.ask(WRITE, keys), len(keys))
        done.set()
        watcher.join()
        assert ledger.states()["answered"] == len(keys)
    if len(memory) > 20:
        early, late = memory[len(memory) // 5], memory[-1]
        found |= {"mib_at_a_fifth": early / 2**20, "mib_at_the_end": late / 2**20}
    return found


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def clocked(work, n: int) -> dict[str, float]:
    start, cpu = time.monotonic(), time.process_time()
    work()
    seconds = time.monotonic() - start
    return {
        "seconds": seconds,
        "rate": n / seconds,
        "cpu_ms": 1000 * (time.process_time() - cpu) / n,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="not needed")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--latency", type=float, nargs="*", default=[0.0, 1.0])
    arguments = parser.parse_args()
    from okrcell.corpus.embedder import load_embedder

    embedder, tables, notes = load_embedder(), [], []
    for latency in arguments.latency:
        rows = []
        with provider(latency=latency) as server, tempfile.TemporaryDirectory() as folder:
            job = Path(folder) / "job"
            config, seconds = planned(job, arguments.n, server.url, embedder)
            results = {"bare asyncio loop, openai client": bare(job, config)}
            if not latency:
                most = min(2000, arguments.n)
                results["langchain structured output"] = structured(job, config, most)
            results["okrcell enrich run (ledger, limits, retries)"] = mine = ours(job, config)
        base = results["bare asyncio loop, openai client"]
        for name, result in results.items():
            share = f"{result['rate'] / base['rate']:.1%}"
            rows.append([name, f"{result['rate']:.1f}", share, f"{result['cpu_ms']:.2f}"])
        ideal = f", at most {CONCURRENCY / latency:.0f}/s" if latency else ""
        caption = f"{arguments.n:,} requests, {CONCURRENCY} in flight, server answers after {latency:g} s{ideal}"
        columns = ["client", "requests/s", "of the bare loop", "CPU ms per request"]
        tables.append({"caption": caption, "columns": columns, "rows": rows})
        if "mib_at_the_end" in mine:
            notes.append(
                f"Latency {latency:g} s: resident memory {mine['mib_at_a_fifth']:.0f} MiB after a fifth of the"
                f" run, {mine['mib_at_the_end']:.0f} MiB at its end. Planning took {seconds:.0f} s."
            )
    publish(
        {
            "title": "Throughput of a job",
            "command": "python benchmarks/enrich/throughput.py --out throughput.json",
            "tables": tables,
            "notes": notes,
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
