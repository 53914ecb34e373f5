"""What pretraining reads: contexts, tokens and actions of windows of episodes.

A frame's tokens are its own with a frame tokenizer, so they come from a cache (`CachedWindows`).
With a compressive tokenizer they depend on the context as well, and are made when they are needed
(`EncodedWindows`). There the context may be older than what is shown (`older_context`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vidwm.data.cache import CachedTokens
from vidwm.data.sampler import ClipSource
from vidwm.data.windows import Window
from vidwm.training.older_context import older_frames
from vidwm.world_model.codec import CompressiveCodec
from vidwm.world_model.layout import Layout


class Clips(NamedTuple):
    """context (B, ...), tokens (B, h, N) int64, actions (B, T, A) float32."""

    context: Tensor
    tokens: Tensor
    actions: Tensor

    def part(self, clips: slice) -> Clips:
        """Some of them."""
        return Clips(self.context[clips], self.tokens[clips], self.actions[clips])


class TokenWindows(Protocol):
    """Numbered windows; `draw` names the random choices, the same draw gives the same clips."""

    def __len__(self) -> int: ...

    def batch(self, numbers: Sequence[int], draw: int) -> Clips: ...


class CachedWindows:
    """Of tokenised episodes; nothing is random."""

    def __init__(
        self, clips: CachedTokens, windows: Sequence[Window], layout: Layout, frame_skip: int
    ) -> None:
        self.clips, self.windows = clips, windows
        self.layout, self.frame_skip = layout, frame_skip

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, numbers: Sequence[int], draw: int) -> Clips:
        frames, c = self.layout.num_frames, self.layout.context_frames
        chosen = [self.windows[number] for number in numbers]
        pairs = [self.clips.clip(w.episode, w.start, frames, self.frame_skip) for w in chosen]
        tokens, actions = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return Clips(tokens[:, :c], tokens[:, c:], actions)


class EncodedWindows:
    """Of recorded clips; their frames in full are drawn from up to `gap` steps further back."""

    def __init__(
        self, source: ClipSource, codec: CompressiveCodec, device: torch.device, gap: int = 0
    ) -> None:
        self.source, self.codec, self.device, self.gap = source, codec, device, gap

    def __len__(self) -> int:
        return len(self.source.windows)

    @torch.no_grad()
    def batch(self, numbers: Sequence[int], draw: int) -> Clips:
        c, batch = self.codec.layout.context_frames, self.source.batch(numbers)
        full = older_frames(self.source, numbers, c, self.gap, draw).to(self.device)
        shown = batch.float_frames()[:, c - 1 :].to(self.device)
        context, tokens = self.codec.encode_given(full, shown)
        return Clips(context.cpu(), tokens.cpu(), batch.actions)
