"""Expression values: their scale, what is refused, and counts that come back from logarithms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from okrcell.corpus.expression import ValueScan, check_values, kept_columns, recover_counts
from okrcell.errors import ExpressionValueError, FileFormatError


def block(values):
    return sparse.csr_matrix(np.asarray(values, dtype=np.float32))


def test_scale_of_values(tmp_path):
    assert check_values(block([[0, 3, 250]]), tmp_path, 0) == "counts"
    assert check_values(block([[0, 0.5, 4.2]]), tmp_path, 0) == "lognorm"
    assert check_values(block([[0, 0]]), tmp_path, 0) == "counts"
    for values, said in (([[-1.0]], "-1"), ([[np.nan]], "nan"), ([[0.5, 5000]], "neither counts")):
        with pytest.raises(ExpressionValueError, match=said):
            check_values(block(values), tmp_path, 0)
    with pytest.raises(ExpressionValueError, match="cell 12, column 1"):
        check_values(block([[1, 1], [0, -2]]), tmp_path, 11)
    with pytest.raises(ExpressionValueError, match="--layer raw"):
        check_values(block([[-1.0]]), tmp_path, 0, has_raw=True)


def test_a_scan_names_cell_and_gene(tmp_path):
    scan = ValueScan(tmp_path, 2, cell_names=["a", "b", "c"], gene_names=["CD4", "CD8A"])
    scan.check(block([[1, 2]]))
    with pytest.raises(
        ExpressionValueError, match="cell 2 'c', column 1 'CD8A': found the value -3"
    ):
        scan.check(block([[0, 1], [0, -3]]))


def test_a_scan_says_the_scale_at_the_end(tmp_path):
    scan = ValueScan(tmp_path, 2, sum_columns=True)
    with pytest.raises(ExpressionValueError, match="no value above zero"):
        scan.kind(None)
    scan.check(block([[1, 2]]))
    assert scan.kind(None) == "counts"
    with pytest.raises(ExpressionValueError, match="--values counts"):
        scan.kind("lognorm")
    scan.check(block([[0.5, 2]]))
    assert scan.kind(None) == "lognorm"
    assert scan.totals.tolist() == [1.5, 4.0]
    assert scan.rows == 2
    with pytest.raises(FileFormatError, match="the column 5"):
        ValueScan(tmp_path, 2).check(sparse.csr_matrix(([1.0], [5], [0, 1]), shape=(1, 9)))


@st.composite
def messy(draw):
    """Return a CSR matrix with unsorted, repeated and zero entries, and what it means."""
    n_rows, n_columns = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    cell = st.tuples(st.integers(0, n_columns - 1), st.integers(0, 4))
    rows = draw(st.lists(st.lists(cell, max_size=8), min_size=n_rows, max_size=n_rows))
    dense = np.zeros((n_rows, n_columns), dtype=np.float32)
    for at, row in enumerate(rows):
        for column, value in row:
            dense[at, column] += value
    flat = [entry for row in rows for entry in row]
    matrix = sparse.csr_matrix(
        (
            np.array([value for _, value in flat], dtype=np.float32),
            np.array([column for column, _ in flat], dtype=np.int64),
            np.cumsum([0, *map(len, rows)]),
        ),
        shape=dense.shape,
    )
    kept = draw(st.lists(st.booleans(), min_size=n_columns, max_size=n_columns))
    return matrix, dense, np.array(kept)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(messy())
def test_what_is_kept_is_canonical_and_complete(case):
    matrix, dense, kept = case
    scan = ValueScan("x", dense.shape[1], sum_columns=True)
    tidy = scan.check(matrix)
    assert np.array_equal(tidy.toarray(), dense)
    assert tidy.nnz == np.count_nonzero(dense)
    assert np.allclose(scan.totals, dense.sum(axis=0))
    numbers = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    (out,) = kept_columns(iter([tidy]), numbers)
    assert np.array_equal(out.toarray(), dense[:, kept])
    for row in range(out.shape[0]):
        columns = out.indices[out.indptr[row] : out.indptr[row + 1]]
        assert (np.diff(columns) > 0).all()


@settings(derandomize=True, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), min_size=5, max_size=5), min_size=1, max_size=6))
def test_counts_come_back_where_one_molecule_is_seen(rows):
    counts = np.array(rows, dtype=np.float64)
    counts[:, 0] = 1
    normalised = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    recovered = recover_counts(sparse.csr_matrix(normalised)).toarray()
    assert np.array_equal(recovered, counts)
