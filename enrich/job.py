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
from okrcell.enrich.answers import open_answers
from okrcell.enrich.asking import Asker, How, asking
from okrcell.enrich.checking import check
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.export import count_verdicts, describe
from okrcell.enrich.ledger import LEDGER, WRITE, Ledger, mark_settled, open_ledger
from okrcell.enrich.planning import Plan, estimate, make_plan
from okrcell.enrich.prompts import render
from okrcell.enrich.writer import write_offline
from okrcell.errors import EmbedderError, ManifestError
from okrcell.schemas import TABLES, read_table, write_table

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder
    from okrcell.corpus.knowledge import Knowledge

__all__ = [
    "DESCRIPTIONS",
    "EVIDENCE",
    "KIND",
    "REQUESTS",
    "load_descriptions",
    "plan",
    "read_plan",
    "retry",
    "run",
]

KIND, PLAN = "job", "plan.json"
REQUESTS, EVIDENCE = "requests.parquet", "evidence.parquet"
CELLS, DESCRIPTIONS = "expression_cells.parquet", "descriptions.parquet"
_OFFLINE_PER_COMMIT = 200


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
        Used instead of those of the store. With profiles of one's own there is no expression evidence.

    Returns
    -------
    dict
        Profiles, cells they stand for, calls to make, calls saved against one per cell, estimated
        tokens, cost (None without prices) and seconds, and whether a finished job was ``reused``.
    """
    from okrcell.corpus.embedder import load_embedder
    from okrcell.corpus.knowledge import open_knowledge
    from okrcell.corpus.profiles import cells_fingerprint, load_profiles

    store, out = Path(store), Path(out)
    check_folder(out, KIND)
    cells = store if profiles is None and config.expression else None
    rows = (load_profiles(store) if profiles is None else profiles).to_pylist()
    embedder = embedder or load_embedder(config.embedder)
    opened = knowledge or open_knowledge(store, embedder)
    try:
        inputs = {
            "knowledge": opened.fingerprint,
            "profiles": fingerprint(rows),
            "embedder": embedder.id,
        }
        if cells is not None:
            inputs["cells"] = cells_fingerprint(cells)
        manifest = current_manifest(out, KIND, config=config.content(), inputs=inputs)
        # Failures that were never paid for are worth another try; all else is settled.
        if manifest is not None and not manifest.facts["unpaid_failures"]:
            return {"reused": True, "job": str(out), **dict(manifest.facts["plan"]), "calls": 0}
        made = make_plan(rows, opened, config, embedder, cells)
    finally:
        if knowledge is None:
            opened.close()
    if dry_run:
        summary = estimate(made, config, _answered(out, config, made))
        return {"reused": False, "dry_run": True, "job": str(out), **summary}
    with writing(out, KIND):
        invalidate(out)
        # Without it nothing can be run: new requests must never be answered under an old plan's keys.
        (out / PLAN).unlink(missing_ok=True)
        _write_tables(out, made)
        with open_ledger(out) as ledger:
            ledger.plan(made.requests.values(), made.profiles)
        summary = estimate(made, config, _answered(out, config, made))
        body = {"config": config.model_dump(mode="json"), "inputs": inputs, "summary": summary}
        atomic_write(out / PLAN, json.dumps(body, indent=1, sort_keys=True) + "\n")
    return {"reused": False, "job": str(out), **summary}


def _answered(out: Path, config: EnrichConfig, made: Plan) -> frozenset[str]:
    """Return the keys of requests that this job or another one has answers to."""
    keys = sorted(made.requests)
    answered: frozenset[str] = frozenset()
    if (out / LEDGER).exists():
        with open_ledger(out, read_only=True) as ledger:
            entries = {key: ledger.last(key) for key in keys}
        answered = frozenset(
            key for key, entry in entries.items() if entry and entry.state in {"answered", "failed"}
        )
    shared = None if config.is_extractive else open_answers(out, config)
    if shared is None:
        return answered
    try:
        return answered | shared.known(keys)
    finally:
        shared.close()


def _write_tables(out: Path, made: Plan) -> None:
    """Write what was retrieved: the passages as offered, who they were offered for, the cells used."""
    groups = {
        key: [
            {"group": group, "evidence_ids": [item.evidence_id for item in items]}
            for group, items in request.groups
        ]
        for key, request in made.requests.items()
    }
    rows = [
        {
            "profile_id": profile.profile_id,
            "request": profile.key or "",
            "original_text": profile.original_text,
            "n_cells": profile.n_cells,
            "groups": groups[profile.key] if profile.key else [],
        }
        for profile in made.profiles
    ]
    offered = {
        item.evidence_id: {"evidence_id": item.evidence_id, **asdict(item)}
        for request in made.requests.values()
        for item in request.offered.values()
    }
    tables = {
        "requests": (REQUESTS, rows),
        "evidence": (EVIDENCE, [offered[key] for key in sorted(offered)]),
        "expression_cells": (CELLS, [{"cell_uid": uid} for uid in made.cell_uids]),
    }
    for name, (file, content) in tables.items():
        write_table(out / file, name, pa.Table.from_pylist(content, schema=TABLES[name].schema))


def run(
    job: Path,
    *,
    concurrency: int | None = None,
    rpm: int | None = None,
    tpm: int | None = None,
    canary: bool | None = None,
    how: How | None = None,
    embedder: Embedder | None = None,
) -> dict[str, Any]:
    """Answer a job's open requests; once all are settled, check, repair and export the descriptions.

    Parameters
    ----------
    concurrency, rpm, tpm, canary
        Instead of the planned ones.
    how
        How many requests are answered now, and by which way.
    embedder
        Used instead of the one that the configuration names.

    Returns
    -------
    dict
        As :func:`okrcell.enrich.status.status`, with ``reused``: whether the job was finished already.

    Raises
    ------
    ManifestError
        The folder holds no planned job.
    ProviderError, ConfigError
        As :func:`okrcell.enrich.dispatch.dispatch`; what was answered is kept.
    """
    from okrcell.enrich.status import status

    job = Path(job)
    config, inputs = read_plan(job)
    given = {"concurrency": concurrency, "rpm": rpm, "tpm": tpm, "canary": canary}
    config = config.replace(**{key: value for key, value in given.items() if value is not None})
    with writing(job, KIND):
        if current_manifest(job, KIND, config=config.content(), inputs=inputs) is not None:
            return {"reused": True, **status(job)}
        with open_ledger(job) as ledger, asking(job, ledger, config, how or How()) as asker:
            _work(job, ledger, asker, config, inputs, embedder)
        return {"reused": False, **status(job)}


def _work(
    job: Path,
    ledger: Ledger,
    asker: Asker,
    config: EnrichConfig,
    inputs: Mapping[str, str],
    embedder: Embedder | None,
) -> None:
    if config.is_extractive:
        _write_offline(ledger, config, asker.how.limit)
    else:
        if config.canary and ledger.open_keys():
            asker.canary(_longest_prompt(ledger, config))
        asker.ask(WRITE, ledger.request_keys())
    if ledger.open_keys():
        return
    embedder = _planned_embedder(job, config, inputs, embedder)
    checked = check(asker, config, embedder)
    if checked is None:
        return
    table = describe(ledger, checked, config, embedder)
    files: dict[str, int | None] = {
        DESCRIPTIONS: write_table(job / DESCRIPTIONS, "descriptions", table)
    }
    for file, name in ((REQUESTS, "requests"), (EVIDENCE, "evidence"), (CELLS, "expression_cells")):
        files[file] = read_table(job / file, name).num_rows
    summary = _read_json(job / PLAN)["summary"]
    facts = {
        **count_verdicts(table),
        "unpaid_failures": ledger.unpaid_failures(),
        "plan": summary,
        "leak_control": {
            "mask_label": config.mask_label,
            "expression": config.expression,
            "expression_split": "train",
            "expression_cells": files[CELLS],
        },
    }
    commit(job, KIND, config=config.content(), inputs=inputs, files=files, facts=facts)


def _write_offline(ledger: Ledger, config: EnrichConfig, limit: int | None) -> None:
    keys = ledger.open_keys()[:limit]
    with progress("Writing descriptions", len(keys), "requests") as advance:
        for at in range(0, len(keys), _OFFLINE_PER_COMMIT):
            piece = keys[at : at + _OFFLINE_PER_COMMIT]
            with ledger.connection as db:
                for key in piece:
                    entry = ledger.entry(key)
                    answer = write_offline(ledger.request(entry.parent if entry else key), config)
                    mark_settled(db, key, answer, None, 0.0)
            advance(len(piece))


def _longest_prompt(ledger: Ledger, config: EnrichConfig) -> int:
    """Return the characters of the longest prompt (among the first few hundred)."""
    requests = (ledger.request(key) for key in ledger.request_keys()[:300])
    return max(sum(len(text) for _, text in render(r, config.words)) for r in requests)


def _planned_embedder(
    job: Path, config: EnrichConfig, inputs: Mapping[str, str], embedder: Embedder | None
) -> Embedder:
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
    return embedder


def retry(job: Path, kinds: tuple[str, ...] = ()) -> dict[str, Any]:
    """Open failed requests again, to be asked anew by the next run.

    The failed answers and their cost stay in the ledger; a new try is a new unit, with another seed.

    Parameters
    ----------
    kinds
        Only failures of these kinds, as the status names them; none means all.

    Returns
    -------
    dict
        ``opened``: how many, by kind.
    """
    job = Path(job)
    read_plan(job)
    with writing(job, KIND), open_ledger(job) as ledger:
        opened = ledger.retry(kinds)
        if opened:
            invalidate(job)
    return {"job": str(job), "opened": dict(sorted(opened.items()))}


def read_plan(job: Path) -> tuple[EnrichConfig, dict[str, str]]:
    """Return a job's configuration and the fingerprints of what it was planned from.

    Raises
    ------
    ManifestError
        The folder holds no planned job, or its plan is damaged.
    """
    check_folder(job, KIND)
    content = _read_json(job / PLAN)
    try:
        return EnrichConfig.model_validate(content["config"]), dict(content["inputs"])
    except (LookupError, TypeError, ValueError) as error:
        raise _damaged(job / PLAN, type(error).__name__) from None


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
    read_manifest(Path(job), KIND)
    return read_table(Path(job) / DESCRIPTIONS, "descriptions")
