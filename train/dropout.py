"""Dropout that is cheap on a CPU, where torch's costs more than the product it follows.

torch draws a uniform number per value there, in one thread. Here 16 random bits decide about a value,
from a generator that torch's own one seeds, and the mask is applied as a bitwise AND.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

__all__ = ["Dropout"]

_INTEGER = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


class Dropout:
    """The dropout of one forward pass. Its draws are a function of torch's generator.

    On the CPU the share is rounded to a multiple of 1/32768. Kept values are scaled so that the
    expectation is unchanged.

    Parameters
    ----------
    share
        Probability that a value becomes 0, below 1.
    active
        Whether anything is dropped: the module's ``training``.
    """

    def __init__(self, share: float, active: bool, device: torch.device) -> None:
        self.share = share if active else 0.0
        self._cut = min(round(self.share * 32768), 32767)
        self._bits: np.random.SFC64 | None = None
        if self.share and device.type == "cpu":
            self._bits = np.random.SFC64(int(torch.randint(2**63 - 1, ())))

    def drop(self, values: torch.Tensor) -> torch.Tensor:
        """Return values, some of them 0."""
        if self._bits is None:
            return F.dropout(values, self.share) if self.share else values
        dropped: torch.Tensor = _Masked.apply(  # type: ignore[no-untyped-call]
            values, *self._mask(values)
        )
        return dropped

    def add(self, residual: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        """Return ``residual + drop(update)``."""
        if self._bits is None:
            return residual + self.drop(update)
        total: torch.Tensor = _AddMasked.apply(  # type: ignore[no-untyped-call]
            residual, update, *self._mask(update)
        )
        return total

    def _mask(self, values: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return int16, -1 where a value is kept and 0 elsewhere; and the scale of what is kept."""
        assert self._bits is not None
        raw = self._bits.random_raw(-(-values.numel() // 4))
        mask = torch.from_numpy(np.atleast_1d(raw).view(np.int16)[: values.numel()])
        # 15 bits less a threshold have the sign bit of what is kept; shifting spreads it.
        mask.bitwise_right_shift_(1).sub_(16384 - self._cut).bitwise_right_shift_(15)
        return mask.view(values.shape), 32768 / (32768 - self._cut)


def _masked(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    integer = _INTEGER[values.dtype]
    bits = values.contiguous().view(integer)
    return torch.bitwise_and(bits, mask.to(integer)).view(values.dtype)


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return _masked(values, mask).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):  # type: ignore[no-untyped-def]
        (mask,) = ctx.saved_tensors
        return _masked(grad, mask).mul_(ctx.scale), None, None


class _AddMasked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, residual: torch.Tensor, update: torch.Tensor, mask: torch.Tensor, scale: float
    ) -> torch.Tensor:
        ctx.save_for_backward(mask)
        ctx.scale, ctx.dtype = scale, update.dtype
        return torch.add(residual, _masked(update, mask), alpha=scale)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):  # type: ignore[no-untyped-def]
        (mask,) = ctx.saved_tensors
        return grad, _masked(grad.to(ctx.dtype), mask).mul_(ctx.scale), None, None
