"""Highly variable genes of the train cells, and what is usually done with them.

The genes, their means and their standard deviations come from train cells alone. Values are log1p of
counts per 10,000, standardised and clipped at 10, as in the usual scanpy workflow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from okrcell.errors import DataError
from okrcell.evaluate.baselines import log_normalised
from okrcell.evaluate.data import EvalData, Strings
from okrcell.evaluate.guards import check_embedding
from okrcell.evaluate.libraries import scanpy
from okrcell.evaluate.methods import MethodOutput, Vectors, as_float32
from okrcell.evaluate.quiet import quiet

if TYPE_CHECKING:
    from okrcell.corpus.shards import CellMatrix

__all__ = ["hvg_pca", "logistic_hvg", "only_label", "standardised", "variable_genes"]

_N_GENES = 2_000
_MIN_CELLS = 3
_CLIP = 10.0
_N_COMPONENTS = 50
_BLOCK = 4_096
_PENALTIES = (0.0001, 0.001, 0.01, 0.1, 1.0)
_PENALTY = 0.01


def variable_genes(data: EvalData) -> NDArray[np.intp]:
    """Return the columns of up to 2,000 highly variable genes, sorted.

    Chosen on the train cells by normalised dispersion (the method of Seurat), among genes that at
    least three of them express.
    """
    train = log_normalised(data.matrix.take(data.train))
    expressed = np.bincount(train.indices[train.data > 0], minlength=train.shape[1])
    known = np.flatnonzero(expressed >= min(_MIN_CELLS, train.shape[0]))
    if not len(known):
        raise DataError(
            "train split",
            found=f"no gene that {_MIN_CELLS} of its {train.shape[0]} cells express",
            expected="expressed genes",
            fix="Import more cells, or check that the file holds expression.",
        )
    if len(known) <= _N_GENES:
        return known
    module = scanpy()
    with quiet():
        import anndata

        table = module.pp.highly_variable_genes(
            anndata.AnnData(train[:, known]), n_top_genes=_N_GENES, flavor="seurat", inplace=False
        )
    chosen: NDArray[np.intp] = known[table["highly_variable"].to_numpy()]
    return chosen


def standardised(data: EvalData) -> Callable[[CellMatrix], Vectors]:
    """Return what turns cells [N, G] into standardised values of the variable genes [N, H]."""
    from sklearn.utils.sparsefuncs import mean_variance_axis

    columns = variable_genes(data)
    train = log_normalised(data.matrix.take(data.train))[:, columns]
    moments = mean_variance_axis(train, axis=0)
    centre, spread = as_float32(moments[0]), as_float32(np.sqrt(moments[1]))
    spread[spread < 1e-6] = 1.0

    def transform(cells: CellMatrix) -> Vectors:
        values = log_normalised(cells)[:, columns].astype(np.float32).toarray()
        return as_float32(np.clip((values - centre) / spread, -_CLIP, _CLIP))

    return transform


def hvg_pca(data: EvalData, seed: int) -> MethodOutput:
    """Return principal components of the standardised variable genes, fitted on train cells."""
    from sklearn.decomposition import PCA

    transform = standardised(data)
    train = transform(data.matrix.take(data.train))
    n_components = min(_N_COMPONENTS, train.shape[0] - 1, train.shape[1] - 1)
    if n_components < 1:
        raise DataError(
            "train split",
            found=f"{train.shape[0]} cells and {train.shape[1]} variable genes",
            expected="at least two of each",
            fix="Import more cells.",
        )
    fitted = PCA(n_components, svd_solver="arpack", random_state=0).fit(train)

    def encode(cells: CellMatrix) -> Vectors:
        return as_float32(_by_blocks(lambda block: fitted.transform(transform(block)), cells))

    cells = encode(data.matrix)
    check_embedding(cells, data.cell_uids, "hvg-pca")
    return MethodOutput(
        "hvg-pca",
        cells,
        f"{n_components} principal components of {train.shape[1]} highly variable genes, "
        "chosen, standardised and fitted on train cells",
        encode_cells=encode,
    )


def logistic_hvg(data: EvalData, seed: int) -> MethodOutput:
    """Return labels by logistic regression on the standardised variable genes.

    The penalty is chosen by accuracy on the validation cells, the stronger one of equals; without
    validation cells of seen types it is C = 0.01.
    """
    from sklearn.linear_model import LogisticRegression

    transform = standardised(data)
    x_train, y_train = transform(data.matrix.take(data.train)), data.labels[data.train]
    about = f"logistic regression on {x_train.shape[1]} highly variable genes of the train cells"
    if len(data.seen) == 1:
        return MethodOutput("logistic-hvg", None, about, predicted=only_label(data))

    def fitted(penalty: float) -> LogisticRegression:
        head = LogisticRegression(C=penalty, max_iter=500, random_state=seed)
        return head.fit(x_train, y_train)

    with quiet():  # where it does not converge it is still the model that was found
        tuned = data.validation[np.isin(data.labels[data.validation], sorted(data.seen))]
        if len(tuned):
            asked, truth = transform(data.matrix.take(tuned)), data.labels[tuned]
            heads = [fitted(penalty) for penalty in _PENALTIES]
            scores = [float((head.predict(asked) == truth).mean()) for head in heads]
            head, chosen = heads[int(np.argmax(scores))], _PENALTIES[int(np.argmax(scores))]
            how = f"C = {chosen:g} chosen on {len(tuned)} validation cells"
        else:
            head, how = fitted(_PENALTY), f"C = {_PENALTY:g}, not tuned"
        predicted = _by_blocks(lambda block: head.predict(transform(block)), data.matrix)
    return MethodOutput("logistic-hvg", None, f"{about}; {how}", predicted=predicted.astype(str))


def only_label(data: EvalData) -> Strings:
    """Return [N] the one label that the train cells have."""
    return np.full(len(data.labels), data.labels[data.train][0])


def _by_blocks(function: Callable[[CellMatrix], NDArray], cells: CellMatrix) -> NDArray:
    """Apply a row-wise function to blocks of cells: dense values of all at once may not fit."""
    starts = range(0, cells.matrix.shape[0], _BLOCK)
    return np.concatenate([function(cells.take(slice(a, a + _BLOCK))) for a in starts])
