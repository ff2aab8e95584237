"""Matrix Market files of genes by cells, parsed in pieces: the format of 10x matrix folders."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from okrcell.corpus.formats import BLOCK_ROWS, BLOCK_VALUES, reading
from okrcell.corpus.transpose import Triplets
from okrcell.errors import FileFormatError

__all__ = ["entries", "is_cell_by_cell", "open_plain", "read_header", "stream_cells"]


def open_plain(path: Path) -> Any:
    """Open a file for reading bytes, unpacked where it is gzip."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def read_header(path: Path, shape: tuple[int, int]) -> tuple[int, int]:
    """Return the number of lines before the values, and of values; the shape must fit."""
    with reading(path, "a header"), open_plain(path) as handle:
        first = handle.readline().decode("ascii", "replace").split()
        kind = [word.lower() for word in first]
        if kind[:3] != ["%%matrixmarket", "matrix", "coordinate"] or kind[3:4] not in (
            ["integer"],
            ["real"],
        ):
            raise ValueError(f"it begins with '{' '.join(first)[:60]}'")
        if kind[4:] != ["general"]:
            raise ValueError(f"a matrix of symmetry '{' '.join(kind[4:])}'")
        skipped, line = 1, handle.readline()
        while line.startswith(b"%") or (line and not line.strip()):
            skipped, line = skipped + 1, handle.readline()
        sizes = [int(word) for word in line.split()]
        if len(sizes) != 3:
            raise ValueError("no line of rows, columns and entries")
    if (sizes[0], sizes[1]) != shape:
        raise FileFormatError(
            path,
            found=f"{sizes[0]} x {sizes[1]} genes by cells",
            expected=f"{shape[0]} features and {shape[1]} barcodes, as the files beside it list",
            fix="Put the three files of one sample together.",
        )
    return skipped + 1, sizes[2]


def entries(path: Path, header: tuple[int, int]) -> Iterator[Triplets]:
    """Parse the values in pieces; their number must be the one the header states."""
    import pyarrow as pa
    from pyarrow import csv

    skipped, expected = header
    if not expected:
        return
    seen = 0
    with open_plain(path) as handle:
        reader = csv.open_csv(
            pa.PythonFile(handle, mode="r"),
            read_options=csv.ReadOptions(
                column_names=["gene", "cell", "value"],
                skip_rows=skipped,
                block_size=32 << 20,
                use_threads=False,
            ),
            parse_options=csv.ParseOptions(delimiter=" ", newlines_in_values=False),
            convert_options=csv.ConvertOptions(
                column_types={"gene": pa.int64(), "cell": pa.int64(), "value": pa.float32()}
            ),
        )
        for batch in reader:
            if any(column.null_count for column in batch.columns):
                raise ValueError(f"an entry without a number after {seen} entries")
            seen += batch.num_rows
            yield (
                batch["cell"].to_numpy() - 1,
                batch["gene"].to_numpy() - 1,
                batch["value"].to_numpy(),
            )
    if seen != expected:
        raise ValueError(f"{seen} entries where the header promises {expected}")


def is_cell_by_cell(path: Path, header: tuple[int, int]) -> bool:
    """Say whether the entries come cell by cell, as CellRanger writes them."""
    for cells, genes, _ in entries(path, header):
        # One gene throughout tells nothing of the order: such a file is gene by gene, or tiny.
        return bool((np.diff(cells) >= 0).all()) and bool((genes != genes[0]).any())
    return True


def stream_cells(
    chunks: Iterator[Triplets], shape: tuple[int, int], path: Path
) -> Iterator[sparse.csr_matrix]:
    """Cut entries that come cell by cell into blocks; only the open block is held."""
    n_cells, n_genes = shape
    held: list[Triplets] = []
    begin, size, last = 0, 0, -1

    def block(stop: int) -> sparse.csr_matrix:
        parts = [np.concatenate(part) for part in zip(*held, strict=True)] if held else []
        if not parts:
            return sparse.csr_matrix((stop - begin, n_genes), dtype=np.float32)
        cells, genes, values = parts
        return sparse.coo_matrix(
            (values, (cells - begin, genes)), shape=(stop - begin, n_genes)
        ).tocsr()

    for cells, genes, values in chunks:
        if cells.size and (cells.min() < 0 or cells.max() >= n_cells):
            raise ValueError(f"an entry of cell {int(cells.max()) + 1} of {n_cells}")
        if genes.size and (genes.min() < 0 or genes.max() >= n_genes):
            raise ValueError(f"an entry of gene {int(genes.max()) + 1} of {n_genes}")
        if cells.size and (cells[0] < last or (np.diff(cells) < 0).any()):
            raise FileFormatError(
                path,
                found="entries that come cell by cell at first and in another order later",
                expected="one order throughout",
                fix="Write the matrix again, for instance with scipy.io.mmwrite.",
            )
        last = int(cells[-1]) if cells.size else last
        start = 0
        while cells.size and (int(cells[-1]) >= begin + BLOCK_ROWS or size > BLOCK_VALUES):
            full = int(cells[-1]) >= begin + BLOCK_ROWS
            stop = begin + BLOCK_ROWS if full else int(cells[-1])
            if stop <= begin:
                break  # one cell alone fills more than a block
            cut = int(np.searchsorted(cells, stop, side="left"))
            held.append((cells[start:cut], genes[start:cut], values[start:cut]))
            yield block(stop)
            begin, held, size, start = stop, [], 0, cut
        held.append((cells[start:], genes[start:], values[start:]))
        size += cells.size - start
    while begin < n_cells:
        stop = min(begin + BLOCK_ROWS, n_cells)
        yield block(stop)
        begin, held = stop, []
