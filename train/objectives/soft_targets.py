"""Contrast of cells and texts with soft targets: over distinct texts, or over one column per pair.

Targets stand sparsely, as the texts of each pair's support and their shares. Shape suffixes as in
``train/batch.py``; S texts of a support, U texts of the joint batch that cells of this process are matched to.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from okrcell.train.batch import Bank, Step

__all__ = ["Targets", "candidate_texts", "candidate_vectors", "contrast", "contrast_columns"]


class Targets(NamedTuple):
    """What the cells of the joint batch are to be matched with; no gradient.

    Attributes
    ----------
    texts_NS
        int64: texts of each pair's support, its own text first.
    shares_NS
        float32: target, at least 0, of sum at most 1; repeated texts hold 0.
    bank_Q
        float32 [Q]: reliability of the bank's pairs, or None without a bank.
    """

    texts_NS: torch.Tensor
    shares_NS: torch.Tensor
    bank_Q: torch.Tensor | None


@torch.no_grad()
def candidate_texts(step: Step, targets: Targets, most: int) -> torch.Tensor:
    """Return int64 [C], ascending: the distinct texts that cells are matched against in this step.

    All T texts where there are at most ``most``. Else the texts of the joint batch and of their
    supports, always; then texts of the bank, and a draw from the rest, until there are ``most``.
    The draw is a function of the joint batch and the epoch alone: the same on every process and after
    a resume.
    """
    n_texts, device = len(step.table_TE), step.groups_N.device
    if n_texts <= most:
        return torch.arange(n_texts, device=device)
    chosen = torch.zeros(n_texts, dtype=torch.bool, device=device)
    chosen[step.groups_N] = True
    chosen[targets.texts_NS] = True
    seed = (int(step.pairs_N.sum()) * 1_000_003 + step.epoch) % 2**63
    order = torch.randperm(n_texts, generator=torch.Generator().manual_seed(seed)).to(device)
    if step.bank is not None:
        in_bank = torch.zeros_like(chosen)
        in_bank[step.bank.groups] = True
        order = torch.cat([order[in_bank[order]], order[~in_bank[order]]])
    free = order[~chosen[order]]
    chosen[free[: max(most - int(chosen.sum()), 0)]] = True
    return chosen.nonzero().squeeze(1)


def candidate_vectors(step: Step, candidates_C: torch.Tensor) -> torch.Tensor:
    """Return [C, E]: the candidates' vectors, of the table or, where they carry gradient, of the batch.

    Rows of one text are equal (the text tower has no dropout); their mean passes the gradient to all.
    """
    table_CE = step.table_TE[candidates_C]
    if not step.all_texts_NE.requires_grad:
        return table_CE
    place_N = torch.searchsorted(candidates_C, step.groups_N)
    count_C = torch.bincount(place_N, minlength=len(candidates_C))[:, None]
    sum_CE = torch.zeros_like(table_CE).index_add(0, place_N, step.all_texts_NE)
    return torch.where(count_C > 0, sum_CE / count_C.clamp_min(1), table_CE)


def divergence(shares: torch.Tensor, log_p: torch.Tensor, q: float) -> torch.Tensor:
    """Return per entry what, summed over a target's entries, is its cross-entropy, robust for q > 0.

    For a target y of sum 1 and a prediction p, with H the entropy of y::

        H(y) + sum_g y_g (1 - (p_g / y_g)^q) / q

    The sum is Tsallis' relative entropy. For one text it is the generalised cross-entropy
    (1 - p^q) / q (Zhang and Sabuncu, NeurIPS 2018); at q = 0 it is the cross-entropy, for any target.
    Its minimum is at p = y for every q: a group's share of 1 / n is no sign of doubt.
    """
    if q == 0:
        return -shares * log_p
    log_y = torch.where(shares > 0, shares, 1.0).log()
    # exp of the masked entries too, so that the gradient of those that count is all there is
    ratio = torch.where(shares > 0, q * (log_p - log_y), 0.0)
    return shares * (-torch.expm1(ratio) / q - log_y)


def contrast(
    step: Step,
    targets: Targets,
    candidates_C: torch.Tensor,
    vectors_CE: torch.Tensor,
    q: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses [n] cell to text, and the scalar text to cell, over distinct texts.

    Cell to text: a softmax over the candidates; the target of a cell is y_i, its shares. Text to
    cell: a softmax over the joint batch's cells and the bank's. A bank entry counts r_q times in its
    denominator. The target of a text g is y_j(g) of the batch's cells j and r_q of the bank's entries
    with the text g, scaled to sum 1; the text counts as much as this process's cells are matched to
    it. Texts that no pair of the joint batch carries are not asked for, so that there are no more
    queries than pairs. All cells of a text are wanted by it, and so none is its negative.
    """
    own = step.own
    logits_nC = (step.cells_nE / step.tau) @ vectors_CE.T
    place_NS = torch.searchsorted(candidates_C, targets.texts_NS).clamp_max(len(candidates_C) - 1)
    shares_nS = targets.shares_NS[own]
    log_p_nS = (logits_nC - logits_nC.logsumexp(1, keepdim=True)).gather(1, place_NS[own])
    weight_n = shares_nS.sum(1)
    scaled_nS = shares_nS / weight_n.clamp_min(torch.finfo(weight_n.dtype).tiny)[:, None]
    to_text_n = weight_n * divergence(scaled_nS, log_p_nS, q).sum(1)

    mass_C = torch.zeros(len(candidates_C), device=place_NS.device)
    mass_C = mass_C.index_add(0, place_NS[own].flatten(), shares_nS.flatten())
    asked_C = torch.zeros_like(mass_C, dtype=torch.bool)
    asked_C[place_NS[:, 0]] = True
    anchors_U = (asked_C & (mass_C > 0)).nonzero().squeeze(1)
    if not len(anchors_U):
        # Every process must have the joint cells in its graph: their gradient is gathered.
        return to_text_n, step.all_cells_NE.sum() * 0
    bank = step.bank if targets.bank_Q is not None else None
    keys = step.all_cells_NE if bank is None else torch.cat([step.all_cells_NE, bank.cells])
    # The short side is divided by the temperature, not the product: one [U, N + Q] array less.
    logits = (vectors_CE[anchors_U] / step.tau) @ keys.T
    slot_C = torch.full((len(candidates_C),), -1, device=place_NS.device)
    slot_C[anchors_U] = torch.arange(len(anchors_U), device=place_NS.device)
    slot_NS = slot_C[place_NS]
    row, column = ((slot_NS >= 0) & (targets.shares_NS > 0)).nonzero(as_tuple=True)
    anchor, key, share = slot_NS[row, column], row, targets.shares_NS[row, column]
    if bank is not None and targets.bank_Q is not None:
        logits[:, len(step.all_cells_NE) :] += targets.bank_Q.log()  # an entry counts r times
        more = _of_bank(bank, targets.bank_Q, candidates_C, slot_C)
        anchor = torch.cat([anchor, more[0]])
        key = torch.cat([key, more[1] + len(step.groups_N)])
        share = torch.cat([share, more[2]])
    log_z_U = logits.logsumexp(1)
    log_p = logits[anchor, key] - log_z_U[anchor]
    total_U = share.new_zeros(len(anchors_U)).index_add(0, anchor, share)
    losses = divergence(share / total_U[anchor], log_p, q)
    to_cell = (mass_C[anchors_U][anchor] * losses).sum() / len(step.cells_nE)
    return to_text_n, to_cell


def _of_bank(
    bank: Bank, bank_Q: torch.Tensor, candidates_C: torch.Tensor, slot_C: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return anchor, bank entry and share of the bank's cells that carry an anchor's text."""
    place = torch.searchsorted(candidates_C, bank.groups).clamp_max(len(candidates_C) - 1)
    slot = torch.where(candidates_C[place] == bank.groups, slot_C[place], -1)
    entry = ((slot >= 0) & (bank_Q > 0)).nonzero().squeeze(1)
    return slot[entry], entry, bank_Q[entry]


def contrast_columns(step: Step, targets: Targets, q: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses [n] cell to text, and the scalar text to cell, with a column per pair.

    As in InfoNCE: the softmax runs over the pairs of the joint batch and of the bank, other pairs of
    the same text are wrong. The share of a pair's own text is its own column's; that of another text
    is spread over the batch's columns of that text, and where there is none the rest grows to make
    up for it.
    """
    own = step.own
    want_NN = _columns(step, targets)
    in_bank = (None, None) if step.bank is None else (step.bank.texts, step.bank.cells)
    losses = []
    for queries_nE, keys_NE, keys_QE, want_nN in (
        (step.cells_nE, step.all_texts_NE, in_bank[0], want_NN[own]),
        (step.texts_nE, step.all_cells_NE, in_bank[1], want_NN[:, own].T),
    ):
        keys = keys_NE if keys_QE is None else torch.cat([keys_NE, keys_QE])
        logits = (queries_nE / step.tau) @ keys.T
        if targets.bank_Q is not None:
            logits[:, len(keys_NE) :] += targets.bank_Q.log()
        log_p = logits[:, : len(keys_NE)] - logits.logsumexp(1, keepdim=True)
        weight_n = want_nN.sum(1)
        scaled = want_nN / weight_n.clamp_min(torch.finfo(weight_n.dtype).tiny)[:, None]
        losses.append(weight_n * divergence(scaled, log_p, q).sum(1))
    return losses[0], losses[1].mean()


@torch.no_grad()
def _columns(step: Step, targets: Targets) -> torch.Tensor:
    """Return [N, N]: the target of each cell over the pairs of the joint batch."""
    texts, column_N, count = torch.unique(step.groups_N, return_inverse=True, return_counts=True)
    place_NS = torch.searchsorted(texts, targets.texts_NS).clamp_max(len(texts) - 1)
    here_NS = texts[place_NS] == targets.texts_NS
    shares_NS = torch.where(here_NS, targets.shares_NS, 0.0)
    before, after = targets.shares_NS.sum(1, keepdim=True), shares_NS.sum(1, keepdim=True)
    shares_NS = shares_NS * before / after.clamp_min(torch.finfo(after.dtype).tiny)
    others = shares_NS.clone()
    others[:, 0] = 0
    spread = torch.zeros((len(column_N), len(texts)), device=texts.device)
    spread = spread.scatter_add(1, place_NS, others) / count
    want_NN: torch.Tensor = spread[:, column_N]
    want_NN.diagonal().add_(shares_NS[:, 0])
    return want_NN
