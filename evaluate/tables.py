"""An h5ad file as data to evaluate on: columns, labels, genes, memory, all checked first."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from okrcell.artifacts import file_sha256
from okrcell.errors import (
    DataError,
    ExpressionValueError,
    FileFormatError,
    LabelError,
    MissingColumnError,
)
from okrcell.evaluate.columns import (
    default_splits,
    optional,
    some,
    terms_of,
    text_of,
    texts_of,
    tidy_labels,
)
from okrcell.evaluate.data import UNLABELLED, EvalData
from okrcell.evaluate.guards import check_donors, check_leakage, check_types, check_uids
from okrcell.evaluate.splits import assign
from okrcell.evaluate.suite import DataSpec

if TYPE_CHECKING:
    from okrcell.corpus.shards import CellMatrix

__all__ = ["load_h5ad"]

_BYTES_PER_VALUE = 44
"""Peak bytes per stored value: the matrix, its log-normalised copy in float64, one more of train cells."""


def load_h5ad(spec: DataSpec, seed: int, keys: Sequence[str] = ()) -> list[EvalData]:
    """Read one file; return it once per way of splitting, the first one first.

    Parameters
    ----------
    keys
        Further ``obsm`` keys to read.

    Raises
    ------
    DataError
        Missing columns, labels or genes that cannot be used, an embedding of the wrong length, or
        more memory needed than there is.
    """
    path = spec.path
    content = _read(path, spec, tuple(dict.fromkeys((*spec.vectors, *keys))))
    obs = content["obs"]
    notes: list[str] = []
    raw = text_of(obs, path, spec.label, "label")
    labels, said = tidy_labels(raw)
    notes += [f"{spec.title}: {one}" for one in said]
    unknown = UNLABELLED | {name.strip().lower() for name in spec.unlabelled}
    kept = np.asarray([label.lower() not in unknown for label in labels])
    lost = int((~kept).sum())
    for column, value in spec.keep.items():
        chosen = text_of(obs, path, column, "keep") == value
        if (kept & ~chosen).any():
            notes.append(
                f"{spec.title}: {int((kept & ~chosen).sum())} cells with {column} other than "
                f"'{value}' were left out."
            )
        kept &= chosen
    if lost:
        notes.append(f"{spec.title}: {lost} cells without a cell type label were left out.")
    rows = np.flatnonzero(kept)
    if not len(rows):
        raise LabelError(
            path,
            found=f"no labelled cell in column '{spec.label}'",
            expected="cells with a cell type",
            fix="Name the column of cell types with --map cell_type=COLUMN.",
        )
    labels = labels[rows]
    uids = np.asarray([f"{spec.title}:{name}" for name in obs.index[rows]], dtype=np.str_)
    batches, donors = (
        tidy_labels(optional(obs, path, spec, field, len(kept))[rows])[0]
        for field in ("batch", "donor")
    )
    terms = terms_of(spec, obs.iloc[rows], labels)
    texts, kind, untold = texts_of(spec, sorted(set(labels.tolist())), terms)
    if untold:
        notes.append(
            f"{spec.title}: {len(untold)} types have no Cell Ontology term ({some(untold)}); their name "
            "alone stands for them, and ontology credit is all or nothing."
        )
    check_uids(uids.tolist(), [""] * len(uids), path)
    matrix = content["matrix"]
    matrix = type(matrix)(matrix.matrix[rows], matrix.gene_ids, matrix.values)
    vectors = {key: value[rows] for key, value in content["vectors"].items()}
    found = []
    for split in default_splits(spec, obs.columns):
        given = (
            text_of(obs, path, split.removeprefix("column:"), "split")[rows]
            if split.startswith("column:")
            else None
        )
        splits, remarks = assign(
            split, uids, labels, batches, donors, given, spec.hold_out, seed, path
        )
        identity = hashlib.sha256(
            repr(
                (
                    content["sha256"],
                    spec.model_dump_json(
                        exclude={"path", "terms", "texts", "vectors", "tasks", "split"}
                    ),
                    sorted(terms.items()),
                    sorted(texts.items()),
                    split,
                    seed,
                )
            ).encode()
        ).hexdigest()
        data = EvalData(
            dataset=spec.title,
            matrix=matrix,
            cell_uids=uids,
            labels=labels,
            batches=batches,
            donors=donors,
            splits=splits,
            profile_ids=labels,
            term_ids=terms,
            descriptions=texts,
            text_kind=kind,
            split=split.replace(":", " "),
            tissue=spec.tissue,
            candidate_roots=spec.candidate_roots,
            integration=spec.integration,
            vectors=vectors,
            notes=(*notes, *(f"{spec.title}: {one}" for one in remarks)),
            sha256=identity,
        )
        check_types(data, path)
        check_leakage(data, path)
        if split.startswith("column:"):
            check_donors(data, path)
        found.append(data)
    return found


# --- reading ------------------------------------------------------------------------------------


def _read(path: Path, spec: DataSpec, keys: Sequence[str]) -> dict[str, Any]:
    import h5py
    from anndata.io import read_elem
    from scipy import sparse

    if not path.is_file():
        raise FileFormatError(
            path, found="no such file", expected="an h5ad file", fix="Check the path."
        )
    try:
        with h5py.File(path, "r") as file:
            where = {"X": "X", "raw": "raw/X"}.get(spec.layer, f"layers/{spec.layer}")
            if where not in file or "obs" not in file:
                known = ["X", *file["layers"]] if "layers" in file else ["X"]
                raise MissingColumnError(
                    path,
                    found=f"no layer '{spec.layer}'",
                    expected=f"one of {', '.join(known)}",
                    fix="Set layer in the suite.",
                )
            _check_memory(path, file[where])
            obs = read_elem(file["obs"])
            var = read_elem(file["raw/var" if spec.layer == "raw" else "var"])
            matrix = sparse.csr_matrix(read_elem(file[where]), dtype=np.float32)
            if matrix.shape[0] != len(obs):
                raise ValueError(f"{matrix.shape[0]} rows of values for {len(obs)} cells")
            vectors = {key: _vectors(path, file, key, len(obs)) for key in keys}
    except (OSError, KeyError, ValueError) as error:
        raise FileFormatError(
            path,
            found=f"a file that cannot be read as h5ad ({str(error).splitlines()[0][:120]})",
            expected="an AnnData file",
            fix="Write it again with adata.write_h5ad().",
        ) from None
    return {
        "obs": obs,
        "matrix": _with_genes(path, spec, var, matrix),
        "vectors": vectors,
        "sha256": file_sha256(path),
    }


def _vectors(path: Path, file: Any, key: str, n: int) -> NDArray[np.float32]:
    from anndata.io import read_elem

    known = sorted(file["obsm"]) if "obsm" in file else []
    if key not in known:
        raise MissingColumnError(
            path,
            found=f"no obsm '{key}'",
            expected=f"one of {', '.join(known)}" if known else "embeddings in obsm",
            fix="Write the embedding into adata.obsm, or name another.",
        )
    values = np.asarray(read_elem(file[f"obsm/{key}"]))
    if values.ndim != 2 or len(values) != n or not np.issubdtype(values.dtype, np.number):
        raise DataError(
            f"{path}: obsm '{key}'",
            found=f"{values.dtype} of shape {values.shape}",
            expected=f"numbers of shape ({n}, D): one row per cell",
            fix="Write the embedding again, in the order of the cells.",
        )
    return np.ascontiguousarray(values, dtype=np.float32)


def _check_memory(path: Path, matrix: Any) -> None:
    """Refuse what will not fit, before reading it."""
    stored = matrix["data"].shape[0] if hasattr(matrix, "keys") else int(np.prod(matrix.shape))
    needed = stored * _BYTES_PER_VALUE
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = max(free, _available())
    if needed > free:
        raise DataError(
            path,
            found=f"{stored:,} values, which take about {needed / 1e9:.1f} GB to evaluate",
            expected=f"at most {free / 1e9:.1f} GB, which is free here",
            fix="Use a machine with more memory, or a file with fewer cells or genes.",
        )


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")), 0)


def _with_genes(path: Path, spec: DataSpec, var: Any, matrix: Any) -> CellMatrix:
    from okrcell.corpus.expression import check_values
    from okrcell.corpus.gene_columns import best_columns, resolve_columns
    from okrcell.corpus.shards import CellMatrix

    if matrix.shape[1] != len(var):
        raise FileFormatError(
            path,
            found=f"a matrix of {matrix.shape[1]} genes beside a table of {len(var)}",
            expected="one column per gene",
            fix="Write the file again with adata.write_h5ad().",
        )
    matrix.sum_duplicates()
    if not matrix.nnz:
        raise ExpressionValueError(
            path,
            found="a matrix of zeros",
            expected="counts or log-normalised values",
            fix="Choose another layer.",
        )
    matrix.eliminate_zeros()
    if matrix.nnz and not (matrix.data.min() >= 0 and np.isfinite(matrix.data.max())):
        check_values(matrix, path, 0)  # says which cell and gene
    values = spec.values or (check_values(matrix, path, 0) if matrix.nnz else "counts")
    names, _ = best_columns(var, path, spec.min_gene_coverage)
    totals = np.asarray(matrix.sum(axis=0, dtype=np.float64)).ravel()
    columns = resolve_columns(var, names, totals)
    kept = np.flatnonzero(columns.kept >= 0)
    chosen = matrix[:, kept].tocsr()
    chosen.sort_indices()
    return CellMatrix(chosen, columns.gene_ids, values)
