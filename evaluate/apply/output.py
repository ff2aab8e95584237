"""Results beside the cells: a copy of the file with new columns, and a table.

The file is copied byte by byte, and what is new is written into the copy, which takes its name last:
a killed call leaves nothing under the name that was asked for, and the matrix is never in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from okrcell.artifacts import atomic_path, storage_guard
from okrcell.corpus.formats import reading
from okrcell.errors import ConfigError, FileFormatError

__all__ = ["UNS", "check_target", "check_targets", "write_copy", "write_tsv"]

UNS = "okrcell"
_FRAME_VERSION = "0.2.0"
_OURS = (b"cell_id\tokrcell_", b"<!DOCTYPE html>\n<!-- okrcell")
"""How tables and pages of ours begin."""


def check_targets(data: Path, out: Path, *others: Path | None) -> None:
    """Refuse the outputs of a command before any work: see :func:`check_target`; no two may be one."""
    named = [path for path in (out, *others) if path is not None]
    seen = {data.resolve(): "the input"}
    for path in named:
        if (before := seen.get(path.resolve())) is not None:
            raise ConfigError(
                path,
                found=f"the same file as {before}",
                expected="another name: the input is never changed",
                fix="Choose another path.",
            )
        seen[path.resolve()] = "another output"
        check_target(path)
    _check_h5ad(data)


def check_target(path: Path) -> None:
    """Refuse a path that cannot be written, or that holds a file which okrcell did not write.

    Raises
    ------
    ConfigError
        A folder; no such folder above; a file of somebody else.
    """
    if path.is_dir():
        found = "a folder"
    elif not path.parent.is_dir():
        found = f"no folder '{path.parent}'"
    elif path.exists() and not _is_ours(path):
        found = "a file that okrcell did not write"
    else:
        return
    raise ConfigError(
        path,
        found=found,
        expected="a new name, or an earlier result of this command",
        fix="Choose another path, or remove the file yourself.",
    )


def write_copy(
    data: Path,
    out: Path,
    *,
    obs: Mapping[str, Any] | None = None,
    obsm: Mapping[str, Any] | None = None,
    uns: Mapping[str, Any],
) -> None:
    """Write a copy of an h5ad file with further columns of ``obs``, arrays of ``obsm``, and ``uns["okrcell"]``.

    Columns and keys of the same names are replaced.

    Parameters
    ----------
    obs
        Column name to array or pandas categorical of N entries.
    obsm
        Key to array [N, D].
    """
    import h5py
    from anndata.io import write_elem

    with atomic_path(out) as temporary:
        with storage_guard(out):
            shutil.copyfile(data, temporary)
            temporary.chmod(0o644)  # not that of the input, which may be read-only
        with reading(out, "the copy"), h5py.File(temporary, "r+") as file:
            if obs:
                _modernise(data, file)
                _add_columns(file, obs)
            for key, value in (obsm or {}).items():
                _group(file, "obsm")
                _replace(file["obsm"], key, value)
            _group(file, "uns")
            if UNS in file["uns"]:
                del file["uns"][UNS]
            write_elem(file["uns"], UNS, dict(uns))


def write_tsv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a tab-separated table, atomically; tabs and line breaks in a value become blanks."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as handle,
    ):
        handle.write("\t".join(columns) + "\n")
        for row in rows:
            handle.write("\t".join(_cell(value) for value in row) + "\n")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return " ".join(str(value).split()) if any(c in str(value) for c in "\t\r\n") else str(value)


def _check_h5ad(path: Path) -> None:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "obs" in file and "var" in file:
                return
        found = "HDF5 without obs and var"
    except OSError:
        found = "no such file" if not path.exists() else "no h5ad file"
    raise FileFormatError(
        path,
        found=found,
        expected="an h5ad file, of which a copy with results can be written",
        fix="Check the path, or write the cells with adata.write_h5ad() first.",
    )


def _is_ours(path: Path) -> bool:
    import h5py

    with path.open("rb") as handle:
        head = handle.read(256)
    if head.startswith(_OURS):
        return True
    if not head.startswith(b"\x89HDF"):
        return not head  # an empty file is nobody's
    try:
        with h5py.File(path, "r") as file:
            return "uns" in file and UNS in file["uns"]
    except OSError:
        return False


def _group(file: Any, name: str) -> None:
    from anndata.io import write_elem

    if name not in file:
        write_elem(file, name, {})


def _replace(group: Any, key: str, value: Any) -> None:
    from anndata.io import write_elem

    if key in group:
        del group[key]
    write_elem(group, key, value)


def _add_columns(file: Any, obs: Mapping[str, Any]) -> None:
    import h5py

    frame = file["obs"]
    order = [str(name) for name in frame.attrs["column-order"]]
    for name, value in obs.items():
        _replace(frame, name, value)
    names = [*order, *(name for name in obs if name not in order)]
    frame.attrs.create("column-order", names, dtype=h5py.string_dtype())


def _modernise(data: Path, file: Any) -> None:
    """Write ``obs`` of a file from before anndata 0.8 anew, in the layout of today."""
    import warnings

    from anndata.io import write_elem

    from okrcell.corpus.read_anndata import open_h5ad

    frame = file["obs"]
    if hasattr(frame, "keys") and frame.attrs.get("encoding-version") == _FRAME_VERSION:
        return
    source = open_h5ad(data)
    try:
        table = source.obs(source.obs_columns)
    finally:
        source.close()
    del file["obs"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_elem(file, "obs", table)
