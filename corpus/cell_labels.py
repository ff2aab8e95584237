"""The labels of a dataset to ontology terms: each distinct label once, with the tissue around it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow as pa

from okrcell.config import fingerprint
from okrcell.corpus.metadata import Labels
from okrcell.corpus.normalise import UNKNOWN_VALUES, Context, Resolution, normalise
from okrcell.corpus.ontology import FIELD_ONTOLOGY, Ontology, of_store
from okrcell.schemas import METADATA_FIELDS, TABLES

__all__ = ["label_rules", "mapping_table", "ontologies_of", "resolve_labels"]


def ontologies_of(store: Path) -> dict[str, Ontology]:
    """Return the ontologies of all fields: the store's own where it has one from a file."""
    names = sorted({name for names in FIELD_ONTOLOGY.values() for name in names})
    return {name: of_store(store, name) for name in names}


def label_rules() -> str:
    """Return the fingerprint of the tables and weights that labels are read with."""
    folder = resources.files("okrcell.corpus") / "data"
    found = sorted(
        (p for p in folder.iterdir() if p.name.startswith("label_")), key=lambda p: p.name
    )
    return fingerprint({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in found})


def resolve_labels(
    fields: Mapping[str, Labels],
    ontologies: Mapping[str, Ontology],
    overrides: Mapping[str, Mapping[str, str]],
    accept: Callable[[str], float],
) -> dict[str, dict[str, Resolution]]:
    """Resolve the distinct labels of every field; a cell type with the tissue that its cells share.

    Parameters
    ----------
    accept
        Field to the least score at which a label becomes a term.

    Returns
    -------
    dict
        Field to label to resolution.
    """

    def resolve(field: str, contexts: Mapping[str, Context] | None = None) -> dict[str, Resolution]:
        return normalise(
            list(fields[field].names),
            field,
            accept_score=accept(field),
            overrides=overrides.get(field),
            contexts=contexts,
            ontologies=[ontologies[name] for name in FIELD_ONTOLOGY.get(field, ())],
        )

    found = {f: resolve(f) for f in METADATA_FIELDS if f != "cell_type"}
    contexts = _tissues(fields["cell_type"], fields["tissue"], found["tissue"])
    found["cell_type"] = resolve("cell_type", contexts)
    return {f: found[f] for f in METADATA_FIELDS}


def _tissues(
    cell_type: Labels, tissue: Labels, resolved: Mapping[str, Resolution]
) -> dict[str, Context]:
    pairs = np.unique(cell_type.codes.astype(np.int64) * len(tissue.names) + tissue.codes)
    tissues: dict[str, list[str]] = {}
    for pair in pairs.tolist():
        one, two = divmod(pair, len(tissue.names))
        tissues.setdefault(cell_type.names[one], []).append(resolved[tissue.names[two]].term_label)
    return {
        label: Context(tissue=found[0])
        for label, found in tissues.items()
        if len(found) == 1 and found[0].casefold() not in UNKNOWN_VALUES
    }


def mapping_table(
    mappings: Mapping[str, Mapping[str, Resolution]], fields: Mapping[str, Labels]
) -> pa.Table:
    """Return the table ``mappings``: every label with what became of it, and why."""
    rows = []
    for name, found in mappings.items():
        n_cells = fields[name].counts
        rows += [
            {
                "field": name,
                "label": label,
                "term_id": r.term_id,
                "term_label": r.term_label,
                "score": r.score,
                "reason": r.reason,
                "status": r.status,
                "alternatives": [f"{term_id} {score:.4f}" for term_id, score in r.alternatives],
                "n_cells": n_cells[label],
            }
            for label, r in sorted(found.items())
        ]
    return pa.Table.from_pylist(rows, schema=TABLES["mappings"].schema)
