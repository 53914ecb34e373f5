"""Read HDF5 episodes of robomimic, LIBERO and ALOHA / ACT, frames upright, actions leading on.

What a tree is called and how it differs is in hdf5_layouts.py; how a file is held to itself, in
hdf5_file.py. Files are opened for a read and closed after it, so workers share nothing, and a span
of an episode reads no more than that span. States are the numeric arrays of a row a frame beside
the images. Left out: depth, rewards, point clouds.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from vidwm.data.clip import Episode, check_span
from vidwm.data.hdf5_file import find, find_array, open_hdf5
from vidwm.data.hdf5_layouts import Layout, episode_groups, layout_of, natural_order, read_texts
from vidwm.data.hdf5_vlen import StoppedError, byte_rows
from vidwm.data.images import channels_first, decode_images, to_uint8
from vidwm.data.reading import (
    build_episode,
    check_fits_memory,
    choose_camera,
    files_below,
)
from vidwm.data.states import as_states, join_states, state_names
from vidwm.errors import UserError

SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True, slots=True)
class _Place:
    file: Path
    group: str
    layout: Layout
    length: int


class HDF5Dataset:
    """An `EpisodeDataset` over an HDF5 file, or all of them below a folder in natural order.

    `camera` is a name under the episode's images; None takes the alphabetically first. `split` is a
    name under mask/ in robomimic files; None takes every episode. `fps` is the control_freq in
    env_args, else 20 (robomimic, LIBERO) or 50 (ALOHA).
    """

    format = "hdf5"

    def __init__(
        self, path: str | Path, *, camera: str | None = None, split: str | None = None
    ) -> None:
        self.path = Path(path)
        files = files_below(self.path, SUFFIXES, order=natural_order)
        root = self.path if self.path.is_dir() else None
        self._places: list[_Place] = []
        self.episode_ids: Sequence[str] = []
        ids = list[str]()
        texts = read_texts(files)
        for file in files:
            stem = file.relative_to(root).with_suffix("").as_posix() if root else ""
            with open_hdf5(file) as opened:
                layout = layout_of(opened, texts[file])
                groups = episode_groups(opened, layout, split)
                if not self._places:
                    self._describe(opened, groups[0], layout, camera)
                self._check_layout(file, layout)
                for group in groups:
                    demo = group.removeprefix("data/")
                    length = self._length(opened, group, layout)
                    ids.append("/".join(part for part in (stem, demo) if part) or file.stem)
                    self._places.append(_Place(file, group, layout, length))
        self.episode_ids = ids
        self.lengths: Sequence[int] = [place.length for place in self._places]

    def __len__(self) -> int:
        return len(self._places)

    def episode(self, index: int) -> Episode:
        """Read one episode; UserError names the file when it is damaged."""
        return self.span(index, 0, self.lengths[index])

    def span(self, index: int, start: int, stop: int) -> Episode:
        """Frames start .. stop - 1 of an episode with their actions; no other frame is read."""
        place = self._places[index]
        check_span(start, stop, place.length)
        source = f"{place.file}, episode {place.group or self.episode_ids[index]}"
        with open_hdf5(place.file) as file:
            images = _array(file, f"{place.group}/{place.layout.images}/{self.camera}")
            actions = _array(file, f"{place.group}/{place.layout.action}")
            if _is_pixels(images):
                stored: np.ndarray | list[bytes] = _pixels(images, start, stop, source)
            elif h5py.check_vlen_dtype(images.dtype) is None:
                stored = [row.tobytes() for row in images[start:stop]]
            else:
                stored = _own_lengths(place.file, images.name, start, stop, source)
            rows = _rows(actions, place.layout, start, stop)
        if isinstance(stored, list):
            frames = decode_images(stored, source=source, first=start)
        else:
            frames = to_uint8(stored, source=source, key=self.camera)
        if place.layout.upside_down:
            frames = frames[:, ::-1]
        return build_episode(
            source,
            id=self.episode_ids[index],
            frames=channels_first(frames),
            actions=rows,
            fps=self.fps,
            task=place.layout.task,
        )

    def states(self, index: int) -> np.ndarray:
        """Robot states (T, S) float32 of an episode, S `state_names`; UserError as `episode`."""
        place = self._places[index]
        source = f"{place.file}, episode {place.group or self.episode_ids[index]}"
        with open_hdf5(place.file) as file:

            def read(name: str) -> np.ndarray | None:
                array = find_array(file, f"{place.group}/{place.layout.states}/{name}")
                if array is None:
                    return None
                check_fits_memory(int(array.size) * array.dtype.itemsize, source)
                rows: np.ndarray = array[()]
                return rows

            return join_states(read, self._state_sizes, place.length, source)

    def _describe(self, file: h5py.File, group: str, layout: Layout, camera: str | None) -> None:
        """Cameras, rate and action size, as the first episode has them."""
        images = find(file, f"{group}/{layout.images}")
        if not isinstance(images, h5py.Group):
            raise UserError(
                f"{file.filename}, episode {group} has no group {layout.images!r} of images; "
                f"render them first (robomimic: dataset_states_to_obs.py)."
            )
        arrays = {name: find_array(images, name) for name in images}
        self.cameras = tuple(
            sorted(k for k, v in arrays.items() if v is not None and _is_camera(v))
        )
        where = Path(file.filename)
        self.camera = choose_camera(self.cameras, camera, where=where)
        self.fps, self._layout = layout.fps, layout.name
        actions = find_array(file, f"{group}/{layout.action}")
        num_dims = actions.shape[1] if actions is not None and actions.ndim == 2 else 0
        self.action_names = tuple(f"action_{dim}" for dim in range(num_dims))
        length = len(images[self.camera])
        self._state_sizes = as_states(_state_sizes(file, f"{group}/{layout.states}", length))
        self.state_names = state_names(self._state_sizes)

    def _check_layout(self, file: Path, layout: Layout) -> None:
        if (layout.name, layout.fps) != (self._layout, self.fps):
            raise UserError(
                f"{file} is of the {layout.name} kind with {layout.fps:g} frames per second, the "
                f"first file {self._layout} with {self.fps:g}; keep them in separate folders."
            )

    def _length(self, file: h5py.File, group: str, layout: Layout) -> int:
        """Frames of an episode; UserError if its arrays do not fit together."""
        source = f"{file.filename}, episode {group or 'of the file'}"
        images = find_array(file, f"{group}/{layout.images}/{self.camera}")
        if images is None or not _is_camera(images) or not len(images):
            raise UserError(
                f"{source} has no images {layout.images}/{self.camera} of the kind the first "
                f"episode has; restore or remove the episode."
            )
        actions = find_array(file, f"{group}/{layout.action}")
        if actions is None:
            raise UserError(f"{source} has no array {layout.action!r}; expected one row a frame.")
        length, A = len(images), len(self.action_names)
        if actions.shape not in ((length, A), (length - 1, A)) or actions.dtype.kind not in "fiub":
            raise UserError(
                f"{source}: {layout.action!r} is {actions.shape} {actions.dtype} for {length} "
                f"frames; expected numbers ({length}, {A}), as many a frame as the first episode "
                f"has."
            )
        if not actions.size:
            raise UserError(f"{source}: {layout.action!r} is empty; remove the episode.")
        return length


def _array(file: h5py.File, name: str) -> h5py.Dataset:
    array = find_array(file, name)
    if array is None:
        raise UserError(f"{file.filename} has lost {name} since it was opened; copy it again.")
    return array


def _state_sizes(file: h5py.File, group: str, length: int) -> dict[str, int]:
    """Numbers a row of the numeric arrays (T,) or (T, S) of a group; unsound ones are left out.

    So are states of objects, whose size differs from task to task.
    """
    sizes = {}
    found = find(file, group)
    for name in found if isinstance(found, h5py.Group) else ():
        if name.startswith("object"):
            continue
        with suppress(UserError):
            array = find_array(found, name)
            if array is not None and array.shape[:1] == (length,) and _is_state(array):
                sizes[name] = array.shape[1] if array.ndim == 2 else 1
    return sizes


def _is_state(array: h5py.Dataset) -> bool:
    return array.ndim in (1, 2) and array.dtype.kind in "fiub" and not _is_camera(array)


def _is_pixels(array: h5py.Dataset) -> bool:
    return array.ndim == 4 and array.shape[3] == 3 and array.dtype.kind in "fiu"


def _is_camera(array: h5py.Dataset) -> bool:
    """Pixels (T, H, W, 3), or one encoded image a row: padded bytes (T, L), or bytes (T,)."""
    if array.ndim == 1:
        return h5py.check_vlen_dtype(array.dtype) == np.uint8 or array.dtype.kind in "SV"
    return _is_pixels(array) or (array.ndim == 2 and array.dtype == np.uint8)


def _pixels(array: h5py.Dataset, start: int, stop: int, source: str) -> np.ndarray:
    check_fits_memory((stop - start) * int(np.prod(array.shape[1:])) * array.dtype.itemsize, source)
    pixels: np.ndarray = array[start:stop]
    return pixels


def _own_lengths(file: Path, array: str, start: int, stop: int, source: str) -> list[bytes]:
    try:
        return byte_rows(file, array, start, stop)
    except StoppedError as stopped:
        raise UserError(
            f"{source}: the images {array} cannot be read; copy the file again or remove it."
        ) from stopped


def _rows(actions: h5py.Dataset, layout: Layout, start: int, stop: int) -> np.ndarray:
    """Row t leads from frame t on; past the last row that there is, it is repeated."""
    wanted = np.arange(start, stop) + int(layout.action_led_here)
    wanted = wanted.clip(max=len(actions) - 1)
    rows: np.ndarray = actions[wanted[0] : wanted[-1] + 1]
    with np.errstate(over="ignore"):  # infinity is found by Episode
        chosen: np.ndarray = rows[wanted - wanted[0]].astype(np.float32)
    return chosen
