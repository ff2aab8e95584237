"""A store of the corpus stage and a job of the enrich stage, as data to evaluate on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from okrcell.artifacts import read_manifest
from okrcell.corpus.marker_mentions import cited_markers
from okrcell.errors import DataError
from okrcell.evaluate.data import UNLABELLED, EvalData, Strings
from okrcell.evaluate.guards import (
    check_expression,
    check_leakage,
    check_named_types,
    check_types,
    check_uids,
)
from okrcell.schemas import read_table

if TYPE_CHECKING:
    from okrcell.corpus.marker_table import Marker
    from okrcell.corpus.shards import CellMatrix

__all__ = ["load_store"]

_NAMED = 3


def load_store(store: Path, job: Path, *, allow_named_types: bool = False) -> EvalData:
    """Read the labelled cells of a store and the descriptions of a job.

    Raises
    ------
    LabelError
        Fewer than two cell types, or no cells in a split.
    DataError
        A profile has no text, datasets hold different kinds of values, or cells of the test split
        also stand in the train split.
    LabelLeakError
        Descriptions of test cells name their type, and ``allow_named_types`` is not set; or
        descriptions tell what test cells express.
    """
    from okrcell.corpus.cells import cells_fingerprint, load_cells, load_profiles

    profiles = {row["profile_id"]: row for row in load_profiles(store).to_pylist()}
    rows = load_cells(store).to_pylist()
    check_uids([row["cell_uid"] for row in rows], [row["split"] for row in rows], store)
    names = list(dict.fromkeys(row["dataset_id"] for row in rows))
    matrix = _stack(store, names, rows)

    def label_of(row: Mapping[str, Any]) -> str:
        return str(profiles[row["profile_id"]]["cell_type"] or "")

    labelled = [label_of(row).lower() not in UNLABELLED for row in rows]
    keep = np.flatnonzero(labelled)
    kept = [rows[i] for i in keep]
    descriptions, cited, notes, named = _descriptions(job, {row["profile_id"] for row in kept})
    tested = {row["profile_id"] for row in kept if row["split"] == "test"}
    if not allow_named_types:
        check_named_types([named[p] for p in sorted(named.keys() & tested)], len(tested), job)
    lost = len(rows) - sum(labelled)
    if lost:
        notes.append(f"{lost} cells without a cell type label were left out.")
    data = EvalData(
        dataset="+".join(names),
        matrix=type(matrix)(
            matrix=matrix.matrix[keep], gene_ids=matrix.gene_ids, values=matrix.values
        ),
        cell_uids=_strings(row["cell_uid"] for row in kept),
        labels=_strings(label_of(row) for row in kept),
        batches=_strings(row["batch"] or "" for row in kept),
        donors=_strings(row["donor"] or "" for row in kept),
        splits=_strings(row["split"] for row in kept),
        profile_ids=_strings(row["profile_id"] for row in kept),
        term_ids={
            str(p["cell_type"]): str(p["cell_type_ontology_term_id"] or "")
            for p in profiles.values()
        },
        descriptions=descriptions,
        cited=cited,
        notes=tuple(notes),
        tissue=_tissue(profiles.values()),
        cells_sha256=cells_fingerprint(store),
        sha256=hashlib.sha256(
            f"{cells_fingerprint(store)}:{read_manifest(job, 'job').fingerprint}".encode()
        ).hexdigest(),
    )
    check_types(data, store)
    check_leakage(data, store)
    check_expression(job, [row["cell_uid"] for row in rows if row["split"] == "test"])
    return data


def _tissue(profiles: Iterable[Mapping[str, Any]]) -> str:
    """Return the tissue of all profiles, empty where they differ."""
    names = {str(profile["tissue"] or "") for profile in profiles}
    return names.pop() if len(names) == 1 else ""


def _strings(values: Any) -> Strings:
    return np.asarray([str(value) for value in values], dtype=np.str_)


def _stack(store: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> CellMatrix:
    """Put the datasets under each other, in the order of ``rows``, on the union of their genes."""
    from scipy import sparse

    from okrcell.corpus.shards import load_matrix

    parts = {name: load_matrix(store, name) for name in names}
    kinds = sorted({str(part.values) for part in parts.values()})
    if len(kinds) > 1:
        raise DataError(
            store,
            found=f"datasets with different values ({', '.join(kinds)})",
            expected="one kind of values",
            fix="Import all datasets as counts, or evaluate them from separate stores.",
        )
    genes = tuple(sorted({gene for part in parts.values() for gene in part.gene_ids}))
    if len(parts) == 1:
        genes = next(iter(parts.values())).gene_ids
    column = {gene: i for i, gene in enumerate(genes)}
    blocks, where = [], {}
    for name, part in parts.items():
        coo = part.matrix.tocoo()
        moved = np.asarray([column[gene] for gene in part.gene_ids])[coo.col]
        blocks.append(
            sparse.csr_matrix((coo.data, (coo.row, moved)), (part.matrix.shape[0], len(genes)))
        )
        where[name] = sum(block.shape[0] for block in blocks[:-1])
    seen: dict[str, int] = dict.fromkeys(names, 0)
    order = []
    for row in rows:  # rows of one dataset come in the order of its matrix
        name = row["dataset_id"]
        order.append(where[name] + seen[name])
        seen[name] += 1
    stacked = sparse.vstack(blocks, format="csr", dtype=np.float32)[order]
    stacked.sort_indices()
    first = next(iter(parts.values()))
    return type(first)(matrix=stacked, gene_ids=genes, values=first.values)


def _descriptions(
    job: Path, wanted: set[str]
) -> tuple[dict[str, str], dict[str, tuple[Marker, ...]], list[str], dict[str, str]]:
    """Return by profile id texts, the markers they name, and names they give away; and what to note.

    Notes are the third of the four.
    """
    columns = ["profile_id", "status", "text", "original_text", "leaked_names", "claims"]
    table = read_table(job / "descriptions.parquet", "descriptions", columns).to_pylist()
    texts: dict[str, str] = {}
    cited: dict[str, tuple[Marker, ...]] = {}
    named: dict[str, str] = {}
    rejected = 0
    for row in table:
        if row["profile_id"] not in wanted:
            continue
        good = row["status"] == "accepted" and bool(row["text"])
        rejected += not good
        if good and row["leaked_names"]:
            named[row["profile_id"]] = str(row["leaked_names"][0])
        if good and row["claims"]:
            cited[row["profile_id"]] = cited_markers(row["claims"])
        texts[row["profile_id"]] = str(row["text"] if good else row["original_text"] or "")
    missing = sorted(profile for profile in wanted if not texts.get(profile))
    if missing:
        raise DataError(
            job,
            found=f"{len(missing)} profiles without a text ({', '.join(missing[:_NAMED])})",
            expected="a description for every profile of the store",
            fix="Run `okrcell enrich plan` and `okrcell enrich run` on this store.",
        )
    notes = []
    if rejected:
        notes.append(
            f"{rejected} of {len(texts)} profiles have no accepted description; "
            "their plain metadata sentence stands in for it."
        )
    if named:
        notes.append(
            f"{len(named)} of {len(texts)} descriptions contain a name of the cell type they describe, "
            "so zero-shot annotation here is matching to texts that name the answer."
        )
    if read_table(job / "expression_cells.parquet", "expression_cells").num_rows:
        notes.append(
            "Descriptions tell what training cells express, so zero-shot annotation of types that were "
            "trained on is not label-free here; write the texts with --no-expression for that."
        )
    return texts, cited, notes, named
