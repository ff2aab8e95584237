"""Output of 10x Genomics CellRanger: the HDF5 file (versions 2 and 3) and the matrix folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import sparse

from okrcell.corpus import formats
from okrcell.corpus.formats import CellSource, no_layer, reading
from okrcell.corpus.mtx import (
    entries,
    is_cell_by_cell,
    open_plain,
    read_header,
    stream_cells,
)
from okrcell.corpus.read_anndata import compressed_blocks
from okrcell.corpus.sidecar import read_sidecar, sidecar_of
from okrcell.corpus.transpose import csr_of_triplets
from okrcell.errors import FileFormatError

__all__ = ["TenxSource", "files_of", "open_folder", "open_h5"]


@dataclass(frozen=True)
class TenxSource:
    """A :class:`~okrcell.corpus.formats.CellSource` over CellRanger output."""

    path: Path
    obs_columns: tuple[str, ...]
    barcodes: list[str]
    genes: Any
    table: Any
    stream: Callable[[Path], Iterator[sparse.csr_matrix]]
    close: Callable[[], None]
    layers: tuple[str, ...] = ("X",)

    def obs(self, columns: Sequence[str]) -> Any:
        """Return a DataFrame of these columns; its index holds the barcodes."""
        import pandas as pd

        if self.table is None:
            return pd.DataFrame(index=self.barcodes)
        return self.table[list(columns)]

    def var(self, layer: str) -> Any:
        """Return the DataFrame of features; its index holds their ids."""
        return self.genes

    def blocks(self, layer: str, scratch: Path) -> Iterator[sparse.csr_matrix]:
        """Yield float32 CSR blocks of cells, in the order of the barcodes."""
        if layer not in self.layers:
            raise no_layer(self, layer)
        with reading(self.path, "values of the matrix"):
            yield from self.stream(scratch)


def _source(
    path: Path,
    beside: Path | None,
    barcodes: list[str],
    genes: Any,
    stream: Callable[[Path], Iterator[sparse.csr_matrix]],
    close: Callable[[], None] = lambda: None,
) -> CellSource:
    table = read_sidecar(beside, barcodes) if beside else None
    columns = () if table is None else tuple(str(name) for name in table.columns)
    return TenxSource(path, columns, barcodes, genes, table, stream, close)


# --- HDF5 --------------------------------------------------------------------------------------


def open_h5(path: Path) -> CellSource:
    """Open a CellRanger ``.h5`` file.

    Raises
    ------
    FileFormatError
        A file of version 2 with more than one genome.
    """
    import h5py
    import pandas as pd

    file = h5py.File(path, "r", rdcc_nbytes=64 << 20)
    groups = [name for name in file if "barcodes" in file[name]]
    if len(groups) > 1:
        file.close()
        raise FileFormatError(
            path,
            found=f"several genomes: {', '.join(groups)}",
            expected="the cells of one genome",
            fix="Write the human cells to a file of their own.",
        )
    group = file[groups[0]]
    barcodes = [str(name) for name in group["barcodes"].asstr()[:]]
    if "features" in group:
        features = group["features"]
        genes = pd.DataFrame(
            {
                "feature_name": features["name"].asstr()[:],
                "feature_types": features["feature_type"].asstr()[:],
            },
            index=[str(name) for name in features["id"].asstr()[:]],
        )
    else:
        names = group["gene_names"].asstr()[:]
        genes = pd.DataFrame({"feature_name": names}, index=group["genes"].asstr()[:])

    def stream(scratch: Path) -> Iterator[sparse.csr_matrix]:
        # Genes by cells, compressed by column, is cells by genes, compressed by row.
        parts = (group["data"], group["indices"], group["indptr"])
        yield from compressed_blocks(*parts, n_genes=len(genes))

    return _source(path, sidecar_of(path), barcodes, genes, stream, file.close)


# --- matrix folder -----------------------------------------------------------------------------


def open_folder(path: Path) -> CellSource:
    """Open a folder with ``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv`` or ``genes.tsv``.

    All may be gzip-compressed and share a prefix; name the matrix itself where a folder has several.
    """
    matrix, barcode_path, feature_path, beside = _parts(path)
    barcodes = [line[0] for line in _lines(barcode_path)]
    genes = _features(feature_path)
    header = read_header(matrix, (len(genes), len(barcodes)))

    def stream(scratch: Path) -> Iterator[sparse.csr_matrix]:
        shape = (len(barcodes), len(genes))
        if is_cell_by_cell(matrix, header):
            yield from stream_cells(entries(matrix, header), shape, matrix)
        else:
            yield from csr_of_triplets(entries(matrix, header), shape, scratch)

    return _source(path, beside, barcodes, genes, stream)


def files_of(path: Path) -> list[Path]:
    """Return the files that a matrix folder is read from."""
    return sorted(part for part in _parts(path) if part)


def _parts(path: Path) -> tuple[Path, Path, Path, Path | None]:
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if formats._MTX.fullmatch(p.name))
        if len(found) != 1:
            raise FileFormatError(
                path,
                found=f"{len(found)} files named matrix.mtx or matrix.mtx.gz",
                expected="one, or an AnnData zarr folder",
                fix="Name the folder or the matrix of one sample.",
            )
        path = found[0]
    matched = formats._MTX.fullmatch(path.name)
    prefix = matched["prefix"] if matched else ""

    def beside(*names: str) -> Path:
        candidates = [path.with_name(f"{prefix}{n}.tsv{gz}") for n in names for gz in ("", ".gz")]
        hit = next((p for p in candidates if p.is_file()), None)
        if hit is None:
            raise FileFormatError(
                path,
                found=f"no {prefix}{names[0]}.tsv beside it",
                expected=f"{' or '.join(f'{prefix}{n}.tsv' for n in names)}, also .gz",
                fix="Put the three files of the matrix into one folder.",
            )
        return hit

    return (
        path,
        beside("barcodes"),
        beside("features", "genes"),
        sidecar_of(path.parent, prefix),
    )


def _lines(path: Path) -> list[list[str]]:
    with reading(path, "lines"), io.TextIOWrapper(open_plain(path), encoding="utf-8") as handle:
        return [line.rstrip("\r\n").split("\t") for line in handle if line.strip()]


def _features(path: Path) -> Any:
    import pandas as pd

    rows = _lines(path)
    columns: dict[str, list[str]] = {"feature_name": [row[min(1, len(row) - 1)] for row in rows]}
    if rows and all(len(row) > 2 for row in rows):
        columns["feature_types"] = [row[2] for row in rows]
    return pd.DataFrame(columns, index=[row[0] for row in rows])
