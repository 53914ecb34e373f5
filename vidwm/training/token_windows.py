"""What pretraining reads: contexts, tokens and actions of windows of episodes.

A frame's tokens are its own with a frame tokenizer, so they come from a cache (`CachedWindows`),
which may hold several variants of each episode. With a compressive tokenizer they depend on the
context as well, and where clips are varied anew no frame is seen twice alike: then they are made
when they are needed (`EncodedWindows`). The context may be
older than what is shown (`older_context`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from vidwm.data.augment import augment
from vidwm.data.cache import Tokens
from vidwm.data.clip import EpisodeDataset
from vidwm.data.meant import meant_rows
from vidwm.data.sampler import ClipSource
from vidwm.data.variants import drawn_variant
from vidwm.data.windows import Window
from vidwm.data_config import AugmentOptions
from vidwm.training.older_context import older_frames
from vidwm.training.runtime import seed_of_step
from vidwm.world_model.codec import CompressiveCodec, FrameCodec
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
    """Numbered windows; `draw` names the random choices, the same draw gives the same clips.

    `read(numbers, draw)` is what any process can do, and goes to others by itself; `clips` does the
    rest on the device. `batch` is both.
    """

    @property
    def read(self) -> Callable[[Sequence[int], int], Any]: ...

    @property
    def windows(self) -> Sequence[Window]: ...

    def __len__(self) -> int: ...

    def clips(self, read: Any) -> Clips: ...

    def batch(self, numbers: Sequence[int], draw: int) -> Clips: ...


@dataclass(frozen=True)
class StepReader:
    """Windows of a step, for a `Loader` of a run with this seed."""

    read: Callable[[Sequence[int], int], Any]
    seed: int

    def __call__(self, numbers: Sequence[int], step: int) -> Any:
        return self.read(numbers, seed_of_step(self.seed, step))


class CachedWindows:
    """Of tokenised episodes; `dataset` says what their actions mean.

    `varied` draws one of the variants that are cached of an episode; else it is as recorded.
    """

    def __init__(
        self,
        clips: Tokens,
        windows: Sequence[Window],
        layout: Layout,
        frame_skip: int,
        dataset: EpisodeDataset,
        varied: bool = False,
    ) -> None:
        self._clips, self.windows, self.dataset = clips, windows, dataset
        self.layout, self.frame_skip, self._varied = layout, frame_skip, varied

    def __len__(self) -> int:
        return len(self.windows)

    def read(self, numbers: Sequence[int], draw: int) -> Clips:
        """The clips: nothing is left to do."""
        c = self.layout.context_frames
        tokens = torch.stack([self._tokens(number, draw) for number in numbers])
        actions = torch.stack([self._actions(self.windows[number]) for number in numbers])
        return Clips(tokens[:, :c], tokens[:, c:], actions)

    def _tokens(self, number: int, draw: int) -> Tensor:
        window, frames = self.windows[number], self.layout.num_frames
        count = self._clips.variants(window.episode) if self._varied else 1
        variant = drawn_variant(draw, number, count)
        return self._clips.clip(window.episode, window.start, frames, self.frame_skip, variant)

    def _actions(self, window: Window) -> Tensor:
        recorded = self._clips.actions(window.episode).numpy()
        rows = meant_rows(self.dataset, window.episode, recorded)[window.start :: self.frame_skip]
        return torch.from_numpy(rows[: self.layout.num_frames])

    def clips(self, read: Clips) -> Clips:
        """As they are."""
        return read

    def batch(self, numbers: Sequence[int], draw: int) -> Clips:
        """The clips of these windows."""
        return self.read(numbers, draw)


class Recorded(NamedTuple):
    """full (B, c, 3, H, W), shown (B, 1 + h, 3, H, W) uint8; actions (B, T, A) float32."""

    full: Tensor
    shown: Tensor
    actions: Tensor


@dataclass(frozen=True)
class RecordedWindows:
    """Frames of windows; those in full are drawn from up to `gap` steps further back.

    All frames of a clip are varied alike, by `vary`.
    """

    source: ClipSource
    context_frames: int
    gap: int
    vary: AugmentOptions

    def __call__(self, numbers: Sequence[int], draw: int) -> Recorded:
        batch, c = self.source.batch(numbers), self.context_frames
        full = older_frames(self.source, numbers, c, self.gap, draw)
        frames = augment(torch.cat([full, batch.frames[:, c - 1 :]], dim=1), self.vary, draw)
        return Recorded(frames[:, :c], frames[:, c:], batch.actions)


class EncodedWindows:
    """Of recorded clips, whose tokens are made when they are read."""

    def __init__(
        self,
        source: ClipSource,
        codec: FrameCodec | CompressiveCodec,
        device: torch.device,
        gap: int = 0,
        vary: AugmentOptions | None = None,
    ) -> None:
        self.windows, self.codec, self.device = source.windows, codec, device
        self.read = RecordedWindows(
            source, codec.layout.context_frames, gap, vary or AugmentOptions()
        )

    def __len__(self) -> int:
        return len(self.windows)

    @torch.no_grad()
    def clips(self, read: Recorded) -> Clips:
        """The tokens of frames."""
        full, shown = (frames.to(self.device).float() / 255 for frames in (read.full, read.shown))
        if isinstance(self.codec, FrameCodec):
            context, tokens = self.codec.encode(torch.cat([full, shown[:, 1:]], dim=1))
        else:
            context, tokens = self.codec.encode_given(full, shown)
        return Clips(context.cpu(), tokens.cpu(), read.actions)

    def batch(self, numbers: Sequence[int], draw: int) -> Clips:
        """The clips of these windows."""
        return self.clips(self.read(numbers, draw))
