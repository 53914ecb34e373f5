"""The data contract: what a recorded episode is, and what a batch of clips is.

Every reader yields `Episode`, every training stage eats `ClipBatch`; nothing else crosses the
border of `vidwm.data`. Checks happen here, once, at the door.

Legend of shape letters, used in every docstring of the package:
    B contexts or clips   G rollouts per context   T frames         C H W channels, height, width
    h w latent grid       N tokens per frame       L sequence       V vocabulary
    K codes               D width                  A action dims

`actions[t]` is what the robot did between frame t and frame t+1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vidwm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A full recording.

    frames (T, 3, H, W) uint8, 0..255; actions (T, A) float32, finite; fps in frames per second.
    The last action leads out of the recording and is never used for prediction; readers of formats
    that store T-1 actions repeat the last row.
    """

    id: str
    frames: np.ndarray
    actions: np.ndarray
    fps: float
    task: str = ""

    def __post_init__(self) -> None:
        frames, actions = self.frames, self.actions
        if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8:
            raise UserError(
                f"Episode {self.id}: frames must be (T, 3, H, W) uint8, "
                f"got {frames.shape} {frames.dtype}."
            )
        if not frames.size:
            raise UserError(f"Episode {self.id} is empty, {frames.shape}; remove it.")
        if actions.ndim != 2 or len(actions) != len(frames) or actions.dtype != np.float32:
            raise UserError(
                f"Episode {self.id}: actions must be (T, A) float32 with one row per frame "
                f"(T = {len(frames)}), got {actions.shape} {actions.dtype}."
            )
        bad = ~np.isfinite(actions).all(axis=1)
        if bad.any():
            raise UserError(
                f"Episode {self.id}: the action of frame {int(bad.argmax())} is NaN or infinite; "
                f"repair or remove the episode."
            )

    def __len__(self) -> int:
        return len(self.frames)

    def cut(self, start: int, stop: int) -> Episode:
        """Frames start .. stop - 1 with their actions; ValueError if they are not all there."""
        check_span(start, stop, len(self))
        return replace(self, frames=self.frames[start:stop], actions=self.actions[start:stop])


def check_span(start: int, stop: int, length: int) -> None:
    """ValueError unless start .. stop - 1 are frames of an episode of that length."""
    if not 0 <= start < stop <= length:
        raise ValueError(f"frames {start} to {stop - 1} of an episode of {length} frames")


class EpisodeDataset(Protocol):
    """Recorded episodes of one robot, opened by `vidwm.data.datasets.open_dataset`."""

    path: Path
    format: str
    fps: float
    cameras: tuple[str, ...]
    camera: str
    action_names: tuple[str, ...]
    episode_ids: Sequence[str]
    lengths: Sequence[int]

    def __len__(self) -> int: ...

    def episode(self, index: int) -> Episode:
        """Read one episode; UserError names the file when it is damaged."""
        ...

    def span(self, index: int, start: int, stop: int) -> Episode:
        """Frames start .. stop - 1 of an episode, reading no others where the format allows."""
        ...


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Clips cut from episodes.

    frames (B, T, 3, H, W) uint8; actions (B, T, A) float32; keys (B,) int64: names each context for
    position-keyed sampling, equal for equal (episode, start) in every run.
    """

    frames: Tensor
    actions: Tensor
    keys: Tensor

    def __post_init__(self) -> None:
        B, T = self.frames.shape[:2]
        if self.frames.ndim != 5 or self.frames.shape[2] != 3 or self.frames.dtype != torch.uint8:
            raise ValueError(f"frames must be (B, T, 3, H, W) uint8, got {self.frames.shape}")
        if self.actions.shape[:2] != (B, T) or self.actions.dtype != torch.float32:
            raise ValueError(f"actions must be ({B}, {T}, A) float32, got {self.actions.shape}")
        if self.keys.shape != (B,) or self.keys.dtype != torch.int64:
            raise ValueError(f"keys must be ({B},) int64, got {self.keys.shape}")

    def __len__(self) -> int:
        return len(self.frames)

    def pin_memory(self) -> ClipBatch:
        """The same in memory that a GPU copies from while it computes."""
        return ClipBatch(
            frames=self.frames.pin_memory(),
            actions=self.actions.pin_memory(),
            keys=self.keys.pin_memory(),
        )

    def float_frames(self) -> Tensor:
        """Frames as float32 in [0, 1], the only range the package works in."""
        return self.frames.float() / 255
