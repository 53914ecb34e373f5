"""Read plain video files with their actions, by a manifest (manifest_file.py says its columns).

The rows of actions are those of the episode, one a frame, or one fewer: then the last is repeated.
Where an episode is a cut (start, end), there may instead be a row for every frame of the video;
then row `start` is the first one's. Only the frames asked for are decoded.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidwm.data.clip import Episode, check_span
from vidwm.data.images import channels_first
from vidwm.data.manifest_file import ManifestRow, read_manifest
from vidwm.data.npy import read_npy
from vidwm.data.reading import build_episode, choose_camera, read_any_json
from vidwm.data.video import read_frames
from vidwm.data.video_facts import video_facts
from vidwm.errors import UserError

RATE_TOLERANCE = 0.01  # 29.97 is as good as 30


class ManifestDataset:
    """An `EpisodeDataset` over a manifest.jsonl or manifest.csv.

    `camera` is the part after "video." of a column; None takes the alphabetically first. `split` is
    a value of column split; None takes every row. All rows have one frame rate, to a hundredth.
    """

    format = "manifest"

    def __init__(
        self, path: str | Path, *, camera: str | None = None, split: str | None = None
    ) -> None:
        self.path = Path(path).parent
        rows = read_manifest(Path(path))
        if split is not None:
            splits = sorted({row.split for row in rows if row.split})
            rows = [row for row in rows if row.split == split]
            if not rows:
                raise UserError(
                    f"{path} has no split {split!r}; column 'split' has "
                    f"{', '.join(splits) or 'no values'}."
                )
        self.cameras = tuple(sorted(rows[0].videos))
        self.camera = choose_camera(self.cameras, camera, where=Path(path))
        self._rows = rows
        rates, lengths = zip(*(self._rate_and_length(row) for row in rows), strict=True)
        self.fps: float = rates[0]
        for row, rate in zip(rows, rates, strict=True):
            if abs(rate - self.fps) > RATE_TOLERANCE * self.fps:
                raise UserError(
                    f"{row.where}: {rate:g} frames per second, but the first episode has "
                    f"{self.fps:g}; list them in separate manifests."
                )
        self._rates = rates
        self.lengths: Sequence[int] = list(lengths)
        self.episode_ids: Sequence[str] = [row.id for row in rows]
        self.action_names = _action_names(rows[0])

    def __len__(self) -> int:
        return len(self._rows)

    def episode(self, index: int) -> Episode:
        """Read one episode; UserError names the file when it is damaged."""
        return self.span(index, 0, self.lengths[index])

    def span(self, index: int, start: int, stop: int) -> Episode:
        """Frames start .. stop - 1 of an episode with their actions; no other frame is decoded."""
        row, length = self._rows[index], self.lengths[index]
        check_span(start, stop, length)
        actions = self._actions(row, length)
        frames = read_frames(
            row.videos[self.camera], row.start + start, stop - start, fps=self._rates[index]
        )
        return build_episode(
            row.where,
            id=row.id,
            frames=channels_first(frames),
            actions=np.ascontiguousarray(actions[start:stop]),
            fps=self._rates[index],
            task=row.task,
        )

    def _rate_and_length(self, row: ManifestRow) -> tuple[float, int]:
        """Of an episode, from the row if it says both, else from the video's header."""
        if self.camera not in row.videos:
            raise UserError(
                f"{row.where} names no video of camera {self.camera!r}; every row must have one."
            )
        video = row.videos[self.camera]
        if row.fps is None or row.end is None:
            facts = video_facts(video)
            rate, frames = row.fps or facts.fps, facts.frames
        else:
            rate, frames = row.fps, video.stat().st_size if video.is_file() else -1
        if frames < 0:
            raise UserError(f"{row.where}: video {video} does not exist; copy it there.")
        end = frames if row.end is None else row.end
        if not row.start < end <= frames:
            raise UserError(
                f"{row.where}: frames {row.start} to {end - 1} are asked of {video}, which "
                f"holds at most {frames}."
            )
        return rate, end - row.start

    def _actions(self, row: ManifestRow, length: int) -> np.ndarray:
        """The actions (T, A) of an episode."""
        rows, source = _read_actions(row), _source(row)
        if rows.shape[1] != len(self.action_names):
            raise UserError(
                f"{source}: {rows.shape[1]} numbers a row, but the first episode's actions have "
                f"{len(self.action_names)}; all episodes must share one action space."
            )
        of_video = len(rows) not in (length, length - 1) and len(rows) >= row.start + length - 1
        if of_video and row.end is not None:
            rows = rows[row.start : row.start + length]
        if len(rows) not in (length, length - 1) or not len(rows):
            raise UserError(
                f"{source}: {len(rows)} rows of actions for {length} frames; expected one a frame "
                f"or one fewer."
            )
        return np.concatenate([rows, rows[len(rows) - 1 :]])[:length]


def _source(row: ManifestRow) -> str:
    return f"{row.where}, {row.actions}" if isinstance(row.actions, Path) else row.where


def _action_names(row: ManifestRow) -> tuple[str, ...]:
    """From the header of a CSV file of actions, else by number."""
    num_dims = _read_actions(row).shape[1]
    if isinstance(row.actions, Path) and row.actions.suffix == ".csv":
        first = _csv_cells(row.actions)[0]
        if not _numbers(first) and len(set(first)) == num_dims:
            return tuple(first)
    return tuple(f"action_{dim}" for dim in range(num_dims))


def _read_actions(row: ManifestRow) -> np.ndarray:
    """All rows of numbers (M, A) float32 that belong to a row of the manifest."""
    value: Any = row.actions
    if isinstance(value, Path):
        value = _read_file(value, row)
    try:
        array = np.asarray(value)
        with np.errstate(over="ignore"):  # infinity is found by Episode
            rows = array.astype(np.float32) if array.dtype.kind in "fiub" else None
    except (TypeError, ValueError, OverflowError):
        rows = None
    if rows is not None and rows.ndim == 1:
        rows = rows[:, None]
    if rows is None or rows.ndim != 2 or not rows.size:
        raise UserError(
            f"{_source(row)}: the actions must be rows of numbers, all of one length and at least "
            f"one."
        )
    return rows


def _read_file(file: Path, row: ManifestRow) -> Any:
    if file.suffix == ".npy":
        return read_npy(file)
    if file.suffix == ".json":
        value = read_any_json(file)
        return value.get("actions") if isinstance(value, dict) else value
    if file.suffix == ".csv":
        cells = _csv_cells(file)
        rows = [_numbers(line) for line in cells[(0 if _numbers(cells[0]) else 1) :]]
        bad = next((i for i, numbers in enumerate(rows) if not numbers), None)
        if bad is not None:
            raise UserError(f"{file}: row {bad} of the actions is not all numbers; repair it.")
        return rows
    raise UserError(f"{row.where}: actions in {file}; expected a .csv, .npy or .json file.")


def _csv_cells(file: Path) -> list[list[str]]:
    """The lines of a CSV file that are not empty, at least one."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            lines = [line for line in csv.reader(stream, strict=True) if line]
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; copy the missing file into the dataset.") from None
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no readable CSV file ({error}); restore it.") from error
    if not lines:
        raise UserError(f"{file} is empty; expected a row of numbers a frame.")
    return lines


def _numbers(cells: list[str]) -> list[float]:
    """The cells as numbers, none if one is no number."""
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        return []
