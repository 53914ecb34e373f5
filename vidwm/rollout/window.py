"""One window of frames: what is decided, what is given, and where everything stands.

    future position   0 .. N-1   N .. N+A-1   N+A ..          L-1
    what              frame c    action c     frame c+1  ...  last token of the last frame
    decided by        sampling   the request  sampling        sampling

Positions count from the first predicted token; position j is predicted by the token at j - 1, and
position 0 by the context. One frame and its actions are a block, so the token at the same place of
the frame before stands one block earlier.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidwm.world_model.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Window:
    """What one window is decoded from.

    previous (B, N), the last context frame; actions (B, frames-1, A) ids, those
    between the predicted frames; states (B, G, frames, N), the randomness of every token;
    legal (N, K) or (K,) bool, or None where all tokens are; stillness (B,), the share of tokens
    that the last two context frames have in common.
    """

    layout: Layout
    previous: Tensor
    actions: Tensor
    states: Tensor
    legal: Tensor | None
    stillness: Tensor

    @classmethod
    def after(
        cls,
        layout: Layout,
        context: Tensor,
        actions: Tensor,
        states: Tensor,
        legal: Tensor | None = None,
    ) -> Window:
        """The window that follows contexts (B, ...)."""
        return cls(
            layout=layout,
            previous=layout.last_frame(context),
            actions=actions,
            states=states,
            legal=legal,
            stillness=layout.stillness(context),
        )

    @property
    def frames(self) -> int:
        """Frames to predict."""
        return self.states.shape[2]

    @property
    def length(self) -> int:
        """L: future positions, up to the last frame's last token."""
        return self.frames * self.layout.block - self.layout.action_dims

    def legal_at(self, position: int | Tensor) -> Tensor | None:
        """Which ids may stand at future positions (...): (..., K), or (K,) where all are alike."""
        if self.legal is None or self.legal.ndim == 1:
            return self.legal
        last = self.layout.tokens_per_frame - 1
        if isinstance(position, int):
            return self.legal[min(position % self.layout.block, last)]
        return self.legal[(position % self.layout.block).clamp(max=last)]

    def timeline(self) -> Tensor:
        """(B, G, block + L) ids: the previous frame's block, then the future with its actions.

        Position j stands at block + j, so the token one frame before it stands at j. Undecided
        tokens are 0.
        """
        B, G = self.states.shape[:2]
        layout = self.layout
        blocks = self.actions.new_zeros(B, 1 + self.frames, layout.block)
        blocks[:, 0, : layout.tokens_per_frame] = self.previous
        blocks[:, 1:-1, layout.tokens_per_frame :] = self.actions
        flat = blocks.flatten(1)[:, : layout.block + self.length]
        return flat[:, None].repeat(1, G, 1)

    def padded_states(self) -> Tensor:
        """(B, G, L): the randomness by future position, 0 where actions stand."""
        padded = torch.nn.functional.pad(self.states, (0, self.layout.action_dims))
        return padded.flatten(2)[..., : self.length]

    def is_sampled(self) -> Tensor:
        """(L,) bool: whether a position is sampled, not given."""
        places = torch.arange(self.length, device=self.states.device) % self.layout.block
        return places < self.layout.tokens_per_frame

    def frames_of(self, by_position: Tensor) -> Tensor:
        """(B, G, L) by position -> (B, G, frames, N): without the actions."""
        padded = torch.nn.functional.pad(by_position, (0, self.layout.action_dims))
        blocks = padded.view(*padded.shape[:2], self.frames, self.layout.block)
        return blocks[..., : self.layout.tokens_per_frame]
