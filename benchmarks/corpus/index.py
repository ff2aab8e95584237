"""The search index: build rate against bare Chroma, latency and memory of search, recall, growth.

    python benchmarks/corpus/index.py --data ../shared/data --out index.json

Vectors are mixtures of embeddings of CRAFT paragraphs, texts are drawn from CRAFT sentences, so that
neighbourhoods and word frequencies are those of literature. Every step runs in a process of its own,
which gives its memory; the bare run and ours take turns, since other work on a machine changes both.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from output import peak_bytes, publish

DIM, SEEDS, QUERIES, K = 384, 600, 200, 10
SHARES = {"pubmed": 0.5, "pmc": 0.25, "notes": 0.15, "cl": 0.1}


# --- data ---------------------------------------------------------------------------------------


def paragraphs(data: Path) -> list[str]:
    found = []
    with gzip.open(data / "literature" / "craft_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            found += [p for p in json.loads(line)["text"].split("\n\n") if 200 < len(p) < 900]
    return found


def sentences(data: Path) -> list[str]:
    return [s for p in paragraphs(data) for s in re.split(r"(?<=\.)\s+", p) if len(s) > 20]


def mixtures(rng: np.random.Generator, seeds: np.ndarray, n: int) -> np.ndarray:
    share = rng.uniform(0.5, 1, (n, 1)).astype(np.float32)
    mixed = seeds[rng.integers(0, len(seeds), n)] * share
    mixed += seeds[rng.integers(0, len(seeds), n)] * (1 - share)
    mixed += 0.02 * rng.standard_normal(mixed.shape, dtype=np.float32)
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def write_store(folder: Path, data: Path, seeds: np.ndarray, rows: int) -> None:
    """Write a store's knowledge without its index."""
    from okrcell.artifacts import commit
    from okrcell.corpus.embedder import load_embedder
    from okrcell.schemas import TABLES, write_batches

    texts, step, rng = sentences(data), 4096, np.random.default_rng(rows)
    embedder_id = load_embedder().id

    def snippets() -> Iterator[pa.Table]:
        for begin in range(0, rows, step):
            n = min(step, rows - begin)
            made = [" ".join(texts[i] for i in rng.integers(0, len(texts), 6)) for _ in range(n)]
            yield pa.table(
                {
                    "snippet_id": [f"{(begin + i) * 2654435761 % 2**64:016x}" for i in range(n)],
                    "doc_id": [f"PMID:{(begin + i) // 2 + 1}" for i in range(n)],
                    "source": rng.choice(list(SHARES), n, p=list(SHARES.values())),
                    "section": [""] * n,
                    "start": [0] * n,
                    "end": [len(text) for text in made],
                    "text": made,
                    "n_tokens": [len(text) // 5 for text in made],
                    "flags": [[] for _ in range(n)],
                },
                schema=TABLES["snippets"].schema,
            )

    def vectors() -> Iterator[pa.Table]:
        for begin in range(0, rows, step):
            part = mixtures(rng, seeds, min(step, rows - begin))
            ids = [f"{(begin + i) * 2654435761 % 2**64:016x}" for i in range(len(part))]
            yield pa.table(
                {
                    "snippet_id": ids,
                    "vector": pa.ListArray.from_arrays(
                        np.arange(0, part.size + 1, DIM, dtype=np.int32), part.reshape(-1)
                    ),
                    "embedder": [embedder_id] * len(part),
                },
                schema=TABLES["snippet_vectors"].schema,
            )

    knowledge = folder / "knowledge"
    knowledge.mkdir(parents=True)
    write_batches(knowledge / "snippets.parquet", "snippets", snippets())
    write_batches(knowledge / "snippet_vectors.parquet", "snippet_vectors", vectors())
    commit(
        knowledge,
        "knowledge",
        config={},
        inputs={},
        files={"snippets.parquet": rows, "snippet_vectors.parquet": rows},
        facts={"embedder": embedder_id, "dim": DIM},
    )


# --- steps, each in its own process ------------------------------------------------------------


def step_bare(store: Path, scratch: Path) -> dict[str, Any]:
    """Chroma alone: one collection, default settings, batches by its own limit."""
    import chromadb
    import pyarrow.parquet as pq
    from chromadb.config import Settings

    table = pq.read_table(store / "knowledge" / "snippet_vectors.parquet", columns=["vector"])
    matrix = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
    ids = [f"{i:016x}" for i in range(len(matrix))]
    settings = Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(scratch / "bare"), settings=settings)
    start = time.perf_counter()
    collection = client.create_collection(
        "bare", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
    )
    batch = client.get_max_batch_size()
    for begin in range(0, len(ids), batch):
        part = slice(begin, begin + batch)
        collection.add(ids=ids[part], embeddings=matrix[part])
    seconds = time.perf_counter() - start
    client.close()
    shutil.rmtree(scratch / "bare")
    return {"seconds": seconds, "peak": peak_bytes() / 1e9}


def step_build(store: Path, scratch: Path) -> dict[str, Any]:
    """Our whole index; the time of its vector part is taken apart."""
    from okrcell.artifacts import read_manifest
    from okrcell.corpus import index

    vector_seconds = 0.0

    def timed(function: Any) -> Any:
        def call(*args: Any) -> Any:
            nonlocal vector_seconds
            start = time.perf_counter()
            result = function(*args)
            vector_seconds += time.perf_counter() - start
            return result

        return call

    index.build_dense, index.build_chroma = timed(index.build_dense), timed(index.build_chroma)
    manifest = read_manifest(store / "knowledge", "knowledge", verify=False)
    start = time.perf_counter()
    index.build_index(store / "knowledge", manifest)
    seconds = time.perf_counter() - start
    files = [p for p in (store / "knowledge" / "index").rglob("*") if p.is_file()]
    return {
        "seconds": seconds,
        "vector_seconds": vector_seconds,
        "disk": sum(p.stat().st_size for p in files) / 1e9,
        "peak": peak_bytes() / 1e9,
    }


class Timed:
    """An embedder that adds up its time."""

    def __init__(self, embedder: Any) -> None:
        self.embedder, self.seconds, self.cpu = embedder, 0.0, 0.0
        self.id, self.dim, self.max_tokens = embedder.id, embedder.dim, embedder.max_tokens

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embed, and keep the time."""
        start, begin = time.perf_counter(), time.thread_time()
        found = self.embedder.encode(texts)
        self.seconds, self.cpu = time.perf_counter() - start, time.thread_time() - begin
        return found


def step_search(store: Path, scratch: Path) -> dict[str, Any]:
    from okrcell.corpus import ontology
    from okrcell.corpus.embedder import load_embedder
    from okrcell.corpus.knowledge import open_knowledge

    embedder = Timed(load_embedder())
    labels = [term.label for term in ontology.terms("cl")]
    rng = np.random.default_rng(1)
    queries = [labels[i] for i in rng.integers(0, len(labels), QUERIES // 2)]
    told = json.loads((scratch / "sentences.json").read_text())
    queries += [told[i] for i in rng.integers(0, len(told), QUERIES // 2)]
    embedder.encode(queries[:1])
    before = peak_bytes() / 1e9
    start = time.perf_counter()
    knowledge = open_knowledge(store, embedder)
    opened = time.perf_counter() - start
    start = time.perf_counter()
    knowledge.search(queries[0], k=K)
    first = time.perf_counter() - start
    found: dict[str, Any] = {"open": opened, "first": first, "rows": [], "answers": {}}

    def measure(name: str, knowledge: Any, mode: str, sources: list[str] | None) -> None:
        times, shares, cpu, answers = [], [], [], []
        for query in queries:
            embedder.seconds = embedder.cpu = 0.0
            start, begin = time.perf_counter(), time.thread_time()
            hits = knowledge.search(query, k=K, mode=mode, sources=sources)
            times.append(1000 * (time.perf_counter() - start))
            cpu.append(1000 * (time.thread_time() - begin - embedder.cpu))
            shares.append(1000 * embedder.seconds)
            answers.append([hit.snippet_id for hit in hits])
        without = np.array(times) - np.array(shares)
        found["rows"].append(
            [
                name,
                *(f"{np.percentile(times, q):.1f}" for q in (50, 95)),
                f"{np.percentile(shares, 50):.1f}",
                *(f"{np.percentile(without, q):.1f}" for q in (50, 95)),
                *(f"{np.percentile(cpu, q):.1f}" for q in (50, 95)),
            ]
        )
        found["answers"][name] = answers

    for mode in ("dense", "lexical", "hybrid"):
        measure(mode, knowledge, mode, None)
        measure(f"{mode}, one source", knowledge, mode, ["pubmed"])
    found["peak"], found["model"] = peak_bytes() / 1e9, before
    knowledge.close()
    knowledge = open_knowledge(store, embedder, exact_rows=0)
    knowledge.search(queries[0], k=K)
    for mode in ("dense", "hybrid"):
        measure(f"{mode}, by Chroma", knowledge, mode, None)
        measure(f"{mode}, by Chroma, one source", knowledge, mode, ["pubmed"])
    knowledge.close()
    found["peak_chroma"] = peak_bytes() / 1e9
    return found


def step_filter(store: Path, scratch: Path) -> dict[str, Any]:
    """Peers: one Chroma collection with a 'where' filter; bm25s."""
    import chromadb
    import pyarrow.parquet as pq
    from chromadb.config import Settings

    folder = store / "knowledge"
    vectors = pq.read_table(folder / "snippet_vectors.parquet", columns=["vector"])["vector"]
    matrix = vectors.combine_chunks().flatten().to_numpy().reshape(-1, DIM)
    snippets = pq.read_table(folder / "snippets.parquet", columns=["source", "text"])
    sources = snippets["source"].to_pylist()
    settings = Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(scratch / "filtered"), settings=settings)
    collection = client.create_collection(
        "one", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
    )
    batch = client.get_max_batch_size()
    for begin in range(0, len(matrix), batch):
        part = slice(begin, min(begin + batch, len(matrix)))
        collection.add(
            ids=[str(i) for i in range(part.start, part.stop)],
            embeddings=matrix[part],
            metadatas=[{"source": source} for source in sources[part]],
        )
    rng = np.random.default_rng(2)
    wanted = mixtures(rng, np.load(scratch / "seeds.npy"), 50)
    rows = []
    for name, options in (
        ("Chroma, one collection, no filter", {}),
        ("Chroma, one collection, filter by 'where'", {"where": {"source": "pubmed"}}),
    ):
        times = []
        for query in wanted:
            start = time.perf_counter()
            collection.query(query_embeddings=query[None], n_results=K, include=[], **options)
            times.append(1000 * (time.perf_counter() - start))
        rows.append([name, *(f"{np.percentile(times, q):.1f}" for q in (50, 95))])
    client.close()
    shutil.rmtree(scratch / "filtered")
    import bm25s

    start = time.perf_counter()
    texts = snippets["text"].to_pylist()
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    seconds = time.perf_counter() - start
    told, times = json.loads((scratch / "sentences.json").read_text())[:50], []
    for query in told:
        start = time.perf_counter()
        tokens = bm25s.tokenize([query], stopwords="en", show_progress=False)
        retriever.retrieve(tokens, k=K, show_progress=False)
        times.append(1000 * (time.perf_counter() - start))
    rows.append(["bm25s, words only", *(f"{np.percentile(times, q):.1f}" for q in (50, 95))])
    return {"rows": rows, "bm25s_seconds": seconds, "peak": peak_bytes() / 1e9}


STEPS = {"bare": step_bare, "build": step_build, "search": step_search, "filter": step_filter}


def run(step: str, store: Path, scratch: Path) -> dict[str, Any]:
    out = scratch / f"{step}.json"
    command = [sys.executable, __file__, "--step", step, str(store), str(scratch), str(out)]
    subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


# --- tables -------------------------------------------------------------------------------------


def agreement(one: list[list[str]], two: list[list[str]]) -> tuple[float, float]:
    """Return the mean overlap of result lists, and the share of equal lists."""
    pairs = list(zip(one, two, strict=True))
    overlap = [len(set(a) & set(b)) / len(b) if b else float(not a) for a, b in pairs]
    return float(np.mean(overlap)), float(np.mean([a == b for a, b in pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--growth", type=int, nargs="*", default=[50_000, 100_000, 400_000])
    parser.add_argument("--scratch", type=Path, help="where to put several GB")
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step, store, scratch, out = arguments.step
        Path(out).write_text(json.dumps(STEPS[step](Path(store), Path(scratch))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as name:
        result = report(arguments, Path(name))
    publish(result, arguments.out)


def report(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    from okrcell.corpus.dense import EXACT_ROWS
    from okrcell.corpus.embedder import load_embedder
    from okrcell.corpus.store import chroma_identity

    rng = np.random.default_rng(0)
    texts = paragraphs(arguments.data)
    seeds = load_embedder().encode([texts[i] for i in rng.permutation(len(texts))[:SEEDS]])
    np.save(scratch / "seeds.npy", seeds)
    told = sentences(arguments.data)
    chosen = [told[i] for i in rng.permutation(len(told))[:1000]]
    (scratch / "sentences.json").write_text(json.dumps(chosen))
    n = arguments.rows
    store = scratch / "store"
    write_store(store, arguments.data, seeds, n)
    bare = [run("bare", store, scratch)]
    built = [run("build", store, scratch)]
    first = run("search", store, scratch)
    built.append(run("build", store, scratch))
    bare.append(run("bare", store, scratch))
    second = run("search", store, scratch)
    peers = run("filter", store, scratch)
    bare_s = float(np.mean([entry["seconds"] for entry in bare]))
    vector_s = float(np.mean([entry["vector_seconds"] for entry in built]))
    whole_s = float(np.mean([entry["seconds"] for entry in built]))
    shutil.rmtree(store)
    growth = []
    for rows in sorted({*arguments.growth, n}):
        build, search = built[-1], second
        if rows != n:
            write_store(store, arguments.data, seeds, rows)
            build, search = run("build", store, scratch), run("search", store, scratch)
            shutil.rmtree(store)
        growth.append(growth_row(rows, build, search))
    exact, chroma = "dense", "dense, by Chroma"
    recall = [
        [
            f"{mode}{where}",
            *(
                f"{value:.4f}"
                for value in agreement(
                    second["answers"][f"{mode}, by Chroma{where}"],
                    second["answers"][f"{mode}{where}"],
                )
            ),
        ]
        for mode in ("dense", "hybrid")
        for where in ("", ", one source")
    ]
    again = [
        [name, *(f"{value:.4f}" for value in agreement(first["answers"][name], answers))]
        for name, answers in second["answers"].items()
        if name in (exact, "lexical", "hybrid", chroma, "hybrid, by Chroma")
    ]
    rate = f"{n / bare_s:,.0f}"
    return {
        "title": "Search index",
        "command": "python benchmarks/corpus/index.py --data DATA --out index.json",
        "notes": [
            f"{n:,} snippets of {DIM} dimensions, four sources; {os.cpu_count()} cores, "
            f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}; {QUERIES} queries, half "
            "names of cell types and half sentences.",
            "Bars: build at least 0.8 times the rate of bare collection.add; p95 under 25 ms at "
            f"k = {K}; memory under 2 GB.",
            f"Up to {EXACT_ROWS:,} snippets in the chosen sources every vector is compared; beyond, "
            f"Chroma proposes candidates ({json.dumps(chroma_identity()['hnsw'])}).",
            f"bm25s indexed the same texts in {peers['bm25s_seconds']:.0f} s, "
            f"{peers['peak']:.1f} GB at its peak (with the vectors of the step before).",
        ],
        "tables": [
            {
                "caption": f"Build of {n:,} (mean of two runs, taking turns)",
                "columns": ["what", "seconds", "rows/s", "times bare", "bar", "peak GB"],
                "rows": [
                    ["bare collection.add", f"{bare_s:.0f}", rate, "1", "", gb(bare)],
                    [
                        "our vector index: Chroma by source, exact vectors",
                        f"{vector_s:.0f}",
                        f"{n / vector_s:,.0f}",
                        f"{bare_s / vector_s:.2f}",
                        "0.8",
                        gb(built),
                    ],
                    [
                        "whole index, with words and texts",
                        f"{whole_s:.0f}",
                        f"{n / whole_s:,.0f}",
                        f"{bare_s / whole_s:.2f}",
                        "",
                        gb(built),
                    ],
                ],
            },
            {
                "caption": f"Search in {n:,}, milliseconds",
                "columns": [
                    "mode",
                    "p50",
                    "p95",
                    "of it embedding p50",
                    "rest p50",
                    "rest p95",
                    "rest CPU p50",
                    "rest CPU p95",
                ],
                "rows": second["rows"] + [[*row[:3], *[""] * 5] for row in peers["rows"]],
            },
            {
                "caption": "Memory and start of a search process",
                "columns": ["what", "value", "bar"],
                "rows": [
                    ["opening the store, ms", f"{1000 * second['open']:.0f}", ""],
                    ["first hybrid search, ms", f"{1000 * second['first']:.0f}", ""],
                    ["peak RSS, GB", f"{second['peak']:.2f}", "2"],
                    ["of it model and libraries, GB", f"{second['model']:.2f}", ""],
                    ["peak RSS with Chroma open too, GB", f"{second['peak_chroma']:.2f}", "2"],
                ],
            },
            {
                "caption": f"Candidates from Chroma against exact search, first {K}",
                "columns": ["search", "recall", "lists that are equal"],
                "rows": recall,
            },
            {
                "caption": f"The same index built twice: first {K} of one build against the other's",
                "columns": ["search", "overlap", "lists that are equal"],
                "rows": again,
            },
            {
                "caption": "Growth",
                "columns": [
                    "snippets",
                    "build s",
                    "build GB",
                    "disk GB",
                    "open ms",
                    "dense p95",
                    "lexical p95",
                    "hybrid p95",
                    "hybrid by Chroma p95",
                    "search GB",
                ],
                "rows": growth,
            },
        ],
    }


def gb(runs: list[dict[str, Any]]) -> str:
    return f"{max(entry['peak'] for entry in runs):.2f}"


def growth_row(rows: int, build: dict[str, Any], search: dict[str, Any]) -> list[str]:
    p95 = {row[0]: row[2] for row in search["rows"]}
    return [
        f"{rows:,}",
        f"{build['seconds']:.0f}",
        f"{build['peak']:.2f}",
        f"{build['disk']:.2f}",
        f"{1000 * search['open']:.0f}",
        p95["dense"],
        p95["lexical"],
        p95["hybrid"],
        p95["hybrid, by Chroma"],
        f"{search['peak']:.2f}",
    ]


if __name__ == "__main__":
    main()
