"""Baselines that need no training of their own: what any model must beat."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from okrcell.errors import DataError
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.guards import check_embedding
from okrcell.evaluate.methods import MethodOutput, TextSource, Vectors, as_float32, cell_text, unit

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder
    from okrcell.corpus.shards import CellMatrix

__all__ = ["Model", "log_normalised", "pca", "pca_ridge", "random", "trained"]

_N_COMPONENTS = 50
_RANDOM_DIM = 50


class Model(Protocol):
    """The part of ``CellTextModel`` that is used here."""

    def encode_cells(self, cells: CellMatrix) -> Vectors:
        """Return unit rows [N, D]."""
        ...

    def encode_text(self, texts: list[str]) -> Vectors:
        """Return unit rows [n, D]."""
        ...


def trained(
    name: str, model: Model, data: EvalData, *, texts: TextSource, about: str
) -> MethodOutput:
    """Return the view of a trained cell-text model."""
    cells = as_float32(model.encode_cells(data.matrix))
    check_embedding(cells, data.cell_uids, name)
    return MethodOutput(
        name,
        cells,
        about,
        model.encode_text,
        texts,
        lambda some: as_float32(model.encode_cells(some)),
    )


def log_normalised(cells: CellMatrix) -> sparse.csr_matrix:
    """Return log1p of counts per 10,000, float64 [N, G]; log-normalised input is taken as it is."""
    expression = cells.matrix.astype(np.float64)
    if cells.values == "counts":
        depth = np.asarray(expression.sum(axis=1)).ravel()
        scale = np.repeat(1e4 / np.maximum(depth, 1.0), np.diff(expression.indptr))
        expression.data = np.log1p(expression.data * scale)
    return expression


def pca(data: EvalData, seed: int, rows: NDArray[np.intp] | None = None) -> MethodOutput:
    """Return principal components of log1p counts per 10,000, fitted on train cells or on ``rows``.

    50 components, or as many as the data allow. Lognormalised input is taken as it is.
    """
    from sklearn.decomposition import PCA

    expression = log_normalised(data.matrix)
    train = expression[data.train if rows is None else rows]
    n_components = min(_N_COMPONENTS, train.shape[0] - 1, train.shape[1] - 1)
    if n_components < 1:
        raise DataError(
            "train split",
            found=f"{train.shape[0]} cells and {train.shape[1]} genes",
            expected="at least two of each",
            fix="Import more cells.",
        )
    fitted = PCA(n_components, svd_solver="arpack", random_state=seed).fit(train)
    cells = as_float32(fitted.transform(expression))
    check_embedding(cells, data.cell_uids, "pca")
    return MethodOutput(
        "pca",
        cells,
        f"{n_components} principal components of log1p counts per 10,000, fitted on train cells",
        encode_cells=lambda some: as_float32(fitted.transform(log_normalised(some))),
    )


def random(data: EvalData, seed: int) -> MethodOutput:
    """Return Gaussian vectors that know nothing: what every metric gives by chance."""
    cells = np.random.default_rng(seed).normal(size=(len(data.labels), _RANDOM_DIM))

    def encode(texts: list[str]) -> Vectors:
        digests = [hashlib.sha256(f"{seed}:{text}".encode()).digest() for text in texts]
        draws = [
            np.random.default_rng(int.from_bytes(digest[:8], "little")).normal(size=_RANDOM_DIM)
            for digest in digests
        ]
        return unit(as_float32(np.asarray(draws)))

    return MethodOutput("random", unit(as_float32(cells)), "Gaussian vectors: chance", encode)


def pca_ridge(
    data: EvalData, base: MethodOutput, embedder: Embedder, texts: TextSource
) -> MethodOutput:
    """Return a ridge map from principal components into a frozen text embedder's space.

    Fitted on train cells against the embedding of each cell's text; the penalty is chosen by
    leave-one-out error. ``pca+ridge`` reads the bare cell type names, ``pca+ridge-desc`` the
    descriptions: what a linear map makes of the same texts as the model's.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    assert base.cells is not None
    per_cell = np.asarray([cell_text(data, i, texts) for i in range(len(data.labels))])
    wanted, codes = np.unique(per_cell[data.train], return_inverse=True)
    targets = embedder.encode([str(text) for text in wanted])[codes]
    scaler = StandardScaler().fit(base.cells[data.train])
    ridge = RidgeCV(alphas=np.logspace(-1, 4, 11))
    ridge.fit(scaler.transform(base.cells[data.train]), targets)

    def mapped(components: Vectors) -> Vectors:
        return unit(as_float32(ridge.predict(scaler.transform(components))))

    encode = base.encode_cells

    def mapped_cells(some: CellMatrix) -> Vectors:
        assert encode is not None
        return mapped(encode(some))

    cells = mapped(base.cells)
    name = "pca+ridge" if texts == "label" else "pca+ridge-desc"
    check_embedding(cells, data.cell_uids, name)
    source = "bare cell type names" if texts == "label" else "descriptions"
    return MethodOutput(
        name,
        cells,
        f"ridge regression from PCA to frozen text embeddings of the {source}",
        lambda queries: as_float32(embedder.encode(queries)),
        texts,
        None if encode is None else mapped_cells,
    )
