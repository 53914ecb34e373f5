"""What pretraining reads: contexts, tokens and actions of windows of episodes.

A frame's tokens are its own with a frame tokenizer, so they come from a cache (`CachedWindows`).
With a compressive tokenizer they depend on the context as well, and are made when they are needed
(`EncodedWindows`). There the context may be older than what is shown, as it is in long rollouts:
up to `context_gap` frames, drawn anew every time. RLVR-World draws up to 15 (arXiv 2505.13934).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vidwm.data.cache import TokenClips
from vidwm.data.sampler import ClipSource, Window
from vidwm.world_model.codec import CompressiveCodec
from vidwm.world_model.layout import Layout


class Clips(NamedTuple):
    """context (B, ...), tokens (B, h, N) int64, actions (B, T, A) float32."""

    context: Tensor
    tokens: Tensor
    actions: Tensor


class TokenWindows(Protocol):
    """Numbered windows; `draw` names the random choices, the same draw gives the same clips."""

    def __len__(self) -> int: ...

    def batch(self, numbers: Sequence[int], draw: int) -> Clips: ...


class CachedWindows:
    """Of tokenised episodes; nothing is random."""

    def __init__(
        self, clips: TokenClips, windows: Sequence[Window], layout: Layout, frame_skip: int
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
    """Of recorded clips, which hold `context_gap` frames more than the layout's.

    The first c frames are the context; where the frames that follow it begin is drawn.
    """

    def __init__(self, source: ClipSource, codec: CompressiveCodec, device: torch.device) -> None:
        self.source, self.codec, self.device = source, codec, device
        self.gaps = source.clip_frames - codec.layout.num_frames + 1

    def __len__(self) -> int:
        return len(self.source.windows)

    @torch.no_grad()
    def batch(self, numbers: Sequence[int], draw: int) -> Clips:
        layout, batch = self.codec.layout, self.source.batch(numbers)
        c, span = layout.context_frames, layout.num_frames
        generator = torch.Generator().manual_seed(draw)
        gaps = torch.randint(self.gaps, (len(batch),), generator=generator)
        places = gaps[:, None] + torch.arange(span)
        rows = torch.arange(len(batch))[:, None]
        frames = batch.float_frames().to(self.device)
        shown = frames[rows, places[:, c - 1 :]]
        context, tokens = self.codec.encode_given(frames[:, :c], shown)
        return Clips(context.cpu(), tokens.cpu(), batch.actions[rows, places])
