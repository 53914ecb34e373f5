"""Facts of a video from its header, in containers that count their frames and that do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vidwm.data.video import write_video
from vidwm.data.video_facts import VideoFacts, video_facts
from vidwm.errors import UserError


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_frames_and_rate(tmp_path: Path, moving: Callable[..., np.ndarray], suffix: str) -> None:
    write_video(tmp_path / f"a.{suffix}", moving(7), 12.5)
    assert video_facts(tmp_path / f"a.{suffix}") == VideoFacts(7, 12.5)


def test_more_frames_than_bytes(tmp_path: Path, moving: Callable[..., np.ndarray]) -> None:
    write_video(tmp_path / "a.avi", moving(7), 10)
    content = bytearray((tmp_path / "a.avi").read_bytes())
    for chunk, offset in ((b"avih", 24), (b"strh", 40)):  # both count the frames
        place = content.index(chunk) + offset
        content[place : place + 4] = (10**9).to_bytes(4, "little")
    (tmp_path / "a.avi").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.avi says it has 1000000000 frames"):
        video_facts(tmp_path / "a.avi")


def test_no_video(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.mp4 does not exist"):
        video_facts(tmp_path / "none.mp4")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"a\.mp4 cannot be opened"):
        video_facts(tmp_path / "a.mp4")
