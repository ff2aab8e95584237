"""What a run keeps of its validation cells, so that its answers on other files can be calibrated.

A confidence is worth what validation cells say of it, and depends on the labels that are asked for.
So neither a temperature nor a threshold is kept, but what both can be worked out from for any labels
and without the store: of each validation cell the vector, the principal components of its expression,
its cell type, and the molecules of marker genes; the vectors of the training texts; and how
often the right text is the nearest when only a share of the genes is known.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save as save_tensors
from scipy import sparse

from okrcell.artifacts import atomic_write
from okrcell.corpus.expression import recover_counts
from okrcell.corpus.marker_table import marker_genes
from okrcell.train.checkpoint import below
from okrcell.train.config import TrainConfig
from okrcell.train.data import Pairs
from okrcell.train.graph import components
from okrcell.train.loader import read
from okrcell.train.towers import Tower

__all__ = ["CALIBRATION", "FORMAT", "measure", "write_calibration"]

CALIBRATION = "calibration.safetensors"
FORMAT = 1

_SHARES = (1.0, 0.75, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
_CURVE_CELLS = 256
_MOST_TEXTS = 4096
_N_COMPONENTS = 30
_BLOCK = 128

_Ints = npt.NDArray[np.int64]


def write_calibration(
    run: Path,
    trainer: Any,
    best: Mapping[str, torch.Tensor],
    validation: Pairs,
    judged: _Ints,
    weights_sha256: str,
) -> bool:
    """Write the file for the weights that :func:`okrcell.load` takes; False without validation cells.

    Parameters
    ----------
    trainer
        :class:`okrcell.train.trainer.Trainer`, after the last step.
    best
        Weights of the best epoch; they are what counts where the run keeps the best.
    judged
        int64: the validation pairs that are looked at.
    weights_sha256
        Of the file of the kept weights: what the calibration belongs to.
    """
    if not len(judged):
        (run / CALIBRATION).unlink(missing_ok=True)
        return False
    config, tower, text = trainer.config, trainer.tower, trainer.text
    if config.keep == "best" and best:
        tower = copy.deepcopy(tower)
        tower.load_state_dict(below(dict(best), "tower."))
        trained = below(dict(best), "text.")
        if trained:
            text = copy.deepcopy(text)
            text.load_trained_state(trained)
    texts = text.table().detach().float().cpu()
    content = measure(tower, texts, validation, judged, config, trainer.device, weights_sha256)
    atomic_write(run / CALIBRATION, content)
    return True


def measure(
    tower: Tower,
    texts: torch.Tensor,
    validation: Pairs,
    judged: _Ints,
    config: TrainConfig,
    device: str,
    weights_sha256: str,
) -> bytes:
    """Return the content of the file; the same weights and cells give the same bytes.

    Parameters
    ----------
    texts
        float32 [T, E]: the training texts, as ``validation.texts``.
    """
    was_training = tower.training
    tower.eval()
    try:
        cells = _vectors(tower, validation, judged, config, device)
        curve = _curve(tower, texts, validation, judged, config, device)
    finally:
        tower.train(was_training)
    kept = np.unique(validation.text[judged])
    others = np.setdiff1d(np.arange(len(texts)), kept)[: max(0, _MOST_TEXTS - len(kept))]
    chosen = np.sort(np.concatenate([kept, others]))
    genes, marked = _marker_counts(validation, judged)
    tensors = {
        "cells": cells.half(),
        "basis": torch.from_numpy(_basis(validation, judged)).half(),
        "cell_type": torch.from_numpy(validation.cell_type[judged]).int(),
        "text": torch.from_numpy(np.searchsorted(chosen, validation.text[judged])).int(),
        "texts": texts[torch.from_numpy(chosen)].half(),
        "markers.indptr": torch.from_numpy(marked.indptr.astype(np.int32)),
        "markers.indices": torch.from_numpy(marked.indices.astype(np.int16)),
        "markers.values": torch.from_numpy(marked.data),
    }
    facts = {
        "format": FORMAT,
        "weights": weights_sha256,
        "cell_types": list(validation.cell_types),
        "marker_genes": genes,
        "genes": curve,
    }
    made = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content: bytes = save_tensors(made, {"calibration": json.dumps(facts, sort_keys=True)})
    return content


@torch.no_grad()
def _vectors(
    tower: Tower, pairs: Pairs, index: _Ints, config: TrainConfig, device: str
) -> torch.Tensor:
    parts = []
    for begin in range(0, len(index), _BLOCK):
        cells = read(pairs, index[begin : begin + _BLOCK], config, None, 0.0).to(device)
        parts.append(tower(cells, genes=False).cell.float().cpu())
    return torch.cat(parts)


def _curve(
    tower: Tower,
    texts: torch.Tensor,
    pairs: Pairs,
    index: _Ints,
    config: TrainConfig,
    device: str,
) -> list[list[float]]:
    """Return [share of the genes, share of cells whose own text is the nearest], the most genes first.

    The genes that are left are drawn at random, those of a smaller share among those of a larger.
    """
    some = index[:: -(-len(index) // _CURVE_CELLS)]
    rank = np.random.default_rng([config.seed, 2]).permutation(len(pairs.vocabulary))
    found = []
    for share in _SHARES:
        lost = rank >= share * len(rank)
        columns = tuple(np.where((c >= 0) & ~lost[c], c, -1) for c in pairs.columns)
        vectors = _vectors(tower, replace(pairs, columns=columns), some, config, device)
        right = (vectors @ texts.T).argmax(dim=1).numpy() == pairs.text[some]
        found.append([share, round(float(right.mean()), 4)])
    return found


def _taken(pairs: Pairs, index: _Ints) -> Pairs:
    """Return some of the pairs as pairs of their own."""
    return replace(
        pairs,
        cell_uids=pairs.cell_uids.take(index),
        dataset=pairs.dataset[index],
        row=pairs.row[index],
        text=pairs.text[index],
        prior=pairs.prior[index],
        cell_type=pairs.cell_type[index],
        donor=pairs.donor[index],
        clean=pairs.clean[index],
    )


def _basis(pairs: Pairs, index: _Ints) -> npt.NDArray[np.float32]:
    some = _taken(pairs, index)
    n = min(_N_COMPONENTS, max(len(index) - 1, 1))
    return components(some, 2000, n, seed=0)


def _marker_counts(pairs: Pairs, index: _Ints) -> tuple[list[str], sparse.csr_matrix]:
    """Return marker genes of the vocabulary, sorted, and molecules float32 [V, M + 1].

    The last column holds all other molecules of a cell, so that its depth is kept. Log-normalised
    values are turned back into counts.
    """
    at = [i for i, gene in enumerate(pairs.vocabulary) if gene in marker_genes()]
    slot = np.full(len(pairs.vocabulary) + 1, len(at))  # the last entry answers for the token -1
    slot[at] = np.arange(len(at))
    rows, columns, values = [], [], []
    for number in np.unique(pairs.dataset[index]):
        mine = np.flatnonzero(pairs.dataset[index] == number)
        cells = pairs.matrices[number]
        part = sparse.csr_matrix(cells.matrix[pairs.row[index[mine]]])
        part = part if cells.values == "counts" else recover_counts(part)
        rows.append(np.repeat(mine, np.diff(part.indptr)))
        columns.append(slot[pairs.columns[number]][part.indices])
        values.append(part.data)
    places = np.concatenate(rows), np.concatenate(columns)
    shape = (len(index), len(at) + 1)
    # Molecules of other genes share a column: they are added up.
    made = sparse.csr_matrix((np.concatenate(values), places), shape=shape, dtype=np.float32)
    made.sum_duplicates()
    return [pairs.vocabulary[i] for i in at], made
