"""AnnData on disk, h5ad or zarr, read straight from its arrays.

anndata's own backed mode reads the row pointers of a matrix anew for every block; here each array
is read once, front to back, in pieces that match its chunks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell.corpus.formats import BLOCK_ROWS, BLOCK_VALUES, CellSource, no_layer, reading
from okrcell.corpus.transpose import Triplets, csr_of_triplets
from okrcell.errors import FileFormatError

__all__ = ["ArrayReader", "compressed_blocks", "dense_blocks", "open_h5ad", "open_zarr"]

_HDF5_CACHE = 64 << 20
_DENSE_BYTES = 96 << 20


def open_h5ad(path: Path) -> CellSource:
    """Open an h5ad file."""
    import h5py

    file = h5py.File(path, "r", rdcc_nbytes=_HDF5_CACHE)
    return _opened(path, file, file.close)


def open_zarr(path: Path) -> CellSource:
    """Open an AnnData zarr store of format 2 or 3: a folder, or one zip file."""
    import zarr

    store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else None
    root = zarr.open_group(path if store is None else store, mode="r")
    for name, array in root.members(max_depth=None):
        codecs = (*getattr(array, "filters", ()), *getattr(array, "compressors", ()))
        if any("pickle" in str(getattr(codec, "codec_id", codec)).lower() for codec in codecs):
            raise FileFormatError(
                path,
                found=f"the array '{name}' as Python pickles, which can run any program",
                expected="arrays of numbers and text",
                fix="Write the file again with anndata.",
            )
    return _opened(path, root, (lambda: None) if store is None else store.close)


def _opened(path: Path, root: Any, close: Callable[[], None]) -> CellSource:
    if "obs" not in root or "var" not in root:
        raise FileFormatError(
            path,
            found=f"{', '.join(sorted(root)[:5]) or 'nothing'} at the top, not both obs and var",
            expected="an AnnData file",
            fix="Write it again with anndata.",
        )
    layers = ["X"] if "X" in root and _attribute(root["X"], "encoding-type") != "null" else []
    layers += ["raw"] if "raw" in root and "X" in getattr(root["raw"], "keys", list)() else []
    layers += sorted(root["layers"]) if "layers" in root else []
    frame = root["obs"]
    columns = _attribute(frame, "column-order")
    if columns is None:
        columns = _legacy_frame(path, "obs").columns
    return AnnDataSource(path, tuple(str(name) for name in columns), tuple(layers), root, close)


@dataclass(frozen=True)
class AnnDataSource:
    """A :class:`~okrcell.corpus.formats.CellSource` over an open HDF5 file or zarr group."""

    path: Path
    obs_columns: tuple[str, ...]
    layers: tuple[str, ...]
    root: Any
    close: Callable[[], None]

    def obs(self, columns: Sequence[str]) -> Any:
        """Return a DataFrame of these columns; its index holds the names of the cells."""
        with reading(self.path, "the table obs"):
            return _frame(self.path, self.root, "obs", columns)

    def var(self, layer: str) -> Any:
        """Return the DataFrame of genes of one matrix; its index holds their names."""
        key = "raw/var" if layer == "raw" and "var" in self.root["raw"] else "var"
        with reading(self.path, f"the table {key}"):
            return _frame(self.path, self.root, key, None)

    def blocks(self, layer: str, scratch: Path) -> Iterator[sparse.csr_matrix]:
        """Yield float32 CSR blocks of up to ``BLOCK_ROWS`` cells, in the order of the cells."""
        if layer not in self.layers:
            raise no_layer(self, layer)
        key = {"X": "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")
        with reading(self.path, f"values of '{key}'"):
            yield from _blocks(self.root[key], scratch)


def _blocks(matrix: Any, scratch: Path) -> Iterator[sparse.csr_matrix]:
    if not hasattr(matrix, "keys"):
        yield from dense_blocks(matrix)
        return
    encoding = str(_attribute(matrix, "encoding-type") or _attribute(matrix, "h5sparse_format"))
    shape = tuple(int(n) for n in _attribute(matrix, "shape", "h5sparse_shape"))
    parts = (matrix["data"], matrix["indices"], matrix["indptr"])
    if encoding.startswith("csr"):
        yield from compressed_blocks(*parts, n_genes=shape[1])
    elif encoding.startswith("csc"):
        yield from csr_of_triplets(_columns(*parts), (shape[0], shape[1]), scratch)
    else:
        raise ValueError(f"a matrix of encoding '{encoding}'")


class ArrayReader:
    """Hands out a one-dimensional array on disk front to back; every chunk is read once."""

    def __init__(self, array: Any, least: int = 1 << 20) -> None:
        chunk = int(array.chunks[0]) if getattr(array, "chunks", None) else 1
        self.array, self.step = array, -(-least // chunk) * chunk
        self.at, self.size = 0, int(array.shape[0])
        self.kept: list[npt.NDArray[Any]] = []
        self.held = 0

    def take(self, n: int) -> npt.NDArray[Any]:
        """Return the next ``n`` elements.

        Raises
        ------
        ValueError
            The array ends before.
        """
        while self.held < n:
            if self.at >= self.size:
                raise ValueError(f"an array that ends after {self.size} elements")
            piece = np.asarray(self.array[self.at : self.at + self.step])
            self.at += len(piece)
            self.held += len(piece)
            self.kept.append(piece)
        whole = self.kept[0] if len(self.kept) == 1 else np.concatenate(self.kept or [np.zeros(0)])
        self.kept = [whole[n:]] if len(whole) > n else []
        self.held -= n
        return whole[:n]


def compressed_blocks(
    data: Any, indices: Any, indptr: Any, *, n_genes: int
) -> Iterator[sparse.csr_matrix]:
    """Yield CSR blocks of a CSR matrix whose three arrays are on disk."""
    values, columns, ends = ArrayReader(data), ArrayReader(indices), ArrayReader(indptr)
    n_cells = int(indptr.shape[0]) - 1
    if n_cells < 0 or int(data.shape[0]) != int(indices.shape[0]):
        raise ValueError("a sparse matrix whose parts do not fit together")
    last = ends.take(1).astype(np.int64)
    if last[0] != 0:
        raise ValueError("row pointers that do not begin at 0")
    for begin in range(0, n_cells, BLOCK_ROWS):
        pointers = np.concatenate([last, ends.take(min(BLOCK_ROWS, n_cells - begin))])
        pointers = pointers.astype(np.int64)
        if (np.diff(pointers) < 0).any() or pointers[-1] > int(data.shape[0]):
            raise ValueError(f"row pointers that go back or too far, from cell {begin} on")
        last = pointers[-1:]
        for first, stop in _portions(pointers):
            n = int(pointers[stop] - pointers[first])
            yield sparse.csr_matrix(
                (
                    values.take(n).astype(np.float32, copy=False),
                    columns.take(n),
                    pointers[first : stop + 1] - pointers[first],
                ),
                shape=(stop - first, n_genes),
            )


def _portions(pointers: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut a run of rows where it holds too many values for one block."""
    first, n = 0, len(pointers) - 1
    while first < n:
        stop = int(np.searchsorted(pointers, pointers[first] + BLOCK_VALUES, side="right")) - 1
        stop = min(max(stop, first + 1), n)
        yield first, stop
        first = stop


def _columns(data: Any, indices: Any, indptr: Any) -> Iterator[Triplets]:
    """Yield the values of a CSC matrix in runs of whole columns cut at ``BLOCK_VALUES``."""
    values, rows = ArrayReader(data), ArrayReader(indices)
    ends = np.asarray(indptr[:]).astype(np.int64)  # one number per gene: small
    if ends[0] != 0 or (np.diff(ends) < 0).any() or ends[-1] > int(data.shape[0]):
        raise ValueError("column pointers that go back or too far")
    for begin in range(0, int(ends[-1]), BLOCK_VALUES):
        stop = min(begin + BLOCK_VALUES, int(ends[-1]))
        columns = np.searchsorted(ends, np.arange(begin, stop), side="right") - 1
        yield (
            rows.take(stop - begin).astype(np.int64),
            columns,
            values.take(stop - begin).astype(np.float32),
        )


def dense_blocks(matrix: Any, *, cells_last: bool = False) -> Iterator[sparse.csr_matrix]:
    """Yield CSR blocks of a dense matrix on disk, in runs that match its chunks.

    Parameters
    ----------
    cells_last
        The matrix is genes by cells, as in loom files.
    """
    axis = 1 if cells_last else 0
    n_cells, n_genes = int(matrix.shape[axis]), int(matrix.shape[1 - axis])
    chunk = int(matrix.chunks[axis]) if getattr(matrix, "chunks", None) else 1
    fits = max(1, _DENSE_BYTES // max(n_genes * matrix.dtype.itemsize, 1))
    step = max(1, min(BLOCK_ROWS, fits) // chunk) * chunk
    if step > 4 * fits:  # chunks of very many cells: memory comes first, they are read repeatedly
        step = fits
    for begin in range(0, n_cells, step):
        run = slice(begin, min(begin + step, n_cells))
        part = np.asarray(matrix[:, run].T if cells_last else matrix[run])
        for first in range(0, len(part), BLOCK_ROWS):
            yield sparse.csr_matrix(part[first : first + BLOCK_ROWS].astype(np.float32, copy=False))


# --- tables ------------------------------------------------------------------------------------


def _frame(path: Path, root: Any, key: str, columns: Sequence[str] | None) -> Any:
    """Read a data frame, or only the columns that are asked for."""
    import pandas as pd
    from anndata.io import read_elem

    group = root[key]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata warns of old layouts that it reads well
        if _attribute(group, "encoding-version") != "0.2.0":
            known = _attribute(group, "column-order")
            frame = _legacy_frame(path, key) if known is None else read_elem(group)
            return frame if columns is None else frame[list(columns)]
        wanted = _attribute(group, "column-order") if columns is None else columns
        index = pd.Index(read_elem(group[_attribute(group, "_index")])).astype(str)
        return pd.DataFrame({str(c): read_elem(group[c]) for c in wanted}, index=index)


def _legacy_frame(path: Path, key: str) -> Any:
    """Read obs or var of a file from before anndata 0.7, which only anndata understands."""
    import anndata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = anndata.read_h5ad(path, backed="r")
        frames = {"obs": lambda: data.obs, "var": lambda: data.var, "raw/var": lambda: data.raw.var}
        frame = frames[key]().copy()
        data.file.close()
    return frame


def _attribute(element: Any, *names: str) -> Any:
    for name in names:
        value = element.attrs.get(name)
        if value is not None:
            return value.decode() if isinstance(value, bytes) else value
    return None
