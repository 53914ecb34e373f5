"""Write a LeRobotDataset v3.0: parquet rows, episodes concatenated into H.264 videos, metadata.

Layout after https://github.com/huggingface/lerobot (0.6, `src/lerobot/datasets`); readers need
nothing but the files. Chroma is kept in full (yuv444p): subsampling it would cap what a prediction
of small moving things can score. Every episode starts at a keyframe, so that reading one decodes
no other. The dataset appears under its name only when it is complete. Left out: several cameras,
and per-episode statistics, which only tools that merge or split datasets use.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from vidwm.data.lerobot_meta import ACTION, STATE, Vectors, write_meta
from vidwm.data.lerobot_piece import VIDEO_KEY, Piece, Totals, find_piece, totals_of
from vidwm.errors import UserError


class LeRobotWriter:
    """Context manager: `add_episode` as often as wanted; leaving it normally finishes the dataset.

    Episodes go into pieces of `episodes_per_video`. After an exception inside the `with`, the
    unfinished files are removed: all of them, or with `resume` those of the last piece, and another
    writer goes on behind the pieces that are whole, from episode `num_episodes`. What is written
    depends on the episodes alone, not on where a writer went on. UserError if `root` exists.
    Without `state_names` there is no state.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        fps: int,
        robot_type: str,
        action_names: Sequence[str],
        state_names: Sequence[str],
        crf: int = 11,
        episodes_per_video: int = 60,
        resume: bool = False,
    ) -> None:
        self.root = Path(root)
        if self.root.exists():
            raise UserError(f"{self.root} exists already; choose a new folder or remove it first.")
        self.partial = self.root.with_name(self.root.name + ".partial")
        if self.partial.exists() and not resume:
            raise UserError(
                f"{self.partial} is left over from an interrupted recording (or belongs to one "
                f"that is running); remove it and start again."
            )
        self._vectors = Vectors(
            fps=fps,
            robot_type=robot_type,
            action_names=list(action_names),
            state_names=list(state_names),
        )
        self._crf, self._per_video, self._resume = crf, episodes_per_video, resume
        self._totals, self._pieces = Totals(), 0  # pieces that are whole
        self._piece: Piece | None = None

    @property
    def num_episodes(self) -> int:
        """How many there are, those of earlier writers included."""
        return self._totals.episodes

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """(H, W, 3) of all frames, () before the first episode."""
        return self._totals.frame_shape

    def __enter__(self) -> LeRobotWriter:
        self.partial.mkdir(parents=True, exist_ok=self._resume)
        while (whole := find_piece(self.partial, self._pieces)) is not None:
            self._totals.add(whole)
            self._pieces += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException:
            self._tidy()
            raise
        if kind is not None:
            self._tidy()

    def add_episode(
        self,
        *,
        frames: np.ndarray,
        actions: np.ndarray,
        states: np.ndarray,
        task: str,
        extra: Mapping[str, str | bool | int | float] | None = None,
    ) -> None:
        """Append one episode; `extra` becomes columns of the episode table.

        frames (T, H, W, 3) uint8, the same H and W for every episode; actions (T, A) and states
        (T, S) float32, finite. ValueError otherwise.
        """
        self._check(frames, actions, states)
        if self._piece is None:
            size = frames.shape[1:3]
            self._piece = Piece(self.partial, self._pieces, size, self._vectors.fps, self._crf)
        begin, number, first = self._piece.totals.frames, self.num_episodes, self._totals.frames
        totals = totals_of(frames, task)
        self._totals.add(totals)
        rows = self._rows(actions, states, number, first, self._totals.tasks[task])
        end, fps = begin + len(frames), self._vectors.fps
        episode: dict[str, object] = {
            "episode_index": number,
            "tasks": [task],
            "length": len(frames),
            "dataset_from_index": first,
            "dataset_to_index": first + len(frames),
            "data/chunk_index": 0,
            "data/file_index": self._pieces,
            f"videos/{VIDEO_KEY}/chunk_index": 0,
            f"videos/{VIDEO_KEY}/file_index": self._pieces,
            f"videos/{VIDEO_KEY}/from_timestamp": begin / fps,
            f"videos/{VIDEO_KEY}/to_timestamp": end / fps,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": self._pieces,
            **(extra or {}),
        }
        self._piece.add(frames, rows, episode, totals)
        if self._piece.totals.episodes == self._per_video:
            self._finish_piece()

    def _finish_piece(self) -> None:
        if self._piece is not None:
            self._piece.finish()
            self._piece = None
            self._pieces += 1

    def _finish(self) -> None:
        if not self.num_episodes:
            raise UserError(f"{self.root}: no episode was recorded; add at least one.")
        self._finish_piece()
        write_meta(self.partial, self._vectors, self._totals, self._pieces)
        self.partial.rename(self.root)

    def _tidy(self) -> None:
        """Leave no file that is not whole."""
        if self._piece is not None:
            self._piece.abandon()
        if not (self._resume and self._pieces):
            shutil.rmtree(self.partial)

    def _check(self, frames: np.ndarray, actions: np.ndarray, states: np.ndarray) -> None:
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise ValueError(
                f"frames must be (T, H, W, 3) uint8, got {frames.shape} {frames.dtype}"
            )
        if frames.shape[1:] != (self.frame_shape or frames.shape[1:]):
            raise ValueError(
                f"frames of {frames.shape[1:]} cannot join a dataset of {self.frame_shape}"
            )
        names = self._vectors
        named = (
            ("actions", actions, names.action_names),
            ("states", states, names.state_names),
        )
        for name, rows, dims in named:
            expected = (len(frames), len(dims))
            if rows.shape != expected or rows.dtype != np.float32 or not np.isfinite(rows).all():
                raise ValueError(
                    f"{name} must be finite float32 {expected}, got {rows.shape} {rows.dtype}"
                )

    def _rows(
        self, actions: np.ndarray, states: np.ndarray, episode: int, first: int, task: int
    ) -> pa.Table:
        length = len(actions)
        steps = np.arange(length)
        state = {STATE: _lists(states)} if self._vectors.state_names else {}
        return pa.table(
            {
                ACTION: _lists(actions),
                **state,
                "timestamp": (steps / self._vectors.fps).astype(np.float32),
                "frame_index": steps,
                "episode_index": np.full(length, episode),
                "index": first + steps,
                "task_index": np.full(length, task),
            }
        )


def _lists(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
