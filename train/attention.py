"""Attention over cells of unequal length, without padding where the device allows it.

Shape suffixes: Q queries and K keys of all cells in one line, H heads, P width of a head, B cells,
M the longest cell, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

__all__ = ["Lengths", "attend", "multiply"]

_KEPT = 16 << 20
"""Bytes of attention weights that one call may keep for its backward pass."""


class Lengths:
    """Number of tokens of each cell in a packed line.

    Parameters
    ----------
    counts
        int64 [B] on the CPU, 0 or more.
    device
        Where the tokens are.
    """

    def __init__(self, counts: torch.Tensor, device: torch.device) -> None:
        self.counts, self.device = counts, device
        self.each: list[int] = counts.tolist()

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest cell."""
        return max(self.each, default=0)

    @cached_property
    def first(self) -> torch.Tensor:
        """int64 [B] on the device: where each cell begins."""
        return (self.counts.cumsum(0) - self.counts).to(self.device, non_blocking=True)

    @cached_property
    def bounds(self) -> torch.Tensor:
        """int32 [B + 1] on the device: where each cell begins, and the end."""
        ends = F.pad(self.counts.cumsum(0), (1, 0)).to(torch.int32)
        return ends.to(self.device, non_blocking=True)

    @cached_property
    def place(self) -> torch.Tensor:
        """int64 [tokens] on the device: place of each token in the padded [B * M]."""
        cell = torch.repeat_interleave(torch.arange(len(self.each)), self.counts)
        within = torch.arange(len(cell)) - (self.counts.cumsum(0) - self.counts)[cell]
        return (cell * self.longest + within).to(self.device, non_blocking=True)

    @cached_property
    def filled(self) -> torch.Tensor:
        """Which places of the padded form hold a token, bool [B, M] on the device."""
        real = torch.arange(self.longest)[None, :] < self.counts[:, None]
        return real.to(self.device, non_blocking=True)

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """Return [tokens, ...] as [B, M, ...], zeros at the end of short cells."""
        width = packed.shape[1:]
        empty = packed.new_zeros(len(self.each) * self.longest, *width)
        return empty.index_copy(0, self.place, packed).view(-1, self.longest, *width)


def attend(
    query_QHP: torch.Tensor,
    key_KHP: torch.Tensor,
    value_KHP: torch.Tensor,
    queries: Lengths,
    keys: Lengths,
) -> torch.Tensor:
    """Return [Q, H, P]: softmax attention of each cell's queries over the same cell's keys.

    On the CPU cells are taken one by one, so that nothing is spent on padding. In float32 each is a
    call of the fused kernel; in bfloat16 that kernel is slower than three plain products, which are
    used instead (1.5 to 1.7 times as fast at 400 to 800 tokens, 32 wide heads, on Zen 4). On a GPU
    in half precision the variable-length flash kernel is used, else cells are padded.

    Parameters
    ----------
    queries, keys
        Lengths of the B cells in either line. A cell may have no query; each has a key.
    """
    if query_QHP.device.type == "cpu":
        if query_QHP.dtype == torch.float32:
            return _one_by_one(query_QHP, key_KHP, value_KHP, queries, keys)
        found: torch.Tensor = _PlainProducts.apply(  # type: ignore[no-untyped-call]
            query_QHP, key_KHP, value_KHP, queries.each, keys.each
        )
        return found
    if query_QHP.dtype in (torch.bfloat16, torch.float16):
        return _flash(query_QHP, key_KHP, value_KHP, queries, keys)
    return _padded(query_QHP, key_KHP, value_KHP, queries, keys)


def multiply(rows_RP: torch.Tensor, each_BPW: torch.Tensor, lengths: Lengths) -> torch.Tensor:
    """Return [R, W]: the rows of each cell times the matrix of that cell."""
    if rows_RP.device.type == "cpu":
        parts = _split(rows_RP, lengths)
        return torch.cat([r @ m for r, m in zip(parts, each_BPW.unbind(0), strict=True)])
    if not lengths.longest:
        return rows_RP @ each_BPW[:1].sum(0)
    product = lengths.pad(rows_RP) @ each_BPW
    return product.flatten(0, 1).index_select(0, lengths.place)


def _split(line: torch.Tensor, lengths: Lengths) -> tuple[torch.Tensor, ...]:
    """Cut a line into cells; the gradient of slices would be as long as the line, for each cell."""
    parts: tuple[torch.Tensor, ...] = line.split(lengths.each)  # type: ignore[no-untyped-call]
    return parts


def _one_by_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Lengths, keys: Lengths
) -> torch.Tensor:
    """The fused kernel, cell by cell."""
    lines = zip(_split(q, queries), _split(k, keys), _split(v, keys), queries.each, strict=True)
    mixed = [
        F.scaled_dot_product_attention(
            q1.transpose(0, 1)[None], k1.transpose(0, 1)[None], v1.transpose(0, 1)[None]
        )
        .squeeze(0)
        .transpose(0, 1)
        for q1, k1, v1, n in lines
        if n
    ]
    # A line without queries still passes a gradient, of zero.
    return torch.cat(mixed) if mixed else q + 0 * (k.sum() + v.sum())


class _PlainProducts(torch.autograd.Function):
    """Attention by three products per cell.

    The weights (queries x keys) are kept for the backward pass where they are few, which saves a
    tenth of a step; else they are computed again, as the fused kernel does. oneDNN compiles each
    new shape of product, which takes longer than the product; so the number of tokens is rounded up,
    into the tokens of the next cell, whose weights are then set to 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        queries: list[int],
        keys: list[int],
    ) -> torch.Tensor:
        out = torch.empty(q.shape, dtype=q.dtype)
        heads = out.transpose(0, 1)
        parts = list(_parts(queries, keys))
        size = sum(part.round_q * part.round_k for part in parts) * q.shape[1] * q.element_size()
        keep = any(ctx.needs_input_grad) and size <= _KEPT
        kept = []
        with torch.autocast("cpu", enabled=False):
            for part in parts:
                weights = _weights(part.queries(q), part.keys(k), part)
                mixed = torch.bmm(weights, part.keys(v))
                heads[:, part.q : part.q + part.n_q] = mixed[:, : part.n_q]
                if keep:
                    kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.parts = parts
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):  # type: ignore[no-untyped-def]
        q, k, v, *kept = ctx.saved_tensors
        gq, gk, gv = torch.empty(q.shape, dtype=q.dtype), *torch.zeros((2, *k.shape), dtype=k.dtype)
        hq, hk, hv = (line.transpose(0, 1) for line in (gq, gk, gv))
        scale = q.shape[-1] ** -0.5
        with torch.autocast("cpu", enabled=False):
            for number, part in enumerate(ctx.parts):
                q1, k1, v1, g1 = part.queries(q), part.keys(k), part.keys(v), part.queries(grad)
                weights = kept[number] if kept else _weights(q1, k1, part)
                slope = torch._softmax_backward_data(
                    torch.bmm(g1, v1.transpose(1, 2)), weights, -1, weights.dtype
                )
                own_q, own_k = slice(part.q, part.q + part.n_q), slice(part.k, part.k + part.n_k)
                hv[:, own_k] = torch.bmm(weights.transpose(1, 2), g1)[:, : part.n_k]
                torch.mul(torch.bmm(slope, k1)[:, : part.n_q], scale, out=hq[:, own_q])
                hk[:, own_k] = torch.bmm(slope.transpose(1, 2), q1 * scale)[:, : part.n_k]
        return gq, gk, gv, None, None


class _Part(NamedTuple):
    """One cell's place in the lines: where it begins, its tokens, and these rounded up."""

    q: int
    n_q: int
    round_q: int
    k: int
    n_k: int
    round_k: int

    def queries(self, line: torch.Tensor) -> torch.Tensor:
        """Return [H, tokens, P] of a line of queries."""
        return line.transpose(0, 1).narrow(1, self.q, self.round_q)

    def keys(self, line: torch.Tensor) -> torch.Tensor:
        """Return [H, tokens, P] of a line of keys."""
        return line.transpose(0, 1).narrow(1, self.k, self.round_k)


def _parts(queries: list[int], keys: list[int]) -> Iterator[_Part]:
    """Yield the cells that have queries."""
    left_q, left_k = sum(queries), sum(keys)
    at_q = at_k = 0
    for n_q, n_k in zip(queries, keys, strict=True):
        if n_q:
            round_q, round_k = min(_rounded(n_q), left_q), min(_rounded(n_k), left_k)
            yield _Part(at_q, n_q, round_q, at_k, n_k, round_k)
        at_q, at_k, left_q, left_k = at_q + n_q, at_k + n_k, left_q - n_q, left_k - n_k


def _rounded(n: int) -> int:
    return n if n <= 8 else -(-n // 32) * 32


def _weights(q_HQP: torch.Tensor, k_HKP: torch.Tensor, part: _Part) -> torch.Tensor:
    scores = torch.bmm(q_HQP * q_HQP.shape[-1] ** -0.5, k_HKP.transpose(1, 2))
    if part.n_k < part.round_k:
        scores[:, :, part.n_k :] = -torch.inf
    weights = torch.softmax(scores, -1)
    weights[:, part.n_q :] = 0
    return weights


def _flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Lengths, keys: Lengths
) -> torch.Tensor:
    if not len(q):
        return q + 0 * (k.sum() + v.sum())
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # an older torch
        return _padded(q, k, v, queries, keys)
    mixed = varlen_attn(q, k, v, queries.bounds, keys.bounds, queries.longest, keys.longest)
    assert isinstance(mixed, torch.Tensor)
    return mixed


def _padded(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Lengths, keys: Lengths
) -> torch.Tensor:
    if not len(q):
        return q + 0 * (k.sum() + v.sum())
    mixed = F.scaled_dot_product_attention(
        queries.pad(q).transpose(1, 2),
        keys.pad(k).transpose(1, 2),
        keys.pad(v).transpose(1, 2),
        attn_mask=keys.filled[:, None, None, :],
    )
    return mixed.transpose(1, 2).flatten(0, 1).index_select(0, queries.place)
