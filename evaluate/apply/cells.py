"""A user's file of cells, read once: checked, genes resolved, and laid out for random reads.

The matrix streams by in blocks into a scratch folder and is read from there through mmap, however
often it is needed: memory holds some blocks of it, never the whole.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell.artifacts import storage_guard
from okrcell.console import progress
from okrcell.corpus.expression import ValueKind, kept_columns
from okrcell.corpus.formats import CellSource, no_layer, open_source
from okrcell.corpus.gene_columns import GeneColumns, best_columns, resolve_columns
from okrcell.corpus.metadata import as_labels
from okrcell.corpus.shards import CellMatrix, drop_columns, map_matrix, seal, write_matrix
from okrcell.errors import DataError, DuplicateNamesError, MissingColumnError
from okrcell.evaluate.apply.scale import CellScale

__all__ = ["Header", "Sample", "opened", "read_header"]

_BATCH_COLUMNS = (
    "batch",
    "donor_id",
    "donor",
    "sample",
    "sample_id",
    "orig.ident",
    "library",
    "channel",
)
_SCRATCH = ".okrcell-tmp"


@dataclass(frozen=True)
class Header:
    """What a file says without its matrix.

    Attributes
    ----------
    names
        pandas Index of the N cells, unique.
    obs
        DataFrame of all columns of ``obs`` that were asked for and are there.
    gene_names, genes
        The names of the columns by the best source, and what they resolve to.
    """

    path: Path
    layer: str
    names: Any
    obs: Any
    columns: tuple[str, ...]
    gene_names: list[str]
    genes: GeneColumns


@dataclass(frozen=True)
class Sample:
    """The cells of a file.

    Attributes
    ----------
    cells
        The matrix [N, G] of the genes that were resolved, through mmap.
    empty
        bool [N]: cells without any value above zero.
    batches
        The batch of each cell, str [N]; None where no column says it.
    batch_column
        The column that says it.
    has_fractions
        The values are counts, and some are no whole numbers.
    """

    header: Header
    cells: CellMatrix
    empty: npt.NDArray[np.bool_]
    batches: npt.NDArray[np.str_] | None
    batch_column: str
    has_fractions: bool

    def __len__(self) -> int:
        return len(self.empty)


def read_header(source: CellSource, layer: str, columns: Sequence[str] = ()) -> Header:
    """Read names, some columns of ``obs`` and the genes of an open file.

    Raises
    ------
    MissingColumnError
        No such layer.
    DuplicateNamesError
        Two cells share a name.
    GeneCoverageError
        No name is a human gene.
    DataError
        The file has no cells.
    """
    if layer not in source.layers:
        raise no_layer(source, layer)
    obs = source.obs([name for name in columns if name in source.obs_columns])
    if not len(obs):
        raise DataError(
            source.path,
            found="no cells",
            expected="a file with at least one cell",
            fix="Check the filter that made it.",
        )
    if not obs.index.is_unique:
        repeated = obs.index.duplicated()
        raise DuplicateNamesError(
            f"{source.path} obs_names",
            found=f"'{obs.index[repeated][0]}' more than once ({int(repeated.sum())} repeats in all)",
            expected="one name per cell, as results are given by name",
            fix="Call adata.obs_names_make_unique(), or prefix the names with the sample.",
        )
    names, genes = best_columns(source.var(layer), source.path, 0.0)
    return Header(source.path, layer, obs.index, obs, source.obs_columns, names, genes)


@contextmanager
def opened(
    path: Path,
    *,
    layer: str = "X",
    batch: str | None = None,
    columns: Sequence[str] = (),
    scratch_near: Path | None = None,
) -> Iterator[Sample]:
    """Yield the cells of a file; the scratch copy goes when the block ends.

    Parameters
    ----------
    batch
        Column of ``obs`` that names the batches. Without it the usual names are looked for, for
        error messages alone.
    columns
        Further columns of ``obs`` to read.
    scratch_near
        The scratch folder is made beside this path (by default where the system has its own). What a
        killed call left there is removed.

    Raises
    ------
    DataError
        The file cannot be used: see :func:`read_header` and :class:`CellScale`.
    """
    source = open_source(path)
    try:
        if batch is not None and batch not in source.obs_columns:
            raise MissingColumnError(
                f"{path} obs",
                found=f"no column '{batch}'",
                expected=f"one of {', '.join(source.obs_columns) or 'none: obs is empty'}",
                fix="Name the column of batches with --batch.",
            )
        known = [name for name in _BATCH_COLUMNS if name in source.obs_columns]
        column = batch or (known[0] if known else "")
        header = read_header(source, layer, [*dict.fromkeys([*columns, *filter(None, [column])])])
        batches = _batches(header.obs[column]) if column else None
        with _scratch(scratch_near) as folder:
            kind, cells, scale = _spooled(source, header, folder, batches, column)
            yield Sample(
                header,
                CellMatrix(cells[0], cells[1], kind),
                scale.n_genes == 0,
                batches,
                column,
                scale.has_fractions,
            )
    finally:
        source.close()


def _batches(column: Any) -> npt.NDArray[np.str_]:
    labels = as_labels(column, "(none)")
    return np.asarray(labels.names, dtype=np.str_)[labels.codes]


def _spooled(
    source: CellSource,
    header: Header,
    folder: Path,
    batches: npt.NDArray[np.str_] | None,
    column: str,
) -> tuple[ValueKind, tuple[sparse.csr_matrix, tuple[str, ...]], CellScale]:
    """Write the matrix of all columns that are genes, and map it; of twin columns the larger stays."""
    genes = header.genes
    scale = CellScale(
        source.path,
        header.names,
        len(header.gene_names),
        has_raw="raw" in source.layers and header.layer == "X",
    )
    reader = folder / "reader"
    reader.mkdir()
    with storage_guard(folder), progress("Reading cells", len(header.names), "cells") as advance:

        def checked() -> Iterator[sparse.csr_matrix]:
            for block in source.blocks(header.layer, reader):
                yield scale.check(block)
                advance(block.shape[0])

        write_matrix(folder, kept_columns(checked(), genes.candidates))
    if scale.rows != len(header.names):
        raise DataError(
            source.path,
            found=f"{scale.rows} rows of values for {len(header.names)} cells",
            expected="one row per cell",
            fix="Write the file again; its parts do not fit together.",
        )
    kind = scale.kind(batches, column)
    if len(genes.gene_ids) < int(genes.candidates.max(initial=-1)) + 1:
        genes = resolve_columns(source.var(header.layer), header.gene_names, scale.totals)
        drop_columns(folder, np.asarray(genes.kept[genes.candidates >= 0], dtype=np.int32))
    return kind, (map_matrix(folder, seal(folder), len(genes.gene_ids)), genes.gene_ids), scale


@contextmanager
def _scratch(near: Path | None) -> Iterator[Path]:
    """Yield an empty folder that goes in the end; those of killed calls go first."""
    if near is None:
        with tempfile.TemporaryDirectory(prefix="okrcell-") as made:
            yield Path(made)
        return
    for old in near.parent.glob(f".{near.name}.*{_SCRATCH}"):
        if not _is_alive(old.name.removesuffix(_SCRATCH).rpartition(".")[2]):
            shutil.rmtree(old, ignore_errors=True)
            with suppress(OSError):
                old.unlink()
    folder = near.with_name(f".{near.name}.scratch.{os.getpid()}{_SCRATCH}")
    with storage_guard(folder):
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    if not pid.isdigit():
        return True  # not one of ours
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
