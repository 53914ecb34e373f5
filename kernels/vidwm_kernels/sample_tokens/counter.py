"""Random numbers without state: hashes of what they are for.

Every token has a 64-bit state, a hash of (seed, context key, rollout, position) that absorbs one
name after the other with the finaliser of SplitMix64 (Steele, Lea, Flood 2014). Every id of the
vocabulary then has a number of its own: the finaliser of MurmurHash3 (32 bits) over the id and both
halves of the state. Both finalisers are bijections in which every input bit moves every output bit.
32 bits for the second, because it runs once per id and twice as many fit in a vector register.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _signed(value: int, bits: int) -> int:
    """The signed integer with the same `bits` bits: torch's products wrap, as hashes want."""
    return (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


GOLDEN = _signed(0x9E3779B97F4A7C15, 64)
SPLITMIX = (_signed(0xBF58476D1CE4E5B9, 64), _signed(0x94D049BB133111EB, 64))
GOLDEN_32 = _signed(0x9E3779B9, 32)
MURMUR = (_signed(0x85EBCA6B, 32), _signed(0xC2B2AE35, 32))
LARGEST_BELOW_ONE = 1 - 2.0**-24


def token_states(seed: int, keys: Tensor, rollouts: Tensor, positions: Tensor) -> Tensor:
    """States of tokens: keys (B,), rollouts (G,), positions (...), all int64 -> (B, G, ...) int64.

    `seed` is any integer; only its lowest 64 bits count.
    """
    extra = (1,) * positions.ndim
    start = torch.full_like(keys, _signed(seed, 64))
    state = _splitmix(_splitmix(start) ^ keys).view(-1, 1, *extra)
    state = _splitmix(state ^ rollouts.view(-1, *extra))
    return _splitmix(state ^ positions)


def restated(states: Tensor, attempt: int) -> Tensor:
    """States for drawing the same tokens once more, at attempt 1, 2, ...: (...) int64."""
    return _splitmix(states ^ attempt)


def uniforms(states: Tensor, low: int, high: int) -> Tensor:
    """Numbers of the ids low .. high-1: states (...) -> (..., high - low) float32 in (0, 1).

    Steps of 2^-24 near 1, finer towards 0; never 0 and never 1.
    """
    # An int64 shifted up and down again keeps its lower half, sign included.
    lower, upper = (half.int()[..., None] for half in ((states << 32) >> 32, states >> 32))
    ids = torch.arange(low, high, dtype=torch.int32, device=states.device)
    x = ids * GOLDEN_32 + lower
    # In place from here on: this is the inner loop of sampling on a CPU.
    x ^= (x >> 16) & 0xFFFF
    x *= MURMUR[0]
    x += upper
    x ^= (x >> 13) & 0x7FFFF
    x *= MURMUR[1]
    x ^= (x >> 16) & 0xFFFF
    x &= 0x7FFFFFFF
    return x.float().add_(0.5).mul_(2.0**-31).clamp_(max=LARGEST_BELOW_ONE)


def _splitmix(x: Tensor) -> Tensor:
    x = x + GOLDEN
    x = (x ^ _shift(x, 30)) * SPLITMIX[0]
    x = (x ^ _shift(x, 27)) * SPLITMIX[1]
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: int64's own would copy the sign into the top bits."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
