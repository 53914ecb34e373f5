"""Time stamps against the frame rate, in the formats that have them.

LeRobot keeps one a row; frame i should be at i / fps seconds. A drift of half a frame means that
frames were dropped, or that the set states another rate than it was recorded at. (The time stamps
inside of video files are held against the rate by the reader, episode by episode.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidwm.data.clip import EpisodeDataset
from vidwm.data.facts import lerobot_info, lerobot_number
from vidwm.data.joined import recordings_of

COLUMNS = ["episode_index", "frame_index", "timestamp"]


def uneven_episodes(dataset: EpisodeDataset) -> dict[str, str]:
    """Episodes whose frames are half a frame or more away from their time, and by how much."""
    found: dict[str, str] = {}
    if not lerobot_info(dataset):
        return found
    names: dict[int | None, list[str]] = defaultdict(list)
    for name, recording in zip(dataset.episode_ids, recordings_of(dataset), strict=True):
        names[lerobot_number(recording)].append(name)
    for episode, frame, seconds in _rows(dataset):
        away = np.abs(seconds * dataset.fps - frame)
        for number in np.unique(episode[~(away < 0.5)]):  # written so that NaN is found
            worst = float(away[episode == number].max())
            for name in names.get(number, ()):
                found[name] = (
                    f"time stamps are up to {worst:.1f} frames away from {dataset.fps:g} frames "
                    f"per second"
                )
    return found


def _rows(dataset: EpisodeDataset) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Columns of each data file; files without them say nothing."""
    for file in sorted((dataset.path / "data").rglob("*.parquet")):
        try:
            table = pq.read_table(file, columns=COLUMNS)
            columns = [np.asarray(table[name].to_numpy(), np.float64) for name in COLUMNS]
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
            continue
        yield columns[0], columns[1], columns[2]
