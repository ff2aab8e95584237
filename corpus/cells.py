"""Cells of one source to a dataset of the store: checked, genes and labels resolved, split assigned.

The matrix is read once, in blocks, and written aside while it is checked; the finished dataset then
takes the place of an older one of the same name, which stays whole until that moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell.artifacts import (
    Manifest,
    commit,
    current_manifest,
    file_sha256,
    storage_guard,
    writing,
)
from okrcell.config import fingerprint
from okrcell.console import progress
from okrcell.corpus.across import held_out, known_donors, shared_names
from okrcell.corpus.aside import finish_interrupted, take_place, written_aside
from okrcell.corpus.cell_labels import label_rules, mapping_table, ontologies_of, resolve_labels
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.corpus.expression import ValueKind, ValueScan, kept_columns
from okrcell.corpus.formats import CellSource, no_layer, open_source, source_files
from okrcell.corpus.gene_columns import GeneColumns, best_columns, resolve_columns
from okrcell.corpus.genes import GENE_RULES, GENE_TABLE, GeneAliases
from okrcell.corpus.metadata import read_fields
from okrcell.corpus.ontology import Ontology
from okrcell.corpus.prefetch import prefetched
from okrcell.corpus.profiles import (
    cell_batches,
    cells_fingerprint,
    dataset_folders,
    gather,
    load_cells,
    load_mappings,
    load_profiles,
    profile_table,
)
from okrcell.corpus.shards import drop_columns, seal, write_matrix
from okrcell.corpus.splits import split_codes
from okrcell.errors import LabelError
from okrcell.schemas import SPLITS, write_batches, write_table

__all__ = [
    "Addition",
    "add_cells",
    "add_source",
    "cells_fingerprint",
    "load_cells",
    "load_mappings",
    "load_profiles",
]

_KEYS = {
    "accept_score",
    "accept_similarity",
    "hold_out",
    "layer",
    "min_gene_coverage",
    "seed",
    "split_fractions",
    "values",
}
"""Keys of the configuration that decide what a dataset is; the others may change beside it."""
_Overrides = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Addition:
    """One source on its way into a store.

    Attributes
    ----------
    inputs
        Fingerprints of what is read; with the configuration they are the dataset's identity.
    columns
        Further column names by field, to look for where none is mapped.
    facts
        What to record beside the counts.
    """

    source: CellSource
    inputs: Mapping[str, str]
    config: CorpusConfig
    cells: CellsConfig
    overrides: _Overrides
    aliases: GeneAliases | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def add_cells(
    store: Path,
    path: Path,
    config: CorpusConfig,
    cells: CellsConfig,
    overrides: _Overrides | None = None,
    aliases: GeneAliases | None = None,
) -> dict[str, Any]:
    """Add one file or folder of cells to a store as a dataset.

    Formats are those of :func:`okrcell.corpus.formats.open_source`. Columns named as in the
    CELLxGENE schema are found without a mapping.

    Parameters
    ----------
    overrides
        Field to label to term id, from :func:`okrcell.corpus.normalise.read_overrides`.
    aliases
        Older and other gene names, from :func:`okrcell.corpus.genes.read_hgnc`.

    Returns
    -------
    dict
        Cells, genes by status, value scale, split sizes and rule, labels by outcome, unresolved
        labels.

    Raises
    ------
    DataError
        The file cannot be used; nothing is written.
    """
    path = Path(path)
    source = open_source(path)
    try:
        addition = Addition(
            source,
            {"file": _identity(path)},
            config,
            cells,
            overrides or {},
            aliases,
            facts={"source": path.name},
        )
        return add_source(store, addition)
    finally:
        source.close()


def add_source(store: Path, addition: Addition) -> dict[str, Any]:
    """Add what an open source holds; see :func:`add_cells`."""
    dataset_id = addition.cells.dataset_id
    with writing(store, "store"):
        finish_interrupted(store)
        folder = Path(store) / "datasets" / dataset_id
        ontologies = ontologies_of(store)
        key = {
            "corpus": addition.config.model_dump(mode="json", include=_KEYS),
            "cells": addition.cells.model_dump(mode="json"),
            "gene_table": GENE_TABLE,
            "gene_rules": GENE_RULES,
        }
        inputs = {
            **addition.inputs,
            "overrides": fingerprint(addition.overrides),
            "label_rules": label_rules(),
            "ontologies": fingerprint({n: o.fingerprint for n, o in ontologies.items()}),
        }
        if addition.aliases is not None:
            inputs["aliases"] = addition.aliases.fingerprint
        manifest = current_manifest(folder, "dataset", config=key, inputs=inputs)
        reused = manifest is not None
        if manifest is None:
            with written_aside(store, dataset_id) as new:
                manifest = _write(store, new, addition, ontologies, key, inputs)
            take_place(store, dataset_id)
        gather(store)
    return {"reused": reused, "dataset_id": dataset_id, **manifest.facts}


def _write(
    store: Path,
    folder: Path,
    addition: Addition,
    ontologies: Mapping[str, Ontology],
    key: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> Manifest:
    source, config, dataset_id = addition.source, addition.config, addition.cells.dataset_id
    fields, names = read_fields(source, addition.cells, addition.columns)
    if config.layer not in source.layers:
        raise no_layer(source, config.layer)
    mappings = resolve_labels(fields, ontologies, addition.overrides, config.accept)
    others = [f for f in dataset_folders(store) if f.name != dataset_id]
    held, held_terms = held_out(
        mappings["cell_type"], config, others, source.path, ontologies["cl"]
    )
    splits, rule = split_codes(
        fields["donor"],
        fields["cell_type"],
        names,
        dataset_id,
        config,
        held=held,
        donors=known_donors(others),
    )
    values, genes = _write_matrix(folder, addition, names)
    profiles, codes = profile_table(fields, mappings)
    cells = cell_batches(
        dataset_id, names, profiles["profile_id"].to_pylist(), codes, fields, splits
    )
    files: dict[str, int | None] = {
        "genes.parquet": write_table(folder / "genes.parquet", "genes", genes.table),
        "mappings.parquet": write_table(
            folder / "mappings.parquet", "mappings", mapping_table(mappings, fields)
        ),
        "metadata.parquet": write_table(folder / "metadata.parquet", "profiles", profiles),
        "cells.parquet": write_batches(folder / "cells.parquet", "cells", cells),
        **seal(folder),
    }
    n_by_split = np.bincount(splits, minlength=len(SPLITS)).tolist()
    facts = {
        "cells": len(names),
        "profiles": profiles.num_rows,
        "values": values,
        "genes": dict(sorted(Counter(genes.table["status"].to_pylist()).items())),
        "gene_coverage": round(genes.coverage, 4),
        "splits": {name: n for name, n in sorted(zip(SPLITS, n_by_split, strict=True)) if n},
        "split_rule": rule,
        "held_out": held_terms,
        "labels": {
            name: dict(sorted(Counter(r.status for r in found.values()).items()))
            for name, found in mappings.items()
            if any(r.status != "unknown" for r in found.values())
        },
        "unresolved": sorted(
            f"{field}: {r.label}"
            for field, found in mappings.items()
            for r in found.values()
            if r.status == "unresolved"
        ),
        "same_names": shared_names(names, others),
        **addition.facts,
    }
    return commit(folder, "dataset", config=key, inputs=inputs, files=files, facts=facts)


def _write_matrix(folder: Path, addition: Addition, names: Any) -> tuple[ValueKind, GeneColumns]:
    """Check and write the matrix in one pass.

    Which of two columns of one gene is larger is known at the end only: both are written, and the
    losers taken out of the file afterwards, where there are any.
    """
    source, config = addition.source, addition.config
    var = source.var(config.layer)
    gene_names, genes = best_columns(var, source.path, config.min_gene_coverage, addition.aliases)
    has_twins = len(genes.gene_ids) < int(genes.candidates.max(initial=-1)) + 1
    scan = ValueScan(
        source.path,
        len(gene_names),
        sum_columns=has_twins,
        has_raw="raw" in source.layers and config.layer == "X",
        cell_names=names,
        gene_names=gene_names,
    )
    with progress(f"cells of {addition.cells.dataset_id}", len(names), "cells") as advance:

        def checked() -> Iterator[sparse.csr_matrix]:
            for block in prefetched(source.blocks(config.layer, folder / "scratch")):
                yield scan.check(block)
                advance(block.shape[0])

        write_matrix(folder, kept_columns(checked(), genes.candidates))
    if scan.rows != len(names):
        raise LabelError(
            source.path,
            found=f"{scan.rows} rows of values for {len(names)} cells",
            expected="one row per cell",
            fix="Write the file again; its parts do not fit together.",
        )
    values = scan.kind(config.values)
    if has_twins:
        genes = resolve_columns(var, gene_names, scan.totals, addition.aliases)
        drop_columns(folder, _renumbered(genes))
    return values, genes


def _renumbered(genes: GeneColumns) -> npt.NDArray[np.int32]:
    """Return, for each column that was written, its final number, or -1."""
    return np.asarray(genes.kept[genes.candidates >= 0], dtype=np.int32)


def _identity(path: Path) -> str:
    """Return the sha256 of a file, or of the names and hashes of a folder's files."""
    with storage_guard(path):
        files = source_files(path)
        if files == [path]:
            return file_sha256(path)
        base = path if path.is_dir() else path.parent
        return fingerprint({p.relative_to(base).as_posix(): file_sha256(p) for p in files})
