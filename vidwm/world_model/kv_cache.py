"""Keys and values of B contexts, each continued by G rollouts.

The prefix is stored once per context and shared by its group; only the suffix, what the rollouts
have generated so far, exists once per rollout. Both are attended to by `group_attention`.
"""

from __future__ import annotations

from torch import Tensor
from vidwm_kernels.group_attention import group_attention

from vidwm.world_model.attention import Prefix


class GroupCache:
    """Room for `capacity` tokens after the prefix, preallocated."""

    def __init__(self, prefix: Prefix, group_size: int, capacity: int) -> None:
        self.prefix = [(k.contiguous(), v.contiguous()) for k, v in prefix]
        B, heads, self.prefix_length, D = self.prefix[0][0].shape
        self.capacity, self.length = capacity, 0
        shape = (B, group_size, heads, capacity, D)
        self.suffix = [(k.new_empty(shape), v.new_empty(shape)) for k, v in self.prefix]

    @property
    def position(self) -> int:
        """Position of the next token in the sequence."""
        return self.prefix_length + self.length

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v (B, G, L, kv heads, D), then attend from q (B, G, L, heads, D)."""
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, {end} were fed")
        keys, values = self.suffix[layer]
        keys[:, :, :, self.length : end] = k.transpose(2, 3)
        values[:, :, :, self.length : end] = v.transpose(2, 3)
        return group_attention(q, *self.prefix[layer], keys, values, end)

    def advance(self, count: int) -> None:
        """Make the `count` tokens just stored part of the suffix."""
        self.length += count
