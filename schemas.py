"""Every table between stages: columns, types and version, and the readers that hold to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from okrcell.artifacts import atomic_path
from okrcell.errors import FileFormatError, ManifestError, SchemaVersionError

__all__ = [
    "METADATA_FIELDS",
    "SPLITS",
    "TABLES",
    "empty",
    "read_table",
    "stamp_of",
    "stamped_schema",
    "write_batches",
    "write_table",
]

METADATA_FIELDS = (
    "cell_type",
    "tissue",
    "disease",
    "development_stage",
    "sex",
    "self_reported_ethnicity",
    "assay",
    "organism",
    "suspension_type",
)
"""The nine metadata items of a cell, named as in the CELLxGENE schema."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Table:
    """A versioned pyarrow schema."""

    version: int
    schema: pa.Schema


_KIND, _VERSION = b"okrcell.table", b"okrcell.version"
_S, _F, _I = pa.string(), pa.float64(), pa.int64()
_STRINGS = pa.list_(_S)
_SECTION = pa.struct([("name", _S), ("start", _I), ("end", _I)])
_CITATION = pa.struct([("snippet_id", _S), ("quote", _S), ("start", _I), ("end", _I)])
_CHECK = pa.struct([("check", _S), ("outcome", _S), ("detail", _S)])
_CLAIM = pa.struct(
    [
        ("sentence", _S),
        ("facet", _S),
        ("citations", pa.list_(_CITATION)),
        ("verdict", _S),
        ("score", _F),
        ("state", _S),
        ("origin", _S),
        ("checks", pa.list_(_CHECK)),
    ]
)
_LEAK = pa.struct(
    [("names", _STRINGS), ("rank", _I), ("candidates", _I), ("probability", _F), ("guess", _S)]
)

TABLES: dict[str, Table] = {
    "terms": Table(
        2,
        pa.schema(
            [
                ("term_id", _S),
                ("label", _S),
                ("definition", _S),
                ("synonyms", _STRINGS),
                ("parents", _STRINGS),
                ("ontology", _S),
                ("release", _S),
                ("xrefs", _STRINGS),
                ("replaces", _STRINGS),
            ]
        ),
    ),
    "documents": Table(
        2,
        pa.schema(
            [
                ("doc_id", _S),
                ("title", _S),
                ("year", pa.int32()),
                ("source", _S),
                ("licence", _S),
                ("revision", _S),
                ("ids", _STRINGS),
                ("retracts", _STRINGS),
                ("is_retracted", pa.bool_()),
                ("flags", _STRINGS),
                ("sections", pa.list_(_SECTION)),
                ("text", _S),
                ("text_sha256", _S),
            ]
        ),
    ),
    "snippets": Table(
        1,
        pa.schema(
            [
                ("snippet_id", _S),
                ("doc_id", _S),
                ("source", _S),
                ("section", _S),
                ("start", _I),
                ("end", _I),
                ("text", _S),
                ("n_tokens", pa.int32()),
                ("flags", _STRINGS),
            ]
        ),
    ),
    "snippet_vectors": Table(
        2,
        pa.schema([("snippet_id", _S), ("vector", pa.list_(pa.float32())), ("embedder", _S)]),
    ),
    "mappings": Table(
        2,
        pa.schema(
            [
                ("field", _S),
                ("label", _S),
                ("term_id", _S),
                ("term_label", _S),
                ("score", _F),
                ("reason", _S),
                ("status", _S),
                ("alternatives", _STRINGS),
                ("n_cells", _I),
            ]
        ),
    ),
    "profiles": Table(
        1,
        pa.schema(
            [("profile_id", _S)]
            + [
                pair
                for name in METADATA_FIELDS
                for pair in ((name, _S), (f"{name}_ontology_term_id", _S))
            ]
            + [("n_cells", _I)]
        ),
    ),
    "cells": Table(
        1,
        pa.schema(
            [
                ("cell_uid", _S),
                ("dataset_id", _S),
                ("row", _I),
                ("obs_name", _S),
                ("profile_id", _S),
                ("donor", _S),
                ("batch", _S),
                ("split", _S),
            ]
        ),
    ),
    "genes": Table(
        2,
        pa.schema(
            [
                ("gene_id", _S),
                ("symbol", _S),
                ("var_name", _S),
                ("column", _I),
                ("status", _S),
                ("source_id", _S),
                ("reason", _S),
            ]
        ),
    ),
    "requests": Table(
        2,
        pa.schema(
            [
                ("profile_id", _S),
                ("request", _S),
                ("original_text", _S),
                ("n_cells", _I),
                (
                    "groups",
                    pa.list_(pa.struct([("group", _S), ("evidence_ids", _STRINGS)])),
                ),
            ]
        ),
    ),
    "evidence": Table(
        1,
        pa.schema(
            [
                ("evidence_id", _S),
                ("snippet_id", _S),
                ("doc_id", _S),
                ("source", _S),
                ("section", _S),
                ("text", _S),
                ("is_retracted", pa.bool_()),
                ("is_masked", pa.bool_()),
            ]
        ),
    ),
    "expression_cells": Table(1, pa.schema([("cell_uid", _S)])),
    "descriptions": Table(
        2,
        pa.schema(
            [
                ("profile_id", _S),
                ("status", _S),
                ("text", _S),
                ("original_text", _S),
                ("claims", pa.list_(_CLAIM)),
                ("screen_cosine", _F),
                ("coverage", _F),
                ("reliability", _F),
                ("leaked_names", _STRINGS),
                ("leak", _LEAK),
                ("writer", _S),
                ("prompt_version", _S),
                ("tokens_in", _I),
                ("tokens_out", _I),
                ("cost_usd", _F),
                ("reason", _S),
            ]
        ),
    ),
    "results": Table(
        1,
        pa.schema(
            [
                ("dataset", _S),
                ("task", _S),
                ("method", _S),
                ("metric", _S),
                ("value", _F),
                ("ci_low", _F),
                ("ci_high", _F),
                ("n", _I),
                ("seed", _S),
                ("seconds", _F),
                ("data_sha256", _S),
                ("checkpoint_sha256", _S),
            ]
        ),
    ),
    "comparisons": Table(
        1,
        pa.schema(
            [
                ("dataset", _S),
                ("task", _S),
                ("metric", _S),
                ("method_a", _S),
                ("method_b", _S),
                ("difference", _F),
                ("ci_low", _F),
                ("ci_high", _F),
                ("p", _F),
                ("p_adjusted", _F),
                ("n", _I),
            ]
        ),
    ),
    "seen_cells": Table(1, pa.schema([("cell_uid", _S), ("content", _S), ("pattern", _S)])),
    "pairs": Table(
        1,
        pa.schema(
            [
                ("cell_uid", _S),
                ("cell_type", _S),
                ("planted", pa.bool_()),
                ("reliability", _F),
                ("suggested", _S),
            ]
        ),
    ),
}


def write_table(path: Path, name: str, table: pa.Table) -> int:
    """Write a table atomically under its schema; return the number of rows."""
    shaped = _shaped(table, stamped_schema(name))
    with atomic_path(path) as temporary:
        pq.write_table(shaped, temporary, compression="zstd")
    return int(shaped.num_rows)


def write_batches(path: Path, name: str, batches: Iterable[pa.Table]) -> int:
    """Write a table piece by piece, atomically, one row group per piece; return the number of rows."""
    schema, rows = stamped_schema(name), 0
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for batch in batches:
            writer.write_table(_shaped(batch, schema))
            rows += int(batch.num_rows)
    return rows


def stamped_schema(name: str) -> pa.Schema:
    """Return a table's schema with its kind and version in the metadata, as files carry them."""
    spec = TABLES[name]
    return spec.schema.with_metadata({_KIND: name.encode(), _VERSION: str(spec.version).encode()})


def stamp_of(path: Path) -> tuple[str, str]:
    """Return the kind and version that a Parquet file states; empty where okrcell did not write it.

    Raises
    ------
    pyarrow.ArrowInvalid, OSError
        It is no Parquet file, or cannot be read.
    """
    metadata = pq.read_schema(path).metadata or {}
    kind, version = (metadata.get(key, b"").decode("utf-8", "replace") for key in (_KIND, _VERSION))
    return kind, version


def _shaped(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table.select(schema.names).cast(schema).replace_schema_metadata(schema.metadata)


def read_table(path: Path, name: str, columns: list[str] | None = None) -> pa.Table:
    """Read a table and refuse any other kind, version or layout.

    Raises
    ------
    ManifestError
        The file does not exist.
    FileFormatError
        It is not a Parquet file, or one of another kind.
    SchemaVersionError
        It was written under another version of the schema.
    """
    spec = TABLES[name]
    if not path.exists():
        raise ManifestError(
            path,
            found="no such file",
            expected=f"the table '{name}'",
            fix="Run the stage that writes it first.",
        )
    try:
        kind, version = stamp_of(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise FileFormatError(
            path,
            found=f"no readable Parquet ({error})",
            expected=f"the table '{name}'",
            fix="Remove the file and run the stage that writes it again.",
        ) from None
    if kind != name:
        raise FileFormatError(
            path,
            found=f"the table '{kind}'" if kind else "a Parquet file that okrcell did not write",
            expected=f"the table '{name}'",
            fix="Check the path.",
        )
    if version != str(spec.version):
        raise SchemaVersionError(
            path,
            found=f"version {version} of the table '{name}'",
            expected=f"version {spec.version}",
            fix="Make it again with this version of okrcell, or use the version that wrote it.",
        )
    return pq.read_table(path, columns=columns)


def empty(name: str) -> pa.Table:
    """Return a table of no rows."""
    return TABLES[name].schema.empty_table()
