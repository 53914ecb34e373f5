"""Read LeRobotDataset v3.0, v2.1 and v2.0: parquet rows of actions, frames as videos or images.

meta/info.json names the files (lerobot_info.py), the list of episodes says where each one lies
(lerobot_episodes.py); here its rows and frames are read, and no others. Format:
huggingface.co/docs/lerobot, "LeRobotDataset v3.0", and LeRobot's converter between the versions.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidwm.data.clip import Episode, check_span
from vidwm.data.images import channels_first, decode_images
from vidwm.data.lerobot_episodes import EpisodeRow, list_episodes
from vidwm.data.lerobot_info import STATE, read_info, split_range
from vidwm.data.parquet import open_parquet
from vidwm.data.reading import build_episode, choose_camera, inside, inside_name
from vidwm.data.video import read_frames
from vidwm.errors import UserError, first_line

ROWS_PER_BYTE = 64  # more than any parquet file of numbered frames can hold

Fetch = Callable[[str], None]


class LeRobotDataset:
    """An `EpisodeDataset` over a LeRobotDataset folder.

    `camera` is an image or video key, or its last part ("front" for observation.images.front);
    None takes the alphabetically first. `split` is a name under "splits" in meta/info.json; None
    takes every episode, or the first split listed if there are several. `fetch(name)`, where it is
    given, brings a file of an episode into the folder when that is first read; `commit` names the
    state of the repository that the files then come from.
    """

    format = "lerobot"

    def __init__(
        self,
        path: str | Path,
        *,
        camera: str | None = None,
        split: str | None = None,
        fetch: Fetch | None = None,
        commit: str | None = None,
    ) -> None:
        self.path = Path(path)
        self._info = read_info(self.path / "meta" / "info.json")
        self._fetch = fetch
        self.commit = commit
        self.version = self._info.version
        self.fps = self._info.fps
        self.cameras = self._info.cameras
        self.action_names = self._info.action_names
        self.state_names = self._info.state_names
        self.camera = choose_camera(self.cameras, camera, where=self._info.file)
        keep = split_range(self._info, split)
        rows = list_episodes(self.path, self._info, self.camera)
        self._rows = [row for row in rows if row.index in keep]
        if not self._rows:
            raise UserError(f"{self.path} holds no episode to read; expected at least one.")
        if fetch is None:
            self._check_files()
        self.episode_ids: Sequence[str] = [f"episode_{row.index:06d}" for row in self._rows]
        self.lengths: Sequence[int] = [row.length for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def episode(self, index: int) -> Episode:
        """Read one episode; UserError names the file when it is damaged."""
        return self.span(index, 0, self.lengths[index])

    def span(self, index: int, start: int, stop: int) -> Episode:
        """Frames start .. stop - 1 of an episode with their actions; no other frame is decoded."""
        row = self._rows[index]
        check_span(start, stop, row.length)
        data_file = self._file(row.data_file, self._info.file)
        source = f"{data_file}, episode {row.index}"
        columns = ["action"] + ([] if row.video_file else [self.camera])
        table = self._read_table(data_file, columns, row, start, stop)
        actions = _vectors(table, "action", len(self.action_names), source)
        if row.video_file:
            file, begin = self._file(row.video_file, self._info.file), row.video_start + start
            frames = read_frames(file, begin, stop - start, fps=self.fps)
        else:
            images = self._image_bytes(table, source, start)
            frames = decode_images(images, source=source, first=start)
        return build_episode(
            source,
            id=self.episode_ids[index],
            frames=channels_first(frames),
            actions=actions,
            fps=self.fps,
            task=row.task,
        )

    def states(self, index: int) -> np.ndarray:
        """Robot states (T, S) float32 of an episode, S `state_names`; UserError as `episode`."""
        row = self._rows[index]
        file = self._file(row.data_file, self._info.file)
        table = self._read_table(file, [STATE], row, 0, row.length)
        return _vectors(table, STATE, len(self.state_names), f"{file}, episode {row.index}")

    def _file(self, name: str, stated_in: Path) -> Path:
        if self._fetch is not None:
            self._fetch(inside_name(self.path, name, stated_in=stated_in))
        return inside(self.path, name, stated_in=stated_in)

    def _check_files(self) -> None:
        """Every file is there and can hold what the episodes claim: now, not mid-training.

        Files that episodes share say how many rows they hold; of the others, of which there may be
        a hundred thousand, only the size is looked up.
        """
        claimed = Counter[str]()
        for row in self._rows:
            claimed[row.data_file] += row.length
        listing = _Listing(self.path)
        for name, num_rows in claimed.items():
            if self._info.shared_files:
                stored = open_parquet(self._file(name, self._info.file)).metadata.num_rows
            else:
                stored = ROWS_PER_BYTE * listing.find(name).stat().st_size
            if stored < num_rows:
                raise UserError(
                    f"{self.path / name} holds {'' if self._info.shared_files else 'at most '}"
                    f"{stored} rows, but meta/episodes claims {num_rows} of it; the file is "
                    f"incomplete."
                )
        for name in sorted({row.video_file for row in self._rows if row.video_file}):
            listing.find(name)

    def _read_table(
        self, file: Path, columns: list[str], row: EpisodeRow, start: int, stop: int
    ) -> pa.Table:
        columns = ["frame_index", *columns]
        filters = [("episode_index", "==", row.index), ("frame_index", ">=", start)]
        if stop < row.length:  # or else rows past the end are to be found
            filters.append(("frame_index", "<", stop))
        try:
            table = pq.read_table(
                file,
                columns=columns,
                filters=filters,
                use_threads=False,
                partitioning=None,
            )
        except FileNotFoundError:
            raise UserError(
                f"{file} does not exist; copy the missing file into the dataset."
            ) from None
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{file}: episode {row.index} cannot be read from columns "
                f"{', '.join(columns)} ({first_line(error)})."
            ) from error
        count = stop - start
        if len(table) != count or table["frame_index"].to_pylist() != list(range(start, stop)):
            raise UserError(
                f"{file}: episode {row.index} must have the frames {start} to {stop - 1} in "
                f"order, got {table.num_rows} rows that differ from that."
            )
        return table

    def _image_bytes(self, table: pa.Table, source: str, start: int) -> Iterator[bytes]:
        for frame, cell in enumerate(table[self.camera].to_pylist(), start):
            if not isinstance(cell, dict) or not (cell.get("bytes") or cell.get("path")):
                raise UserError(
                    f"{source}: column {self.camera!r} has no image at frame {frame}; expected "
                    f"'bytes' or a 'path'."
                )
            if cell.get("bytes"):
                yield cell["bytes"]
                continue
            file = self._file(cell["path"], Path(source))
            try:
                yield file.read_bytes()
            except OSError as error:
                raise UserError(f"Image {file} cannot be read ({error.strerror}).") from error


def _vectors(table: pa.Table, column: str, num_dims: int, source: str) -> np.ndarray:
    try:
        rows = np.array(table[column].to_pylist(), dtype=np.float32)
        return rows.reshape(table.num_rows, num_dims)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{source}: column {column!r} must hold {num_dims} numbers a frame, as meta/info.json "
            f"says."
        ) from error


class _Listing:
    """Files below a folder, from one listing of each folder that is asked about."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, dict[str, os.DirEntry[str]]] = {}

    def find(self, name: str) -> os.DirEntry[str]:
        """The file's entry; UserError if it does not exist."""
        folder, _, base = os.path.normpath(name).rpartition(os.sep)
        if folder not in self._folders:
            try:
                with os.scandir(self._root / folder) as entries:
                    self._folders[folder] = {e.name: e for e in entries if e.is_file()}
            except OSError:
                self._folders[folder] = {}
        if base not in self._folders[folder]:
            raise UserError(
                f"{self._root / name} does not exist; copy the missing file into the dataset."
            )
        return self._folders[folder][base]
