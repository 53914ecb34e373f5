"""Keys and values of B contexts, each continued by G rollouts.

The prefix is stored once per context and shared by its group; only the suffix, what the rollouts
have generated so far, exists once per rollout. Nothing is ever moved: a rollout's `length` says how
much of its suffix counts, and what lies beyond it is overwritten.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class GroupCache:
    """Room for `capacity` tokens after the prefix, preallocated.

    prefix: per layer (B, kv heads, P, D) twice; suffix: per layer (B, G, kv heads, capacity, D)
    twice; length: tokens in the suffix, one number while all rollouts go in step, (B, G) int64 once
    they do not.
    """

    def __init__(
        self, prefix: Iterable[tuple[Tensor, Tensor]], group_size: int, capacity: int
    ) -> None:
        self.prefix = [(k.contiguous(), v.contiguous()) for k, v in prefix]
        B, heads, self.prefix_length, D = self.prefix[0][0].shape
        self.capacity = capacity
        self.length: int | Tensor = 0
        shape = (B, group_size, heads, capacity, D)
        # Zeros, not whatever the memory held: what is not seen must still be finite.
        self.suffix = [(k.new_zeros(shape), v.new_zeros(shape)) for k, v in self.prefix]

    @property
    def position(self) -> int | Tensor:
        """Position of the next token in the sequence."""
        return self.length + self.prefix_length

    def select(self, contexts: Tensor, rollouts: Tensor) -> None:
        """Keep contexts (B',) and of each of them rollouts (B', G'), in that order."""
        rows = contexts[:, None]
        # One by one, so that no more than a layer is held twice.
        for layer, ((k, v), (new_k, new_v)) in enumerate(
            zip(self.prefix, self.suffix, strict=True)
        ):
            self.prefix[layer] = k[contexts], v[contexts]
            self.suffix[layer] = new_k[rows, rollouts], new_v[rows, rollouts]
        if isinstance(self.length, Tensor):
            self.length = self.length[rows, rollouts]


def cache_bytes(
    layers: int, kv_heads: int, head_dim: int, prefix: int, suffix: int, group_size: int, size: int
) -> int:
    """Bytes that one context takes: its prefix once, its suffixes `group_size` times."""
    return 2 * layers * kv_heads * head_dim * (prefix + group_size * suffix) * size


def ragged(length: int | Tensor, like: Tensor) -> Tensor:
    """`length` per rollout: (B, G) int64 on the device of ids (B, G, ...)."""
    if isinstance(length, Tensor):
        return length
    return torch.full(like.shape[:2], length, dtype=torch.int64, device=like.device)
