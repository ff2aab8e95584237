"""Loom files: genes by cells, dense, in HDF5; read in runs of cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from okrcell.corpus.formats import CellSource, no_layer, reading
from okrcell.corpus.read_anndata import dense_blocks

__all__ = ["LoomSource", "open_loom"]

_CELL_NAMES = ("CellID", "obs_names", "cell_id", "cell_names", "Barcode", "barcode")
_GENE_NAMES = ("var_names", "Gene", "gene_symbol", "gene_name", "Accession")


def open_loom(path: Path) -> CellSource:
    """Open a loom file."""
    import h5py

    file = h5py.File(path, "r", rdcc_nbytes=64 << 20)
    n_genes, n_cells = file["matrix"].shape
    cells = _vectors(file["col_attrs"], int(n_cells))
    layers = ("X", *sorted(file["layers"])) if "layers" in file else ("X",)
    return LoomSource(path, tuple(cells), layers, file, file.close)


@dataclass(frozen=True)
class LoomSource:
    """A :class:`~okrcell.corpus.formats.CellSource` over an open loom file."""

    path: Path
    obs_columns: tuple[str, ...]
    layers: tuple[str, ...]
    file: Any
    close: Callable[[], None]

    def obs(self, columns: Sequence[str]) -> Any:
        """Return a DataFrame of these columns; its index holds the names of the cells."""
        import pandas as pd

        with reading(self.path, "the attributes of cells"):
            attributes = self.file["col_attrs"]
            n_cells = int(self.file["matrix"].shape[1])
            index = _names(attributes, _CELL_NAMES, n_cells)
            return pd.DataFrame({name: _read(attributes[name]) for name in columns}, index=index)

    def var(self, layer: str) -> Any:
        """Return the DataFrame of genes; its index holds their names."""
        import pandas as pd

        with reading(self.path, "the attributes of genes"):
            attributes, n_genes = self.file["row_attrs"], int(self.file["matrix"].shape[0])
            columns = _vectors(attributes, n_genes)
            index = _names(attributes, _GENE_NAMES, n_genes)
            return pd.DataFrame({name: _read(attributes[name]) for name in columns}, index=index)

    def blocks(self, layer: str, scratch: Path) -> Iterator[sparse.csr_matrix]:
        """Yield float32 CSR blocks of cells, in the order of the cells."""
        if layer not in self.layers:
            raise no_layer(self, layer)
        with reading(self.path, f"values of '{layer}'"):
            matrix = self.file["matrix" if layer == "X" else f"layers/{layer}"]
            yield from dense_blocks(matrix, cells_last=True)


def _vectors(group: Any, size: int) -> list[str]:
    """Return the attributes that hold one value per cell or gene, sorted."""
    return sorted(name for name in group if group[name].shape == (size,))


def _read(array: Any) -> Any:
    values = array[:]
    if values.dtype.kind == "S" or values.dtype == object:
        return np.array([v.decode() if isinstance(v, bytes) else v for v in values], dtype=object)
    return values


def _names(group: Any, candidates: Sequence[str], size: int) -> list[str]:
    usable = set(_vectors(group, size))
    found = next((name for name in candidates if name in usable), None)
    # A file without names still has an order: cells are then called by their number.
    return [str(v) for v in _read(group[found])] if found else [str(i) for i in range(size)]
