"""The list of a LeRobotDataset's episodes: how long each is and in which files it lies.

Version 3 keeps it in parquet files under meta/episodes; many episodes share a data file and a
video, where the first frame is looked up by an integer, round(from_timestamp * fps): summed float
time stamps drift in long files. Versions 2.0 and 2.1 keep it in meta/episodes.jsonl, with one
parquet file and one mp4 a camera for every episode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vidwm.data.lerobot_info import LeRobotInfo, fill_in
from vidwm.data.parquet import read_parquet
from vidwm.data.reading import inside_name, linked_inside, read_json_lines
from vidwm.errors import UserError

MAX_LENGTH = 10**7  # frames; four days at 30 a second


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeRow:
    """Where one episode lies: rows of a parquet file, frames of a video (from video_start).

    The files are named relative to the dataset's folder; video_file is "" for images in parquet.
    """

    index: int
    length: int
    task: str
    data_file: str
    video_file: str
    video_start: int


def list_episodes(root: Path, info: LeRobotInfo, camera: str) -> list[EpisodeRow]:
    """Every episode of the dataset, in the order it is listed in; UserError if one is misstated."""
    listed = (
        _list_shared(root, info, camera) if info.shared_files else _list_own(root, info, camera)
    )
    if len(listed) != info.num_episodes:
        where = "meta/episodes" if info.shared_files else "meta/episodes.jsonl"
        raise UserError(
            f"{info.file} counts {info.num_episodes} episodes, but {len(listed)} are listed "
            f"under {root / where}; the dataset is incomplete."
        )
    return listed


def _list_shared(root: Path, info: LeRobotInfo, camera: str) -> list[EpisodeRow]:
    """Version 3."""
    prefix = f"videos/{camera}/"
    is_video = camera in info.videos
    columns = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
    if is_video:
        columns += [prefix + c for c in ("chunk_index", "file_index", "from_timestamp")]
    rows = []
    for file in sorted((root / "meta" / "episodes").rglob("*.parquet")):
        for values in read_parquet(linked_inside(root, file), columns):
            with _stated_in(file, info):
                place = {key: values["data/" + key] for key in ("chunk_index", "file_index")}
                video_file, video_start = "", 0
                if is_video:
                    video = {key: values[prefix + key] for key in ("chunk_index", "file_index")}
                    video_file = fill_in(info, info.video_template, video_key=camera, **video)
                    video_start = round(values[prefix + "from_timestamp"] * info.fps)
                rows.append(
                    _checked(
                        root,
                        info,
                        file,
                        EpisodeRow(
                            index=int(values["episode_index"]),
                            length=int(values["length"]),
                            task=str(next(iter(values.get("tasks") or [""]))),
                            data_file=fill_in(info, info.data_template, **place),
                            video_file=video_file,
                            video_start=video_start,
                        ),
                    )
                )
    return rows


def _list_own(root: Path, info: LeRobotInfo, camera: str) -> list[EpisodeRow]:
    """Versions 2.0 and 2.1."""
    file = root / "meta" / "episodes.jsonl"
    tasks = _read_tasks(root, info)
    rows = []
    for values in read_json_lines(linked_inside(root, file)).values():
        with _stated_in(file, info):
            index = int(values["episode_index"])
            place = {"episode_chunk": index // info.chunks_size, "episode_index": index}
            video_file = ""
            if camera in info.videos:
                video_file = fill_in(info, info.video_template, video_key=camera, **place)
            task = next(iter(values.get("tasks") or [""]))
            rows.append(
                _checked(
                    root,
                    info,
                    file,
                    EpisodeRow(
                        index=index,
                        length=int(values["length"]),
                        task=tasks.get(task, "") if isinstance(task, int) else str(task),
                        data_file=fill_in(info, info.data_template, **place),
                        video_file=video_file,
                        video_start=0,
                    ),
                )
            )
    return rows


def _read_tasks(root: Path, info: LeRobotInfo) -> dict[int, str]:
    """Task texts by number, for sets whose episodes list numbers; none if there is no such file."""
    file = root / "meta" / "tasks.jsonl"
    if not file.exists():
        return {}
    with _stated_in(file, info):
        lines = read_json_lines(linked_inside(root, file)).values()
        return {int(line["task_index"]): str(line["task"]) for line in lines}


def _checked(root: Path, info: LeRobotInfo, file: Path, row: EpisodeRow) -> EpisodeRow:
    if not 1 <= row.length <= MAX_LENGTH or row.video_start < 0:
        raise UserError(
            f"{file}: episode {row.index} has length {row.length} and starts at frame "
            f"{row.video_start} of its video; expected a length from 1 to {MAX_LENGTH}, a start "
            f"of 0 or more."
        )
    for name in (row.data_file, row.video_file):
        inside_name(root, name, stated_in=info.file)
    return row


@contextmanager
def _stated_in(file: Path, info: LeRobotInfo) -> Iterator[None]:
    """What goes wrong with the values of a row becomes a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
        raise UserError(
            f"{file} lacks or misstates {error} of an episode; expected the fields of a "
            f"LeRobotDataset {info.version}."
        ) from error
