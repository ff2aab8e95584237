"""What is compared: the model, its twins, and the baselines; each gives vectors for cells and texts.

Cell vectors are float32 [N, D] for the train and test cells of the data. Text vectors, where a
method has any, are unit rows of the same D.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from okrcell.errors import DataError
from okrcell.evaluate.data import EvalData, check_embedding

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder
    from okrcell.corpus.shards import CellMatrix

__all__ = [
    "MethodOutput",
    "Model",
    "candidate_vectors",
    "cell_text",
    "pca",
    "pca_ridge",
    "random",
    "trained",
]

Vectors = NDArray[np.float32]
TextSource = Literal["description", "label"]

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


@dataclass(frozen=True)
class MethodOutput:
    """One method's view of the data.

    Attributes
    ----------
    name
        Unique in an evaluation; the name in the results table.
    cells
        Float32 [N, D].
    encode_text
        Texts to unit rows [n, D], or None for a method that knows no text.
    texts
        Which text stands for a type: its profiles' descriptions, or the bare label.
    about
        One sentence for the report.
    """

    name: str
    cells: Vectors
    about: str
    encode_text: Callable[[list[str]], Vectors] | None = None
    texts: TextSource = "description"


def trained(
    name: str, model: Model, data: EvalData, *, texts: TextSource, about: str
) -> MethodOutput:
    """Return the view of a trained cell-text model."""
    cells = _float32(model.encode_cells(data.matrix))
    check_embedding(cells, data.cell_uids, name)
    return MethodOutput(name, cells, about, model.encode_text, texts)


def pca(data: EvalData, seed: int) -> MethodOutput:
    """Return principal components of log1p counts per 10,000, fitted on train cells.

    50 components, or as many as the data allow. Lognormalised input is taken as it is.
    """
    from sklearn.decomposition import PCA

    expression = data.matrix.matrix.astype(np.float64)
    if data.matrix.values == "counts":
        depth = np.asarray(expression.sum(axis=1)).ravel()
        scale = np.repeat(1e4 / np.maximum(depth, 1.0), np.diff(expression.indptr))
        expression.data = np.log1p(expression.data * scale)
    train = expression[data.train]
    n_components = min(_N_COMPONENTS, train.shape[0] - 1, train.shape[1] - 1)
    if n_components < 1:
        raise DataError(
            "train split",
            found=f"{train.shape[0]} cells and {train.shape[1]} genes",
            expected="at least two of each",
            fix="Import more cells.",
        )
    fitted = PCA(n_components, svd_solver="arpack", random_state=seed).fit(train)
    cells = _float32(fitted.transform(expression))
    check_embedding(cells, data.cell_uids, "pca")
    return MethodOutput(
        "pca",
        cells,
        f"{n_components} principal components of log1p counts per 10,000, fitted on train cells",
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
        return unit(_float32(np.asarray(draws)))

    return MethodOutput("random", unit(_float32(cells)), "Gaussian vectors: chance", encode)


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

    per_cell = np.asarray([cell_text(data, i, texts) for i in range(len(data.labels))])
    wanted, codes = np.unique(per_cell[data.train], return_inverse=True)
    targets = embedder.encode([str(text) for text in wanted])[codes]
    scaler = StandardScaler().fit(base.cells[data.train])
    ridge = RidgeCV(alphas=np.logspace(-1, 4, 11))
    ridge.fit(scaler.transform(base.cells[data.train]), targets)
    cells = unit(_float32(ridge.predict(scaler.transform(base.cells))))
    name = "pca+ridge" if texts == "label" else "pca+ridge-desc"
    check_embedding(cells, data.cell_uids, name)
    source = "bare cell type names" if texts == "label" else "descriptions"
    return MethodOutput(
        name,
        cells,
        f"ridge regression from PCA to frozen text embeddings of the {source}",
        lambda queries: _float32(embedder.encode(queries)),
        texts,
    )


def cell_text(data: EvalData, row: int, texts: TextSource) -> str:
    """Return the text that stands for a cell."""
    if texts == "label":
        return str(data.labels[row])
    return data.descriptions[str(data.profile_ids[row])]


def candidate_vectors(method: MethodOutput, data: EvalData) -> Vectors:
    """Return one unit row per type of ``data.types``, float32 [T, D].

    For descriptions: the mean of the unit vectors of the type's profiles, normalised again.
    """
    assert method.encode_text is not None
    if method.texts == "label":
        return unit(_float32(method.encode_text(list(data.types))))
    per_type = [
        sorted({data.descriptions[profile] for profile in data.profiles_of(cell_type)})
        for cell_type in data.types
    ]
    vectors = unit(_float32(method.encode_text([text for texts in per_type for text in texts])))
    means, start = [], 0
    for texts in per_type:
        means.append(vectors[start : start + len(texts)].mean(axis=0))
        start += len(texts)
    return unit(np.stack(means))


def unit(rows: Vectors) -> Vectors:
    """Scale rows to length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Vectors = (rows / np.maximum(length, 1e-12)).astype(np.float32)
    return scaled


def _float32(values: NDArray[np.floating]) -> Vectors:
    return np.ascontiguousarray(values, dtype=np.float32)
