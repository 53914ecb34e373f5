"""Read LeRobotDataset v3.0: many episodes to a parquet file, and to a video file.

Every file name comes from the templates in meta/info.json. The frames of an episode are looked up
by integers, round(from_timestamp * fps) + i: summed float time stamps drift in long files. Only the
episode's own rows and frames are read. Format: huggingface.co/docs/lerobot, "LeRobotDataset v3.0".
Left out: depth cameras, per-episode statistics, v2.x.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidwm.data.clip import Episode
from vidwm.data.images import channels_first, decode_images
from vidwm.data.parquet import first_line, open_parquet, read_parquet
from vidwm.data.reading import build_episode, choose_camera, inside, read_json
from vidwm.data.video import read_frames
from vidwm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class _Span:
    """Where one episode lies: rows of a parquet file, frames of a video (from video_start)."""

    index: int
    length: int
    task: str
    data_file: Path
    video_file: Path | None
    video_start: int


class LeRobotDataset:
    """An `EpisodeDataset` over a LeRobotDataset v3.0 folder.

    `camera` is an image or video key, or its last part ("front" for observation.images.front);
    None takes the alphabetically first. `split` is a name under "splits" in meta/info.json; None
    takes every episode, or the first split listed if there are several.
    """

    format = "lerobot"

    def __init__(
        self, path: str | Path, *, camera: str | None = None, split: str | None = None
    ) -> None:
        self.path = Path(path)
        self._info_file = self.path / "meta" / "info.json"
        info = read_json(self._info_file)
        _check_version(self._info_file, info)
        try:
            self.fps = float(info["fps"])
            features = info["features"]
            self.cameras = tuple(sorted(k for k, v in features.items() if _is_camera(v)))
            self._num_episodes = int(info["total_episodes"])
            self._data_template = str(info["data_path"])
            self._video_template = info.get("video_path") or ""
            action = features["action"]
            self.action_names = _action_names(action)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self._info_file} lacks or misstates {error}; expected the fields of a "
                f"LeRobotDataset v3.0 with an 'action' feature."
            ) from error
        if not 0 < self.fps < float("inf"):
            raise UserError(f"{self._info_file} states fps {self.fps}; expected a positive rate.")
        self.camera = choose_camera(self.cameras, camera, where=self._info_file)
        self._is_video = features[self.camera]["dtype"] == "video"
        keep = _split_range(self._info_file, info.get("splits"), split)
        self._spans = [span for span in self._read_spans() if span.index in keep]
        if not self._spans:
            raise UserError(f"{self.path} holds no episode to read; expected at least one.")
        self._check_files()
        self.episode_ids: Sequence[str] = [f"episode_{span.index:06d}" for span in self._spans]
        self.lengths: Sequence[int] = [span.length for span in self._spans]

    def __len__(self) -> int:
        return len(self._spans)

    def episode(self, index: int) -> Episode:
        """Read one episode; UserError names the file when it is damaged."""
        span = self._spans[index]
        columns = ["frame_index", "action"] + ([] if self._is_video else [self.camera])
        table = self._read_rows(span, columns)
        source = f"{span.data_file}, episode {span.index}"
        actions = self._actions(table, source)
        if span.video_file is not None:
            frames = read_frames(span.video_file, span.video_start, span.length, fps=self.fps)
        else:
            frames = decode_images(list(self._image_bytes(table, source)), source=source)
        return build_episode(
            source,
            id=self.episode_ids[index],
            frames=channels_first(frames),
            actions=actions,
            fps=self.fps,
            task=span.task,
        )

    def _read_spans(self) -> Iterator[_Span]:
        files = sorted((self.path / "meta" / "episodes").rglob("*.parquet"))
        prefix = f"videos/{self.camera}/"
        columns = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
        if self._is_video:
            columns += [prefix + c for c in ("chunk_index", "file_index", "from_timestamp")]
        count = 0
        for file in files:
            for row in read_parquet(file, columns):
                count += 1
                try:
                    yield self._span(row, prefix, file)
                except UserError:
                    raise
                except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
                    raise UserError(
                        f"{file} lacks or misstates {error} of an episode; expected the columns "
                        f"of a LeRobotDataset v3.0."
                    ) from error
        if count != self._num_episodes:
            raise UserError(
                f"{self._info_file} counts {self._num_episodes} episodes, but {count} are listed "
                f"under {self.path / 'meta' / 'episodes'}; the dataset is incomplete."
            )

    def _span(self, row: dict[str, Any], prefix: str, file: Path) -> _Span:
        video_file, video_start = None, 0
        if self._is_video:
            video_file = self._file(
                self._video_template,
                video_key=self.camera,
                chunk_index=row[prefix + "chunk_index"],
                file_index=row[prefix + "file_index"],
            )
            video_start = round(row[prefix + "from_timestamp"] * self.fps)
        length = int(row["length"])
        if length < 1 or video_start < 0:
            raise UserError(
                f"{file}: episode {row['episode_index']} has length {length} and starts at frame "
                f"{video_start} of its video; expected a length of 1 or more, a start of 0 or more."
            )
        return _Span(
            index=int(row["episode_index"]),
            length=length,
            task=next(iter(row.get("tasks") or [""])),
            data_file=self._file(
                self._data_template,
                chunk_index=row["data/chunk_index"],
                file_index=row["data/file_index"],
            ),
            video_file=video_file,
            video_start=video_start,
        )

    def _file(self, template: str, **fields: int | str) -> Path:
        try:
            name = template.format(**fields)
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise UserError(
                f"{self._info_file}: the path template {template!r} cannot be filled in with "
                f"{', '.join(fields)} ({error})."
            ) from error
        return inside(self.path, name, stated_in=self._info_file)

    def _check_files(self) -> None:
        """Every file is there, and holds the rows the episodes claim: now, not mid-training."""
        rows = Counter[Path]()
        for span in self._spans:
            rows[span.data_file] += span.length
        for file, claimed in rows.items():
            stored = open_parquet(file).metadata.num_rows
            if stored < claimed:
                raise UserError(
                    f"{file} holds {stored} rows, but meta/episodes claims {claimed} of it; "
                    f"the file is incomplete."
                )
        for file in sorted({span.video_file for span in self._spans if span.video_file}):
            if not file.is_file():
                raise UserError(
                    f"Video {file} does not exist; copy the missing file into the dataset."
                )

    def _read_rows(self, span: _Span, columns: list[str]) -> pa.Table:
        try:
            table = pq.read_table(
                span.data_file,
                columns=columns,
                filters=[("episode_index", "==", span.index)],
                use_threads=False,
            )
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{span.data_file}: episode {span.index} cannot be read from columns "
                f"{', '.join(columns)} ({first_line(error)})."
            ) from error
        if table["frame_index"].to_pylist() != list(range(span.length)):
            raise UserError(
                f"{span.data_file}: episode {span.index} must have the frames 0 to "
                f"{span.length - 1} in order, got {table.num_rows} rows that differ from that."
            )
        return table

    def _actions(self, table: pa.Table, source: str) -> np.ndarray:
        try:
            actions = np.array(table["action"].to_pylist(), dtype=np.float32)
            return actions.reshape(table.num_rows, len(self.action_names))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{source}: column 'action' must hold {len(self.action_names)} numbers a frame, "
                f"as meta/info.json says."
            ) from error

    def _image_bytes(self, table: pa.Table, source: str) -> Iterator[bytes]:
        for frame, cell in enumerate(table[self.camera].to_pylist()):
            if not isinstance(cell, dict) or not (cell.get("bytes") or cell.get("path")):
                raise UserError(
                    f"{source}: column {self.camera!r} has no image at frame {frame}; expected "
                    f"'bytes' or a 'path'."
                )
            if cell.get("bytes"):
                yield cell["bytes"]
                continue
            file = inside(self.path, cell["path"], stated_in=Path(source))
            try:
                yield file.read_bytes()
            except OSError as error:
                raise UserError(f"Image {file} cannot be read ({error.strerror}).") from error


def _check_version(file: Path, info: dict[str, Any]) -> None:
    version = str(info.get("codebase_version", ""))
    if version.startswith("v2"):
        raise UserError(
            f"{file} says LeRobotDataset {version}, which is not yet read; convert the dataset "
            f"to v3.0 with LeRobot's convert_dataset_v21_to_v30."
        )
    if not version.startswith("v3"):
        raise UserError(f"{file} says codebase_version {version!r}; expected 'v3.0'.")


def _is_camera(feature: dict[str, Any]) -> bool:
    """Whether a feature holds colour images; depth is stored as quantised grey."""
    info = feature.get("info") or feature.get("video_info") or {}
    depth = info.get("is_depth_map") or info.get("video.is_depth_map")
    return feature["dtype"] in ("video", "image") and not depth


def _action_names(feature: dict[str, Any]) -> tuple[str, ...]:
    """One name a dimension; `names` is a list, a dict of one list, a dict of places, or null."""
    (num_dims,) = feature["shape"]
    names = feature.get("names")
    if isinstance(names, dict):
        lists = [value for value in names.values() if isinstance(value, list)]
        names = lists[0] if len(lists) == 1 else list(names)
    if isinstance(names, list) and len(names) == num_dims:
        return tuple(str(name) for name in names)
    return tuple(f"action_{dim}" for dim in range(int(num_dims)))


def _split_range(file: Path, splits: dict[str, str] | None, split: str | None) -> range:
    """Episode numbers of a split, written "first:end" in meta/info.json."""
    splits = splits or {}
    if split is None:
        if len(splits) < 2:
            return range(2**63)
        split = next(iter(splits))
    if split not in splits:
        raise UserError(f"{file} has no split {split!r}; expected one of {', '.join(splits)}.")
    try:
        first, end = splits[split].split(":")
        return range(int(first), int(end))
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{file}: split {split!r} is {splits[split]!r}; expected 'first:end'."
        ) from error
