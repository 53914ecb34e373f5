"""Episodes become windows, and windows become batches of clips, in an order that can be resumed.

A clip of T model frames with frame skip k spans (T - 1) k + 1 recorded frames; the k actions
between two model frames are concatenated, never summed, so nothing of what the robot did is lost.
What a training step sees depends on (seed, step) alone: there is no state to save.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidwm.data.clip import ClipBatch, EpisodeDataset
from vidwm.errors import UserError

CACHE_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Window:
    """A clip's place: episode number and first frame, both counted from 0."""

    episode: int
    start: int


def split_episodes(
    episode_ids: Sequence[str], heldout: float, seed: int
) -> tuple[list[int], list[int]]:
    """Episode numbers (train, held out), each in rising order.

    `heldout` in [0, 1) is the share held out: those whose hash of (seed, id) ranks lowest, so
    neither the order nor the format of the recordings matters. At least one is held out if the
    share is above 0 and there are two episodes; train is never empty.
    """
    if not 0 <= heldout < 1:
        raise UserError(f"The held-out share must be at least 0 and below 1, got {heldout}.")
    ranked = sorted(range(len(episode_ids)), key=lambda i: _digest(f"{seed}:{episode_ids[i]}"))
    count = round(heldout * len(ranked))
    if heldout > 0:
        count = max(count, 1)
    count = max(min(count, len(ranked) - 1), 0)
    return sorted(ranked[count:]), sorted(ranked[:count])


def windows_of(
    lengths: Sequence[int], episodes: Sequence[int], clip_frames: int, frame_skip: int
) -> list[Window]:
    """Every place a clip fits into the given episodes; those too short give none.

    UserError if no episode is long enough.
    """
    if clip_frames < 1 or frame_skip < 1:
        raise UserError(
            f"clip_frames and frame_skip must be 1 or more, got {clip_frames} and {frame_skip}."
        )
    span = (clip_frames - 1) * frame_skip + 1
    windows = [Window(e, start) for e in episodes for start in range(lengths[e] - span + 1)]
    if not windows:
        longest = max((lengths[e] for e in episodes), default=0)
        raise UserError(
            f"None of the {len(episodes)} episodes is long enough: the longest has {longest} "
            f"frames, but {clip_frames} clip frames with frame skip {frame_skip} span {span}; "
            f"use fewer context frames, a shorter horizon or a smaller frame skip."
        )
    return windows


def epoch_order(num_windows: int, seed: int, step: int, batch_size: int) -> list[int]:
    """Window numbers of the batch of optimisation step `step` (from 0).

    All windows come once in a random order, then once in the next, and so on; a batch may straddle
    two of these epochs.
    """
    places = range(step * batch_size, (step + 1) * batch_size)
    return [int(_permutation(num_windows, seed, p // num_windows)[p % num_windows]) for p in places]


@lru_cache(maxsize=4)
def _permutation(num_windows: int, seed: int, epoch: int) -> np.ndarray:
    entropy = int.from_bytes(_digest(f"{seed}:{epoch}"), "big")
    return np.random.Generator(np.random.PCG64(entropy)).permutation(num_windows)


def chunk_actions(actions: Tensor, start: int, clip_frames: int, frame_skip: int) -> Tensor:
    """The actions taken from each model frame to the next, one row a model frame.

    actions (T, A) -> (clip_frames, A * frame_skip), in the order they were taken; rows past the end
    repeat the last action.
    """
    rows = torch.arange(start, start + clip_frames * frame_skip).clamp(max=len(actions) - 1)
    return actions[rows].reshape(clip_frames, -1)


def action_chunks(episodes: Iterable[Tensor], frame_skip: int) -> Tensor:
    """The chunked actions (M, A * frame_skip) after every frame of episodes with actions (T, A)."""
    chunks = []
    for actions in episodes:
        for start in range(min(frame_skip, len(actions))):
            count = -(-(len(actions) - start) // frame_skip)
            chunks.append(chunk_actions(actions, start, count, frame_skip))
    return torch.cat(chunks)


def context_key(episode_id: str, start: int) -> int:
    """The first 63 bits of the SHA-256 of "id:start": names a context in every run alike."""
    return int.from_bytes(_digest(f"{episode_id}:{start}")[:8], "big") >> 1


class ClipSource:
    """Clips of some episodes of a dataset, resized and kept in memory as far as they fit.

    `windows` lists the places clips are cut from; `dropped` counts the episodes too short for one.
    `size` (H, W) in pixels resizes frames (bilinear, antialiased); None leaves them as they are.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        *,
        clip_frames: int,
        frame_skip: int,
        episodes: Sequence[int],
        size: tuple[int, int] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.dataset = dataset
        self.clip_frames = clip_frames
        self.frame_skip = frame_skip
        self.size = size
        self.windows = windows_of(dataset.lengths, episodes, clip_frames, frame_skip)
        self.dropped = len(set(episodes)) - len({window.episode for window in self.windows})
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()
        self._cached_bytes = 0

    def batch(self, indices: Sequence[int]) -> ClipBatch:
        """The clips of these windows, in this order."""
        frames, actions, keys = [], [], []
        for window in (self.windows[i] for i in indices):
            episode_frames, episode_actions = self._episode(window.episode)
            span = (self.clip_frames - 1) * self.frame_skip + 1
            frames.append(episode_frames[window.start : window.start + span : self.frame_skip])
            actions.append(
                chunk_actions(episode_actions, window.start, self.clip_frames, self.frame_skip)
            )
            keys.append(context_key(self.dataset.episode_ids[window.episode], window.start))
        sizes = {
            tuple(clip.shape[-2:]): self.windows[i].episode
            for i, clip in zip(indices, frames, strict=True)
        }
        if len(sizes) > 1:
            ids = self.dataset.episode_ids
            named = " and ".join(f"{H}x{W} ({ids[e]})" for (H, W), e in sorted(sizes.items()))
            raise UserError(
                f"{self.dataset.path} holds frames of several sizes, {named}; give one height and "
                f"width to resize them to."
            )
        return ClipBatch(
            frames=torch.stack(frames), actions=torch.stack(actions), keys=torch.tensor(keys)
        )

    def first_frames(self, indices: Sequence[int], count: int, back: Sequence[int]) -> Tensor:
        """The first `count` frames of these windows, each clip's `back` model steps earlier.

        (B, count, 3, H, W) uint8; no further back than `steps_before`.
        """
        places = self.frame_skip * torch.arange(count)
        chosen = []
        for index, steps in zip(indices, back, strict=True):
            window = self.windows[index]
            frames, _ = self._episode(window.episode)
            chosen.append(frames[window.start - steps * self.frame_skip + places])
        return torch.stack(chosen)

    def steps_before(self, indices: Sequence[int]) -> list[int]:
        """How many model steps the episodes of these windows go back before them."""
        return [self.windows[index].start // self.frame_skip for index in indices]

    def _episode(self, index: int) -> tuple[Tensor, Tensor]:
        """Frames (T, 3, H, W) uint8 and actions (T, A), decoded at most once while they fit."""
        if index in self._cached:
            self._cached.move_to_end(index)
            return self._cached[index]
        episode = self.dataset.episode(index)
        frames = torch.from_numpy(episode.frames)
        if self.size is not None:
            frames = resize(frames, self.size)
        entry = (frames, torch.from_numpy(episode.actions))
        self._cached[index] = entry
        self._cached_bytes += frames.nbytes
        while self._cached_bytes > self._cache_bytes and len(self._cached) > 1:
            _, (oldest, _) = self._cached.popitem(last=False)
            self._cached_bytes -= oldest.nbytes
        return entry


def evenly_spread(total: int, count: int) -> list[int]:
    """Up to `count` of the numbers 0 .. total-1, evenly spaced from 0 on."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def check_frame_size(dataset: EpisodeDataset, size: tuple[int, int], *, resize: bool) -> None:
    """UserError when the first episode's frames are not of `size` (H, W) and may not be resized."""
    found = dataset.episode(0).frames.shape[2:]
    if found != size and not resize:
        raise UserError(
            f"{dataset.path}: frames are {found[0]}x{found[1]}, the model expects "
            f"{size[0]}x{size[1]}; pass --resize to scale them."
        )


def resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """(T, 3, H, W) uint8 -> (T, 3, *size) uint8, bilinear with antialiasing."""
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    resized = [
        F.interpolate(part.float(), size=size, mode="bilinear", antialias=True)
        for part in torch.split(frames, 64)  # bounds the float copy
    ]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in resized])


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()
