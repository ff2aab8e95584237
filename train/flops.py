"""Floor of the cell towers: operations and bytes per cell, and the rate that a machine can reach.

A multiply-add counts as two operations, as in the figures of makers and in model FLOPs utilisation.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Literal, NamedTuple

import torch

from okrcell.train.config import Shape, TrainConfig
from okrcell.train.encoder import QUERY_DIM

__all__ = ["Cost", "cost", "fast_precision", "flops", "peak_flops"]

_FLOAT = 4


class Cost(NamedTuple):
    """What one cell costs.

    Attributes
    ----------
    forward, train
        Operations of the forward pass, and of forward and backward pass. The backward pass counts
        twice the forward one; what a kernel computes again is not counted.
    momentum_full, momentum_masked
        Operations of the momentum tower on all genes of the cell, and on its known ones.
    moved
        Bytes that a training step reads and writes for the cell's activations if every operation
        reads its inputs and writes its output once; weights are not counted, a batch shares them.
    kept
        Bytes of activations that the forward pass keeps for the backward pass. In bfloat16 on a
        CPU each call of attention may keep 16 MiB besides.
    """

    forward: float
    train: float
    momentum_full: float
    momentum_masked: float
    moved: float
    kept: float


def flops(
    config: TrainConfig,
    n_known: int,
    n_hidden: int,
    text_dim: int = 384,
    n_genes: int | None = None,
) -> float:
    """Return the operations of one cell's forward pass in matrix products and attention.

    Parameters
    ----------
    n_known
        Known tokens, ``<cls>`` among them; without effect for ``mlp``.
    n_hidden
        Hidden genes; 0 means that none are predicted.
    text_dim
        E, width of the text vectors.
    n_genes
        Genes that ``mlp`` reads; ``config.hvgs`` where not given.
    """
    shape = config.shape
    dim, feed = shape.dim, shape.feed_forward
    project = 2.0 * dim * text_dim
    if config.preset == "mlp":
        return 2.0 * dim * ((config.hvgs if n_genes is None else n_genes) + dim) + project
    square = 2.0 * dim * dim
    after = square + 4.0 * dim * feed
    inner = n_known * (3 * square + after) + 4.0 * n_known * n_known * dim
    final = n_known * 2 * square + square + after + 4.0 * n_known * dim
    total = (shape.blocks - 1) * inner + final + project
    if n_hidden:
        block = n_hidden * (square + after) + 4.0 * n_hidden * n_known * dim
        gep = n_hidden * (square + 2.0 * dim * config.n_bins)
        query = n_hidden * 2.0 * QUERY_DIM * (dim + config.n_bins)
        total += shape.blocks * block + gep + query + 2.0 * dim * config.n_bins * QUERY_DIM
    return total


def cost(
    config: TrainConfig,
    n_known: int,
    n_hidden: int,
    *,
    text_dim: int = 384,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Cost:
    """Return operations and bytes of one cell; see :class:`Cost`."""
    forward = flops(config, n_known, n_hidden, text_dim)
    moved, kept = _bytes(config, n_known, n_hidden, 2 if precision == "bf16" else _FLOAT)
    return Cost(
        forward,
        3 * forward,
        flops(config, n_known + n_hidden, 0, text_dim),
        flops(config, n_known, 0, text_dim),
        3 * moved,
        kept,
    )


def _bytes(config: TrainConfig, n_known: int, n_hidden: int, width: int) -> tuple[float, float]:
    """Return bytes moved by a forward pass and bytes kept; the residual line is float32."""
    shape: Shape = config.shape
    dim, feed = shape.dim, shape.feed_forward
    if config.preset == "mlp":
        values = config.hvgs + 4 * dim
        return 2.0 * _FLOAT * values, 1.0 * _FLOAT * values
    # Two norms; products into queries, mix and feed-forward; two dropouts; two sums.
    residual_moved, residual_kept = 6 * _FLOAT * dim, 2 * _FLOAT * dim
    rest_moved, rest_kept = width * (9 * dim + 4 * feed), width * (4 * dim + 2 * feed) + 4 * dim
    token_moved, token_kept = residual_moved + rest_moved, residual_kept + rest_kept
    pair_moved, pair_kept = width * 4 * dim, width * 2 * dim
    known_moved, known_kept = token_moved + pair_moved, token_kept + pair_kept
    blocks = shape.blocks
    final = n_known * (_FLOAT * dim + width * 4 * dim)
    moved = (blocks - 1) * n_known * known_moved + final + blocks * n_hidden * token_moved
    kept = (blocks - 1) * n_known * known_kept + final + blocks * n_hidden * token_kept
    heads = n_hidden * (width * 3 * dim + _FLOAT * 4 * config.n_bins)
    return float(moved + heads), float(kept + heads)


@lru_cache(maxsize=8)
def peak_flops(device: str, precision: Literal["fp32", "bf16"]) -> float:
    """Return operations per second of a large square product, measured once per process.

    This is what the machine gives at that moment, and not its maker's figure: on a shared or
    throttled machine it is lower.
    """
    kind = torch.device(device).type
    size, dtype = 8192 if kind == "cuda" else 1536, _DTYPES[precision]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        _wait(kind)
        start = time.perf_counter()
        torch.mm(left, right)
        _wait(kind)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _wait(kind: str) -> None:
    if kind == "cuda":
        torch.cuda.synchronize()


def fast_precision(device: str) -> Literal["fp32", "bf16"]:
    """Return the faster arithmetic of a device.

    bfloat16 on GPUs that have it and on processors that multiply in it (AVX-512 BF16 or AMX);
    elsewhere it is emulated, and slower than float32.
    """
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    # These names are torch's own business: a version without them gets the safe answer.
    supported = any(getattr(torch.cpu, name, lambda: False)() for name in checks)
    return "bf16" if supported else "fp32"
