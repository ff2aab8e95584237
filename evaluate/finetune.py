"""Fine-tuning for annotation: the cell tower and a linear head learn the types of the train cells.

This is the paper's way to annotate. It is kept affordable on a CPU: a bounded number of cells per
epoch, of genes per cell, and of epochs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from okrcell.evaluate.data import EvalData

if TYPE_CHECKING:
    import torch

    from okrcell.train.model import CellTextModel

__all__ = ["finetune_classifier"]

_BATCH = 32
_MAX_GENES = 256
_CELLS_PER_EPOCH = 500
_MAX_JUDGED = 300
_PATIENCE = 3


def finetune_classifier(
    model: CellTextModel,
    data: EvalData,
    seed: int,
    *,
    epochs: int = 6,
    lr: float = 3e-4,
    cells_per_epoch: int = _CELLS_PER_EPOCH,
) -> NDArray[np.str_]:
    """Fine-tune a copy of the model's cell tower on the train cells; return labels of the test cells.

    A linear head reads the tower's state of a cell. Adam, cross-entropy, up to ``epochs`` passes over at
    most ``cells_per_epoch`` train cells (a new draw for each pass, so that all are seen in time). With
    validation cells of seen types (at most 300 of them) the best pass by their accuracy is kept, and
    three passes without a better one end the training; without them the last pass counts. Test cells
    are only predicted. A cell with more than 256 genes is read by a fixed choice of 256
    (the ``mlp`` tower reads its variable genes).

    Parameters
    ----------
    model
        Stays as it is.
    seed
        The same seed gives the same labels on the same machine.

    Returns
    -------
    ndarray
        Strings [n_test], in the order of ``data.test``; always types that occur in train.
    """
    import torch

    names, truth = np.unique(data.labels[data.train], return_inverse=True)
    if len(names) == 1:
        return np.full(len(data.test), names[0])
    order = np.random.default_rng(seed)
    judged = data.validation[np.isin(data.labels[data.validation], names)]
    judged = np.sort(order.permutation(judged)[:_MAX_JUDGED])
    with _seeded(seed):
        tower = _Classifier(model, data, len(names))
        optimiser = torch.optim.Adam(tower.parameters(), lr=lr)
        best, kept, since = -1.0, tower.state(), 0
        for _ in range(epochs):
            some = order.permutation(len(truth))[:cells_per_epoch]
            for start in range(0, len(some), _BATCH):
                rows = some[start : start + _BATCH]
                logits = tower.logits(data.train[rows], training=True)
                target = torch.from_numpy(truth[rows].astype(np.int64)).to(logits.device)
                loss = torch.nn.functional.cross_entropy(logits, target)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            if not len(judged):
                continue
            accuracy = float((names[tower.predict(judged)] == data.labels[judged]).mean())
            since += 1
            if accuracy > best:
                best, kept, since = accuracy, tower.state(), 0
            if since == _PATIENCE:
                break
        if len(judged):
            tower.restore(kept)
        return np.asarray(names[tower.predict(data.test)])


class _Classifier:
    """A copy of the tower with a fresh linear head, on the cells of ``data``."""

    def __init__(self, model: CellTextModel, data: EvalData, n_types: int) -> None:
        import torch

        self._tower = copy.deepcopy(model.tower).requires_grad_(True)
        width = model.tower.state_dim
        self._device = next(self._tower.parameters()).device
        self._head = torch.nn.Linear(width, n_types).to(self._device)
        self._model, self._cells = model, data.matrix
        self._columns = model.columns(data.matrix, data.dataset)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Yield what is trained."""
        yield from self._tower.parameters()
        yield from self._head.parameters()

    def logits(self, rows: NDArray[np.intp], *, training: bool) -> torch.Tensor:
        """Return float32 [n, types] of some cells."""
        self._tower.train(training)
        cells = self._model.read(self._cells, rows, self._columns, max_genes=_MAX_GENES)
        scores: torch.Tensor = self._head(self._tower(cells, genes=False).state)
        return scores

    def predict(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the code of each cell's type, int [n]."""
        import torch

        codes = np.zeros(len(rows), dtype=np.intp)
        with torch.inference_mode():
            for start in range(0, len(rows), 2 * _BATCH):
                at = slice(start, start + 2 * _BATCH)
                codes[at] = self.logits(rows[at], training=False).argmax(dim=1).cpu().numpy()
        return codes

    def state(self) -> list[torch.Tensor]:
        """Return a copy of all weights."""
        return [weight.detach().clone() for weight in self.parameters()]

    def restore(self, state: list[torch.Tensor]) -> None:
        """Put weights back."""
        import torch

        with torch.no_grad():
            for weight, value in zip(self.parameters(), state, strict=True):
                weight.copy_(value)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch inside, and leave its generator outside as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
