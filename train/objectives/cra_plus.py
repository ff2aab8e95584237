"""``cra_plus``: alignment with group-aware targets, pairs judged from outside, and re-pairing.

Ours, not the paper's; docs/train/objectives.md has the equations. Cells of one text share one target; a
pair whose text the evidence doubts (``train/evidence.py``) is, instead of being thrown away, matched
with the texts that it names.
"""

from __future__ import annotations

import torch

from okrcell.train.batch import Alignment, Step
from okrcell.train.config import TrainConfig
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
        The chance r that a pair's text is right, and those of other texts, from evidence outside the
        pair: ``neighbours``, ``readings`` and ``markers`` (``train/evidence.py``).
    ``repair``
        From epoch ``repair_from_epoch`` on the target is the chances of all texts in question; without
        it the pair's own text weighs r. Before that epoch the consensus is not used.
    ``reliability_prior``
        r is multiplied by the reliability of the pair's description.
    ``curriculum_q``
        The cross-entropy turns from q = 0 to the generalised one of this q, linearly with progress.
        Its gradient is p^q of the plain one's, so that ever fewer poorly matched pairs are followed.

    Parameters
    ----------
    world
        The processes; what is known of each pair is shared out over them.
    prior
        float32 [n_pairs]: reliability of each pair's text in [0, 1].
    texts
        int32 [n_pairs, S]: texts in question, the pair's own first. Read once.
    chances
        float32 [n_pairs, S]: the chance that each is right; rows of sum 1. Read once.
    """

    def __init__(
        self,
        config: TrainConfig,
        n_pairs: int,
        n_texts: int,
        world: World,
        *,
        prior: torch.Tensor,
        texts: torch.Tensor,
        chances: torch.Tensor,
    ) -> None:
        super().__init__(config, n_pairs, n_texts)
        if not config.consensus:
            texts, chances = texts[:, :1], torch.ones_like(chances[:, :1])
        shape = (texts.shape[1],)
        fields = {"texts": (shape, torch.int32), "chances": (shape, torch.float16)}
        self.known = PairState(
            n_pairs, {**fields, "prior": ((), torch.float32)}, world, derived=True
        )
        mine = self.known.shard_pairs().cpu()
        trusted = prior.cpu()[mine] if config.reliability_prior else torch.ones(len(mine))
        for name, values in (
            ("texts", texts.cpu()[mine]),
            ("chances", chances.cpu()[mine]),
            ("prior", trusted),
        ):
            self.known.own(name).copy_(values)

    # --- what is known of pairs ----------------------------------------------------------------

    def reliability(self) -> torch.Tensor:
        """Return float32 [n_pairs] in [0, 1]: r of all pairs; all processes call it together."""
        return self._joint(self.known.own("chances")[:, 0].float() * self.known.own("prior"))

    def suggestions(self) -> torch.Tensor:
        """Return int64 [n_pairs]: the most likely text; all processes call it together."""
        best = self.known.own("chances").float().argmax(dim=1, keepdim=True)
        return self._joint(self.known.own("texts").gather(1, best).squeeze(1).long())

    def _joint(self, own: torch.Tensor) -> torch.Tensor:
        state = PairState(self.n_pairs, {"values": ((), own.dtype)}, self.known.world)
        state = state.to(own.device)
        state.own("values").copy_(own)
        return state.gather("values")

    # --- one step ------------------------------------------------------------------------------

    def forward(self, step: Step) -> Alignment:
        """Return the mean over this process's rows of half the sum of both directions.

        Differences of similarities are divided by a small temperature: all of it is in float32.
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
        loss = (to_text.mean() + to_cell) / 2
        log |= {"cell_to_text": to_text.mean().detach(), "text_to_cell": to_cell.detach()}
        return Alignment(loss, log)

    @torch.no_grad()
    def _targets(self, step: Step) -> tuple[Targets, dict[str, torch.Tensor]]:
        """Return the targets of the joint batch."""
        config, pairs_N = self.config, step.pairs_N
        texts_NS = self.known.read("texts", pairs_N).long()
        prior_N = self.known.read("prior", pairs_N)
        chances_NS = torch.zeros(texts_NS.shape, device=texts_NS.device)
        chances_NS[:, 0] = 1.0
        log = {}
        if step.epoch >= config.repair_from_epoch:
            chances_NS = self.known.read("chances", pairs_N).float()
            log["agreeing"] = (chances_NS.argmax(1) == 0).float().mean()
        if not config.repair:
            chances_NS[:, 1:] = 0.0
        chances_NS[:, 0] *= prior_N
        bank = None
        if step.bank is not None:
            bank = self.known.read("prior", step.bank.pairs)
            if step.epoch >= config.repair_from_epoch:
                bank = bank * self.known.read("chances", step.bank.pairs)[:, 0].float()
        log["reliability"] = chances_NS[step.own, 0]
        return Targets(texts_NS, chances_NS, bank), log
