"""The manifest that lists videos and their actions: its columns, checked; its rows, one an episode.

    video          a video file; or video.<camera> for several that show the same moments
    actions        a .csv, .npy or .json file with a row of numbers a frame, or the rows in place
    fps            frames per second; the video's own if absent
    start, end     frames start .. end - 1 of the video are the episode; all of it if absent
    task, id       text; the id is the video's name if absent
    split          the name of the episode's share of the data

`manifest.jsonl` has an object a line, `manifest.csv` a header and a row an episode. Files are named
relative to the manifest and lie beside or below it.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidwm.data.reading import inside, read_json_lines
from vidwm.errors import UserError

NAMES = ("manifest.jsonl", "manifest.csv")
COLUMNS = ("video", "actions", "fps", "start", "end", "task", "id", "split")
VIDEO = "video"
MAX_FRAME = 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """One episode; `where` names the manifest and the line for messages."""

    where: str
    videos: dict[str, Path]
    actions: Path | list[Any]
    fps: float | None
    start: int
    end: int | None
    task: str
    id: str
    split: str


def read_manifest(file: Path) -> list[ManifestRow]:
    """UserError names the line and the column if one is not as above."""
    lines = read_json_lines(file) if file.suffix == ".jsonl" else _csv_lines(file)
    rows: list[ManifestRow] = []
    seen: dict[str, str] = {}
    for number, values in lines.items():
        row = _row(file, f"{file}, line {number}", values)
        if row.id in seen:
            raise UserError(
                f"{row.where}: the id {row.id!r} is that of {seen[row.id]} too; give every "
                f"episode its own in column 'id'."
            )
        seen[row.id] = f"line {number}"
        rows.append(row)
    if not rows:
        raise UserError(f"{file} lists no episode; expected at least one row.")
    return rows


def _csv_lines(file: Path) -> dict[int, dict[str, Any]]:
    """Line number -> the cells that are filled in."""
    lines: dict[int, dict[str, Any]] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            for cells in reader:
                if None in cells or None in cells.values():
                    raise UserError(
                        f"{file}, line {reader.line_num} has another number of cells than the "
                        f"header; quote cells that contain commas."
                    )
                lines[reader.line_num] = {key: cell for key, cell in cells.items() if cell != ""}
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no readable CSV file ({error}); restore it.") from error
    return lines


def _row(file: Path, where: str, values: dict[str, Any]) -> ManifestRow:
    for column in values:
        if column not in COLUMNS and not column.startswith(VIDEO + "."):
            raise UserError(
                f"{where}: column {column!r} is not known; expected {', '.join(COLUMNS)} or "
                f"video.<camera>."
            )
    named = {k: v for k, v in values.items() if k == VIDEO or k.startswith(VIDEO + ".")}
    videos = {key: _file(file, where, key, name) for key, name in named.items()}
    if not videos:
        raise UserError(f"{where} names no video; expected a file in column 'video'.")
    start, end = _number(where, values, "start") or 0, _number(where, values, "end")
    if end is not None and end <= start:
        raise UserError(f"{where}: end {end} is not after start {start}; remove the row.")
    stem = next(iter(videos.values())).relative_to(file.parent).with_suffix("").as_posix()
    return ManifestRow(
        where=where,
        videos={key.removeprefix(VIDEO + "."): video for key, video in videos.items()},
        actions=_actions(file, where, values.get("actions")),
        fps=_rate(where, values.get("fps")),
        start=start,
        end=end,
        task=str(values.get("task", "")),
        id=str(values.get("id", f"{stem}-{start}" if start else stem)),
        split=str(values.get("split", "")),
    )


def _file(file: Path, where: str, column: str, name: Any) -> Path:
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: column {column!r} must name a file, got {str(name)[:40]!r}.")
    return inside(file.parent, name, stated_in=Path(where))


def _actions(file: Path, where: str, value: Any) -> Path | list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: column 'actions' is not readable ({error}).") from error
    return value if isinstance(value, list) else _file(file, where, "actions", value)


def _rate(where: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        rate = float(value)
    except (TypeError, ValueError, OverflowError):
        rate = 0.0
    if not 0 < rate < 1e6:
        raise UserError(f"{where}: fps is {str(value)[:40]!r}; expected frames per second.")
    return rate


def _number(where: str, values: dict[str, Any], column: str) -> int | None:
    value = values.get(column)
    if value is None:
        return None
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value[:20])
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_FRAME:
        raise UserError(
            f"{where}: {column} is {str(value)[:40]!r}; expected the number of a frame, from 0."
        )
    return value
