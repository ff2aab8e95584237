"""Files of cells behind one seam: what a file is, and a reader that streams it in blocks of cells."""

from __future__ import annotations

import contextlib
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from scipy import sparse

from okrcell.errors import FileFormatError, MissingColumnError, OkrcellError

__all__ = ["BLOCK_ROWS", "CellSource", "datasets_in", "open_source", "source_files", "stem"]

BLOCK_ROWS = 4096
BLOCK_VALUES = 1 << 22
"""A block ends at this many values, unless a single cell has more."""

_MTX = re.compile(r"(?P<prefix>.*?)matrix\.mtx(\.gz)?", re.IGNORECASE)
_SUFFIXES = (".h5ad", ".zarr.zip", ".zarr", ".loom", ".h5")
_KNOWN = ".h5ad, .zarr, .zarr.zip, .loom, a 10x .h5, or a 10x folder with matrix.mtx"
_PLAIN_FOLDERS = re.compile(r"(outs|count|(sample_|raw_|filtered_)?\w*_bc_matri\w+|GRCh\d+|hg\d+)")


_READER_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    zlib.error,
    zipfile.BadZipFile,
)


class CellSource(Protocol):
    """One matrix of cells with its annotation, whatever the file format."""

    @property
    def path(self) -> Path:
        """What the user named; errors name it."""

    @property
    def obs_columns(self) -> tuple[str, ...]:
        """Columns of the cell annotation."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the matrices to choose from; ``X`` and ``raw`` have fixed meanings."""

    def obs(self, columns: Sequence[str]) -> Any:
        """Return a DataFrame of these columns; its index holds the names of the cells."""

    def var(self, layer: str) -> Any:
        """Return the DataFrame of genes of one matrix; its index holds their names."""

    def blocks(self, layer: str, scratch: Path) -> Iterator[sparse.csr_matrix]:
        """Yield float32 CSR blocks of up to ``BLOCK_ROWS`` cells, in the order of the cells.

        Indices may be unsorted and repeated. ``scratch`` is an empty folder for readers that must
        turn a matrix round; the caller removes it.
        """

    @property
    def close(self) -> Callable[[], None]:
        """Lets go of the file."""


def open_source(path: Path) -> CellSource:
    """Open a file or folder of cells by what it contains, without reading its matrix.

    Raises
    ------
    FileFormatError
        No such file, none of the known formats, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileFormatError(
            path, found="no such file or folder", expected=_KNOWN, fix="Check the path."
        )
    try:
        return _opener(path)(path)
    except OkrcellError:
        raise
    except Exception as error:  # noqa: BLE001  (every reader error means the same to the user)
        raise unreadable(path, error) from None


def unreadable(path: Path, error: BaseException) -> FileFormatError:
    """Return the error for a file that its library cannot open."""
    name = "".join(path.suffixes[-2:] if path.suffix in {".gz", ".zip"} else path.suffixes[-1:])
    return FileFormatError(
        path,
        found=f"a file that cannot be read as {name.lstrip('.') or 'cells'} ({first_line(error)})",
        expected=f"a whole file of cells: {_KNOWN}",
        fix="Check that the download or copy finished, or write it again.",
    )


def no_layer(source: CellSource, layer: str) -> MissingColumnError:
    """Return the error for a matrix that the file does not have."""
    known = ", ".join(source.layers) or "X (the file has no matrix at all)"
    return MissingColumnError(
        source.path,
        found=f"no layer '{layer}'",
        expected=f"one of {known}",
        fix="Choose one of these with --layer.",
    )


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a reader raises in the middle of a file into a ``FileFormatError``."""
    try:
        yield
    except OkrcellError:
        raise
    except _READER_ERRORS as error:
        raise FileFormatError(
            path,
            found=f"{what} that cannot be read ({first_line(error)})",
            expected="a whole file",
            fix="Copy or download the file again.",
        ) from None


def first_line(error: BaseException) -> str:
    """Return a library's message cut to one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _opener(path: Path) -> Callable[[Path], CellSource]:
    from okrcell.corpus import read_anndata, read_loom, read_tenx

    if path.is_dir():
        if _is_zarr(path):
            return read_anndata.open_zarr
        return read_tenx.open_folder
    if path.name.endswith(".zarr.zip"):
        return read_anndata.open_zarr
    if _MTX.fullmatch(path.name):
        return read_tenx.open_folder
    kinds: dict[str, Callable[[Path], CellSource]] = {
        "anndata": read_anndata.open_h5ad,
        "loom": read_loom.open_loom,
        "10x": read_tenx.open_h5,
    }
    return kinds[_hdf5_kind(path)]


def _hdf5_kind(path: Path) -> str:
    import h5py

    with h5py.File(path, "r") as file:
        names = set(file)
        if {"obs", "var"} <= names:
            return "anndata"
        if {"matrix", "row_attrs", "col_attrs"} <= names:
            return "loom"
        if any(isinstance(file[name], h5py.Group) and "barcodes" in file[name] for name in names):
            return "10x"
    raise FileFormatError(
        path,
        found=f"HDF5 with {', '.join(sorted(names)[:5]) or 'nothing'} at the top",
        expected="obs and var (AnnData), matrix with row_attrs (loom), or barcodes (10x)",
        fix="Write the cells with adata.write_h5ad().",
    )


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata"))


# --- folders of several ------------------------------------------------------------------------


def datasets_in(path: Path) -> list[Path]:
    """Return the files of cells that a path means: itself, or everything below a folder, sorted.

    Of CellRanger's output folders the filtered matrix is taken, the raw one left out where both
    are there. A folder with several ``*matrix.mtx`` gives one entry for each.

    Raises
    ------
    FileFormatError
        No such path, or nothing below it is a file of cells.
    """
    path = Path(path)
    if path.is_file() or _is_zarr(path):
        return [path]
    found = sorted(_walk(path)) if path.is_dir() else []
    if not found:
        what = "no file of cells in this folder" if path.is_dir() else "no such file or folder"
        raise FileFormatError(path, found=what, expected=_KNOWN, fix="Check the path.")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    matrices = [p for p in folder.iterdir() if _MTX.fullmatch(p.name)]
    if len(matrices) == 1 and _MTX.fullmatch(matrices[0].name)["prefix"] == "":  # type: ignore[index]
        yield folder
        matrices = []
    yield from matrices
    names = {p.name for p in folder.iterdir()}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or _is_raw_twin(entry.name, names):
            continue
        if entry.name.endswith(_SUFFIXES):
            yield entry
        elif entry.is_dir():
            if _is_zarr(entry):
                yield entry
            else:
                yield from _walk(entry)


def _is_raw_twin(name: str, names: set[str]) -> bool:
    return name.startswith("raw_") and f"filtered_{name.removeprefix('raw_')}" in names


def stem(path: Path) -> str:
    """Return the name that a dataset gets from its file: without suffixes and CellRanger's folders."""
    path = Path(path)
    matched = _MTX.fullmatch(path.name)
    if matched:
        prefix = matched["prefix"].rstrip("._- ")
        return prefix or stem(path.parent)
    for suffix in _SUFFIXES:
        if path.name.endswith(suffix) and path.name != suffix:
            name = path.name[: -len(suffix)]
            return stem(path.parent) if _PLAIN_FOLDERS.fullmatch(name) else name
    if _PLAIN_FOLDERS.fullmatch(path.name) and path.resolve().parent != path:
        return stem(path.resolve().parent)
    return path.resolve().name


def source_files(path: Path) -> list[Path]:
    """Return the files that a source is read from, sorted; their content is its identity."""
    path = Path(path)
    if path.is_dir() and _is_zarr(path):
        return sorted(p for p in path.rglob("*") if p.is_file())
    if path.is_dir() or _MTX.fullmatch(path.name):
        from okrcell.corpus.read_tenx import files_of

        return files_of(path)
    from okrcell.corpus.sidecar import sidecar_of

    beside = sidecar_of(path)
    return [path, beside] if beside else [path]
