"""scVI and scANVI as peers: variational autoencoders of counts.

Both are trained on the counts and batches of all cells, since batches of test cells may not occur
in train; scANVI sees labels of train cells only. The genes are highly variable ones of the train
cells. There are 400 passes over small data, as in scVI; over larger data as many as read 400,000
cells in all, which takes some minutes on CPU, but at least 5. The KL weight rises over all of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np

from okrcell.evaluate.data import EvalData
from okrcell.evaluate.guards import check_embedding
from okrcell.evaluate.hvg import variable_genes
from okrcell.evaluate.methods import MethodOutput, NotApplicable, as_float32
from okrcell.evaluate.quiet import peer_module, quiet

__all__ = ["scanvi", "scvi"]

_CELL_PASSES = 400_000
_MAX_PASSES = 400
_MIN_PASSES = 5
_LABEL_PASSES = 20
_BATCH_SIZE = 128
_ENVIRONMENT = ("XLA_FLAGS", "PL_GLOBAL_SEED", "PL_SEED_WORKERS")


def scvi(data: EvalData, seed: int) -> MethodOutput:
    """Return scVI's latent means, float32 [N, 10].

    Raises
    ------
    NotApplicable
        The values are not counts.
    DependencyError
        The package scvi-tools is not installed.
    """
    with _training(data, seed) as (module, options):
        model, passes = _fitted(module, data, options)
        cells = as_float32(np.asarray(model.get_latent_representation()))
    check_embedding(cells, data.cell_uids, "scvi")
    return MethodOutput(
        "scvi",
        cells,
        f"scVI, {passes} passes (its default: {_MAX_PASSES}) over the counts of {model.adata.n_vars} highly variable genes of all "
        f"cells{_batches(data)} (transductive, no labels)",
    )


def scanvi(data: EvalData, seed: int) -> MethodOutput:
    """Return scANVI's latent means, float32 [N, 10], and its labels for all cells.

    It starts from scVI.

    Raises
    ------
    NotApplicable
        The values are not counts, or the train cells are of one type.
    DependencyError
        The package scvi-tools is not installed.
    """
    if len(data.seen) < 2:
        raise NotApplicable("scANVI tells types apart, and the train cells are of one type.")
    with _training(data, seed) as (module, options):
        model, passes = _fitted(module, data, options)
        nameless = _nameless(data)
        labels = np.full(len(data.labels), nameless, dtype=object)
        labels[data.train] = data.labels[data.train].astype(object)
        model.adata.obs["label"] = labels
        guided = module.model.SCANVI.from_scvi_model(
            model, unlabeled_category=nameless, labels_key="label"
        )
        guided.train(max_epochs=min(_LABEL_PASSES, passes), **options)
        cells = as_float32(np.asarray(guided.get_latent_representation()))
        predicted = np.asarray(guided.predict()).astype(str)
    check_embedding(cells, data.cell_uids, "scanvi")
    return MethodOutput(
        "scanvi",
        cells,
        f"scANVI after {passes} passes (its default: {_MAX_PASSES}) of scVI over the counts of {model.adata.n_vars} highly "
        f"variable genes of all cells{_batches(data)} (transductive, labels of train cells only)",
        predicted=predicted,
        used_labels=True,
    )


def _fitted(module: ModuleType, data: EvalData, options: dict[str, Any]) -> tuple[Any, int]:
    """Return a trained scVI model, and its number of passes over the cells."""
    import anndata
    import pandas as pd

    n = len(data.labels)
    counts = data.matrix.matrix[:, variable_genes(data)].astype(np.float32)
    obs = pd.DataFrame({"batch": data.batches}, index=np.arange(n).astype(str))
    adata = anndata.AnnData(counts, obs=obs)
    batch_key = "batch" if len(np.unique(data.batches)) > 1 else None
    module.model.SCVI.setup_anndata(adata, batch_key=batch_key)
    model = module.model.SCVI(adata)
    passes = min(_MAX_PASSES, max(_MIN_PASSES, _CELL_PASSES // n))
    model.train(max_epochs=passes, plan_kwargs={"n_epochs_kl_warmup": passes}, **options)
    return model, passes


@contextmanager
def _training(data: EvalData, seed: int) -> Iterator[tuple[ModuleType, dict[str, Any]]]:
    """Give scvi-tools and the options of its training; seeded, silent, and without traces."""
    if data.matrix.values != "counts":
        raise NotApplicable("scVI models counts, and these values are log-normalised.")
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  (the import draws from them)
    module = peer_module("scvi", "scvi-tools")
    import torch

    seed_before = module.settings.seed
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with quiet(), TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        module.settings.seed = seed  # also seeds python, numpy and torch
        try:
            yield (
                module,
                {
                    "accelerator": "cpu",
                    "devices": 1,
                    "train_size": 1.0,
                    "batch_size": _batch_size(data),
                    "enable_progress_bar": False,
                    "default_root_dir": folder,
                },
            )
        finally:
            module.settings.seed = seed_before
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
            for name, value in environment.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _batch_size(data: EvalData) -> int:
    """Return 128, or the next lower size that leaves no last batch of one or two cells."""
    sizes = len(data.labels), len(data.train)
    return next(
        (
            size
            for size in range(_BATCH_SIZE, _BATCH_SIZE // 2, -1)
            if all(n % size not in (1, 2) for n in sizes)
        ),
        _BATCH_SIZE,
    )


def _nameless(data: EvalData) -> str:
    """Return a name for cells without a label that is no label."""
    name = "unlabelled"
    while name in data.types:
        name += "_"
    return name


def _batches(data: EvalData) -> str:
    n = len(np.unique(data.batches))
    return f", with {n} batches" if n > 1 else ""
