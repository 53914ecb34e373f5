"""Random numbers without state: a hash of what they are for.

SplitMix64 (Steele, Lea, Flood 2014) as a hash: its finaliser is a bijection of 64-bit integers that
mixes every input bit into every output bit. Seed, key, rollout and position are absorbed one after
the other; the top 52 bits of the result make the number.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Constants of SplitMix64 as signed 64-bit integers; int64 products wrap, as the method wants.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FIRST = 0xBF58476D1CE4E5B9 - 2**64
SECOND = 0x94D049BB133111EB - 2**64


def uniform(seed: int, keys: Tensor, rollouts: Tensor, positions: Tensor) -> Tensor:
    """Numbers in [0, 1) for contexts (B,), rollouts (G,) and positions (...), all int64.

    -> (B, G, ...) float64 of 52 random bits, never 1. `seed` is any 64-bit integer.
    """
    extra = (1,) * positions.ndim
    # Python's remainder brings any seed, negative ones too, into the range of int64.
    start = torch.full_like(keys, (seed + 2**63) % 2**64 - 2**63)
    state = _mix(_mix(start) ^ keys).view(-1, 1, *extra)
    state = _mix(state ^ rollouts.view(-1, *extra))
    state = _mix(state ^ positions)
    return _shift(state, 12).double() * 2.0**-52


def _mix(x: Tensor) -> Tensor:
    x = x + GOLDEN
    x = (x ^ _shift(x, 30)) * FIRST
    x = (x ^ _shift(x, 27)) * SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: int64's own would copy the sign into the top bits."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
