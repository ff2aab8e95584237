"""Cells from every format: the same values in, metadata mapped, splits that hold, nothing half-written."""

import gzip
import json
import os
import signal
import subprocess
import sys
import warnings
import zipfile

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import io as scipy_io
from scipy import sparse

from okrcell.artifacts import read_manifest, writing
from okrcell.corpus import cell_labels, cells, expression, formats, read_anndata, shards, transpose
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.corpus.gene_tables import current
from okrcell.corpus.metadata import as_labels
from okrcell.corpus.prefetch import prefetched
from okrcell.corpus.profiles import profiles_report
from okrcell.errors import (
    ConfigError,
    DuplicateNamesError,
    ExpressionValueError,
    FileFormatError,
    GeneCoverageError,
    LabelError,
    MissingColumnError,
    StorageError,
)
from okrcell.schemas import read_table

N_CELLS, N_GENES = 90, 40
TYPES = ("T cell", "B cell", "natural killer cell")


def gene_names(n=N_GENES):
    """Return ids and symbols of genes whose symbol is nobody else's."""
    genes = current()
    found = [
        (g, s)
        for g, s in genes.symbol.items()
        if s and g in genes.coding and len(genes.by_symbol[s]) == 1
    ]
    return [g for g, _ in found[100 : 100 + n]], [s for _, s in found[100 : 100 + n]]


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    values = rng.poisson(0.8, (N_CELLS, N_GENES)).astype(np.float32)
    values[7] = 0  # a cell without any molecule
    return values


@pytest.fixture
def store(tmp_path):
    with writing(tmp_path / "store", "store"):
        pass
    return tmp_path / "store"


def make(counts, matrix=None, **obs):
    import anndata

    ids, symbols = gene_names(counts.shape[1])
    n = len(counts)
    table = pd.DataFrame(
        {"cell_type": [TYPES[i % 3] for i in range(n)], **obs},
        index=[f"cell{i}" for i in range(n)],
    )
    var = pd.DataFrame({"feature_name": symbols}, index=ids)
    return anndata.AnnData(sparse.csr_matrix(counts) if matrix is None else matrix, table, var)


def write(data, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (data.write_zarr if path.suffix == ".zarr" else data.write_h5ad)(path)
    return path


def add(store, path, dataset_id=None, config=None, overrides=None, **how):
    name = dataset_id or formats.stem(path)
    keys = CellsConfig(dataset_id=name, **how)
    return cells.add_cells(store, path, config or CorpusConfig(), keys, overrides)


def values_of(store, name):
    found = shards.load_matrix(store, name)
    assert found.matrix.has_sorted_indices
    return found.matrix.toarray()


# --- formats -----------------------------------------------------------------------------------


def write_loom(path, counts):
    ids, symbols = gene_names()
    with h5py.File(path, "w") as file:
        file.create_dataset("matrix", data=counts.T, chunks=(8, 8), compression="gzip")
        file["col_attrs/CellID"] = [f"cell{i}" for i in range(len(counts))]
        file["col_attrs/cell_type"] = [TYPES[i % 3] for i in range(len(counts))]
        file["row_attrs/Gene"], file["row_attrs/Accession"] = symbols, ids
        file["layers/spliced"] = counts.T * 2
    return path


def write_tenx_h5(path, counts, version=3):
    ids, symbols = gene_names()
    matrix = sparse.csr_matrix(counts)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        group["data"], group["indices"] = matrix.data.astype("i4"), matrix.indices.astype("i8")
        group["indptr"], group["shape"] = matrix.indptr.astype("i8"), matrix.shape[::-1]
        group["barcodes"] = [f"cell{i}" for i in range(len(counts))]
        if version == 3:
            group["features/id"], group["features/name"] = ids, symbols
            group["features/feature_type"] = ["Gene Expression"] * len(ids)
        else:
            group["genes"], group["gene_names"] = ids, symbols
    return path


def write_mtx(folder, counts, *, by_gene=False, packed=True, prefix=""):
    folder.mkdir(exist_ok=True, parents=True)
    ids, symbols = gene_names()
    matrix = sparse.coo_matrix(counts.T)  # genes by cells
    order = np.lexsort((matrix.col, matrix.row) if by_gene else (matrix.row, matrix.col))
    lines = ["%%MatrixMarket matrix coordinate integer general", "% made by a test"]
    lines += [f"{matrix.shape[0]} {matrix.shape[1]} {matrix.nnz}"]
    lines += [
        f"{matrix.row[i] + 1} {matrix.col[i] + 1} {int(matrix.data[i])}" for i in order.tolist()
    ]
    contents = {
        "matrix.mtx": "\n".join(lines) + "\n",
        "barcodes.tsv": "".join(f"cell{i}\n" for i in range(len(counts))),
        "features.tsv": "".join(
            f"{g}\t{s}\tGene Expression\n" for g, s in zip(ids, symbols, strict=True)
        ),
    }
    for name, text in contents.items():
        if packed:
            (folder / f"{prefix}{name}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        else:
            (folder / f"{prefix}{name}").write_text(text)
    return folder


def zip_of(folder):
    target = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(folder).as_posix())
    return target


def write_zarr(data, path, version):
    import anndata

    with anndata.settings.override(zarr_write_format=version):
        return write(data, path)


FORMATS = {
    "csr.h5ad": lambda p, c: write(make(c), p),
    "csc.h5ad": lambda p, c: write(make(c, sparse.csc_matrix(c)), p),
    "dense.h5ad": lambda p, c: write(make(c, c), p),
    "v2.zarr": lambda p, c: write_zarr(make(c), p, 2),
    "v3.zarr": lambda p, c: write_zarr(make(c, sparse.csc_matrix(c)), p, 3),
    "packed.zarr": lambda p, c: zip_of(write_zarr(make(c), p, 2)),
    "velocity.loom": write_loom,
    "tenx3.h5": write_tenx_h5,
    "tenx2.h5": lambda p, c: write_tenx_h5(p, c, version=2),
    "folder": write_mtx,
    "folder_by_gene": lambda p, c: write_mtx(p, c, by_gene=True, packed=False),
}


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_cells(name, store, tmp_path, counts, monkeypatch):
    monkeypatch.setattr(transpose, "BLOCK_ROWS", 32)
    monkeypatch.setattr(read_anndata, "BLOCK_ROWS", 32)
    monkeypatch.setattr(read_anndata, "BLOCK_VALUES", 200)
    monkeypatch.setattr("okrcell.corpus.mtx.BLOCK_ROWS", 32)
    path = FORMATS[name](tmp_path / name, counts)
    bare = "tenx" in name or "folder" in name
    how = {"constants": {"cell_type": "unknown"}} if bare else {}
    added = add(store, path, "x", **how)
    assert added["values"] == "counts"
    assert np.array_equal(values_of(store, "x"), counts)
    assert shards.load_matrix(store, "x").gene_ids == tuple(gene_names()[0])
    table = cells.load_cells(store)
    assert table["obs_name"].to_pylist() == [f"cell{i}" for i in range(N_CELLS)]
    assert add(store, path, "x", **how)["reused"]
    assert not (store / "incoming").exists()
    if not bare:
        found = {row["cell_type"] for row in cells.load_profiles(store).to_pylist()}
        assert found == set(TYPES)


def test_layers_and_raw(store, tmp_path, counts):
    data = make(counts, counts - 5)
    data.layers["counts"] = sparse.csr_matrix(counts)
    path = write(data, tmp_path / "a.h5ad")
    with pytest.raises(ExpressionValueError, match=r"cell 0 'cell0', column 0 'ENSG"):
        add(store, path)
    add(store, path, config=CorpusConfig(layer="counts"))
    assert np.array_equal(values_of(store, "a"), counts)
    with pytest.raises(MissingColumnError, match="one of X, counts"):
        add(store, path, config=CorpusConfig(layer="raw"))
    data.raw = make(counts * 2)
    path = write(data, tmp_path / "raw.h5ad")
    with pytest.raises(ExpressionValueError, match="--layer raw"):
        add(store, path)
    add(store, path, config=CorpusConfig(layer="raw"))
    assert np.array_equal(values_of(store, "raw"), counts * 2)
    loom = write_loom(tmp_path / "l.loom", counts)
    add(store, loom, config=CorpusConfig(layer="spliced"))
    assert np.array_equal(values_of(store, "l"), counts * 2)


def test_a_table_beside_a_matrix_gives_its_metadata(store, tmp_path, counts):
    folder = write_mtx(tmp_path / "sample", counts)
    with pytest.raises(MissingColumnError, match=r"obs\.tsv"):
        add(store, folder)
    table = "barcode\tlabel\tdonor\n" + "".join(
        f"cell{i}\t{TYPES[i % 2]}\t{i % 4}\n" for i in reversed(range(N_CELLS - 1))
    )
    (folder / "obs.tsv").write_text(table)
    added = add(store, folder, columns={"cell_type": "label"})
    assert added["split_rule"].startswith("by donor (4 donors); 1 cells name no donor")
    donors = cells.load_cells(store)["donor"].to_pylist()
    assert donors[:5] == ["0", "1", "2", "3", "0"]
    assert donors[-1] == ""
    (folder / "obs.tsv").write_text("barcode\tlabel\nother\tT\n")
    with pytest.raises(FileFormatError, match="no cell of the matrix"):
        add(store, folder, columns={"cell_type": "label"})
    (folder / "obs.tsv").write_text("barcode\tlabel\ncell1\tT\ncell1\tT\n")
    with pytest.raises(DuplicateNamesError, match="'cell1'"):
        add(store, folder, columns={"cell_type": "label"})


def test_antibodies_are_no_genes(store, tmp_path, counts):
    data = make(counts)
    data.var["feature_types"] = ["Gene Expression"] * 38 + ["Antibody Capture"] * 2
    added = add(store, write(data, tmp_path / "cite.h5ad"))
    assert added["genes"]["other feature"] == 2
    assert added["gene_coverage"] == 1
    assert np.array_equal(values_of(store, "cite"), counts[:, :38])


def test_of_two_columns_of_one_gene_the_larger_stays(store, tmp_path, counts, monkeypatch):
    monkeypatch.setattr(shards, "_PIECE", 50)
    data = make(counts)
    names = data.var_names.to_list()
    names[3], names[30] = f"{names[8]}.7", f"{names[20]}.2"
    data.var_names = names
    data.var = data.var[[]]
    added = add(store, write(data, tmp_path / "twins.h5ad"))
    assert added["genes"]["duplicate"] == 2
    sums = counts.sum(axis=0)
    lost = {3 if sums[3] < sums[8] else 8, 30 if sums[30] <= sums[20] else 20}
    kept = [i for i in range(N_GENES) if i not in lost]
    assert np.array_equal(values_of(store, "twins"), counts[:, kept])
    genes = read_table(store / "datasets/twins/genes.parquet", "genes")
    assert shards.kept_gene_ids(genes) == shards.load_matrix(store, "twins").gene_ids


def test_more_values_than_32_bits_count_are_stored_wide(store, tmp_path, counts, monkeypatch):
    monkeypatch.setattr(shards, "_MOST_NARROW", 10)
    monkeypatch.setattr(shards, "_PIECE", 64)
    add(store, write(make(counts), tmp_path / "big.h5ad"))
    folder = store / "datasets" / "big"
    assert (folder / "indices.i64").exists()
    assert not (folder / "indices.i32").exists()
    assert np.array_equal(values_of(store, "big"), counts)
    read_manifest(folder, "dataset")


def test_unsorted_repeated_and_zero_entries_are_put_right(store, tmp_path):
    matrix = sparse.csr_matrix(
        (np.array([1, 2, 3, 0, 4], "f4"), np.array([5, 2, 5, 7, 0]), np.array([0, 3, 4, 5])),
        shape=(3, N_GENES),
    )
    expected = matrix.toarray()
    path = write(make(np.ones((3, N_GENES))), tmp_path / "odd.h5ad")
    with h5py.File(path, "r+") as file:
        for key, value in (("data", matrix.data), ("indices", matrix.indices)):
            attributes = dict(file["X"][key].attrs)
            del file[f"X/{key}"]
            file["X"].create_dataset(key, data=value).attrs.update(attributes)
        file["X/indptr"][:] = matrix.indptr
    add(store, path)
    assert np.array_equal(values_of(store, "odd"), expected)
    assert shards.load_matrix(store, "odd").matrix.nnz == 3


# --- what is refused ---------------------------------------------------------------------------


def damaged(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f["X/indices"].__setitem__(3, N_GENES), f"the column {N_GENES}"),
        (lambda f: f["X/indices"].__setitem__(3, -1), "in a matrix of"),
        (lambda f: f["X/indptr"].__setitem__(4, 10**6), "row pointers"),
        (lambda f: f["X/indptr"].__setitem__(0, 1), "begin at 0"),
        (lambda f: f["X/data"].resize((100,)), "do not fit together"),
        (lambda f: f["X/indptr"].resize((50,)), "49 rows of values for 90 cells"),
        (lambda f: f["X"].attrs.__setitem__("encoding-type", "coo"), "encoding 'coo'"),
        (lambda f: f.__delitem__("obs"), "at the top"),
    ],
)
def test_damaged_h5ad_is_refused_and_nothing_stays(change, said, store, tmp_path, counts):
    path = damaged(write(make(counts), tmp_path / "bad.h5ad"), change)
    with pytest.raises((FileFormatError, LabelError), match=said):
        add(store, path)
    assert sorted(p.name for p in store.iterdir() if p.name != ".lock") == ["okrcell.json"]


def test_truncated_files_are_refused(store, tmp_path, counts):
    path = write(make(counts), tmp_path / "cut.h5ad")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(FileFormatError, match=r"cut\.h5ad"):
        add(store, path)
    folder = write_mtx(tmp_path / "cut", counts)
    whole = (folder / "matrix.mtx.gz").read_bytes()
    (folder / "matrix.mtx.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match="cut"):
        add(store, folder, constants={"cell_type": "unknown"})
    assert not (store / "datasets").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("coordinate integer general", "array integer general", "begins with"),
        ("integer general", "integer symmetric", "symmetry"),
        (f"{N_GENES} {N_CELLS} ", f"{N_GENES} 91 ", "90 barcodes"),
        (f"{N_GENES} {N_CELLS} ", f"{N_GENES} {N_CELLS} 1", "entries where the header promises"),
        ("\n1 1 ", "\n1 0 ", "of 90"),
        ("\n2 1 ", "\nx 1 ", "cannot be read"),
    ],
)
def test_damaged_matrix_folder_is_refused(old, new, said, store, tmp_path):
    counts = np.ones((N_CELLS, N_GENES), dtype=np.float32)
    folder = write_mtx(tmp_path / "f", counts, packed=False)
    text = (folder / "matrix.mtx").read_text()
    assert old in text
    (folder / "matrix.mtx").write_text(text.replace(old, new, 1))
    with pytest.raises(FileFormatError, match=said):
        add(store, folder, constants={"cell_type": "unknown"})
    assert not (store / "datasets").exists()


def test_other_files_are_refused_by_what_they_are(store, tmp_path, counts):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["weights"] = [1]
    with pytest.raises(FileFormatError, match="weights at the top"):
        add(store, tmp_path / "x.h5")
    path = write_tenx_h5(tmp_path / "two.h5", counts, version=2)
    with h5py.File(path, "r+") as file:
        file.copy("GRCh38", "mm10")
    with pytest.raises(FileFormatError, match="GRCh38, mm10"):
        add(store, path)
    (tmp_path / "t.h5ad").write_text("plain text")
    with pytest.raises(FileFormatError, match="cannot be read as h5ad"):
        add(store, tmp_path / "t.h5ad")
    folder = write_mtx(tmp_path / "no_barcodes", counts)
    (folder / "barcodes.tsv.gz").unlink()
    with pytest.raises(FileFormatError, match=r"no barcodes\.tsv"):
        add(store, folder)
    mouse = make(counts)
    mouse.var_names = [f"ENSMUSG{i:011d}" for i in range(N_GENES)]
    mouse.var = mouse.var[[]]
    with pytest.raises(GeneCoverageError, match="0 of 40"):
        add(store, write(mouse, tmp_path / "mouse.h5ad"))


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_a_bad_value_is_named_by_cell_and_gene(value, store, tmp_path, counts):
    bad = counts.copy()
    bad[71, 9] = value
    path = write(make(bad), tmp_path / "bad.h5ad")
    with pytest.raises(ExpressionValueError, match=rf"cell 71 'cell71', column 9 .*{value:g}"):
        add(store, path)


def test_the_scale_does_not_depend_on_blocks():
    scan = expression.ValueScan("x", 2)
    scan.check(sparse.csr_matrix(np.array([[500.0, 1]], dtype=np.float32)))
    with pytest.raises(ExpressionValueError, match="up to 500"):
        scan.check(sparse.csr_matrix(np.array([[0.5, 1]], dtype=np.float32)))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_zarr_arrays_that_could_run_programs_are_refused(store, tmp_path, counts):
    path = write_zarr(make(counts), tmp_path / "evil.zarr", 2)
    described = json.loads((path / "X" / "data" / ".zarray").read_text())
    described["filters"] = [{"id": "pickle", "protocol": 4}]
    described["dtype"] = "|O"
    (path / "X" / "data" / ".zarray").write_text(json.dumps(described))
    (path / ".zmetadata").unlink(missing_ok=True)
    with pytest.raises(FileFormatError, match="pickle"):
        add(store, path)


# --- several files -----------------------------------------------------------------------------


def test_a_folder_of_files_gives_one_dataset_each(tmp_path, counts):
    base = tmp_path / "lab"
    base.mkdir()
    write(make(counts), base / "one.h5ad")
    write_loom(base / "two.loom", counts)
    for kind in ("raw", "filtered"):
        write_mtx(base / "s3" / "outs" / f"{kind}_feature_bc_matrix", counts)
    write_mtx(base / "geo", counts, prefix="GSM1_")
    write_mtx(base / "geo", counts, prefix="GSM2_")
    write_zarr(make(counts), base / "four.zarr", 3)
    (base / "notes.txt").write_text("x")
    found = formats.datasets_in(base)
    assert sorted(formats.stem(p) for p in found) == ["GSM1", "GSM2", "four", "one", "s3", "two"]
    for path in found:
        formats.open_source(path).close()
    assert formats.datasets_in(base / "one.h5ad") == [base / "one.h5ad"]
    assert formats.datasets_in(base / "four.zarr") == [base / "four.zarr"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match="no file of cells"):
        formats.datasets_in(tmp_path / "empty")
    with pytest.raises(FileFormatError, match="no such"):
        formats.datasets_in(tmp_path / "none")
    with pytest.raises(FileFormatError, match="2 files named matrix"):
        formats.open_source(base / "geo")


def test_a_bad_file_among_several_leaves_the_others_whole(store, tmp_path, counts):
    for name in ("a", "c"):
        write(make(counts), tmp_path / f"{name}.h5ad")
    (tmp_path / "b.h5ad").write_bytes(b"not this")
    add(store, tmp_path / "a.h5ad")
    before = cells.cells_fingerprint(store)
    with pytest.raises(FileFormatError, match=r"b\.h5ad"):
        add(store, tmp_path / "b.h5ad")
    assert cells.cells_fingerprint(store) == before
    add(store, tmp_path / "c.h5ad")  # the same names of cells: told apart by the dataset
    uids = cells.load_cells(store)["cell_uid"].to_pylist()
    assert len(set(uids)) == 2 * N_CELLS
    assert uids[0] == "a:cell0"
    assert read_manifest(store / "datasets/c", "dataset").facts["same_names"] == {"a": N_CELLS}


# --- metadata ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pd.Series([1.0, 2.0, np.nan]), ["1", "2", "-"]),
        (pd.Series([1.5, 2.0, 2.0]), ["1.5", "2", "2"]),
        (pd.Series([True, False, True]), ["True", "False", "True"]),
        (pd.Series(["a ", None, "a"]), ["a", "-", "a"]),
        (pd.Series(pd.Categorical(["x", None, "x"], categories=["x", "unused"])), ["x", "-", "x"]),
        (pd.Series(pd.Categorical([3.0, 1.0, 3.0])), ["3", "1", "3"]),
        (pd.Series([b"a", b"b", b""]), ["a", "b", "-"]),
        (pd.Series([1, None, 2], dtype="Int64"), ["1", "-", "2"]),
        (pd.Series([np.nan] * 3), ["-"] * 3),
        (pd.Series(["x", "y", None], dtype="string"), ["x", "y", "-"]),
        (pd.Series(pd.to_datetime(["2020-01-02"] * 3)), ["2020-01-02 00:00:00"] * 3),
    ],
)
def test_columns_of_every_type_become_labels(column, texts):
    labels = as_labels(column, "-")
    assert [labels.names[code] for code in labels.codes] == texts
    assert list(labels.names) == sorted(set(texts))
    assert sum(labels.counts.values()) == 3


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    st.lists(
        st.one_of(st.none(), st.text("ab 1.", max_size=3), st.integers(-2, 2), st.booleans()),
        max_size=30,
    ),
    st.booleans(),
)
def test_labels_never_lose_a_cell(values, categorical):
    column = pd.Series(values, dtype=object)
    if categorical:
        column = column.astype("category")
    labels = as_labels(column, "")
    assert len(labels) == len(values)
    assert sum(labels.counts.values()) == len(values)
    for value, code in zip(values, labels.codes, strict=True):
        if isinstance(value, str):
            assert labels.names[code] == value.strip()


def test_dataset_and_batch_columns_join_and_donors_are_found(store, tmp_path, counts):
    data = make(
        counts,
        study=[f"s{i % 2}" for i in range(N_CELLS)],
        donor_id=pd.Categorical([float(i % 5) for i in range(N_CELLS)]),
        chip=[i % 3 for i in range(N_CELLS)],
    )
    path = write(data, tmp_path / "a.h5ad")
    add(store, path, columns={"dataset": "study", "batch": "chip"})
    table = cells.load_cells(store)
    assert table["batch"].to_pylist()[:4] == ["s0:0", "s1:1", "s0:2", "s1:0"]
    assert set(table["donor"].to_pylist()) == {"0", "1", "2", "3", "4"}
    add(store, path, columns={"dataset": "study"})
    assert set(cells.load_cells(store)["batch"].to_pylist()) == {"s0", "s1"}
    add(store, path, columns={"batch": "donor_id"})
    table = cells.load_cells(store)
    assert table["batch"] == table["donor"]
    with pytest.raises(ConfigError, match="an unknown field"):
        add(store, path, columns={"celltype": "chip"})
    with pytest.raises(MissingColumnError, match="no column 'ct'"):
        add(store, path, columns={"cell_type": "ct"})


def test_profiles_mappings_and_their_report(store, tmp_path, counts):
    labels = ["T cell", "T cells", "qzx 7"]
    data = make(counts, tissue="blood", sex=["male", None, "female"] * 30)
    data.obs["cell_type"] = [labels[i % 3] for i in range(N_CELLS)]
    added = add(store, write(data, tmp_path / "a.h5ad"))
    assert added["unresolved"] == ["cell_type: qzx 7"]
    assert added["profiles"] == 3
    mappings = {(m["field"], m["label"]): m for m in cells.load_mappings(store).to_pylist()}
    assert mappings["cell_type", "qzx 7"]["status"] == "unresolved"
    assert mappings["cell_type", "T cells"]["term_id"] == "CL:0000084"
    assert mappings["sex", "unknown"]["status"] == "unknown"
    assert mappings["sex", "male"]["n_cells"] == 30
    profiles = {p["profile_id"]: p for p in cells.load_profiles(store).to_pylist()}
    by_cell = [profiles[p] for p in cells.load_cells(store)["profile_id"].to_pylist()]
    assert [(p["cell_type"], p["sex"]) for p in by_cell[:3]] == [
        ("T cell", "male"),
        ("T cell", "unknown"),
        ("qzx 7", "female"),
    ]
    write(data[:30].copy(), tmp_path / "b.h5ad")
    decided = {"cell_type": {"qzx 7": "CL:0000236"}}
    again = add(store, tmp_path / "b.h5ad", overrides=decided)
    assert again["unresolved"] == []
    report = profiles_report(store)
    assert [r["n_cells"] for r in report] == sorted((r["n_cells"] for r in report), reverse=True)
    assert sum(r["n_cells"] for r in report) == 120
    one = next(r for r in report if r["fields"]["cell_type"] == "qzx 7")
    assert (one["n_datasets"], one["unresolved"]) == (1, ["cell_type"])
    assert next(r for r in report if r["fields"].get("sex") == "male")["n_datasets"] == 2


def test_the_tissue_of_a_cell_type_is_its_context(store, tmp_path, counts, monkeypatch):
    seen = {}
    real = cell_labels.normalise

    def spy(labels, field, **keys):
        seen[field] = keys.get("contexts")
        return real(labels, field, **keys)

    monkeypatch.setattr(cell_labels, "normalise", spy)
    tissue = ["lung" if i % 3 else ("blood", "liver")[i % 2] for i in range(N_CELLS)]
    add(store, write(make(counts, tissue=tissue), tmp_path / "a.h5ad"))
    assert {k: c.tissue for k, c in seen["cell_type"].items()} == {
        TYPES[1]: "lung",
        TYPES[2]: "lung",
    }


# --- splits ------------------------------------------------------------------------------------


def splits_by_type(store):
    types = {p["profile_id"]: p["cell_type"] for p in cells.load_profiles(store).to_pylist()}
    found = {}
    for row in cells.load_cells(store).to_pylist():
        key = (row["dataset_id"], types[row["profile_id"]])
        found.setdefault(key, set()).add(row["split"])
    return found


def test_a_later_hold_out_reaches_earlier_datasets(store, tmp_path, counts):
    for name in ("one", "two", "three"):
        write(make(counts), tmp_path / f"{name}.h5ad")
    add(store, tmp_path / "one.h5ad")
    assert "train" in splits_by_type(store)["one", "B cell"]
    before = cells.cells_fingerprint(store)
    add(store, tmp_path / "two.h5ad", config=CorpusConfig(hold_out=("B cell",)))
    assert cells.cells_fingerprint(store) != before
    add(store, tmp_path / "three.h5ad")
    found = splits_by_type(store)
    for name in ("one", "two", "three"):
        assert found[name, "B cell"] == {"test"}
        assert "train" in found[name, "T cell"]


def test_a_type_of_another_dataset_can_be_held_out_by_its_term(store, tmp_path, counts):
    only_t = make(counts)
    only_t.obs["cell_type"] = ["T cell" if i % 2 else "monocyte" for i in range(N_CELLS)]
    config = CorpusConfig(hold_out=("B cell",))
    added = add(store, write(only_t, tmp_path / "one.h5ad"), config=config)
    assert added["held_out"] == ["B cell"]
    add(store, write(make(counts), tmp_path / "two.h5ad"), config=config)
    found = splits_by_type(store)
    assert found["two", "B cell"] == {"test"}
    assert "train" in found["one", "T cell"]


def test_hold_out_of_what_is_not_there_or_is_everything(store, tmp_path, counts):
    path = write(make(counts), tmp_path / "a.h5ad")
    with pytest.raises(LabelError, match="no such cell type"):
        add(store, path, config=CorpusConfig(hold_out=("Neuron",)))
    with pytest.raises(LabelError, match="every cell type"):
        add(store, path, config=CorpusConfig(hold_out=TYPES))


def test_donors_of_a_dataset_split_by_cell_are_trained_on_everywhere(store, tmp_path, counts):
    few = make(counts, donor_id=[f"d{i % 2}" for i in range(N_CELLS)])
    many = make(counts, donor_id=[f"d{i % 9}" for i in range(N_CELLS)])
    assert "by cell" in add(store, write(few, tmp_path / "few.h5ad"))["split_rule"]
    rule = add(store, write(many, tmp_path / "many.h5ad"))["split_rule"]
    assert rule == "by donor (9 donors); 2 keep the split they have in other datasets"
    for row in cells.load_cells(store).to_pylist():
        if row["dataset_id"] == "many" and row["donor"] in {"d0", "d1"}:
            assert row["split"] == "train"


# --- kills, full disks, replacement ------------------------------------------------------------

PROGRAM = """
import json, os, shutil, signal, sys
from pathlib import Path
from okrcell.corpus import cells
from okrcell.corpus.config import CellsConfig, CorpusConfig
base, new, work = map(Path, sys.argv[1:])
real = os.replace

def add(store):
    cells.add_cells(store, new, CorpusConfig(), CellsConfig(dataset_id="a"))

def contents(folder):
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}

def fork_add(store, kill_at):
    left = [kill_at]
    def replace(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.replace = replace
    try:
        add(store)
    except BaseException:
        os._exit(1)
    os._exit(0)

shutil.copytree(base, work / "calm")
add(work / "calm")  # also fills the caches that every fork starts from
expected, at, code = contents(work / "calm"), 0, -9
while code == -9:
    at += 1
    store = work / str(at)
    shutil.copytree(base, store)
    code = fork_add(store, at)
    try:
        served = cells.load_cells(store).num_rows
    except Exception:
        served = None
    again = fork_add(store, 0)
    print(json.dumps([code, served, again, contents(store) == expected]))
"""


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def test_a_kill_at_any_rename_continues_to_the_same_bytes(store, tmp_path, counts):
    data = make(counts)
    data.var_names = [*data.var_names[:-1], f"{data.var_names[0]}.2"]
    new = write(data, tmp_path / "new.h5ad")
    add(store, write(make(counts[:50]), tmp_path / "old.h5ad"), "a")
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(store), str(new), str(tmp_path / "work")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) > 10
    assert [code for code, *_ in found] == [-signal.SIGKILL] * (len(found) - 1) + [0]
    assert all(again == 0 and same for _, _, again, same in found)
    served = [rows for _, rows, *_ in found]
    # The old cells are served until the new ones are complete, then for a moment none.
    assert served[:8] == [50] * 8
    assert served[-1] == 90
    assert set(served) <= {50, None, 90}


def test_a_full_disk_is_named_and_leaves_nothing(store, tmp_path, counts, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, os.strerror(28), str(store / "indices"))
        yield

    path = write(make(counts), tmp_path / "a.h5ad")
    monkeypatch.setattr(cells, "kept_columns", full)
    with pytest.raises(StorageError, match="no space left"):
        add(store, path)
    assert sorted(p.name for p in store.iterdir() if p.name != ".lock") == ["okrcell.json"]


def test_replacing_a_dataset_leaves_no_trace_of_the_old(store, tmp_path, counts):
    add(store, write(make(counts), tmp_path / "a.h5ad"))
    add(store, write(make(counts[:20]), tmp_path / "a.h5ad"))
    assert cells.load_cells(store).num_rows == 20
    assert sorted(p.name for p in store.iterdir() if not p.name.startswith(".")) == [
        "cells",
        "datasets",
        "okrcell.json",
    ]
    fresh = store.parent / "fresh"
    with writing(fresh, "store"):
        pass
    add(fresh, tmp_path / "a.h5ad")
    assert contents(fresh) == contents(store)


# --- pieces ------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 4), st.integers(1, 9)), max_size=40),
    st.integers(1, 4),
)
def test_triplets_in_any_order_become_the_matrix(tmp_path_factory, entries, rows_per_block):
    wanted = sparse.coo_matrix(
        (
            np.array([e[2] for e in entries], dtype=np.float32),
            ([e[0] for e in entries], [e[1] for e in entries]),
        ),
        shape=(11, 5),
    ).toarray()
    chunks = [
        tuple(
            np.array([e[k] for e in entries[i : i + 7]], dtype=kind)
            for k, kind in enumerate((np.int64, np.int64, np.float32))
        )
        for i in range(0, len(entries), 7)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transpose, "BLOCK_ROWS", rows_per_block)
        scratch = tmp_path_factory.mktemp("scratch")
        blocks = list(transpose.csr_of_triplets(chunks, (11, 5), scratch))
    assert np.array_equal(sparse.vstack(blocks).toarray(), wanted)
    assert not any(scratch.iterdir())


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 5), st.integers(1, 6))
def test_an_array_is_handed_out_front_to_back(sizes, chunk, least):
    class Array:
        shape, chunks = (sum(sizes),), (chunk,)
        reads = 0

        def __getitem__(self, part):
            type(self).reads += 1
            return np.arange(sum(sizes))[part]

    reader = read_anndata.ArrayReader(Array(), least)
    out = [reader.take(n) for n in sizes]
    assert np.array_equal(np.concatenate([np.zeros(0), *out]), np.arange(sum(sizes)))
    with pytest.raises(ValueError, match="ends after"):
        reader.take(1)


def test_prefetching_keeps_order_and_passes_errors_on():
    assert list(prefetched(iter(range(50)))) == list(range(50))

    def broken():
        yield 1
        raise KeyError("here")

    found = prefetched(broken())
    assert next(found) == 1
    with pytest.raises(KeyError, match="here"):
        next(found)
    endless = prefetched(iter(int, 1))
    next(endless)
    endless.close()  # the thread ends with its reader


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_matrices_of_scipy_are_read_gene_by_gene(store, tmp_path, counts):
    folder = write_mtx(tmp_path / "m", counts, packed=False)
    scipy_io.mmwrite(folder / "matrix.mtx", sparse.csr_matrix(counts.T.astype(int)))
    add(store, folder, constants={"cell_type": "unknown"})
    assert np.array_equal(values_of(store, "m"), counts)
