"""The token sequence of a compressive tokenizer: context frames in full, then few tokens a frame.

    ids       0 .. K-1 visual | K .. K+Kc-1 of context frames | M action | bos | eos

    sequence  x0 .. x(c-1) d(c-1) a(c-1) | d(c) a(c) d(c+1) .. a(T-2) d(T-1) a(T-1)
              '-------- prompt --------'   '------------- future -----------' '- tail -'
    length    Nc   ..  Nc  N      A        N    A    N      ..  A      N      A
    loss      -        -   -      -        N    -    N          -      N      -

x(t) is context frame t in full, d(t) frame t given the context. The last context frame is written
both ways: what is predicted continues d(c-1), which a longer rollout replaces by its newest frame
while x stays (`advanced`). For c = 1 this is the multi-step sequence of RLVR-World (arXiv
2505.13934, section 5), where x may be an older frame than d; bos and eos have ids but do not occur.
Actions between context frames are not written.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from vidwm.world_model.layout import Layout, check_range


@dataclass(frozen=True, kw_only=True)
class CompressiveLayout(Layout):
    """Kc and Nc beside the sizes of `Layout`. A context is (B, c * Nc + N): x0 .. x(c-1) d(c-1)."""

    context_codebook_size: int
    tokens_per_context_frame: int

    @property
    def first_action_id(self) -> int:
        return self.codebook_size + self.context_codebook_size

    @property
    def full_length(self) -> int:
        """c * Nc."""
        return self.context_frames * self.tokens_per_context_frame

    @property
    def context_shape(self) -> tuple[int, ...]:
        return (self.full_length + self.tokens_per_frame,)

    @property
    def prompt_length(self) -> int:
        """P."""
        return self.full_length + self.block

    @property
    def sequence_length(self) -> int:
        """L: prompt, future and the tail."""
        return self.prompt_length + self.horizon * self.block

    @property
    def copy_distances(self) -> tuple[int, ...]:
        return (self.block - 1,)

    def context(self, full: Tensor, given: Tensor) -> Tensor:
        """Tokens of context frames in full (B, c, Nc) and of the last, given them, (B, N)."""
        return torch.cat([full.flatten(1), given], dim=1)

    def full(self, context: Tensor) -> Tensor:
        """Tokens (B, c, Nc) of its frames in full."""
        return context[:, : self.full_length].unflatten(1, (self.context_frames, -1))

    def last_frame(self, context: Tensor) -> Tensor:
        return context[:, self.full_length :]

    def stillness(self, context: Tensor) -> Tensor:
        """0: from one frame of its kind nothing is known."""
        return torch.zeros(len(context), device=context.device)

    def advanced(self, context: Tensor, tokens: Tensor) -> Tensor:
        """The newest frame takes the place of d(c-1); the context frames stay."""
        return torch.cat([context[:, : self.full_length], tokens[:, -1]], dim=1)

    def of_context(self, context: Tensor) -> CompressiveLayout:
        frames = (len(context) - self.tokens_per_frame) // self.tokens_per_context_frame
        return dataclasses.replace(self, context_frames=frames)

    def prompt(self, context: Tensor, bins: Tensor) -> Tensor:
        """Context (B, c * Nc + N) and bins (B, >= c, A) -> ids (B, P)."""
        c = self.context_frames
        if context.ndim != 2 or context.shape[1:] != self.context_shape:
            raise ValueError(
                f"a context must be (B, {self.context_shape[0]}), got {tuple(context.shape)}"
            )
        full, last = context[:, : self.full_length], self.last_frame(context)
        check_range(full, self.context_codebook_size, "context tokens")
        self._check(last[:, None], 1, bins, c)
        actions = self.action_ids(bins[:, c - 1])
        return torch.cat([self.codebook_size + full, last, actions], dim=1)

    def sequence(self, context: Tensor, tokens: Tensor, bins: Tensor) -> Tensor:
        """Context, predicted tokens (B, h, N) and bins (B, >= T, A) -> ids (B, L) int64."""
        prompt, future = self.prompt(context, bins), self.future(tokens, bins)
        if bins.shape[1] < self.num_frames:
            raise ValueError(f"there must be {self.num_frames} actions, got {bins.shape[1]}")
        tail = self.action_ids(bins[:, self.num_frames - 1])
        return torch.cat([prompt, future, tail], dim=1)
