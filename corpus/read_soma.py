"""Cells of a SOMA experiment that a filter selects, streamed in blocks through TileDB-SOMA."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from okrcell.artifacts import atomic_path, storage_guard
from okrcell.corpus.formats import first_line, no_layer, reading
from okrcell.corpus.metadata import as_labels
from okrcell.errors import ConfigError, DataError, FileFormatError
from okrcell.schemas import METADATA_FIELDS

__all__ = ["SomaSource", "open_selection"]

_PRIMARY = "is_primary_data"
_ROWS = 2048


@dataclass(frozen=True)
class SomaSource:
    """A :class:`~okrcell.corpus.formats.CellSource` over the selected cells of an experiment.

    Attributes
    ----------
    joinids
        int64 [N]: SOMA ids of the cells, ascending; they also are the names of the cells.
    given, used
        The filter as given, and as it is evaluated.
    downloads
        Folder that keeps the blocks that have come over a network, so that a killed run goes on.
    """

    path: Path
    obs_columns: tuple[str, ...]
    layers: tuple[str, ...]
    experiment: Any
    joinids: npt.NDArray[np.int64]
    given: str
    used: str
    close: Callable[[], None]
    downloads: Path | None = None

    def obs(self, columns: Sequence[str]) -> Any:
        """Return a DataFrame of these columns; its index holds the SOMA ids as text."""
        names = ["soma_joinid", *(c for c in columns if c != "soma_joinid")]
        with _soma(self.path, "the table obs"):
            read = self.experiment.obs.read(value_filter=self.used, column_names=names)
            table = read.concat().select(names).unify_dictionaries()
        frame = table.to_pandas().sort_values("soma_joinid", ignore_index=True)
        frame.index = frame["soma_joinid"].astype(str)
        return frame[list(columns)]

    def var(self, layer: str) -> Any:
        """Return the DataFrame of genes; its index holds their Ensembl ids."""
        return self._genes().drop(columns="soma_joinid").set_index("feature_id", drop=False)

    def _genes(self) -> Any:
        with _soma(self.path, "the table var"):
            table = self.experiment.ms["RNA"].var.read().concat().unify_dictionaries()
        return table.to_pandas().sort_values("soma_joinid", ignore_index=True)

    def blocks(self, layer: str, scratch: Path) -> Iterator[sparse.csr_matrix]:
        """Yield float32 CSR blocks of cells, in the order of their ids."""
        if layer not in self.layers:
            raise no_layer(self, layer)
        genes = self._genes()["soma_joinid"].to_numpy()
        with _soma(self.path, f"values of '{layer}'"):
            array = self.experiment.ms["RNA"].X["raw" if layer == "X" else layer]
            for begin in range(0, len(self.joinids), _ROWS):
                kept = self.downloads / f"{begin}-{_ROWS}.npz" if self.downloads else None
                if kept is not None and kept.exists():
                    yield sparse.load_npz(kept)
                    continue
                wanted = self.joinids[begin : begin + _ROWS]
                table = array.read((pa.array(wanted), slice(None))).tables().concat()
                rows = np.searchsorted(wanted, table["soma_dim_0"].to_numpy())
                columns = np.searchsorted(genes, table["soma_dim_1"].to_numpy())
                values = table["soma_data"].to_numpy().astype(np.float32, copy=False)
                block = sparse.coo_matrix(
                    (values, (rows, columns)), shape=(len(wanted), len(genes))
                ).tocsr()
                if kept is not None:
                    _keep(kept, block)
                yield block

    def identity(self) -> dict[str, str]:
        """Return fingerprints of what the filter selects: cells, their annotation, genes, values."""
        standard = {*METADATA_FIELDS, *(f"{f}_ontology_term_id" for f in METADATA_FIELDS)}
        columns = [c for c in self.obs_columns if c in standard | {"donor_id", "dataset_id"}]
        digest = hashlib.sha256()
        for name, column in self.obs(columns).items():
            labels = as_labels(column, "")
            digest.update(repr((name, labels.names)).encode())
            digest.update(labels.codes.astype("<i4").tobytes())
        genes = self._genes()
        size = [(k, int(a.nnz)) for k, a in self.experiment.ms["RNA"].X.items()]
        return {
            "filter": hashlib.sha256(self.used.encode()).hexdigest(),
            "soma_joinids": hashlib.sha256(self.joinids.astype("<i8").tobytes()).hexdigest(),
            "annotation": digest.hexdigest(),
            "genes": hashlib.sha256("\n".join(genes["feature_id"]).encode()).hexdigest(),
            "values": hashlib.sha256(repr(sorted(size)).encode()).hexdigest(),
        }

    def facts(self, version: str) -> dict[str, Any]:
        """Return what to record of the selection."""
        datasets = "dataset_id" in self.obs_columns
        return {
            "version": version,
            "filter": self.given,
            "evaluated": self.used,
            "datasets": int(self.obs(["dataset_id"])["dataset_id"].nunique()) if datasets else 0,
        }


def _keep(path: Path, block: sparse.csr_matrix) -> None:
    with storage_guard(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        sparse.save_npz(handle, block, compressed=False)


def open_selection(root: Any, version: str, value_filter: str) -> SomaSource:
    """Open the human cells that a filter selects of a Census, or of one experiment.

    Raises
    ------
    FileFormatError
        The collection is laid out otherwise.
    ConfigError
        It is another release, or the filter cannot be evaluated.
    DataError
        No cell passes the filter.
    """
    name = Path(f"Census {version}")
    with _soma(name, "the collection"):
        experiment = _experiment(root, version, name)
        columns = tuple(experiment.obs.keys())
        layers = ("X", *sorted(experiment.ms["RNA"].X.keys()))
    used = value_filter
    if _PRIMARY in columns and not re.search(rf"\b{_PRIMARY}\b", value_filter):
        used = f"({value_filter}) and {_PRIMARY} == True"
    joinids = _selected(experiment, value_filter, used)
    shown = tuple(c for c in columns if c != "soma_joinid")
    return SomaSource(name, shown, layers, experiment, joinids, value_filter, used, root.close)


def _experiment(root: Any, version: str, where: Path) -> Any:
    import tiledbsoma

    if isinstance(root, tiledbsoma.Experiment):
        return root
    try:
        experiment = root["census_data"]["homo_sapiens"]
        for needed in (experiment.obs, experiment.ms["RNA"].var, experiment.ms["RNA"].X["raw"]):
            assert needed is not None
    except (KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(
            where,
            found=f"no {first_line(error)}",
            expected="census_data/homo_sapiens with obs, ms/RNA/var and ms/RNA/X/raw",
            fix="Name a Census, or an experiment laid out like one.",
        ) from None
    if "census_info" in root and "summary" in root["census_info"]:
        summary = root["census_info"]["summary"].read().concat().to_pandas()
        built = dict(zip(summary["label"], summary["value"], strict=True)).get("census_build_date")
        if built is not None and str(built) != version:
            raise ConfigError(
                f"--census-version {version}",
                found=f"the release of {built} there",
                expected=f"that of {version}",
                fix=f"Say --census-version {built}, or name another place.",
            )
    return experiment


def _selected(experiment: Any, given: str, used: str) -> npt.NDArray[np.int64]:
    import tiledbsoma

    try:
        read = experiment.obs.read(value_filter=used, column_names=["soma_joinid"])
        joinids = read.concat()["soma_joinid"].to_numpy()
    except (tiledbsoma.SOMAError, ValueError, TypeError, AttributeError, SyntaxError) as error:
        known = ", ".join(sorted(name for name in experiment.obs.keys() if name != "soma_joinid"))
        raise ConfigError(
            f'--census "{given}"',
            found=f"a filter that cannot be evaluated ({first_line(error)})",
            expected=f"comparisons joined by 'and' and 'or', over the columns {known}",
            fix="Correct the filter; texts stand in quotes: tissue_general == 'blood'.",
        ) from None
    if not len(joinids):
        raise DataError(
            f'--census "{given}"',
            found="no cell" + (f" that is also {_PRIMARY}" if used != given else ""),
            expected="at least one",
            fix="Check the spelling of the values."
            + (
                f" To count copies as well, put {_PRIMARY} into the filter."
                if used != given
                else ""
            ),
        )
    return np.sort(joinids)


@contextlib.contextmanager
def _soma(path: Path, what: str) -> Iterator[None]:
    import tiledbsoma

    try:
        with reading(path, what):
            yield
    except tiledbsoma.SOMAError as error:
        raise FileFormatError(
            path,
            found=f"{what} that cannot be read ({first_line(error)})",
            expected="a whole collection that can be reached",
            fix="Run the same command again; if it stops at the same place, check the collection.",
        ) from None
