"""Three texts for the same profiles, as three finished jobs that training and evaluation read alike."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from okrcell.artifacts import commit, read_manifest
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.job import DESCRIPTIONS, KIND, load_descriptions, plan, run
from okrcell.schemas import TABLES, write_table

__all__ = ["ENRICHED", "MASKED", "ORIGINAL", "make_jobs", "text_facts"]

ORIGINAL, ENRICHED, MASKED = "original", "enriched", "enriched, label masked"


def make_jobs(store: Path, folder: Path, words: int) -> dict[str, Path]:
    """Write descriptions without expression evidence, the same with the label masked, and the copy.

    A profile without an accepted description in one of the jobs is rejected in all three, so that
    all models see the same cells; evaluation then reads its original text in all three. Masked texts are
    short, so that one failing sentence of two or three would reject them: half of the sentences must be
    supported, in both jobs.
    """
    config = EnrichConfig(expression=False, words=words, keep_fraction=0.5)
    jobs = {ENRICHED: folder / "enriched", MASKED: folder / "masked"}
    for name, job in jobs.items():
        plan(store, job, config.replace(mask_label=name == MASKED))
        run(job)
    accepted = [
        {
            row["profile_id"]
            for row in load_descriptions(job).to_pylist()
            if row["status"] == "accepted"
        }
        for job in jobs.values()
    ]
    usable = accepted[0] & accepted[1]
    jobs[ORIGINAL] = folder / "original"
    shutil.copytree(jobs[ENRICHED], jobs[ORIGINAL])
    for name, job in jobs.items():
        _rewrite(job, usable, original=name == ORIGINAL)
    return {name: jobs[name] for name in (ORIGINAL, ENRICHED, MASKED)}


def _rewrite(job: Path, usable: set[str], *, original: bool) -> None:
    """Commit a job anew: other profiles rejected, and for the copy each text its original one.

    Nobody rates an original text: its reliability is 1, which is what training takes for unrated ones.
    """
    manifest = read_manifest(job, KIND)
    rows = load_descriptions(job).to_pylist()
    for row in rows:
        if row["profile_id"] not in usable:
            row |= {"status": "rejected", "text": "", "reason": "not accepted in every arm"}
        elif original:
            row |= {"text": row["original_text"], "claims": [], "reliability": 1.0}
    table = pa.Table.from_pylist(rows, schema=TABLES["descriptions"].schema)
    (job / DESCRIPTIONS).unlink()  # a copied file may be read-only or linked
    files: dict[str, int | None] = {name: entry["rows"] for name, entry in manifest.files.items()}
    files[DESCRIPTIONS] = write_table(job / DESCRIPTIONS, "descriptions", table)
    commit(
        job,
        KIND,
        config=manifest.config,
        inputs=manifest.inputs,
        files=files,
        facts=manifest.facts,
    )


def text_facts(job: Path) -> Mapping[str, float]:
    """Return profiles, those accepted, distinct texts, mean words and mean reliability."""
    rows = load_descriptions(job).to_pylist()
    good = [row for row in rows if row["status"] == "accepted"]
    n = max(len(good), 1)
    return {
        "profiles": len(rows),
        "accepted": len(good),
        "distinct": len({row["text"] for row in good}),
        "words": sum(len(row["text"].split()) for row in good) / n,
        "reliability": sum(row["reliability"] for row in good) / n,
    }
