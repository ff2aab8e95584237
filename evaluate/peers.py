"""Peer methods of the field, judged beside the model: each turns data and a seed into its output.

Their packages are the optional extra ``peers`` and run on CPU. What a peer sees is stated in its
``about``: most learn from train cells alone; Harmony, scVI and scANVI see the expression and the
batches of all cells (transductive), and never a label outside the train split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from okrcell.evaluate.baselines import log_normalised, pca
from okrcell.evaluate.config import Task
from okrcell.evaluate.data import EvalData, Strings
from okrcell.evaluate.genept import genept
from okrcell.evaluate.guards import check_embedding
from okrcell.evaluate.hvg import hvg_pca, logistic_hvg, only_label
from okrcell.evaluate.methods import MethodOutput, NotApplicable, as_float32
from okrcell.evaluate.quiet import peer_module, quiet

__all__ = ["PEERS", "Peer", "celltypist", "harmony"]

_MANY_GENES = 5_000
_DENSE_BYTES = 2**30
_BLOCK = 4_096
_CLIP = 10.0


@dataclass(frozen=True)
class Peer:
    """A method with an adapter.

    Attributes
    ----------
    about
        One sentence for the report, before it has run.
    tasks
        What it can be asked.
    embed
        Data and a seed to what it makes of them.
    needs
        Name of the distribution it needs, of the extra ``peers``; empty where none.
    n_seeds
        1 for what does not depend on chance, -1 for as many seeds as the configuration says.
    version
        Raised when the adapter changes what it answers.
    """

    about: str
    tasks: frozenset[Task]
    embed: Callable[[EvalData, int], MethodOutput]
    needs: str = ""
    n_seeds: int = 1
    version: int = 1


def harmony(data: EvalData, seed: int) -> MethodOutput:
    """Return Harmony's correction of the principal components, over the batches of all cells.

    Raises
    ------
    NotApplicable
        There are not two batches.
    DependencyError
        The package harmonypy is not installed.
    """
    import pandas as pd

    batches = np.unique(data.batches)
    if len(batches) < 2:
        raise NotApplicable(
            f"{data.dataset}: Harmony corrects batches, and these cells are of one batch."
        )
    module = peer_module("harmonypy", "harmonypy")
    base = pca(data, seed)
    assert base.cells is not None
    n_clusters = min(max(round(len(base.cells) / 30), 2), 100)  # its own rule, and never below 2
    with quiet():
        fitted = module.run_harmony(
            base.cells.astype(np.float64),
            pd.DataFrame({"batch": data.batches}),
            "batch",
            nclust=n_clusters,
            random_state=seed,
            verbose=False,
        )
    cells = as_float32(np.asarray(fitted.Z_corr))
    check_embedding(cells, data.cell_uids, "harmony")
    return MethodOutput(
        "harmony",
        cells,
        f"Harmony on {cells.shape[1]} principal components of the train cells, corrected over "
        f"{len(batches)} batches of all cells (transductive, no labels)",
    )


def celltypist(data: EvalData, seed: int) -> MethodOutput:
    """Return labels by CellTypist, trained on the train cells.

    Beyond 5,000 expressed genes it selects 300 per type in a first pass, as its authors advise; train
    cells that would take over 1 GiB as a dense matrix are scaled without centring, and stay sparse.

    Raises
    ------
    DependencyError
        The package celltypist is not installed.
    """
    about = "CellTypist trained on train cells"
    y_train = data.labels[data.train]
    if len(data.seen) == 1:
        return MethodOutput("celltypist", None, about, predicted=only_label(data))
    module = peer_module("celltypist", "celltypist")
    expression = sparse.csr_matrix(log_normalised(data.matrix), dtype=np.float32)
    train = expression[data.train]
    many = len(np.unique(train.indices)) > _MANY_GENES
    dense = train.shape[0] * train.shape[1] * 4 <= _DENSE_BYTES
    with quiet():
        model = module.train(
            train,
            labels=y_train,
            genes=np.arange(train.shape[1]),
            with_mean=dense,
            check_expression=False,
            feature_selection=many,
            random_state=seed,
        )
        columns = np.asarray(model.classifier.features, dtype=np.intp)
        predicted = np.concatenate(
            [
                _classify(model, expression[start : start + _BLOCK][:, columns].toarray())
                for start in range(0, expression.shape[0], _BLOCK)
            ]
        )
    if many:
        about += f", on {len(columns)} genes that it selected"
    return MethodOutput("celltypist", None, about, predicted=predicted)


def _classify(model: Any, values: NDArray[np.float32]) -> Strings:
    """Return the best match of each cell, by the steps of ``celltypist.annotate``."""
    scaled = np.minimum(model.scaler.transform(values), _CLIP)
    return np.asarray(model.predict_labels_and_prob(scaled)[2]).astype(str)


def _scvi(data: EvalData, seed: int) -> MethodOutput:
    from okrcell.evaluate.peers_scvi import scvi

    return scvi(data, seed)


def _scanvi(data: EvalData, seed: int) -> MethodOutput:
    from okrcell.evaluate.peers_scvi import scanvi

    return scanvi(data, seed)


_FROZEN: frozenset[Task] = frozenset({"clustering", "annotation", "batch", "few_shot"})
_ROBUST: frozenset[Task] = _FROZEN | {"robustness"}
_CROSS: frozenset[Task] = _ROBUST | {"zero_shot", "retrieval"}
_LABELS: frozenset[Task] = frozenset({"annotation"})

PEERS: dict[str, Peer] = {
    "hvg-pca": Peer(
        "principal components of up to 2,000 highly variable genes, fitted on train cells",
        _ROBUST,
        hvg_pca,
    ),
    "harmony": Peer(
        "Harmony on principal components, over the batches of all cells (transductive, no labels)",
        _FROZEN,
        harmony,
        "harmonypy",
        n_seeds=-1,
    ),
    "scvi": Peer(
        "scVI latent space of all cells (transductive, no labels)",
        _FROZEN,
        _scvi,
        "scvi-tools",
        n_seeds=-1,
    ),
    "scanvi": Peer(
        "scANVI latent space of all cells and its classifier (transductive, labels of train cells)",
        _FROZEN,
        _scanvi,
        "scvi-tools",
        n_seeds=-1,
    ),
    "celltypist": Peer(
        "CellTypist trained on train cells (one seed)",
        _LABELS,
        celltypist,
        "celltypist",
        version=2,
    ),
    "logistic-hvg": Peer(
        "logistic regression on up to 2,000 highly variable genes of the train cells",
        _LABELS,
        logistic_hvg,
    ),
    "genept": Peer(
        "expression-weighted mean of frozen text embeddings of gene symbols, after GenePT",
        _CROSS,
        genept,
    ),
}
"""Name to peer; ``needs`` is checked when it runs."""
