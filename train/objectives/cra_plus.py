"""``cra_plus``: alignment with group-aware targets, neighbour consensus, and re-pairing.

Ours, not the paper's; docs/method.md has the equations. Cells of one text share one target; a pair
whose neighbours carry other texts is doubted and, instead of being thrown away, matched with what
they carry.
"""

from __future__ import annotations

import torch

from okrcell.train.batch import Alignment, Step
from okrcell.train.config import TrainConfig
from okrcell.train.consensus import consensus, text_support, updated_prediction
from okrcell.train.distributed import World
from okrcell.train.objectives.base import Objective
from okrcell.train.objectives.soft_targets import (
    Targets,
    candidate_texts,
    candidate_vectors,
    contrast,
    contrast_columns,
)
from okrcell.train.pair_state import PairState

__all__ = ["CraPlus"]


class CraPlus(Objective):
    """The objective; its parts and their keys.

    ``group_targets``
        Softmax over distinct texts, and all cells of a text as targets of it; else a column per pair.
    ``consensus``
        Reliability r of a pair and candidates for it from its neighbours in expression.
    ``running_prediction``, ``teacher_prediction``
        The consensus is multiplied by the running mean of predictions of the pair's text. They are
        the momentum tower's where there is one (it lags, has no dropout, and so wavers less) and
        ``teacher_prediction`` is on; the model's own else.
    ``repair``
        From epoch ``repair_from_epoch`` on the target is r x own text + (1 - r) x consensus; without
        it the pair's own text weighs r. Before that epoch the consensus is not used.
    ``reliability_prior``
        r is multiplied by the reliability of the pair's description.
    ``curriculum_q``
        The cross-entropy turns from q = 0 to the generalised one of this q, linearly with progress.
        Its gradient is p^q of the plain one's, so that ever fewer poorly matched pairs are followed.

    Parameters
    ----------
    world
        The processes; state per pair is shared out over them.
    prior
        float32 [n_pairs]: reliability of each pair's text in [0, 1].
    groups
        int64 [n_pairs]: text of each pair.
    neighbours
        int32 [n_pairs, k]: pairs of similar expression, -1 where there are fewer. Read once.
    """

    def __init__(
        self,
        config: TrainConfig,
        n_pairs: int,
        n_texts: int,
        world: World,
        *,
        prior: torch.Tensor,
        groups: torch.Tensor,
        neighbours: torch.Tensor,
    ) -> None:
        super().__init__(config, n_pairs, n_texts)
        k = neighbours.shape[1] if config.consensus else 0
        shape = (1 + min(config.keep_texts, k),)
        fields = {"texts": (shape, torch.int32), "weights": (shape, torch.float16)}
        self.support = PairState(
            n_pairs, {**fields, "prior": ((), torch.float32)}, world, derived=True
        )
        self.state = PairState(
            n_pairs, {"running": (shape, torch.float16), "reliability": ((), torch.float32)}, world
        )
        mine = self.support.shard_pairs().to(groups.device)
        texts, weights = text_support(
            neighbours[:, :k],
            groups,
            mine,
            n_texts,
            keep=config.keep_texts,
            debias=config.debias,
            smoothing=config.debias_smoothing,
        )
        trusted = (
            prior[mine.to(prior.device)] if config.reliability_prior else torch.ones(len(mine))
        )
        for name, values in (("texts", texts), ("weights", weights), ("prior", trusted)):
            self.support.own(name).copy_(values)
        self.state.own("reliability").copy_(trusted)

    # --- state per pair ------------------------------------------------------------------------

    def start_epoch(self, epoch: int) -> None:
        """Bring the stored reliabilities, which weigh the bank's entries, up to date."""
        if self._uses_consensus(epoch):
            self.state.own("reliability").copy_(self._agreed()[1])

    @torch.no_grad()
    def _agreed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return of this process's pairs int64 [n_own], the best text, and float32 [n_own], r."""
        running = self.state.own("running") if self.config.running_prediction else None
        agreed, ratio = consensus(self.support.own("weights"), running)
        best = agreed.argmax(dim=1, keepdim=True)
        texts = self.support.own("texts").gather(1, best).squeeze(1)
        return texts.long(), ratio * self.support.own("prior")

    def reliability(self) -> torch.Tensor:
        """Return float32 [n_pairs] in [0, 1]: r of all pairs; all processes call it together."""
        return self._joint(self._agreed()[1])

    def suggestions(self) -> torch.Tensor:
        """Return int64 [n_pairs]: the text of the highest consensus; all processes call it together."""
        return self._joint(self._agreed()[0])

    def _joint(self, own: torch.Tensor) -> torch.Tensor:
        state = PairState(self.n_pairs, {"values": ((), own.dtype)}, self.state.world)
        state = state.to(own.device)
        state.own("values").copy_(own)
        return state.gather("values")

    def _uses_consensus(self, epoch: int) -> bool:
        return self.config.consensus and epoch >= self.config.repair_from_epoch

    # --- one step ------------------------------------------------------------------------------

    def forward(self, step: Step) -> Alignment:
        """Return the mean over this process's rows of half the sum of both directions.

        Differences of similarities are divided by a small temperature: all of it is in float32.
        In training mode the predictions of the batch enter the state of its pairs.
        """
        with torch.autocast(step.cells_nE.device.type, enabled=False):
            return self._forward(step)

    def _forward(self, step: Step) -> Alignment:
        config = self.config
        targets, log = self._targets(step)
        candidates = candidate_texts(step, targets, config.candidates)
        vectors = candidate_vectors(step, candidates)
        q = config.curriculum_q * step.progress
        if config.group_targets:
            to_text, to_cell = contrast(step, targets, candidates, vectors, q)
        else:
            to_text, to_cell = contrast_columns(step, targets, q)
        if self.training and config.consensus and config.running_prediction:
            self._predict(step, targets.texts_NS, candidates, vectors.detach())
        loss = (to_text.mean() + to_cell) / 2
        log |= {"cell_to_text": to_text.mean().detach(), "text_to_cell": to_cell.detach()}
        return Alignment(loss, log)

    @torch.no_grad()
    def _targets(self, step: Step) -> tuple[Targets, dict[str, torch.Tensor]]:
        """Return the targets of the joint batch, from what stood in the state before this step."""
        config, pairs_N = self.config, step.pairs_N
        texts_NS = self.support.read("texts", pairs_N).long()
        reliability_N = self.support.read("prior", pairs_N)
        agreed_NS = torch.zeros(texts_NS.shape, device=texts_NS.device)
        log = {}
        if self._uses_consensus(step.epoch):
            running = self.state.read("running", pairs_N) if config.running_prediction else None
            agreed_NS, ratio_N = consensus(self.support.read("weights", pairs_N), running)
            reliability_N = reliability_N * ratio_N
            log["agreeing"] = (agreed_NS.argmax(1) == 0).float().mean()
        shares_NS = torch.zeros_like(agreed_NS)
        shares_NS[:, 0] = reliability_N
        if config.repair and self._uses_consensus(step.epoch):
            shares_NS += (1 - reliability_N)[:, None] * agreed_NS
        bank = None if step.bank is None else self.state.read("reliability", step.bank.pairs)
        log["reliability"] = reliability_N[step.own]
        return Targets(texts_NS, shares_NS, bank), log

    @torch.no_grad()
    def _predict(
        self,
        step: Step,
        texts_NS: torch.Tensor,
        candidates_C: torch.Tensor,
        vectors_CE: torch.Tensor,
    ) -> None:
        """Move the running predictions of the joint batch's pairs towards this step's."""
        config, own = self.config, step.own
        cells_nE = step.cells_nE
        if step.teacher is not None and config.teacher_prediction:
            cells_nE = step.teacher[0][own]
        p_nC = torch.softmax((cells_nE / step.tau) @ vectors_CE.T, 1)
        place_nS = torch.searchsorted(candidates_C, texts_NS[own]).clamp_max(len(candidates_C) - 1)
        is_there = candidates_C[place_nS] == texts_NS[own]
        p_nS = torch.where(is_there, p_nC.gather(1, place_nS), 0.0)
        p_NS = step.world.gather(p_nS)
        running_NS = self.state.read("running", step.pairs_N)
        updated = updated_prediction(running_NS, p_NS, config.prediction_momentum)
        self.state.write("running", step.pairs_N, updated)
