"""Profiles: the distinct metadata of cells, and the tables that gather all datasets of a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from okrcell.artifacts import commit, current_manifest, invalidate, read_manifest
from okrcell.config import fingerprint
from okrcell.corpus.metadata import UNKNOWN, Labels
from okrcell.corpus.normalise import Resolution
from okrcell.corpus.ontology import FIELD_ONTOLOGY
from okrcell.schemas import METADATA_FIELDS, SPLITS, TABLES, read_table, write_batches, write_table

__all__ = [
    "cell_batches",
    "cells_fingerprint",
    "dataset_folders",
    "gather",
    "load_cells",
    "load_mappings",
    "load_profiles",
    "profiles_report",
]

_ROWS = 1 << 16


def profile_table(
    fields: Mapping[str, Labels], mappings: Mapping[str, Mapping[str, Resolution]]
) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """Return the distinct profiles of a dataset, and the index of each cell's profile in them.

    Every distinct combination of labels is resolved once; combinations whose labels mean the same
    terms are one profile.

    Returns
    -------
    profiles
        Table ``profiles`` in the order of ``profile_id``.
    codes
        int64 [N].
    """
    codes = np.zeros(len(fields["cell_type"]), dtype=np.int64)
    first = np.zeros(1, dtype=np.int64)
    for field in METADATA_FIELDS:
        if len(fields[field].names) > 1:
            combined = codes * len(fields[field].names) + fields[field].codes
            _, first, codes = np.unique(combined, return_index=True, return_inverse=True)
    profiles: dict[str, dict[str, Any]] = {}
    keys = []
    for row in first.tolist():
        profile: dict[str, Any] = {}
        for field in METADATA_FIELDS:
            labels = fields[field]
            resolution = mappings[field][labels.names[labels.codes[row]]]
            profile[field] = resolution.term_label
            profile[f"{field}_ontology_term_id"] = resolution.term_id
        keys.append(fingerprint(profile)[:16])
        profiles.setdefault(keys[-1], {"profile_id": keys[-1], **profile})
    order = {key: at for at, key in enumerate(sorted(profiles))}
    merged = np.array([order[key] for key in keys])[codes]
    counts = np.bincount(merged, minlength=len(order)).tolist()
    rows = [{**profiles[key], "n_cells": counts[at]} for key, at in order.items()]
    return pa.Table.from_pylist(rows, schema=TABLES["profiles"].schema), merged


def cell_batches(
    dataset_id: str,
    names: Any,
    profile_ids: Sequence[str],
    profile_codes: npt.NDArray[np.int64],
    fields: Mapping[str, Labels],
    splits: npt.NDArray[np.int8],
) -> Iterator[pa.Table]:
    """Yield the table ``cells`` of a dataset in pieces, so that its text is never whole in memory."""
    for begin in range(0, len(names), _ROWS):
        part = slice(begin, min(begin + _ROWS, len(names)))
        n = part.stop - begin
        obs_names = pa.array(names[part], pa.string())
        yield pa.table(
            {
                "cell_uid": pc.binary_join_element_wise(dataset_id, obs_names, ":"),
                "dataset_id": pa.repeat(dataset_id, n),
                "row": pa.array(np.arange(begin, part.stop), pa.int64()),
                "obs_name": obs_names,
                "profile_id": pa.array(profile_ids).take(pa.array(profile_codes[part])),
                "donor": _texts(fields["donor"], part),
                "batch": _texts(fields["batch"], part),
                "split": pa.array(SPLITS).take(pa.array(splits[part])),
            }
        )


def _texts(labels: Labels, part: slice) -> pa.Array:
    return pa.array(labels.names, pa.string()).take(pa.array(labels.codes[part]))


# --- all datasets together ---------------------------------------------------------------------


def dataset_folders(store: Path) -> list[Path]:
    """Return the folders of the finished datasets, by name."""
    return sorted(p.parent for p in (Path(store) / "datasets").glob("*/manifest.json"))


def gather(store: Path) -> None:
    """Gather the cells and profiles of all datasets into ``cells/``; the caller holds the lock.

    A cell type that any dataset holds out is held out of all, whichever came first: its cells get
    the split ``test`` here, and these are the tables that training and evaluation read.
    """
    folders = dataset_folders(store)
    manifests = {f.name: read_manifest(f, "dataset", verify=False) for f in folders}
    inputs = {name: manifest.fingerprint for name, manifest in manifests.items()}
    held = sorted({t for m in manifests.values() for t in m.facts["held_out"]})
    folder = store / "cells"
    config = {"held_out": held}
    if current_manifest(folder, "cells", config=config, inputs=inputs):
        return
    merged: dict[str, dict[str, Any]] = {}
    for path in folders:
        for profile in read_table(path / "metadata.parquet", "profiles").to_pylist():
            entry = merged.setdefault(profile["profile_id"], {**profile, "n_cells": 0})
            entry["n_cells"] += profile["n_cells"]
    rows = [merged[key] for key in sorted(merged)]
    profiles = pa.Table.from_pylist(rows, schema=TABLES["profiles"].schema)
    held_ids = [row["profile_id"] for row in rows if row["cell_type"] in held]
    invalidate(folder)
    files: dict[str, int | None] = {
        "cells.parquet": write_batches(
            folder / "cells.parquet", "cells", _all_cells(folders, held_ids)
        ),
        "profiles.parquet": write_table(folder / "profiles.parquet", "profiles", profiles),
    }
    facts = {
        "cells": files["cells.parquet"],
        "profiles": profiles.num_rows,
        "datasets": len(folders),
        "held_out": held,
    }
    commit(folder, "cells", config=config, inputs=inputs, files=files, facts=facts)


def _all_cells(folders: Sequence[Path], held_ids: Sequence[str]) -> Iterator[pa.Table]:
    held = pa.array(held_ids, pa.string())
    for folder in folders:
        read_table(folder / "cells.parquet", "cells", ["row"])  # refuses another version
        for batch in pq.ParquetFile(folder / "cells.parquet").iter_batches(_ROWS):
            table = pa.table(batch)
            is_held = pc.is_in(table["profile_id"], value_set=held)
            split = pc.if_else(is_held, "test", table["split"])
            yield table.set_column(table.schema.get_field_index("split"), "split", split)


def _gathered(store: Path) -> Path:
    """Return the folder of the gathered tables, if they are there and finished."""
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
    return pa.concat_tables(
        [read_table(f / "mappings.parquet", "mappings") for f in dataset_folders(store)]
    )


def cells_fingerprint(store: Path) -> str:
    """Return the identity of all cells: metadata, splits and values of every dataset."""
    manifest = read_manifest(Path(store) / "cells", "cells")
    return fingerprint([manifest.fingerprint, dict(manifest.inputs)])


def profiles_report(store: Path) -> list[dict[str, Any]]:
    """Describe every profile of a store, the largest first.

    Returns
    -------
    list of dict
        ``profile`` (id), ``fields`` (field to label, without the unknown ones), ``n_cells``,
        ``n_datasets``, and ``unresolved``: the fields whose text found no ontology term.
    """
    in_datasets: dict[str, int] = {}
    profiles = load_profiles(store).to_pylist()
    for folder in dataset_folders(store):
        ids = read_table(folder / "metadata.parquet", "profiles", ["profile_id"])["profile_id"]
        for profile_id in ids.to_pylist():
            in_datasets[profile_id] = in_datasets.get(profile_id, 0) + 1
    return [
        {
            "profile": row["profile_id"],
            "fields": {f: row[f] for f in METADATA_FIELDS if row[f] != UNKNOWN},
            "n_cells": row["n_cells"],
            "n_datasets": in_datasets.get(row["profile_id"], 0),
            "unresolved": [
                f
                for f in METADATA_FIELDS
                if f in FIELD_ONTOLOGY and row[f] != UNKNOWN and not row[f"{f}_ontology_term_id"]
            ],
        }
        for row in sorted(profiles, key=lambda row: (-row["n_cells"], row["profile_id"]))
    ]
