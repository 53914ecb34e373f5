"""Read a cache of frames or tokens by memory map: a clip costs the bytes of its own frames.

`vidwm data cache` writes them, and pretraining makes one of tokens for itself. A cache of frames is
a dataset like any other (`CachedFrames`); one of tokens takes the place of the tokenizer
(`CachedTokens`). Both go to worker processes without their maps.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidwm.data.cache_folder import (
    INDEX,
    Contents,
    missing_files,
    out_of_date,
    read_contents,
    shard_path,
)
from vidwm.data.cache_writer import CacheWork, Encode, write_cache
from vidwm.data.cameras import TILES
from vidwm.data.clip import Episode, EpisodeDataset, check_span
from vidwm.data.reading import choose_camera
from vidwm.errors import UserError

MAX_MAPS = 64


class Shard(NamedTuple):
    """A file of a cache: its tensors, mapped, and the task of each episode."""

    tensors: dict[str, Tensor]
    tasks: tuple[str, ...]


class ShardFiles:
    """The rows of episodes in the files of a complete cache, of which some are mapped at a time."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        files = contents.files
        if missing := missing_files(folder, range(len(files))):
            raise UserError(
                f"The cache {folder} is not complete: {len(missing)} of {len(files)} files are "
                f"missing, such as {shard_path(folder, missing[0]).name}; run its `vidwm data "
                f"cache` command again, with every --shard it was shared out to."
            )
        self.folder, self.key, self._episodes = folder, contents.key, files
        lengths = np.asarray(contents.lengths)
        ends = np.cumsum(lengths)
        sizes = [len(file) for file in files]
        heads = [ends[file.start] - lengths[file.start] for file in files]
        self._file = np.repeat(np.arange(len(files)), sizes)
        self._first = ends - lengths - np.repeat(heads, sizes)
        self._rows = [int(lengths[file.start : file.stop].sum()) for file in files]
        frames = contents.kind == "frames"
        row = (3, *contents.size) if frames else (contents.tokens_per_frame,)
        self._row_shapes: dict[str, tuple[int, ...]] = dict.fromkeys(contents.names, row)
        self._row_shapes["actions"] = (len(contents.action_names),)
        self._maps: OrderedDict[int, Shard] = OrderedDict()

    def rows(self, name: str, episode: int, start: int, stop: int, step: int = 1) -> Tensor:
        """Rows start, start + step, ... below stop of an episode: a view of its file."""
        first = int(self._first[episode])
        tensor = self._map(int(self._file[episode])).tensors[name]
        return tensor[first + start : first + stop : step]

    def task(self, episode: int) -> str:
        """What the robot was told to do in an episode."""
        number = int(self._file[episode])
        return self._map(number).tasks[episode - self._episodes[number].start]

    def _map(self, number: int) -> Shard:
        if number in self._maps:
            self._maps.move_to_end(number)
            return self._maps[number]
        path = shard_path(self.folder, number)
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {}).get("vidwm", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            key, tasks = about["key"], tuple(map(str, about["tasks"]))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(
                f"The cache file {path} is damaged ({error}); remove it and run `vidwm data cache` "
                f"again."
            ) from None
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        expected = {name: (self._rows[number], *row) for name, row in self._row_shapes.items()}
        if key != self.key or found != expected or len(tasks) != len(self._episodes[number]):
            raise UserError(
                f"The cache file {path} belongs to another cache than {INDEX} beside it; remove it "
                f"and run `vidwm data cache` again."
            )
        self._maps[number] = Shard(tensors, tasks)
        if len(self._maps) > MAX_MAPS:
            self._maps.popitem(last=False)
        return self._maps[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": OrderedDict()}


class CachedTokens:
    """Tokenised episodes, numbered as those of the dataset."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        self.lengths: Sequence[int] = contents.lengths
        self._names = contents.names
        self._files = ShardFiles(folder, contents)

    def variants(self, episode: int) -> int:
        """How many variants of an episode there are, the first as recorded."""
        return len(self._names)

    def clip(
        self, episode: int, start: int, clip_frames: int, frame_skip: int, variant: int = 0
    ) -> Tensor:
        """Tokens (T, N) int64 of one window."""
        stop = start + (clip_frames - 1) * frame_skip + 1
        return self._files.rows(self._names[variant], episode, start, stop, frame_skip).long()

    def actions(self, episode: int) -> Tensor:
        """Actions (T, A) float32 of an episode, as recorded."""
        return self._files.rows("actions", episode, 0, self.lengths[episode])


class JoinedTokens:
    """The tokenised episodes of several caches, one after the other, as the parts of a mixture."""

    def __init__(self, caches: Sequence[Tokens]) -> None:
        self._caches = caches
        self.lengths: Sequence[int] = [length for cache in caches for length in cache.lengths]
        self._firsts = [0, *accumulate(len(cache.lengths) for cache in caches)][:-1]

    def variants(self, episode: int) -> int:
        """As `CachedTokens.variants`."""
        cache, number = self._place(episode)
        return cache.variants(number)

    def clip(
        self, episode: int, start: int, clip_frames: int, frame_skip: int, variant: int = 0
    ) -> Tensor:
        """As `CachedTokens.clip`."""
        cache, number = self._place(episode)
        return cache.clip(number, start, clip_frames, frame_skip, variant)

    def actions(self, episode: int) -> Tensor:
        """As `CachedTokens.actions`."""
        cache, number = self._place(episode)
        return cache.actions(number)

    def _place(self, episode: int) -> tuple[Tokens, int]:
        part = bisect_right(self._firsts, episode) - 1
        return self._caches[part], episode - self._firsts[part]


Tokens: TypeAlias = CachedTokens | JoinedTokens


def cached_tokens(
    dataset: EpisodeDataset, encode: Encode, contents: Contents, directory: Path
) -> CachedTokens:
    """Tokens of all episodes, from a cache that is made first where there is none.

    `directory` is a cache, or the folder of several, each named by what it is of. UserError when
    the cache is of other contents.
    """
    folder = directory if (directory / INDEX).exists() else directory / contents.key
    write_cache(CacheWork(dataset=dataset, contents=contents, folder=folder, encode=encode))
    return CachedTokens(folder, contents)


class CachedFrames:
    """An `EpisodeDataset` over a cache of frames, which are of one size.

    UserError when the recordings it was made from have changed since, if they are still there.
    """

    format = "cache"

    def __init__(self, path: Path, *, camera: str | None = None, split: str | None = None) -> None:
        contents = read_contents(path)
        if contents.kind == "tokens":
            raise UserError(
                f"{path} is a cache of tokens: give the recordings as --data, and {path} as "
                f"--cache_dir of `vidwm pretrain`."
            )
        if split is not None:
            raise UserError(f"{path} is a cache, which has no split {split!r}; leave it out.")
        tiles = contents.camera.split(TILES)
        asked = tiles if camera is None else camera.split(TILES)
        if [choose_camera(tiles, name, where=path) for name in asked] != tiles:
            raise UserError(f"{path} is a cache of camera {contents.camera!r}, not {camera!r}.")
        if out_of_date(contents):
            raise UserError(
                f"The cache {path} is out of date: {contents.source} has changed "
                f"since; make it anew."
            )
        self.path, self.fps, self.action_names = path, contents.fps, contents.action_names
        self.camera = contents.camera
        self.cameras: tuple[str, ...] = (contents.camera,)
        self.episode_ids: Sequence[str] = contents.episode_ids
        self.lengths: Sequence[int] = contents.lengths
        self.all_episode_ids: Sequence[str] = contents.all_episode_ids
        self._files = ShardFiles(path, contents)

    def __len__(self) -> int:
        return len(self.lengths)

    def episode(self, index: int) -> Episode:
        """Read one episode; UserError names the file when it is damaged."""
        return self.span(index, 0, self.lengths[index])

    def span(self, index: int, start: int, stop: int) -> Episode:
        """Frames start .. stop - 1 of an episode; no others are read."""
        check_span(start, stop, self.lengths[index])
        return Episode(
            id=self.episode_ids[index],
            frames=self._files.rows("frames", index, start, stop).numpy(),
            actions=self._files.rows("actions", index, start, stop).numpy(),
            fps=self.fps,
            task=self._files.task(index),
        )
