"""What speaks for and against every pair's text, from outside the pair.

Three sources, none of which reads the pair's own text or a trained model: what cells of similar expression
carry, what a linear reading of expression says (``train/readings.py``), and whether the cell expresses the
genes that a text names (``corpus/marker_vote.py``), itself and with its neighbours. The first two learn from
the other pairs, and so believe what most of them say; the markers are knowledge, and stand when most pairs
are wrong. ``train/consensus.py`` weighs them.

What is judged is the kind of a text: the cell type that it describes.

Shape suffixes: N pairs, k neighbours, K kinds, S kinds in question, F sources.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from okrcell.corpus.marker_mentions import named_markers
from okrcell.corpus.marker_table import Marker, markers_of_term
from okrcell.corpus.marker_vote import vote
from okrcell.train.config import TrainConfig
from okrcell.train.consensus import weigh
from okrcell.train.data import Pairs
from okrcell.train.graph import components, nearest
from okrcell.train.readings import fit_readings, log_likelihoods

__all__ = ["SOURCES", "Evidence", "kinds_in_question", "pair_evidence"]

SOURCES = ("neighbours", "readings", "markers", "markers of neighbours")

_BLOCK = 4096
_TRACE = 0.1
"""Neighbours of a kind that none has, so that no kind is ruled out."""
_MOST_VOTES = 1 << 29


class Evidence(NamedTuple):
    """What the pairs agree on.

    Attributes
    ----------
    texts_NS
        int32: texts in question, the pair's own first; the own one again where there are fewer.
    chances_NS
        float32: the chance that each is right, of sum 1; 0 where filled up.
    facts
        Weight of each source, and the share of pairs whose text is kept.
    """

    texts_NS: npt.NDArray[np.int32]
    chances_NS: npt.NDArray[np.float32]
    facts: dict[str, Any]


@torch.no_grad()
def pair_evidence(pairs: Pairs, config: TrainConfig, *, seed: int, device: str = "cpu") -> Evidence:
    """Weigh all evidence of all pairs.

    Parameters
    ----------
    seed
        Of components and of the clusters of the search.
    device
        Of the search; all else is done on the CPU.
    """
    text_kind = np.arange(len(pairs.texts)) if pairs.text_kind is None else pairs.text_kind
    n_kinds = int(text_kind.max()) + 1
    kinds = torch.from_numpy(text_kind[pairs.text])
    scores = components(pairs, config.graph_genes, config.graph_components, seed=seed)
    near = np.zeros((len(pairs), 0), dtype=np.int32)
    if config.neighbours:
        near, _ = nearest(scores, config.neighbours, seed=seed, device=device)
    neighbours = torch.from_numpy(near)
    questions, evidence, names = kinds_in_question(
        torch.from_numpy(scores), neighbours, kinds, n_kinds, config
    )
    if config.markers and (votes := _votes(pairs, text_kind, n_kinds)) is not None:
        evidence.append(votes.gather(1, questions).float())
        names.append(SOURCES[2])
        if near.shape[1] and votes.numel() <= _MOST_VOTES:
            evidence.append(_around(votes, neighbours, questions))
            names.append(SOURCES[3])
    valid = torch.ones_like(questions, dtype=torch.bool)
    valid[:, 1:] = questions[:, 1:] != questions[:, :1]
    if evidence:
        stacked = torch.stack([_relative(values, valid) for values in evidence], dim=2)
        chances, facts = weigh(stacked, questions, valid, n_kinds, witness=config.witness)
        facts["weights"] = dict(zip(names, facts["weights"], strict=True))
    else:
        chances = torch.zeros(questions.shape)
        chances[:, 0] = 1.0
        facts = {"weights": {}, "kept": 1.0}
    texts = _texts(pairs, text_kind, questions.numpy(), near)
    return Evidence(texts, chances.numpy(), facts)


def kinds_in_question(
    scores: torch.Tensor,
    near: torch.Tensor,
    kinds: torch.Tensor,
    n_kinds: int,
    config: TrainConfig,
) -> tuple[torch.Tensor, list[torch.Tensor], list[str]]:
    """Return int64 [N, S], the kinds in question, and what neighbours and readings say of them.

    Parameters
    ----------
    scores
        float32 [N, P], principal components.
    near
        int32 [N, k]: cells of like expression; -1 where there are fewer.
    kinds
        int64 [N].

    Returns
    -------
    tuple
        Kinds, the own one first, and again where there are fewer; a float32 [N, S] per source, log
        likelihoods; the names of the sources.
    """
    n, k = near.shape
    size = min(1 + config.keep_texts, n_kinds)
    share = torch.bincount(kinds, minlength=n_kinds).float() / max(n, 1)
    usual = (k * share + config.debias_smoothing) if config.debias else torch.ones(n_kinds)
    readings = fit_readings(scores, kinds, n_kinds) if config.readings else None
    questions = torch.empty((n, size), dtype=torch.int64)
    said: dict[str, torch.Tensor] = {}
    for begin in range(0, n, _BLOCK):
        rows = slice(begin, min(begin + _BLOCK, n))
        own = kinds[rows]
        values = {}
        if k:
            found = near[rows].long()
            counts = torch.zeros(len(own), n_kinds)
            counts.scatter_add_(1, kinds[found.clamp_min(0)], (found >= 0).float())
            values[SOURCES[0]] = torch.log((counts + _TRACE) / usual)
        if readings is not None:
            values[SOURCES[1]] = log_likelihoods(readings, rows, own)
        # Kinds to ask about: those that the sources, alike in weight, put first; the own one always.
        joint = torch.zeros(len(own), n_kinds)
        for value in values.values():
            joint += value.log_softmax(1)
        joint = joint.scatter(1, own[:, None], torch.inf)
        joint[:, share == 0] = -torch.inf
        order = joint.sort(dim=1, descending=True, stable=True).indices[:, :size]
        order = torch.where(share[order] > 0, order, own[:, None])
        questions[rows] = order
        for name, value in values.items():
            said.setdefault(name, torch.empty(questions.shape))[rows] = value.gather(1, order)
    return questions, list(said.values()), list(said)


def _relative(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return the values less the largest of each row; 0 where not valid."""
    top = values.masked_fill(~valid, -torch.inf).amax(1, keepdim=True)
    return torch.where(valid, values - top, 0.0)


def _votes(pairs: Pairs, text_kind: npt.NDArray[np.int64], n_kinds: int) -> torch.Tensor | None:
    """Return float16 [N, K]: the vote of each kind's markers on each cell; None if there are none."""
    named: list[tuple[Marker, ...]] = []
    for kind in range(n_kinds):
        texts = [pairs.texts[at] for at in np.flatnonzero(text_kind == kind)]
        said = [marker for text in texts for marker in named_markers(text, "text")]
        if pairs.kinds and pairs.kinds[kind].term_id:
            said += markers_of_term(pairs.kinds[kind].term_id)
        named.append(tuple(dict.fromkeys(said)))
    if not any(named):
        return None
    result = torch.zeros((len(pairs), n_kinds), dtype=torch.float16)
    for number, cells in enumerate(pairs.matrices):
        at = np.flatnonzero(pairs.dataset == number)
        if len(at):
            found = vote(cells, named, pairs.row[at])
            result[torch.from_numpy(at)] = torch.from_numpy(found).half()
    return result


def _around(votes: torch.Tensor, near: torch.Tensor, questions: torch.Tensor) -> torch.Tensor:
    """Return float32 [N, S]: the mean vote of each pair's neighbours."""
    total = torch.zeros(questions.shape)
    some = (near >= 0).sum(1).clamp_min(1)
    for j in range(near.shape[1]):
        at = near[:, j].long()
        value = votes[at.clamp_min(0)].gather(1, questions).float()
        total += torch.where((at >= 0)[:, None], value, 0.0)
    return total / some[:, None]


def _texts(
    pairs: Pairs,
    text_kind: npt.NDArray[np.int64],
    questions: npt.NDArray[np.int64],
    near: npt.NDArray[np.int32],
) -> npt.NDArray[np.int32]:
    """Return int32 [N, S], a text of each kind.

    It is the own one, that of the nearest cell with a text of the kind, or the kind's most frequent.
    """
    usual = np.zeros(int(text_kind.max()) + 1, dtype=np.int64)
    frequency = np.bincount(pairs.text, minlength=len(pairs.texts))
    for text in np.argsort(frequency, kind="stable"):
        usual[text_kind[text]] = text
    result = usual[questions]
    for j in range(near.shape[1])[::-1]:
        text = pairs.text[np.maximum(near[:, j], 0)]
        is_of = (text_kind[text][:, None] == questions) & (near[:, j] >= 0)[:, None]
        result = np.where(is_of, text[:, None], result)
    result = np.where(questions == questions[:, :1], pairs.text[:, None], result)
    return result.astype(np.int32)
