"""From a cell to text: the nearest descriptions of an enrichment job, claim by claim with what they cite.

A run that was trained without descriptions, or whose job is gone, is asked for the nearest of its types; the
text is then the definition of the Cell Ontology, and its references are what is cited.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from okrcell.artifacts import read_manifest
from okrcell.corpus.ontology import get_term
from okrcell.errors import ConfigError
from okrcell.evaluate.apply.known import job_of
from okrcell.evaluate.apply.labels import candidates_for
from okrcell.evaluate.examples import claim_with_evidence, offered_passages
from okrcell.schemas import read_table

if TYPE_CHECKING:
    from okrcell.train.model import CellTextModel

__all__ = ["describe_vector"]

_TOLD = ("accepted",)


def describe_vector(
    run: Path, model: CellTextModel, vector: npt.NDArray[np.float32], job: Path | None, n: int
) -> dict[str, Any]:
    """Return the texts nearest to a cell's vector, by cosine.

    Parameters
    ----------
    vector
        float32 [E], of unit length.
    job
        Enrichment job; None takes the run's own, where it is still there.

    Returns
    -------
    dict
        ``descriptions`` (each with ``score``, ``title``, ``text``, ``claims`` and their evidence),
        ``source``, ``notes``.

    Raises
    ------
    ManifestError
        The job is not finished.
    ConfigError
        The job has no accepted description.
    """
    own = job_of(run)
    if job is None and (own is None or model.config.text_source != "description"):
        return _of_types(run, model, vector, n)
    folder = job or own
    assert folder is not None
    read_manifest(folder, "job", verify=False)
    rows = [
        row
        for row in read_table(folder / "descriptions.parquet", "descriptions").to_pylist()
        if row["status"] in _TOLD and row["text"]
    ]
    if not rows:
        raise ConfigError(
            folder,
            found="no accepted description",
            expected="a job with some",
            fix="See 'okrcell enrich status', or name another with --job.",
        )
    texts = list(dict.fromkeys(row["text"] for row in rows))
    scores = dict(zip(texts, (model.encode_text(texts) @ vector).tolist(), strict=True))
    first = {row["text"]: row for row in reversed(rows)}
    best = sorted(texts, key=lambda text: (-scores[text], text))[:n]
    offered = offered_passages(folder, [first[text]["profile_id"] for text in best])
    return {
        "source": str(folder),
        "descriptions": [
            _described(first[text], scores[text], offered[first[text]["profile_id"]])
            for text in best
        ],
        "notes": [],
    }


def _described(row: dict[str, Any], score: float, offered: Any) -> dict[str, Any]:
    told = [claim for claim in row["claims"] or () if claim["state"] != "repaired"]
    claims = [claim_with_evidence(claim, offered) for claim in told]
    for claim in claims:
        claim["evidence"] = [
            {key: value for key, value in passage.items() if key != "parts"}
            for passage in claim["evidence"]
        ]
    return {
        "score": round(score, 4),
        "title": " ".join((row["original_text"] or row["profile_id"]).split())[:160],
        "text": row["text"],
        "reliability": row["reliability"],
        "claims": claims,
    }


def _of_types(
    run: Path, model: CellTextModel, vector: npt.NDArray[np.float32], n: int
) -> dict[str, Any]:
    candidates = candidates_for("run", run, model.config, None)
    scores = model.encode_text(candidates.texts) @ vector
    found = []
    for at in np.argsort(-scores, kind="stable")[:n]:
        term = get_term(candidates.term_ids[at]) if candidates.term_ids[at] else None
        text = candidates.texts[at] if term is None or not term.definition else term.definition
        evidence = [
            {"snippet_id": "", "source": "cl", "doc_id": ref, "section": "definition", "quote": ""}
            for ref in ((term.term_id, *term.xrefs) if term else ())
        ]
        claim = {
            "sentence": text,
            "facet": "definition",
            "verdict": "",
            "score": None,
            "evidence": evidence,
        }
        found.append(
            {
                "score": round(float(scores[at]), 4),
                "title": candidates.labels[at],
                "text": text,
                "reliability": None,
                "claims": [claim],
            }
        )
    note = (
        "The run was trained without descriptions, or its enrichment job is gone: these are definitions of the "
        "Cell Ontology. Name a job with --job for descriptions with their citations."
    )
    return {"source": "Cell Ontology", "descriptions": found, "notes": [note]}
