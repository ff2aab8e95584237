"""Tables keep their columns, types and version, and readers hold to them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from okrcell import schemas
from okrcell.errors import FileFormatError, ManifestError, SchemaVersionError


@pytest.mark.parametrize("name", sorted(schemas.TABLES))
def test_every_table_round_trips(tmp_path, name):
    path = tmp_path / "t.parquet"
    assert schemas.write_table(path, name, schemas.empty(name)) == 0
    read = schemas.read_table(path, name)
    assert read.schema.remove_metadata() == schemas.TABLES[name].schema
    first = path.read_bytes()
    schemas.write_table(path, name, schemas.empty(name))
    assert path.read_bytes() == first


def test_columns_are_frozen():
    """A change here is a change for everybody's files: raise the version of the table with it."""
    frozen = {
        "cells": "cell_uid dataset_id row obs_name profile_id donor batch split",
        "snippets": "snippet_id doc_id source section start end text n_tokens flags",
        "results": "dataset task method metric value ci_low ci_high n seed seconds data_sha256"
        " checkpoint_sha256",
        "comparisons": "dataset task metric method_a method_b difference ci_low ci_high p p_adjusted n",
        "seen_cells": "cell_uid content pattern",
        "pairs": "cell_uid cell_type planted reliability suggested",
        "requests": "profile_id request original_text n_cells groups",
        "evidence": "evidence_id snippet_id doc_id source section text is_retracted is_masked",
        "descriptions": "profile_id status text original_text claims screen_cosine coverage"
        " reliability leaked_names leak writer prompt_version tokens_in tokens_out cost_usd reason",
    }
    second = {"requests", "descriptions"}
    for name, columns in frozen.items():
        assert " ".join(schemas.TABLES[name].schema.names) == columns
        assert schemas.TABLES[name].version == 1 + (name in second)


def test_other_versions_kinds_and_files_are_refused(tmp_path):
    path = tmp_path / "t.parquet"
    with pytest.raises(ManifestError, match="no such file"):
        schemas.read_table(path, "cells")
    path.write_bytes(b"not parquet")
    with pytest.raises(FileFormatError, match="no readable Parquet"):
        schemas.read_table(path, "cells")
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(FileFormatError, match="did not write"):
        schemas.read_table(path, "cells")
    schemas.write_table(path, "terms", schemas.empty("terms"))
    with pytest.raises(FileFormatError, match="the table 'terms'"):
        schemas.read_table(path, "cells")
    old = schemas.empty("cells").replace_schema_metadata(
        {"okrcell.table": "cells", "okrcell.version": "0"}
    )
    pq.write_table(old, path)
    with pytest.raises(SchemaVersionError, match="version 0"):
        schemas.read_table(path, "cells")
