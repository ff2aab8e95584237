"""Cells of an h5ad to a dataset of the store: checked, gene ids resolved, labels mapped, split assigned.

Two steps: ``add_cells`` writes ``datasets/<id>`` (matrix, genes, label mappings, metadata per cell);
they are then gathered into ``cells/`` (one row per cell, one per distinct profile). Over 300 lines,
because what is checked and what is written of a file are one transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from okrcell.artifacts import (
    commit,
    current_manifest,
    file_sha256,
    invalidate,
    read_manifest,
    writing,
)
from okrcell.config import fingerprint
from okrcell.corpus import expression
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.corpus.genes import GENE_TABLE, GeneReport, resolve_genes
from okrcell.corpus.normalise import Resolution, normalise
from okrcell.corpus.shards import write_matrix
from okrcell.corpus.splits import assign_splits
from okrcell.errors import (
    ConfigError,
    ExpressionValueError,
    GeneCoverageError,
    LabelError,
    MissingColumnError,
)
from okrcell.schemas import METADATA_FIELDS, TABLES, read_table, write_table

__all__ = ["add_cells", "cells_fingerprint", "load_cells", "load_mappings", "load_profiles"]

_EXTRA_FIELDS = ("donor", "batch")
_UNKNOWN = "unknown"


def add_cells(
    store: Path,
    path: Path,
    config: CorpusConfig,
    cells: CellsConfig,
    overrides: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Add one h5ad file to a store as a dataset.

    Columns named as in the CELLxGENE schema are found without a mapping.

    Parameters
    ----------
    overrides
        Field to label to term id, from :func:`okrcell.corpus.normalise.read_overrides`.

    Returns
    -------
    dict
        Cells, genes by status, value scale, split sizes and rule, unresolved labels.

    Raises
    ------
    DataError
        The file cannot be used; nothing is written.
    """
    data = expression.open_h5ad(path)
    with writing(store, "store"):
        folder = store / "datasets" / cells.dataset_id
        key = {
            "corpus": config.model_dump(mode="json", exclude={"embedder", "chunk_tokens"}),
            "cells": cells.model_dump(mode="json"),
            "gene_table": GENE_TABLE,
        }
        inputs = {"file": file_sha256(path), "overrides": fingerprint(overrides or {})}
        manifest = current_manifest(folder, "dataset", config=key, inputs=inputs)
        reused = manifest is not None
        if manifest is None:
            obs = _metadata(data.obs, cells, path)
            matrix, var = expression.matrix_of(data, config.layer, path)
            values, totals = _scan(matrix, path, config, data.raw is not None)
            report = _genes(var, totals, path, config)
            mappings = _mappings(obs, config, overrides or {})
            others = _other_datasets(store, cells.dataset_id)
            held = _held_out(mappings["cell_type"], config, others, path)
            splits, rule = assign_splits(
                obs,
                data.obs_names.to_list(),
                cells.dataset_id,
                config,
                held=held,
                donors=_known_donors(others),
            )
            table = _cell_table(obs, mappings, data.obs_names.to_list(), splits, cells.dataset_id)
            # The gathered tables describe the old dataset from here on: they go first.
            invalidate(store / "cells")
            invalidate(folder)
            files: dict[str, int | None] = {
                "genes.parquet": write_table(folder / "genes.parquet", "genes", report.table),
                "mappings.parquet": write_table(
                    folder / "mappings.parquet", "mappings", _mapping_table(mappings, obs)
                ),
                "metadata.parquet": write_table(
                    folder / "metadata.parquet", "profiles", table["profiles"]
                ),
                "cells.parquet": write_table(folder / "cells.parquet", "cells", table["cells"]),
                **write_matrix(folder, _kept_columns(matrix, path, report)),
            }
            facts = {
                "cells": len(splits),
                "values": values,
                "genes": report.counts,
                "gene_coverage": round(report.coverage, 4),
                "splits": dict(sorted(Counter(splits).items())),
                "split_rule": rule,
                "held_out": sorted({mappings["cell_type"][label].term_label for label in held}),
                "unresolved": sorted(
                    f"{field}: {r.label}"
                    for field, found in mappings.items()
                    for r in found.values()
                    if r.reason.startswith("unresolved")
                ),
                "source": path.name,
            }
            manifest = commit(
                folder, "dataset", config=key, inputs=inputs, files=files, facts=facts
            )
        _write_profiles(store)
    return {"reused": reused, "dataset_id": cells.dataset_id, **manifest.facts}


def _metadata(obs: Any, cells: CellsConfig, path: Path) -> dict[str, list[str]]:
    """Return one list of text per field, in file order; absent fields are 'unknown' (extras empty)."""
    fields = {*METADATA_FIELDS, *_EXTRA_FIELDS}
    wrong = sorted({*cells.columns, *cells.constants} - fields)
    if wrong:
        raise ConfigError(
            f"--map/--set {wrong[0]}",
            found="an unknown field",
            expected=f"one of {', '.join(sorted(fields))}",
            fix="Correct the field name.",
        )
    found: dict[str, list[str]] = {}
    for field in (*METADATA_FIELDS, *_EXTRA_FIELDS):
        default = "" if field in _EXTRA_FIELDS else _UNKNOWN
        if field in cells.constants:
            found[field] = [cells.constants[field]] * len(obs)
            continue
        column = cells.columns.get(field)
        if column is None:  # the schema's exact id before its label
            standard = (f"{field}_ontology_term_id", "donor_id" if field == "donor" else field)
            column = next((name for name in standard if name in obs.columns), None)
        if column is None and field != "cell_type":
            found[field] = [default] * len(obs)
            continue
        if column not in obs.columns:
            raise MissingColumnError(
                f"{path} obs",
                found=f"no column '{column or 'cell_type'}' for the field '{field}'",
                expected=f"one of its columns: {', '.join(map(str, obs.columns)) or '(none)'}",
                fix=f"Name the right column with --map {field}=COLUMN.",
            )
        values = obs[column].astype(object)
        found[field] = [default if v != v or v is None else str(v).strip() for v in values]
    return found


def _scan(
    matrix: Any, path: Path, config: CorpusConfig, has_raw: bool
) -> tuple[expression.ValueKind, np.ndarray]:
    """Read the whole matrix once: check every value, sum every column."""
    totals = np.zeros(matrix.shape[1])
    kinds: set[expression.ValueKind] = set()
    for block_index, block in enumerate(expression.row_blocks(matrix, path)):
        if block.nnz:
            first = block_index * expression.BLOCK_ROWS
            kinds.add(expression.check_values(block, path, first, has_raw and config.layer == "X"))
        totals += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
    if not kinds:
        raise ExpressionValueError(
            path,
            found="no value above zero",
            expected="expression of at least one gene",
            fix="Check the matrix, or choose another with --layer.",
        )
    found: expression.ValueKind = "lognorm" if "lognorm" in kinds else "counts"
    if config.values is not None and config.values != found:
        looks = {
            "counts": "whole numbers, as counts are",
            "lognorm": "fractions, as log-normalised values are",
        }
        raise ExpressionValueError(
            path,
            found=looks[found],
            expected=f"the declared '{config.values}'",
            fix=f"Say --values {found}, or choose the right matrix with --layer.",
        )
    return found, totals


def _genes(var: Any, totals: np.ndarray, path: Path, config: CorpusConfig) -> GeneReport:
    """Resolve the index, or a column of ids or symbols where the index resolves less."""
    names = {"index": [str(name) for name in var.index]}
    for column in ("feature_id", "ensembl_id", "gene_ids", "feature_name", "gene_symbol"):
        if column in var.columns:
            names[column] = [str(name) for name in var[column].astype(object)]
    reports = {source: resolve_genes(values, totals) for source, values in names.items()}
    best = max(reports, key=lambda source: len(reports[source].gene_ids))
    report = reports[best]
    if not report.gene_ids or report.coverage < config.min_gene_coverage:
        raise GeneCoverageError(
            f"{path} var",
            found=f"{len(report.gene_ids)} of {len(totals)} genes in {GENE_TABLE}"
            f" (first names: {', '.join(names['index'][:3])})",
            expected=f"at least {config.min_gene_coverage:.0%} human Ensembl ids or gene symbols",
            fix="Put Ensembl ids or symbols into var_names or a column 'ensembl_id'; human data only.",
        )
    return report


def _mappings(
    obs: Mapping[str, list[str]], config: CorpusConfig, overrides: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, Resolution]]:
    return {
        field: normalise(
            sorted(set(obs[field])),
            field,
            accept_score=config.accept_score,
            overrides=overrides.get(field),
        )
        for field in METADATA_FIELDS
    }


def _other_datasets(store: Path, dataset_id: str) -> list[Path]:
    folders = (path.parent for path in sorted((store / "datasets").glob("*/manifest.json")))
    return [folder for folder in folders if folder.name != dataset_id]


def _known_donors(datasets: list[Path]) -> dict[str, str]:
    """Return the split of every donor that another dataset of the store has."""
    known: dict[str, str] = {}
    for folder in datasets:
        if not read_manifest(folder, "dataset").facts["split_rule"].startswith("by donor"):
            continue
        cells = read_table(folder / "cells.parquet", "cells", ["donor", "profile_id", "split"])
        by_donor: dict[str, Counter[str]] = {}
        for row in cells.to_pylist():
            by_donor.setdefault(row["donor"], Counter())[row["split"]] += 1
        # A donor's held-out cells are in test whatever its own split is.
        for donor, splits in by_donor.items():
            rest = [split for split in splits if split != "test"]
            known[donor] = rest[0] if rest else "test"
    return known


def _held_out(
    cell_types: Mapping[str, Resolution], config: CorpusConfig, datasets: list[Path], path: Path
) -> frozenset[str]:
    """Return the labels of this file that are held out, by its own flags or by another dataset's."""
    names = set(cell_types) | {resolution.term_label for resolution in cell_types.values()}
    for label in config.hold_out:
        if label not in names:
            raise LabelError(
                f"--hold-out '{label}'",
                found=f"no such cell type in {path.name}",
                expected=f"one of {', '.join(sorted(cell_types))}",
                fix="Correct the label.",
            )
    before = {
        term for folder in datasets for term in read_manifest(folder, "dataset").facts["held_out"]
    }
    held = frozenset(
        label
        for label, resolution in cell_types.items()
        if {label, resolution.term_label} & set(config.hold_out) or resolution.term_label in before
    )
    if held == frozenset(cell_types):
        raise LabelError(
            path,
            found="every cell type held out",
            expected="at least one type to train on",
            fix="Hold out fewer types.",
        )
    return held


def _cell_table(
    obs: Mapping[str, list[str]],
    mappings: Mapping[str, Mapping[str, Resolution]],
    obs_names: list[str],
    splits: list[str],
    dataset_id: str,
) -> dict[str, pa.Table]:
    profiles: dict[str, dict[str, Any]] = {}
    members: Counter[str] = Counter()
    rows = []
    for row, name in enumerate(obs_names):
        profile: dict[str, Any] = {}
        for field in METADATA_FIELDS:
            resolution = mappings[field][obs[field][row]]
            profile[field] = resolution.term_label
            profile[f"{field}_ontology_term_id"] = resolution.term_id
        profile_id = fingerprint(profile)[:16]
        profiles.setdefault(profile_id, {"profile_id": profile_id, **profile})
        members[profile_id] += 1
        rows.append(
            {
                "cell_uid": f"{dataset_id}:{name}",
                "dataset_id": dataset_id,
                "row": row,
                "obs_name": name,
                "profile_id": profile_id,
                "donor": obs["donor"][row],
                "batch": obs["batch"][row],
                "split": splits[row],
            }
        )
    listed = [{**profiles[key], "n_cells": members[key]} for key in sorted(profiles)]
    return {
        "cells": pa.Table.from_pylist(rows, schema=TABLES["cells"].schema),
        "profiles": pa.Table.from_pylist(listed, schema=TABLES["profiles"].schema),
    }


def _mapping_table(
    mappings: Mapping[str, Mapping[str, Resolution]], obs: Mapping[str, list[str]]
) -> pa.Table:
    rows = []
    for field, found in mappings.items():
        n_cells = Counter(obs[field])
        rows += [
            {
                "field": field,
                "label": label,
                "term_id": r.term_id,
                "term_label": r.term_label,
                "score": r.score,
                "reason": r.reason,
                "alternatives": [f"{term_id} {score:.4f}" for term_id, score in r.alternatives],
                "n_cells": n_cells[label],
            }
            for label, r in sorted(found.items())
        ]
    return pa.Table.from_pylist(rows, schema=TABLES["mappings"].schema)


def _kept_columns(matrix: Any, path: Path, report: GeneReport) -> Iterator[sparse.csr_matrix]:
    for block in expression.row_blocks(matrix, path):
        yield sparse.csr_matrix(block[:, report.columns])


def _write_profiles(store: Path) -> None:
    """Gather the profiles and cells of all datasets."""
    folders = sorted((store / "datasets").glob("*/manifest.json"))
    inputs = {
        p.parent.name: read_manifest(p.parent, "dataset", verify=False).fingerprint for p in folders
    }
    folder = store / "cells"
    if current_manifest(folder, "cells", config={}, inputs=inputs):
        return
    cells = pa.concat_tables([read_table(p.parent / "cells.parquet", "cells") for p in folders])
    merged: dict[str, dict[str, Any]] = {}
    for path in folders:
        for profile in read_table(path.parent / "metadata.parquet", "profiles").to_pylist():
            entry = merged.setdefault(profile["profile_id"], {**profile, "n_cells": 0})
            entry["n_cells"] += profile["n_cells"]
    profiles = pa.Table.from_pylist(
        [merged[key] for key in sorted(merged)], schema=TABLES["profiles"].schema
    )
    invalidate(folder)
    files = {
        "cells.parquet": write_table(folder / "cells.parquet", "cells", cells),
        "profiles.parquet": write_table(folder / "profiles.parquet", "profiles", profiles),
    }
    facts = {"cells": cells.num_rows, "profiles": profiles.num_rows, "datasets": len(folders)}
    commit(folder, "cells", config={}, inputs=inputs, files=files, facts=facts)


def _gathered(store: Path) -> Path:
    """Return the folder of the gathered tables, if they are those of the datasets that are there."""
    folder = Path(store) / "cells"
    read_manifest(folder, "cells", verify=False)
    return folder


def load_cells(store: Path) -> pa.Table:
    """Return the table ``cells``; the rows of one dataset are in the order of its matrix."""
    return read_table(_gathered(store) / "cells.parquet", "cells")


def load_profiles(store: Path) -> pa.Table:
    """Return the table ``profiles``, one row per distinct metadata tuple."""
    return read_table(_gathered(store) / "profiles.parquet", "profiles")


def load_mappings(store: Path) -> pa.Table:
    """Return the tables ``mappings`` of all datasets, one below the other."""
    paths = sorted((Path(store) / "datasets").glob("*/mappings.parquet"))
    return pa.concat_tables([read_table(path, "mappings") for path in paths])


def cells_fingerprint(store: Path) -> str:
    """Return the identity of all cells: metadata, splits and values of every dataset."""
    manifest = read_manifest(Path(store) / "cells", "cells")
    return fingerprint([manifest.fingerprint, dict(manifest.inputs)])
