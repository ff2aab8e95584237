"""Momentum distillation: part of the target is what the momentum towers think."""

from __future__ import annotations

import torch

from okrcell.errors import ConfigError
from okrcell.train.batch import Alignment, Step
from okrcell.train.config import TrainConfig
from okrcell.train.objectives.base import Objective, log_match

__all__ = ["MomentumDistillation"]


class MomentumDistillation(Objective):
    """Cross-entropy with alpha x teacher's softmax + (1 - alpha) x own partner, both directions.

    Li et al. 2021 (ALBEF, arXiv 2107.07651). The softmax goes over the joint batch and the bank; the
    teacher sees its own vectors of the batch, and the bank, which is made of such vectors. alpha
    grows from 0 to ``distill_alpha`` over the first epoch. ALBEF's student is scored against the
    momentum vectors of the batch; here it is against the live ones, as in the other objectives.

    Raises
    ------
    ConfigError
        There are no momentum towers (``bank = false``).
    """

    def __init__(self, config: TrainConfig, n_pairs: int, n_texts: int) -> None:
        super().__init__(config, n_pairs, n_texts)
        if not config.with_bank:
            raise ConfigError(
                "objective 'momentum_distill'",
                found="bank = false",
                expected="momentum towers, which the bank brings",
                fix="Leave the key 'bank' out, or choose another objective.",
            )

    def alpha(self, step: Step) -> float:
        """Weight of the teacher."""
        share = step.progress * self.config.total_epochs  # epochs that are done
        return self.config.distill_alpha * min(1.0, share)

    def forward(self, step: Step) -> Alignment:
        """Return the loss; ``alpha`` is the teacher's weight, ``teacher`` its own probability."""
        assert step.teacher is not None
        alpha = self.alpha(step)
        cells_NE, texts_NE = step.teacher
        bank_cells, bank_texts = (
            (None, None) if step.bank is None else (step.bank.cells, step.bank.texts)
        )
        loss = step.cells_nE.new_zeros(())
        believed = torch.zeros_like(step.cells_nE[:, 0])
        for query_nE, keys_NE, wise_NE, wise_keys_NE, bank_QE in (
            (step.cells_nE, step.all_texts_NE, cells_NE, texts_NE, bank_texts),
            (step.texts_nE, step.all_cells_NE, texts_NE, cells_NE, bank_cells),
        ):
            with torch.no_grad():
                target = log_match(wise_NE[step.own], wise_keys_NE, step.tau, bank_QE).exp_()
            log_s = log_match(query_nE, keys_NE, step.tau, bank_QE)
            own = log_s.diagonal(step.first)
            taught = torch.linalg.vecdot(target, log_s)
            loss = loss - (alpha * taught + (1 - alpha) * own).mean() / 2
            believed += target.diagonal(step.first) / 2
        return Alignment(loss, {"alpha": believed.new_tensor(alpha), "teacher": believed})
