"""Descriptions out of a job, for other programs; and what changed between two jobs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from okrcell.artifacts import atomic_write
from okrcell.enrich.job import EVIDENCE, REQUESTS, load_descriptions
from okrcell.errors import ConfigError
from okrcell.schemas import read_table, write_table

__all__ = ["FORMATS", "diff", "export", "joined_rows"]

FORMATS = ("jsonl", "tsv", "parquet")
_FLAT = (
    "profile_id",
    "status",
    "reliability",
    "n_cells",
    "original_text",
    "text",
    "sources",
    "leaked_names",
    "reason",
)
_MOVED = 0.05  # a change of reliability worth telling


def joined_rows(job: Path, statuses: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Yield a finished job's descriptions with the number of cells and the documents that are cited.

    Parameters
    ----------
    statuses
        Only these; none means all.

    Raises
    ------
    ManifestError
        The job is not finished.
    """
    table = load_descriptions(job)
    requests = read_table(job / REQUESTS, "requests", ["profile_id", "n_cells"]).to_pylist()
    cells = {row["profile_id"]: row["n_cells"] for row in requests}
    columns = ["snippet_id", "doc_id"]
    documents = {
        row["snippet_id"]: row["doc_id"]
        for row in read_table(job / EVIDENCE, "evidence", columns).to_pylist()
    }
    for row in table.to_pylist():
        if statuses and row["status"] not in statuses:
            continue
        cited = {
            documents.get(citation["snippet_id"])
            for claim in row["claims"]
            if claim["state"] == "kept"
            for citation in claim["citations"]
        }
        yield row | {
            "n_cells": cells[row["profile_id"]],
            "sources": sorted(doc_id for doc_id in cited if doc_id),
        }


def export(
    job: Path, out: Path, *, form: str | None = None, statuses: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Write a finished job's descriptions to one file.

    Parameters
    ----------
    form
        One of ``FORMATS``; by default told from the name. ``jsonl`` holds everything, ``tsv`` one line of text per
        profile, ``parquet`` the table ``descriptions``.
    statuses
        Only these; none means all.

    Returns
    -------
    dict
        ``path``, ``format``, ``rows``, and whether the texts are fit for zero-shot tests (``leak_control``).
    """
    from okrcell.artifacts import read_manifest
    from okrcell.enrich.job import KIND

    job, out = Path(job), Path(out)
    form = form or out.suffix.lstrip(".").lower()
    if form not in FORMATS:
        raise ConfigError(
            "--format",
            found=f"'{form}'",
            expected=f"one of {', '.join(FORMATS)}",
            fix="Name the format, or end the file's name with it.",
        )
    rows = list(joined_rows(job, statuses))
    if form == "parquet":
        table = load_descriptions(job)
        kept = {row["profile_id"] for row in rows}
        mask = pa.array([profile in kept for profile in table["profile_id"].to_pylist()])
        write_table(out, "descriptions", table.filter(mask))
    elif form == "jsonl":
        lines = (json.dumps(row, ensure_ascii=False, sort_keys=True) for row in rows)
        atomic_write(out, "".join(f"{line}\n" for line in lines))
    else:
        atomic_write(out, _tsv(rows))
    facts = read_manifest(job, KIND, verify=False).facts
    return {
        "path": str(out),
        "format": form,
        "rows": len(rows),
        "leak_control": facts["leak_control"],
    }


def _tsv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(_FLAT)
    for row in rows:
        values = [row[name] for name in _FLAT]
        writer.writerow([" | ".join(v) if isinstance(v, list) else v for v in values])
    return text.getvalue()


def diff(one: Path, other: Path) -> dict[str, Any]:
    """Compare the descriptions of two finished jobs, profile by profile.

    Returns
    -------
    dict
        Counts, and under ``changes`` what became of each profile that differs: ``was`` and ``is`` with
        status, text and reliability, and the sentences that came and went.
    """
    before = {row["profile_id"]: row for row in load_descriptions(Path(one)).to_pylist()}
    after = {row["profile_id"]: row for row in load_descriptions(Path(other)).to_pylist()}
    changes = []
    for profile_id in sorted(before.keys() & after.keys()):
        old, new = before[profile_id], after[profile_id]
        moved = abs(old["reliability"] - new["reliability"]) >= _MOVED
        if old["text"] == new["text"] and old["status"] == new["status"] and not moved:
            continue
        told, tells = _sentences(old), _sentences(new)
        changes.append(
            {
                "profile_id": profile_id,
                "original_text": new["original_text"],
                "was": _brief(old),
                "is": _brief(new),
                "gone": [text for text in told if text not in tells],
                "new": [text for text in tells if text not in told],
            }
        )
    return {
        "profiles": len(before.keys() | after.keys()),
        "same": len(before.keys() & after.keys()) - len(changes),
        "changed": len(changes),
        "only_in_first": sorted(before.keys() - after.keys()),
        "only_in_second": sorted(after.keys() - before.keys()),
        "changes": changes,
    }


def _sentences(row: Mapping[str, Any]) -> list[str]:
    return [claim["sentence"] for claim in row["claims"] if claim["state"] == "kept"]


def _brief(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("status", "reliability", "text", "reason")}
