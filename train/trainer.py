"""A step of training: keys of the momentum towers, passes, optimiser, banks.

A step depends on the state before it, on its number and on its batch, so a run that was killed and
continues takes exactly the steps that an undisturbed run would have taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from okrcell.train.batch import Batch, CellInput
from okrcell.train.passes import Moment, Passes
from okrcell.train.sampler import Sampler

__all__ = ["Report", "Trainer"]


@dataclass(frozen=True)
class Report:
    """What one step did, the same on all processes.

    Attributes
    ----------
    parts
        float64 [4], nats: the losses named in ``PARTS``, unweighted, of the joint batch.
    loss
        Their weighted sum.
    grad_norm
        Norm of the gradient before it was cut.
    cells_nE, texts_nE
        This process's vectors, without gradient.
    log
        Numbers of the objective.
    """

    parts: np.ndarray
    loss: float
    grad_norm: float
    cells_nE: torch.Tensor
    texts_nE: torch.Tensor
    log: dict[str, torch.Tensor] = field(default_factory=dict)


class Trainer:
    """The trained modules with their optimiser, one step at a time.

    Parameters
    ----------
    passes
        Towers, objective and momentum towers.
    sampler
        Order of the training pairs.
    """

    def __init__(self, passes: Passes, sampler: Sampler) -> None:
        self.passes, self.config, self.world = passes, passes.config, passes.world
        self.tower, self.text = passes.tower, passes.text
        self.objective, self.momentum = passes.objective, passes.momentum
        self.device, self.log_tau = passes.device, passes.log_tau
        self.sampler, self.steps_per_epoch = sampler, sampler.steps_per_epoch
        self.total_steps = self.steps_per_epoch * self.config.total_epochs
        self.optimiser = torch.optim.AdamW(self._groups(), lr=self.config.lr, weight_decay=0.0)

    def _groups(self) -> list[dict[str, object]]:
        """Return parameter groups; vectors (norms, biases) are not decayed."""
        own = [*self.tower.parameters(), *self.objective.parameters(), self.log_tau]
        groups: list[dict[str, object]] = []
        for text, parameters in ((False, own), (True, [*self.text.parameters()])):
            for flat in (False, True):
                chosen = [p for p in parameters if (p.dim() < 2) == flat]
                decay = 0.0 if flat else self.config.weight_decay
                groups.append({"params": chosen, "weight_decay": decay, "text": text})
        return [group for group in groups if group["params"]]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield everything that the optimiser holds."""
        for group in self.optimiser.param_groups:
            yield from group["params"]

    def start_epoch(self, epoch: int) -> None:
        """Do what is due before the first step of an epoch (1 for the first), or on resuming in it."""
        self.tower.train()
        if self.text.trainable:
            (self.text.unfreeze if epoch > self.config.text_from else self.text.freeze)()

    def take(self, number: int, batch: Batch) -> Report:
        """Take a step: forward, backward, optimiser, banks.

        A loss or gradient that is not finite changes no weight: the caller sees it in the report.
        """
        config = self.config
        epoch = number // self.steps_per_epoch
        self._set_lr(number, epoch)
        cells = batch.cells.to(self.device)
        pairs = torch.from_numpy(batch.pairs).to(self.device)
        groups = torch.from_numpy(batch.text).to(self.device)
        joint = (self.world.gather(pairs), self.world.gather(groups))
        keys = self._keys(cells, groups, number)
        self.optimiser.zero_grad(set_to_none=True)
        moment = Moment(number, epoch, number / self.total_steps, joint, keys)
        parts, kept = self.passes.run(cells, pairs, groups, moment)
        self.world.average_gradients(self.parameters())
        trained = [p for p in self.parameters() if p.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(trained, config.clip_norm))
        parts = self.world.mean(parts)
        values = parts.double().cpu().numpy()
        loss = float(values @ self.passes.weights())
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimiser.step()
            if config.learn_tau:
                # After the step, not inside the loss, where it would have no way back.
                with torch.no_grad():
                    self.log_tau.clamp_(math.log(0.01), math.log(0.5))
            if self.momentum is not None and keys is not None:
                self.momentum.push(*keys, *joint)
        cells_nE, texts_nE, log = kept
        return Report(values, loss, norm, cells_nE, texts_nE, log)

    def _set_lr(self, number: int, epoch: int) -> None:
        config = self.config
        warm = min(1.0, (number + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        for group in self.optimiser.param_groups:
            base = config.stage2_lr if group["text"] else config.lr
            since = max(0, epoch - config.text_from) if group["text"] else epoch
            group["lr"] = base * config.lr_decay**since * warm

    @torch.no_grad()
    def _keys(
        self, cells: CellInput, groups: torch.Tensor, number: int
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the momentum towers' vectors of the joint batch, or None without momentum."""
        if self.momentum is None:
            return None
        if number:
            self.momentum.update(self.tower, self.text)
        with self.passes.cast():
            found = [
                self.momentum.encode(cells.rows(a, b), groups[a:b])
                for a, b in self.passes.spans(cells)
            ]
        cells_nE, texts_nE = (torch.cat(part).float() for part in zip(*found, strict=True))
        return self.world.gather(cells_nE), self.world.gather(texts_nE)
