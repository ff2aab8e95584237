"""The Census, on SOMA collections that the tests build: filters, releases, copies, refusals."""

import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from okrcell.artifacts import writing
from okrcell.corpus import cells, census, read_soma, shards
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.corpus.gene_tables import current
from okrcell.errors import (
    ConfigError,
    DataError,
    DependencyError,
    FileFormatError,
    MissingColumnError,
    ProviderUnavailableError,
)

soma = pytest.importorskip("tiledbsoma")

VERSION = "2025-01-30"
N_CELLS, N_GENES = 120, 30
TERMS = {
    "CL:0000084": "T cell",
    "CL:0000236": "B cell",
    "CL:0000623": "natural killer cell",
}


def write_frame(parent, name, table):
    """Write a SOMA dataframe; columns of categories need their values announced first."""
    frame = parent.add_new_dataframe(
        name,
        schema=table.schema,
        index_column_names=["soma_joinid"],
        domain=[[0, table.num_rows - 1]],
    )
    values = {
        column: table[column].combine_chunks().dictionary.cast(pa.large_string())
        for column in table.column_names
        if pa.types.is_dictionary(table.schema.field(column).type)
    }
    uri = frame.uri
    frame.close()
    if values:
        with soma.open(uri, "w") as again:
            again.extend_enumeration_values(values)
    with soma.open(uri, "w") as again:
        again.write(table)


@pytest.fixture(scope="module")
def counts():
    return np.random.default_rng(3).poisson(0.7, (N_CELLS, N_GENES)).astype(np.float32)


@pytest.fixture(scope="module")
def built(tmp_path_factory, counts):
    """A collection laid out like the Census, with two datasets that share cells."""
    path = tmp_path_factory.mktemp("soma") / "census"
    ids = sorted(current().coding)[:N_GENES]
    terms = list(TERMS)
    rows = range(N_CELLS)

    def category(values):
        return pa.array(values).dictionary_encode()

    obs = pa.table(
        {
            "soma_joinid": pa.array(rows, pa.int64()),
            "dataset_id": category([("one", "two")[i // 60] for i in rows]),
            "cell_type": category([TERMS[terms[i % 3]] for i in rows]),
            "cell_type_ontology_term_id": category([terms[i % 3] for i in rows]),
            "tissue": category(["blood" if i % 4 else "lung" for i in rows]),
            "tissue_ontology_term_id": category(
                ["UBERON:0000178" if i % 4 else "UBERON:0002048" for i in rows]
            ),
            "disease_ontology_term_id": category(["PATO:0000461"] * N_CELLS),
            "donor_id": category([f"donor{i % 7}" for i in rows]),
            "is_primary_data": pa.array([i % 10 != 9 for i in rows]),
            "nnz": pa.array([int((counts[i] > 0).sum()) for i in rows]),
        }
    )
    var = pa.table(
        {
            "soma_joinid": pa.array(range(N_GENES), pa.int64()),
            "feature_id": ids,
            "feature_name": [current().symbol[gene] for gene in ids],
        }
    )
    summary = pa.table(
        {
            "soma_joinid": pa.array([0, 1], pa.int64()),
            "label": ["census_schema_version", "census_build_date"],
            "value": ["2.1.0", VERSION],
        }
    )
    with soma.Collection.create(str(path)) as root:
        write_frame(root.add_new_collection("census_info"), "summary", summary)
        data = root.add_new_collection("census_data")
        experiment = data.add_new_collection("homo_sapiens", soma.Experiment)
        write_frame(experiment, "obs", obs)
        rna = experiment.add_new_collection("ms").add_new_collection("RNA", soma.Measurement)
        write_frame(rna, "var", var)
        layers = rna.add_new_collection("X")
        raw = layers.add_new_sparse_ndarray("raw", type=pa.float32(), shape=counts.shape)
        i, j = np.nonzero(counts)
        raw.write(pa.table({"soma_dim_0": i, "soma_dim_1": j, "soma_data": counts[i, j]}))
    return path


@pytest.fixture
def store(tmp_path):
    with writing(tmp_path / "store", "store"):
        pass
    return tmp_path / "store"


def add(store, value_filter, uri, version=VERSION, config=None, **how):
    keys = CellsConfig(dataset_id="census", **how)
    return census.add_census(
        store, value_filter, version, config or CorpusConfig(), keys, uri=uri and str(uri)
    )


def test_cells_of_a_filter_with_their_annotation(store, built, counts, monkeypatch):
    monkeypatch.setattr(read_soma, "_ROWS", 16)
    added = add(store, "tissue == 'blood'", built)
    wanted = [i for i in range(N_CELLS) if i % 4 and i % 10 != 9]
    assert added["cells"] == len(wanted)
    assert added["census"] == {
        "version": VERSION,
        "filter": "tissue == 'blood'",
        "evaluated": "(tissue == 'blood') and is_primary_data == True",
        "datasets": 2,
    }
    assert added["source"] == f"CELLxGENE Census {VERSION}"
    assert added["unresolved"] == []
    found = shards.load_matrix(store, "census")
    assert np.array_equal(found.matrix.toarray(), counts[wanted])
    table = cells.load_cells(store).to_pylist()
    assert [row["obs_name"] for row in table] == [str(i) for i in wanted]
    assert [row["batch"] for row in table] == [("one", "two")[i // 60] for i in wanted]
    assert [row["donor"] for row in table] == [f"donor{i % 7}" for i in wanted]
    types = {p["profile_id"]: p["cell_type"] for p in cells.load_profiles(store).to_pylist()}
    assert [types[row["profile_id"]] for row in table] == [
        list(TERMS.values())[i % 3] for i in wanted
    ]
    assert added["split_rule"] == "by donor (7 donors)"
    again = add(store, "tissue == 'blood'", built)
    assert again["reused"]
    assert not add(store, "tissue == 'lung'", built)["reused"]


def test_copies_come_in_only_where_the_filter_says_so(store, built):
    added = add(
        store,
        "dataset_id == 'one' and (is_primary_data == True or is_primary_data == False)",
        built,
    )
    assert added["cells"] == 60
    assert added["census"]["evaluated"] == added["census"]["filter"]
    assert add(store, "dataset_id == 'one'", built)["cells"] == 54


def test_a_mapped_batch_stands_alone(store, built):
    add(store, "dataset_id == 'one'", built, columns={"batch": "donor_id"})
    table = cells.load_cells(store)
    assert table["batch"] == table["donor"]


def test_the_address_may_come_from_the_environment_and_be_one_experiment(
    store, built, tmp_path, monkeypatch
):
    monkeypatch.setenv(census.URI_VARIABLE, str(built / "census_data" / "homo_sapiens"))
    assert add(store, "dataset_id == 'two'", None, version="2024-07-01")["cells"] == 54
    written = b"".join(p.read_bytes() for p in store.rglob("*") if p.is_file())
    assert str(built).encode() not in written


@pytest.mark.parametrize("version", [None, "latest", "stable", "2025-13-01", "2025-1-30", ""])
def test_a_release_is_named_by_its_date(store, built, version):
    with pytest.raises(ConfigError, match="YYYY-MM-DD"):
        add(store, "tissue == 'blood'", built, version=version)


def test_another_release_than_the_one_there_is_refused(store, built):
    with pytest.raises(ConfigError, match=f"the release of {VERSION} there"):
        add(store, "tissue == 'blood'", built, version="2024-07-01")


@pytest.mark.parametrize(
    ("value_filter", "said"),
    [
        ("tissue = 'blood'", r"tissue = 'blood'.*cannot be evaluated"),
        ("nothing == 'blood'", "Column nothing does not exist"),
        ("tissue", "cannot be evaluated"),
        ("__import__('os').system('true')", "cannot be evaluated"),
        (" ", "an empty filter"),
    ],
)
def test_bad_filters_are_named(store, built, value_filter, said):
    with pytest.raises(ConfigError, match=said):
        add(store, value_filter, built)
    assert not (store / "datasets").exists()


def test_no_cell_at_all(store, built):
    with pytest.raises(DataError, match="no cell that is also is_primary_data"):
        add(store, "tissue == 'brain'", built)


def test_other_layers_are_named(store, built):
    with pytest.raises(MissingColumnError, match="one of X, raw"):
        add(store, "tissue == 'blood'", built, config=CorpusConfig(layer="normalized"))
    added = add(store, "tissue == 'blood'", built, config=CorpusConfig(layer="raw"))
    assert added["values"] == "counts"


def test_collections_that_are_none(store, built, tmp_path):
    with pytest.raises(FileFormatError, match="TileDB-SOMA can open"):
        add(store, "tissue == 'blood'", tmp_path / "none")
    with pytest.raises(FileFormatError, match="census_data"):
        add(store, "tissue == 'blood'", built / "census_info")


def test_a_collection_with_lost_values_is_refused(store, built, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(built, broken)
    values = broken / "census_data" / "homo_sapiens" / "ms" / "RNA" / "X" / "raw"
    for path in values.rglob("*.tdb"):
        if path.parent.name != "__schema":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FileFormatError, match="cannot be read"):
        add(store, "tissue == 'blood'", broken)
    assert sorted(p.name for p in store.iterdir() if p.name != ".lock") == ["okrcell.json"]


def test_what_has_come_over_a_network_is_not_fetched_again(store, built, tmp_path, monkeypatch):
    monkeypatch.setattr(read_soma, "_ROWS", 16)
    uri = f"file://{built}"
    reads, real = [], soma.SparseNDArray.read

    def read(self, coords, **keys):
        reads.append(len(coords[0]))
        if len(reads) == 4:
            raise soma.SOMAError("connection lost")
        return real(self, coords, **keys)

    monkeypatch.setattr(soma.SparseNDArray, "read", read)
    with pytest.raises(FileFormatError, match="connection lost"):
        add(store, "dataset_id == 'one'", uri)
    assert len(list((store / "downloads").rglob("*.npz"))) == 3
    add(store, "dataset_id == 'one'", uri)
    assert reads == [16, 16, 16, 6, 6]  # the last of four blocks failed once
    assert not (store / "downloads").exists()
    calm = tmp_path / "calm"
    with writing(calm, "store"):
        pass
    add(calm, "dataset_id == 'one'", built)
    for path in (calm / "datasets").rglob("*.*"):
        assert path.read_bytes() == (store / path.relative_to(calm)).read_bytes()


# --- the service -------------------------------------------------------------------------------


def fake_package(monkeypatch, describe, open_soma=None):
    module = SimpleNamespace(get_census_version_description=describe, open_soma=open_soma)
    monkeypatch.setitem(sys.modules, "cellxgene_census", module)


def test_the_release_is_opened_by_its_date(store, built, monkeypatch):
    asked = []

    def open_soma(*, census_version, tiledb_config):
        asked.append(census_version)
        return soma.open(str(built))

    fake_package(monkeypatch, lambda version: {}, open_soma)
    assert add(store, "tissue == 'lung'", None)["cells"] > 0
    assert asked == [VERSION]


def test_what_the_service_may_answer(store, monkeypatch):
    def unknown(version):
        raise ValueError("Unable to locate Census version")

    def away(version):
        raise OSError("connection refused at host secret.example")

    fake_package(monkeypatch, unknown)
    with pytest.raises(ConfigError, match="no such release"):
        add(store, "tissue == 'lung'", None)
    fake_package(monkeypatch, away)
    with pytest.raises(ProviderUnavailableError, match="no answer") as caught:
        add(store, "tissue == 'lung'", None)
    assert "secret" not in str(caught.value)
    fake_package(monkeypatch, lambda version: {"flags": {"retracted": True}})
    with pytest.raises(ConfigError, match="retracted"):
        add(store, "tissue == 'lung'", None)


@pytest.mark.parametrize("package", ["tiledbsoma", "cellxgene_census"])
def test_missing_packages_are_named_with_the_extra(store, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=r"okrcell\[census\]"):
        add(store, "tissue == 'lung'", None)
