"""Random numbers as hashes of (key, purpose, pair, gene): the same in any batch, on any process."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["cell_seeds", "hashes"]

_Ints = npt.NDArray[np.int64]
_U64 = npt.NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def cell_seeds(key: int | None, salt: int, ids: _Ints) -> _U64:
    """Return uint64 [B]: where each cell's stream of random numbers starts."""
    start = np.array([0 if key is None else key, salt], dtype=np.uint64)
    start = _mix(start * _GOLDEN)
    return _mix(_mix(ids.astype(np.uint64) * _GOLDEN ^ start[0]) ^ start[1])


def hashes(genes: npt.NDArray[np.int32], counts: _Ints, seeds: _U64) -> npt.NDArray[np.uint32]:
    """Return uint32 [M]: a hash of each cell's seed at each of its tokens.

    The seed's halves make a line through the tokens, which the finaliser of MurmurHash3 (Appleby)
    scatters: a bijection, as the slope is odd. 32 bits take a third of the time of 64.
    """
    drawn = np.repeat((seeds >> np.uint64(32)).astype(np.uint32) | np.uint32(1), counts)
    drawn *= genes.view(np.uint32)
    drawn += np.repeat(seeds.astype(np.uint32), counts)
    shifted = drawn >> np.uint32(16)
    for factor, shift in ((0x85EBCA6B, 13), (0xC2B2AE35, 16)):
        drawn ^= shifted
        drawn *= np.uint32(factor)
        np.right_shift(drawn, np.uint32(shift), out=shifted)
    drawn ^= shifted
    return drawn


def _mix(x: _U64) -> _U64:
    """Scatter 64 bits, in place (the finaliser of splitmix64, Steele et al. 2014)."""
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(x, np.uint64(27), out=shifted)
    x ^= shifted
    x *= np.uint64(0x94D049BB133111EB)
    np.right_shift(x, np.uint64(31), out=shifted)
    x ^= shifted
    return x
