"""A job: one folder in which a store's profiles become descriptions, planned first, then run.

Planning retrieves the evidence and writes it into the folder, so that a run reads nothing else: it
can go on another machine, with network and without the store. A run that is killed continues.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from okrcell.artifacts import (
    atomic_write,
    check_folder,
    commit,
    current_manifest,
    invalidate,
    read_manifest,
    writing,
)
from okrcell.config import fingerprint
from okrcell.console import progress
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.dispatch import dispatch
from okrcell.enrich.export import count_verdicts, describe
from okrcell.enrich.ledger import LEDGER, Ledger, open_ledger
from okrcell.enrich.planning import Plan, estimate, make_plan
from okrcell.enrich.writer import open_writer
from okrcell.errors import EmbedderError, ManifestError
from okrcell.schemas import TABLES, read_table, write_table

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder
    from okrcell.corpus.knowledge import Knowledge
    from okrcell.enrich.client import ChatClient

__all__ = ["descriptions_fingerprint", "load_descriptions", "plan", "run", "status"]

_KIND, _PLAN, _REQUESTS, _DESCRIPTIONS = (
    "job",
    "plan.json",
    "requests.parquet",
    "descriptions.parquet",
)


def plan(
    store: Path,
    out: Path,
    config: EnrichConfig,
    *,
    dry_run: bool = False,
    knowledge: Knowledge | None = None,
    embedder: Embedder | None = None,
    profiles: pa.Table | None = None,
) -> dict[str, Any]:
    """Plan the descriptions of a store's profiles; answers to unchanged requests are kept.

    Parameters
    ----------
    store, out
        Folder with cells and built knowledge, and the job's folder.
    dry_run
        Write nothing.
    knowledge, embedder, profiles
        Used instead of those of the store.

    Returns
    -------
    dict
        Profiles, cells they stand for, calls to make, calls saved against one per cell, estimated
        tokens, cost (None without prices) and seconds, and whether a finished job was ``reused``.
    """
    store, out = Path(store), Path(out)
    check_folder(out, _KIND)
    if profiles is None:
        from okrcell.corpus.cells import load_profiles

        profiles = load_profiles(store)
    if embedder is None:
        from okrcell.corpus.embedder import load_embedder

        embedder = load_embedder(config.embedder)
    opened = None
    if knowledge is None:
        from okrcell.corpus.knowledge import open_knowledge

        knowledge = opened = open_knowledge(store, embedder)
    try:
        return _plan(out, config, knowledge, embedder.id, profiles.to_pylist(), dry_run)
    finally:
        if opened is not None:
            opened.close()


def _plan(
    out: Path,
    config: EnrichConfig,
    knowledge: Knowledge,
    embedder_id: str,
    profiles: list[dict[str, Any]],
    dry_run: bool,
) -> dict[str, Any]:
    inputs = {
        "knowledge": knowledge.fingerprint,
        "profiles": fingerprint(profiles),
        "embedder": embedder_id,
    }
    manifest = current_manifest(out, _KIND, config=config.content(), inputs=inputs)
    # Failures that were never paid for are worth another try; all else is settled.
    if manifest is not None and not manifest.facts["unpaid_failures"]:
        return {"reused": True, "job": str(out), **dict(manifest.facts["plan"]), "calls": 0}
    made = make_plan(profiles, knowledge, config)
    if dry_run:
        settled = _settled_keys(out)
        return {"reused": False, "dry_run": True, "job": str(out)} | estimate(made, config, settled)
    with writing(out, _KIND):
        invalidate(out)
        # Without it nothing can be run: new requests must never be answered under an old plan's keys.
        (out / _PLAN).unlink(missing_ok=True)
        write_table(out / _REQUESTS, "requests", _requests_table(made))
        with open_ledger(out) as ledger:
            ledger.plan(made.requests.values(), made.profile_rows())
            summary = estimate(made, config, frozenset(made.requests) - set(ledger.open_keys()))
        body = {"config": config.model_dump(mode="json"), "inputs": inputs, "summary": summary}
        atomic_write(out / _PLAN, json.dumps(body, indent=1, sort_keys=True) + "\n")
    return {"reused": False, "job": str(out), **summary}


def _settled_keys(out: Path) -> frozenset[str]:
    if not (out / LEDGER).exists():
        return frozenset()
    with open_ledger(out, read_only=True) as ledger:
        open_keys = set(ledger.open_keys())
        return frozenset(key for _, key, _, _ in ledger.profiles() if key) - open_keys


def _requests_table(made: Plan) -> pa.Table:
    rows = [
        {
            "profile_id": item.profile_id,
            "original_text": item.original_text,
            "facets": [
                {"facet": facet, "snippet_ids": [evidence.snippet_id for evidence in items]}
                for facet, items in item.facets.items()
            ],
        }
        for item in made.profiles
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["requests"].schema)


def run(
    job: Path,
    *,
    concurrency: int | None = None,
    limit: int | None = None,
    embedder: Embedder | None = None,
    client: ChatClient | None = None,
) -> dict[str, Any]:
    """Answer a job's open requests; once all are settled, check and export the descriptions.

    Parameters
    ----------
    concurrency
        Calls in flight, instead of the planned number.
    limit
        Answer at most this many requests now.
    embedder, client
        Used instead of those that the configuration names.

    Returns
    -------
    dict
        As :func:`status`, with ``reused``: whether the job was finished already.

    Raises
    ------
    ManifestError
        The folder holds no planned job.
    ProviderError, ConfigError
        As :func:`okrcell.enrich.dispatch.dispatch`; what was answered is kept.
    """
    job = Path(job)
    config, inputs = _read_plan(job)
    if concurrency is not None:
        config = config.replace(concurrency=concurrency)
    with writing(job, _KIND):
        if current_manifest(job, _KIND, config=config.content(), inputs=inputs) is not None:
            return {"reused": True, **status(job)}
        with open_ledger(job) as ledger:
            _answer(ledger, config, limit, client)
            if not ledger.open_keys():
                _export(job, ledger, config, inputs, embedder)
        return {"reused": False, **status(job)}


def _answer(
    ledger: Ledger, config: EnrichConfig, limit: int | None, client: ChatClient | None
) -> None:
    n_open = len(ledger.open_keys())
    total = n_open if limit is None else min(n_open, limit)
    if total == 0:
        return
    writer = open_writer(config, client)
    with progress("Writing descriptions", total, "requests") as advance:
        dispatch(ledger, writer, config, limit=limit, on_settled=advance)


def _export(
    job: Path,
    ledger: Ledger,
    config: EnrichConfig,
    inputs: Mapping[str, str],
    embedder: Embedder | None,
) -> None:
    if embedder is None:
        from okrcell.corpus.embedder import load_embedder

        embedder = load_embedder(config.embedder)
    if embedder.id != inputs["embedder"]:
        raise EmbedderError(
            job,
            found=f"the embedder {embedder.id}",
            expected=f"{inputs['embedder']}, with which the job was planned",
            fix="Use that embedder, or plan the job again with this one.",
        )
    table = describe(ledger, config, embedder)
    files: dict[str, int | None] = {
        _DESCRIPTIONS: write_table(job / _DESCRIPTIONS, "descriptions", table),
        _REQUESTS: read_table(job / _REQUESTS, "requests", ["profile_id"]).num_rows,
    }
    facts = {
        **count_verdicts(table),
        "unpaid_failures": ledger.unpaid_failures(),
        "plan": _read_json(job / _PLAN)["summary"],
    }
    commit(job, _KIND, config=config.content(), inputs=inputs, files=files, facts=facts)


def status(job: Path) -> dict[str, Any]:
    """Return how far a job is: requests by state, calls, tokens, cost, and the outcome if finished."""
    job = Path(job)
    config, inputs = _read_plan(job)
    with open_ledger(job, read_only=True) as ledger:
        totals = asdict(ledger.totals())
    manifest = current_manifest(job, _KIND, config=config.content(), inputs=inputs)
    states = ("planned", "sent", "answered", "failed")
    outcome = (
        {key: manifest.facts[key] for key in ("descriptions", "sentences")} if manifest else {}
    )
    return {
        "job": str(job),
        "writer": config.writer,
        "finished": manifest is not None,
        "profiles": _read_json(job / _PLAN)["summary"]["profiles"],
        "requests": {state: totals.pop(state) for state in states},
        **totals,
        **outcome,
    }


def _read_plan(job: Path) -> tuple[EnrichConfig, dict[str, str]]:
    check_folder(job, _KIND)
    content = _read_json(job / _PLAN)
    return EnrichConfig.model_validate(content["config"]), dict(content["inputs"])


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ManifestError(
            path.parent,
            found="no planned job",
            expected="a folder made by 'okrcell enrich plan'",
            fix="Plan the job first, or check the path.",
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(content, dict):
        raise _damaged(path, f"a JSON {type(content).__name__}")
    return content


def _damaged(path: Path, why: str) -> ManifestError:
    return ManifestError(
        path,
        found=f"a damaged plan ({why})",
        expected="the file as 'okrcell enrich plan' wrote it",
        fix="Plan the job again.",
    )


def load_descriptions(job: Path) -> pa.Table:
    """Return a finished job's table ``descriptions``.

    Raises
    ------
    ManifestError
        The job is not finished, or its files were altered.
    """
    read_manifest(Path(job), _KIND)
    return read_table(Path(job) / _DESCRIPTIONS, "descriptions")


def descriptions_fingerprint(job: Path) -> str:
    """Return the identity of a finished job's descriptions: the sha256 of their table."""
    manifest = read_manifest(Path(job), _KIND, verify=False)
    return str(manifest.files[_DESCRIPTIONS]["sha256"])
