"""Contexts older than what follows them, as long rollouts of multi-step models have.

A multi-step model keeps its frames in full while the newest frame moves on, so it has to be trained
with frames in full from further back. All places from where they are to `gap` model steps earlier
are alike, as far as the episode reaches, so no window is lost. RLVR-World: up to 15 steps (arXiv
2505.13934), in pretraining and in post-training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from vidwm.data.sampler import ClipSource
from vidwm.errors import UserError
from vidwm.world_model.codec import Codec, CompressiveCodec
from vidwm.world_model.world_model import WorldModel


def older_frames(
    source: ClipSource, numbers: Sequence[int], frames: int, gap: int, draw: int
) -> Tensor:
    """The first frames of windows, up to `gap` steps older: (B, frames, 3, H, W) in [0, 1].

    `draw` names the random choice: the same draw gives the same frames.
    """
    chance = torch.rand(len(numbers), generator=torch.Generator().manual_seed(draw)).tolist()
    reach = [min(gap, steps) for steps in source.steps_before(numbers)]
    back = [int(u * (steps + 1)) for u, steps in zip(chance, reach, strict=True)]
    return source.first_frames(numbers, frames, back).float() / 255


@torch.no_grad()
def older_context(
    model: WorldModel, source: ClipSource, numbers: Sequence[int], gap: int, draw: int
) -> Tensor:
    """The contexts (B, ...) of windows, their frames in full up to `gap` steps older."""
    c = model.layout.context_frames
    full = older_frames(source, numbers, c, gap, draw).to(model.device)
    last = source.batch(numbers).float_frames()[:, c - 1 : c].to(model.device)
    return cast(CompressiveCodec, model.codec).encode_given(full, last)[0]


def check_gap(codec: Codec, gap: int) -> None:
    """UserError when a gap is asked for of a model that has no frames in full."""
    if gap and not isinstance(codec, CompressiveCodec):
        raise UserError(
            f"context_gap must be 0 with a per-frame tokenizer, which has no frames in full, got "
            f"{gap}."
        )
