"""Read npz episodes: one file an episode, in the two layouts met in the wild.

iVideoGPT and RLVR-World: `image` (T, H, W, 3), other cameras as `aux1_image` and so on, `action`
(T, A) or (T - 1, A), files named <split>_eps_<number>.npz. Images are uint8, integers 0..255 or
floats 0..1.
Robot states are the arrays (T, S) of the names in `STATES`, where there are any.
DrQ-style replay buffers: `observation` (T, 3 k, H, W) stacks the last k frames, the newest last,
and `action[t]` is the one that led TO observation t (row 0 is a dummy), so here the rows move up by
one to fit `Episode`. The files state no frame rate; 10 frames per second is assumed where no
convert.json lies beside them (`npz_facts`).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from vidwm.data.clip import Episode
from vidwm.data.images import channels_first, to_uint8
from vidwm.data.npy import Header, read_header
from vidwm.data.npz_facts import FILE as FACTS_FILE
from vidwm.data.npz_facts import read_npz_facts
from vidwm.data.reading import (
    MAX_DEFLATE_RATIO,
    build_episode,
    check_fits_memory,
    choose_camera,
    files_below,
)
from vidwm.data.states import as_states, join_states, state_names
from vidwm.errors import UserError

ACTION, STACKED = "action", "observation"
STATES = ("proprio", "qpos", "qvel", "robot_state", "state", "states")

In = TypeVar("In")
Out = TypeVar("Out")


class NpzDataset:
    """An `EpisodeDataset` over an npz file, or all npz files below a folder in sorted order.

    `camera` is a key of (T, H, W, 3) arrays or `observation`; None takes `image`, else the
    alphabetically first. `split` keeps the files whose path begins with "<split>_" or "<split>/".
    Where `damaged` is given, files that cannot be episodes are left out and noted in it, id: why.
    """

    format = "npz"

    def __init__(
        self,
        path: str | Path,
        *,
        camera: str | None = None,
        split: str | None = None,
        damaged: dict[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        root = self.path if self.path.is_dir() else self.path.parent
        stated = read_npz_facts(root)
        self.fps, self._tasks = stated.fps, stated.tasks
        files = files_below(self.path, (".npz",))
        ids = [file.relative_to(root).with_suffix("").as_posix() for file in files]
        if split is not None:
            kept = [i for i, name in enumerate(ids) if name.startswith((split + "_", split + "/"))]
            files, ids = [files[i] for i in kept], [ids[i] for i in kept]
        if not files:
            raise UserError(
                f"{self.path} holds no npz file of split {split!r}; expected files named "
                f"{split}_*.npz or a folder {split}/."
            )
        headers = _read_each(_read_headers, dict(zip(ids, files, strict=True)), damaged)
        if not headers:
            raise UserError(f"{self.path}: none of its {len(files)} npz files is readable.")
        first = next(iter(headers.values()))
        self.cameras = tuple(sorted(k for k in first if _is_camera(k, first[k])))
        if camera is None and "image" in self.cameras:
            camera = "image"
        places = {name: file for name, file in zip(ids, files, strict=True) if name in headers}
        self.camera = choose_camera(self.cameras, camera, where=next(iter(places.values())))
        named = {name: (file, headers[name]) for name, file in places.items()}
        lengths = _read_each(lambda pair: self._length(*pair), named, damaged)
        if not lengths:
            raise UserError(f"{self.path}: none of its {len(files)} npz files is an episode.")
        self._files = [places[name] for name in lengths]
        self.episode_ids: Sequence[str] = list(lengths)
        self.lengths: Sequence[int] = list(lengths.values())
        first = headers[next(iter(lengths))]  # that is an episode
        num_dims = first[ACTION].shape[1]
        names = stated.action_names or tuple(f"action_{dim}" for dim in range(num_dims))
        if len(names) != num_dims:
            raise UserError(
                f"{root / FACTS_FILE} names {len(names)} action dimensions, the files have "
                f"{num_dims}; mend or remove it."
            )
        self.action_names = names
        self._state_sizes = as_states(_state_sizes(first, first[self.camera].shape[0]))
        self.state_names = state_names(self._state_sizes)

    def __len__(self) -> int:
        return len(self._files)

    def episode(self, index: int) -> Episode:
        """Read one episode; UserError names the file when it is damaged."""
        file, length = self._files[index], self.lengths[index]
        headers = _read_headers(file)
        if self._length(file, headers) != length:
            raise UserError(f"{file} has changed since the dataset was opened; open it again.")
        check_fits_memory(headers[self.camera].num_bytes + headers[ACTION].num_bytes, str(file))
        images, actions = _read_array(file, self.camera), _read_array(file, ACTION)
        if actions.shape[1] != len(self.action_names):
            raise UserError(
                f"{file}: '{ACTION}' has {actions.shape[1]} dimensions, the first file's "
                f"{len(self.action_names)}; all episodes must share one action space."
            )
        if self.camera == STACKED:
            frames = np.ascontiguousarray(images[:, -3:])
            actions = actions[1:]
        else:
            frames = channels_first(to_uint8(images, source=str(file), key=self.camera))
        if len(actions) < length:
            actions = np.concatenate([actions, actions[-1:]])
        with np.errstate(over="ignore"):  # infinity is found by Episode
            actions = np.ascontiguousarray(actions, dtype=np.float32)
        return build_episode(
            str(file),
            id=self.episode_ids[index],
            frames=frames,
            actions=actions,
            fps=self.fps,
            task=self._tasks.get(self.episode_ids[index], ""),
        )

    def states(self, index: int) -> np.ndarray:
        """Robot states (T, S) float32 of an episode, S `state_names`; UserError as `episode`."""
        file, length = self._files[index], self.lengths[index]
        headers = _read_headers(file)

        def read(name: str) -> np.ndarray | None:
            return _read_array(file, name) if name in headers else None

        check_fits_memory(sum(headers[k].num_bytes for k in headers if k in STATES), str(file))
        return join_states(read, self._state_sizes, length, str(file))

    def span(self, index: int, start: int, stop: int) -> Episode:
        """Frames start .. stop - 1 of an episode; the file must be read whole for them."""
        return self.episode(index).cut(start, stop)

    def _length(self, file: Path, headers: dict[str, Header]) -> int:
        """Frames of the episode; UserError if its arrays do not fit together."""
        if self.camera not in headers or not _is_camera(self.camera, headers[self.camera]):
            raise UserError(
                f"{file} has no images {self.camera!r} of the shape the first file has; its "
                f"arrays are {', '.join(headers) or 'none'}."
            )
        if ACTION not in headers:
            raise UserError(
                f"{file} has no array '{ACTION}'; expected one row a frame beside {self.camera!r}."
            )
        length, action = headers[self.camera].shape[0], headers[ACTION]
        allowed = (length,) if self.camera == STACKED else (length - 1, length)
        fits = len(action.shape) == 2 and action.shape[0] in allowed and action.shape[0] > 0
        if not fits or action.shape[1] < 1 or action.dtype.kind not in "fiub":
            raise UserError(
                f"{file}: '{ACTION}' is {action.shape} {action.dtype}; expected numbers "
                f"({' or '.join(str(n) for n in allowed)}, A) for {length} frames."
            )
        return length


def _read_each(
    read: Callable[[In], Out], items: dict[str, In], damaged: dict[str, str] | None
) -> dict[str, Out]:
    """read(item) of each; a UserError goes to `damaged` under the item's name, or is raised."""
    found = {}
    for name, item in items.items():
        try:
            found[name] = read(item)
        except UserError as error:
            if damaged is None:
                raise
            damaged[name] = str(error)
    return found


def _state_sizes(headers: dict[str, Header], length: int) -> dict[str, int]:
    """Numbers a row of the arrays (T,) or (T, S) that are states by their name."""
    arrays = {name: headers[name] for name in STATES if name in headers}
    return {
        name: array.shape[1] if len(array.shape) == 2 else 1
        for name, array in arrays.items()
        if array.shape[:1] == (length,) and len(array.shape) < 3 and array.dtype.kind in "fiub"
    }


def _is_camera(key: str, header: Header) -> bool:
    if len(header.shape) != 4 or header.shape[0] < 1:
        return False
    if key == STACKED:
        return header.shape[1] % 3 == 0 and header.shape[1] > 0 and header.dtype == np.uint8
    return header.shape[3] == 3 and header.dtype.kind in "fiu"


def _read_headers(file: Path) -> dict[str, Header]:
    """Shape and dtype of every array, without reading the arrays."""
    headers: dict[str, Header] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                with archive.open(member) as stream:
                    header = read_header(stream)
                claims = member.file_size <= MAX_DEFLATE_RATIO * (member.compress_size + 1)
                if not header.dtype.hasobject and (
                    header.num_bytes > member.file_size or not claims
                ):
                    raise ValueError(f"array {member.filename} is shorter than it says")
                headers[member.filename.removesuffix(".npy")] = header
    except _DAMAGE as error:
        raise _damaged(file, error) from error
    return headers


def _read_array(file: Path, key: str) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays[key])
    except _DAMAGE as error:
        raise _damaged(file, error) from error


_DAMAGE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def _damaged(file: Path, error: Exception) -> UserError:
    return UserError(
        f"{file} is no readable npz file ({type(error).__name__}: {error}); copy it again or "
        f"remove it."
    )
