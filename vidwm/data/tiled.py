"""Several cameras in one frame: a grid, filled row by row in the order the cameras are named.

Two cameras stand side by side, three or four as two by two, and so on; a cell too many is black.
Every tile has the size of the first camera's frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, isqrt
from typing import Any, cast

import numpy as np
import torch

from vidwm.data.clip import Episode, EpisodeDataset
from vidwm.data.sampler import resize
from vidwm.errors import UserError


class Tiled:
    """An `EpisodeDataset` of the episodes that all of some datasets have, one dataset a camera.

    Actions, states and tasks are those of the first. UserError when an episode has more frames in
    one camera than in another.
    """

    def __init__(self, datasets: Sequence[EpisodeDataset]) -> None:
        first = datasets[0]
        self.path, self.format, self.fps = first.path, first.format, first.fps
        self.cameras, self.action_names = first.cameras, first.action_names
        self.camera = "+".join(dataset.camera for dataset in datasets)
        self.commit: str | None = getattr(first, "commit", None)
        self.state_names: Sequence[str] = getattr(first, "state_names", ())
        everyone = getattr(first, "all_episode_ids", first.episode_ids)
        self.all_episode_ids: Sequence[str] = everyone
        places = [{name: i for i, name in enumerate(d.episode_ids)} for d in datasets]
        shared = [name for name in first.episode_ids if all(name in place for place in places)]
        if not shared:
            raise UserError(
                f"{first.path}: no episode can be read in all of {self.camera}; name fewer cameras."
            )
        self._datasets = datasets
        self._numbers = [[place[name] for place in places] for name in shared]
        self.episode_ids: Sequence[str] = shared
        lengths = [
            [d.lengths[n] for d, n in zip(datasets, ns, strict=True)] for ns in self._numbers
        ]
        for name, each in zip(shared, lengths, strict=True):
            if len(set(each)) > 1:
                raise UserError(
                    f"{first.path}, episode {name}: the cameras {self.camera} have {each} frames, "
                    f"so they cannot share a frame; read them one by one."
                )
        self.lengths: Sequence[int] = [each[0] for each in lengths]

    def __len__(self) -> int:
        return len(self._numbers)

    def episode(self, index: int) -> Episode:
        """Read one episode; UserError names the file when it is damaged."""
        numbers = self._numbers[index]
        return _one([d.episode(n) for d, n in zip(self._datasets, numbers, strict=True)])

    def span(self, index: int, start: int, stop: int) -> Episode:
        """Frames start .. stop - 1 of one episode, with their actions."""
        numbers = self._numbers[index]
        return _one([d.span(n, start, stop) for d, n in zip(self._datasets, numbers, strict=True)])

    def states(self, index: int) -> np.ndarray:
        """Robot states (T, S) of one episode, where the first dataset has `state_names`."""
        found: np.ndarray = cast(Any, self._datasets[0]).states(self._numbers[index][0])
        return found


def _one(views: Sequence[Episode]) -> Episode:
    return replace(views[0], frames=tile([view.frames for view in views]))


def tile(views: Sequence[np.ndarray]) -> np.ndarray:
    """Frames (T, 3, H, W) uint8 of each camera -> (T, 3, rows * H, columns * W), H, W the first's.

    columns is the square root of the number of cameras, rounded up.
    """
    T, _, H, W = views[0].shape
    columns = isqrt(len(views) - 1) + 1
    rows = ceil(len(views) / columns)
    whole = np.zeros((T, 3, rows * H, columns * W), np.uint8)
    for place, view in enumerate(views):
        row, column = divmod(place, columns)
        cell = resize(torch.from_numpy(view), (H, W)).numpy()
        whole[:, :, row * H : (row + 1) * H, column * W : (column + 1) * W] = cell
    return whole
