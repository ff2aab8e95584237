"""What a run knows of its own validation cells: read from its folder, or made anew from its store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from okrcell.artifacts import Manifest, atomic_write, read_manifest, read_note
from okrcell.corpus.ontology import ids_by_label
from okrcell.corpus.shards import CellMatrix
from okrcell.errors import FileFormatError, OkrcellError
from okrcell.train.calibrate import CALIBRATION, FORMAT, measure
from okrcell.train.checkpoint import BEST, WEIGHTS

if TYPE_CHECKING:
    from okrcell.train.model import CellTextModel

__all__ = ["Known", "job_of", "known_of"]

Vectors = npt.NDArray[np.float32]
_REQUEST = "request.json"


@dataclass(frozen=True)
class Known:
    """Validation cells of a run, V of them.

    Attributes
    ----------
    cells
        float32 [V, E].
    basis
        float32 [V, P]: principal components of expression, rows of length 1.
    types, terms
        The cell type of each cell, and its Cell Ontology id; empty where there is none.
    texts
        float32 [T, E]: vectors of the training texts (of a run of many, some of them).
    text
        int64 [V]: the own text of each cell.
    markers
        Molecules of marker genes, and of all others together in a last column.
    curve
        Share of the run's genes, and share of cells whose own text is the nearest with so many.
    """

    cells: Vectors
    basis: Vectors
    types: npt.NDArray[np.str_]
    terms: npt.NDArray[np.str_]
    texts: Vectors
    text: npt.NDArray[np.int64]
    markers: CellMatrix
    curve: tuple[tuple[float, float], ...]

    def accuracy_at(self, share: float) -> float:
        """Return how often the own text is the nearest with a share of the genes, interpolated."""
        shares, right = np.asarray(sorted(self.curve)).T
        return float(np.interp(share, [0.0, *shares], [self.by_chance, *right]))

    @property
    def by_chance(self) -> float:
        """How often the commonest text would be right."""
        counts = np.bincount(self.text)
        return float(counts.max() / counts.sum())


def known_of(run: Path, model: CellTextModel) -> Known | None:
    """Return what a run knows of its validation cells; None where it has none, or is of an older kind.

    Where the run's folder lacks the file, it is made from the store that the run was trained on, if that
    is still there and unchanged, and kept in the folder if that can be written to.
    """
    manifest = read_manifest(run, "run", verify=False)
    weights = BEST if model.config.keep == "best" and BEST in manifest.files else WEIGHTS
    sha256 = str(manifest.files[weights]["sha256"])
    path = run / CALIBRATION
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    found = _read(path, content, sha256) if content else None
    if found is None:
        made = _made(run, model, manifest, sha256)
        found = _read(path, made, sha256) if made else None
    return found


def job_of(run: Path) -> Path | None:
    """Return the enrichment job that a run's texts came from, if it is still there."""
    named = read_note(run / _REQUEST).get("descriptions")
    job = Path(str(named)) if named else None
    return job if job is not None and (job / "descriptions.parquet").is_file() else None


def _read(path: Path, content: bytes, sha256: str) -> Known | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        size = int.from_bytes(content[:8], "little")
        facts = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["calibration"])
        if facts["format"] != FORMAT or facts["weights"] != sha256:
            return None
        held = load(content)
        return _known(held, facts)
    except (SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise FileFormatError(
            path,
            found=f"a damaged file ({error})",
            expected="the file as okrcell wrote it",
            fix="Remove it: it is made again from the store of the run.",
        ) from None


def _known(held: dict[str, Any], facts: dict[str, Any]) -> Known:
    by_label = ids_by_label("cl")
    names = np.asarray([*facts["cell_types"], ""], dtype=np.str_)  # -1 is no type
    types = names[held["cell_type"]]
    genes = (*facts["marker_genes"], "(all others)")
    parts = (
        held["markers.values"],
        held["markers.indices"].astype(np.int32),
        held["markers.indptr"],
    )
    markers = sparse.csr_matrix(parts, shape=(len(types), len(genes)))
    return Known(
        cells=held["cells"].astype(np.float32),
        basis=held["basis"].astype(np.float32),
        types=types,
        terms=np.asarray([by_label.get(str(name), "") for name in types], dtype=np.str_),
        texts=held["texts"].astype(np.float32),
        text=held["text"].astype(np.int64),
        markers=CellMatrix(markers, genes, "counts"),
        curve=tuple((float(share), float(right)) for share, right in facts["genes"]),
    )


def _made(run: Path, model: CellTextModel, manifest: Manifest, sha256: str) -> bytes:
    """Return the file's content from the store of the run; empty where that cannot be."""
    import torch

    from okrcell.train.prepare import prepare

    device = str(next(model.tower.parameters()).device)

    request = read_note(run / _REQUEST)
    if not {"store", "descriptions"} <= request.keys():
        return b""
    store, job = Path(request["store"]), Path(request["descriptions"])
    if not store.is_dir():
        return b""
    try:
        prepared = prepare(store, job, model.config)
    except OkrcellError:
        return b""  # the store or the job has changed since, or is gone
    if dict(prepared.inputs) != dict(manifest.inputs) or not len(prepared.judged):
        return b""
    texts = torch.from_numpy(model.encode_text(prepared.validation.texts))
    content = measure(
        model.tower, texts, prepared.validation, prepared.judged, model.config, device, sha256
    )
    try:
        atomic_write(run / CALIBRATION, content)
    except OkrcellError:
        pass  # a folder that is not ours to write to: it is made anew the next time
    return content
