"""Early-learning regularisation: predictions are held near their own running mean."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from okrcell.errors import TrainingError
from okrcell.train.batch import Alignment, Step
from okrcell.train.config import TrainConfig
from okrcell.train.distributed import World
from okrcell.train.objectives.base import Objective
from okrcell.train.pair_state import PairState

__all__ = ["EarlyLearning"]

_MOST_TARGETS = 1 << 29
"""Cap of pairs x texts: 2 GiB of float32 over all processes."""
_MOST_AGREEMENT = 1 - 1e-4
"""Beyond this <p, t> the regulariser is flat, as in the authors' code; its logarithm diverges at 1."""


class EarlyLearning(Objective):
    """Cross-entropy over all T distinct texts + elr_weight log(1 - <p_i, t_i>), cell to text.

    Liu et al. 2020, arXiv 2007.00151: p_i is the prediction of cell i over the texts, t_i its running
    mean (``elr_momentum``) with the present one included, without gradient. Texts are classes here:
    there is no direction from text to cell, and a bank is not read. Texts of the batch enter with
    their live vectors where the text tower trains, the others as of the last refresh.

    The state is dense, n_pairs x T float32, and capped.

    Raises
    ------
    TrainingError
        More targets than the cap.
    """

    def __init__(self, config: TrainConfig, n_pairs: int, n_texts: int, world: World) -> None:
        super().__init__(config, n_pairs, n_texts)
        if n_pairs * n_texts > _MOST_TARGETS:
            raise TrainingError(
                "objective 'elr'",
                found=f"{n_pairs} x {n_texts} running targets",
                expected=f"at most {_MOST_TARGETS} of them, cells times distinct texts",
                fix="Train on fewer cells or with text_source = 'label', or choose another objective.",
            )
        self.state = PairState(n_pairs, {"target": ((n_texts,), torch.float32)}, world)

    def forward(self, step: Step) -> Alignment:
        """Return the loss; ``agreement`` is <p_i, t_i>."""
        log_p_nT = F.log_softmax((step.cells_nE / step.tau) @ _live_table(step).T, dim=1)
        groups_n = step.groups_N[step.own]
        p_nT = log_p_nT.exp()
        target_nT = self._follow(step, p_nT.detach())
        agreement = torch.linalg.vecdot(p_nT, target_nT)
        regulariser = torch.log1p(-agreement.clamp_max(_MOST_AGREEMENT))
        loss = F.nll_loss(log_p_nT, groups_n) + self.config.elr_weight * regulariser.mean()
        return Alignment(loss, {"agreement": agreement.detach()})

    @torch.no_grad()
    def _follow(self, step: Step, p_nT: torch.Tensor) -> torch.Tensor:
        """Move the running targets of the joint batch's pairs; return those of this process's rows."""
        keep = self.config.elr_momentum
        old_NT = self.state.read("target", step.pairs_N)
        new_NT = keep * old_NT + (1 - keep) * step.world.gather(p_nT)
        if self.training:
            self.state.write("target", step.pairs_N, new_NT)
        return new_NT[step.own].to(p_nT.dtype)


def _live_table(step: Step) -> torch.Tensor:
    """Return the texts' vectors [T, E], those of the joint batch with gradient where they have one.

    A text that stands in the batch several times enters as the mean of its (equal) vectors, so that
    its gradient does not depend on which copy is taken.
    """
    table_TE, live_NE, groups_N = step.table_TE, step.all_texts_NE, step.groups_N
    if not live_NE.requires_grad:
        return table_TE
    count_T = torch.bincount(groups_N, minlength=len(table_TE)).to(live_NE.dtype)[:, None]
    sums_TE = torch.zeros_like(table_TE, dtype=live_NE.dtype).index_add(0, groups_N, live_NE)
    return torch.where(count_T > 0, sums_TE / count_T.clamp_min(1), table_TE)
