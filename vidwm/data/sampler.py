"""Windows of episodes become batches of clips, in an order that can be resumed.

A clip of T model frames with frame skip k spans (T - 1) k + 1 recorded frames. Its action rows are
those at its frames: what is done until the next one is put together before (`vidwm.data.meant`).
What a training step sees depends on (seed, step) alone: there is no state to save.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import get_worker_info

from vidwm.data.clip import ClipBatch, Episode, EpisodeDataset
from vidwm.data.joined import first_episodes
from vidwm.data.windows import windows_of
from vidwm.errors import UserError

CACHE_BYTES = 2 * 1024**3


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


def epoch_order(num_windows: int, seed: int, step: int, batch_size: int) -> list[int]:
    """Window numbers of the batch of optimisation step `step` (from 0).

    All windows come once in a random order, then once in the next, and so on; a batch may straddle
    two of these epochs.
    """
    places = range(step * batch_size, (step + 1) * batch_size)
    return [int(_permutation(num_windows, seed, p // num_windows)[p % num_windows]) for p in places]


@lru_cache(maxsize=2)
def _permutation(num_windows: int, seed: int, epoch: int) -> np.ndarray:
    entropy = int.from_bytes(_digest(f"{seed}:{epoch}"), "big")
    order = np.random.Generator(np.random.PCG64(entropy)).permutation(num_windows)
    return order.astype(np.min_scalar_type(num_windows))


def context_key(episode_id: str, start: int) -> int:
    """The first 63 bits of the SHA-256 of "id:start": names a context in every run alike."""
    return int.from_bytes(_digest(f"{episode_id}:{start}")[:8], "big") >> 1


class ClipSource:
    """Clips of some episodes of a dataset, resized.

    Episodes are decoded whole and kept while they fit into `cache_bytes`, which worker processes of
    a loader share; of the others, the frames of a clip are decoded and no more.

    `windows` are the places clips are cut from; `dropped` counts the episodes too short for one.
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
        self.dropped = len(set(episodes)) - len(self.windows.episodes)
        self._cache_bytes = cache_bytes
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._kept_bytes = 0
        self._frame_bytes = 3 * size[0] * size[1] if size else 0

    def batch(self, indices: Sequence[int]) -> ClipBatch:
        """The clips of these windows, in this order."""
        frames, actions, keys = [], [], []
        for window in (self.windows[i] for i in indices):
            own_frames, own_actions = self._clip(window.episode, window.start, self.clip_frames)
            frames.append(own_frames)
            actions.append(own_actions)
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
        chosen = []
        for index, steps in zip(indices, back, strict=True):
            window = self.windows[index]
            start = window.start - steps * self.frame_skip
            chosen.append(self._clip(window.episode, start, count)[0])
        return torch.stack(chosen)

    def steps_before(self, indices: Sequence[int]) -> list[int]:
        """How many model steps the episodes of these windows go back before them."""
        return [self.windows[index].start // self.frame_skip for index in indices]

    def _clip(self, episode: int, start: int, count: int) -> tuple[Tensor, Tensor]:
        """`count` model frames (T, 3, H, W) uint8 and the action rows (T, A) at them."""
        stop = start + (count - 1) * self.frame_skip + 1
        frames, actions = self._span(episode, start, stop)
        return frames[:: self.frame_skip], actions[:: self.frame_skip]

    def _span(self, episode: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Frames start .. stop - 1 of an episode and their actions."""
        if episode not in self._kept and self._fits(episode):
            whole = self._sized(self.dataset.episode(episode))
            self._kept[episode] = whole
            self._kept_bytes += whole[0].nbytes
        if episode in self._kept:
            frames, actions = self._kept[episode]
            return frames[start:stop], actions[start:stop]
        return self._sized(self.dataset.span(episode, start, stop))

    def _fits(self, episode: int) -> bool:
        worker = get_worker_info()
        most = self._cache_bytes // (worker.num_workers if worker else 1)
        return self._kept_bytes + self.dataset.lengths[episode] * self._frame_bytes <= most

    def _sized(self, episode: Episode) -> tuple[Tensor, Tensor]:
        frames = torch.from_numpy(episode.frames)
        if self.size is not None:
            frames = resize(frames, self.size)
        self._frame_bytes = frames[0].nbytes
        return frames, torch.from_numpy(episode.actions)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}, "_kept_bytes": 0}


def evenly_spread(total: int, count: int) -> list[int]:
    """Up to `count` of the numbers 0 .. total-1, evenly spaced from 0 on."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def check_frame_size(dataset: EpisodeDataset, size: tuple[int, int], *, resize: bool) -> None:
    """UserError when frames are not of `size` (H, W) and may not be resized.

    Looks at the first frame, or at the first of each part.
    """
    for index in [] if resize else first_episodes(dataset):
        found = dataset.span(index, 0, 1).frames.shape[2:]
        if found != size:
            raise UserError(
                f"{dataset.path}: frames of episode {dataset.episode_ids[index]} are "
                f"{found[0]}x{found[1]}, the model expects {size[0]}x{size[1]}; pass --resize to "
                f"scale them."
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
