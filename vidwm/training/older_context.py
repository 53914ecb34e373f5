"""Contexts older than what follows them, as long rollouts of multi-step models have.

A multi-step model keeps its frames in full while the newest frame moves on, so it has to be trained
with frames in full from further back. All places from where they are to `gap` model steps earlier
are alike, as far as the episode reaches, so no window is lost. RLVR-World: up to 15 steps (arXiv
2505.13934), in pretraining and in post-training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor

from vidwm.data.augment import augment
from vidwm.data.clip import ClipBatch
from vidwm.data.sampler import ClipSource
from vidwm.data_config import AugmentOptions
from vidwm.errors import UserError
from vidwm.training.runtime import seed_of_step
from vidwm.world_model.codec import Codec, CompressiveCodec
from vidwm.world_model.world_model import WorldModel


def older_frames(
    source: ClipSource, numbers: Sequence[int], frames: int, gap: int, draw: int
) -> Tensor:
    """The first frames of windows, up to `gap` steps older: (B, frames, 3, H, W) uint8.

    `draw` names the random choice: the same draw gives the same frames.
    """
    chance = torch.rand(len(numbers), generator=torch.Generator().manual_seed(draw)).tolist()
    reach = [min(gap, steps) for steps in source.steps_before(numbers)]
    back = [int(u * (steps + 1)) for u, steps in zip(chance, reach, strict=True)]
    return source.first_frames(numbers, frames, back)


class Seen(NamedTuple):
    """Clips, and the frames in full of their contexts (B, c, 3, H, W) uint8 if those are older."""

    clips: ClipBatch
    older: Tensor | None


@dataclass(frozen=True)
class SeenReader:
    """What a step sees, for a `Loader` of a run with this seed.

    All frames of a clip, the older ones among them, are varied alike, by `vary`.
    """

    source: ClipSource
    context_frames: int
    gap: int
    seed: int
    vary: AugmentOptions

    def __call__(self, numbers: Sequence[int], step: int) -> Seen:
        draw, clips = seed_of_step(self.seed, step), self.source.batch(numbers)
        if not self.gap:
            return Seen(replace(clips, frames=augment(clips.frames, self.vary, draw)), None)
        older = older_frames(self.source, numbers, self.context_frames, self.gap, draw)
        frames = augment(torch.cat([older, clips.frames], dim=1), self.vary, draw)
        older, frames = frames.tensor_split([self.context_frames], dim=1)
        return Seen(replace(clips, frames=frames), older)


@torch.no_grad()
def older_context(model: WorldModel, seen: Seen) -> Tensor | None:
    """The contexts (B, ...) of clips if their frames in full are older."""
    if seen.older is None:
        return None
    c = model.layout.context_frames
    full, last = (
        frames.to(model.device).float() / 255
        for frames in (seen.older, seen.clips.frames[:, c - 1 : c])
    )
    return cast(CompressiveCodec, model.codec).encode_given(full, last)[0]


def check_gap(codec: Codec, gap: int) -> None:
    """UserError when a gap is asked for of a model that has no frames in full."""
    if gap and not isinstance(codec, CompressiveCodec):
        raise UserError(
            f"context_gap must be 0 with a per-frame tokenizer, which has no frames in full, got "
            f"{gap}."
        )
