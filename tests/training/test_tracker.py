"""What a run tells: rows, events, videos and progress lines."""

from __future__ import annotations

import io
import json
import math
import sys

import pytest
import torch
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vidwm.training.run_folder import RunFolder
from vidwm.training.tracker import Tracker, encode_gif


def open_tracker(folder, step=0, total=10):
    return Tracker(RunFolder(folder), "tiny", step=step, total=total, seconds=0.0)


def video():
    """Three frames of pure red, green and blue."""
    frames = torch.zeros(3, 3, 4, 6, dtype=torch.uint8)
    for t in range(3):
        frames[t, t] = 255
    return frames


def test_metrics_are_strict_json_lines(tmp_path):
    tracker = open_tracker(tmp_path)
    tracker.log(2, {"loss": 0.1, "odd": math.nan})
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()  # before close: flushed

    def refuse(text):
        raise AssertionError(text)

    row = json.loads(rows[0], parse_constant=refuse)
    assert (row["step"], row["loss"], row["odd"]) == (2, 0.1, None)
    assert row["time"] >= 0
    tracker.close()


@pytest.mark.parametrize(("steps", "tail"), [((1, 2, 3), ""), ((1, 2), '{"step": 3, "lo')])
def test_resuming_drops_later_rows(tmp_path, steps, tail):
    tracker = open_tracker(tmp_path)
    for step in steps:
        tracker.log(step, {"loss": 1.0})
    tracker.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(tail)
    tracker = open_tracker(tmp_path, step=2)
    tracker.log(3, {"loss": 9.0})
    tracker.close()
    rows = [json.loads(r) for r in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in rows] == [(1, 1.0), (2, 1.0), (3, 9.0)]


def test_gif_has_every_frame_at_its_speed():
    with Image.open(io.BytesIO(encode_gif(video(), fps=5))) as gif:
        frames = [f.convert("RGB") for f in ImageSequence.Iterator(gif)]
        assert gif.info["loop"] == 0
        assert gif.info["duration"] == 200
    assert [f.getpixel((5, 3)) for f in frames] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert frames[0].size == (6, 4)


def test_tensorboard_holds_scalars_and_playable_videos(tmp_path):
    tracker = open_tracker(tmp_path)
    tracker.log(4, {"loss": 0.5})
    tracker.video(4, "sample", video(), fps=5)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("tiny/loss")] == [(4, 0.5)]
    (image,) = events.Images("tiny/sample")
    assert (image.step, image.width, image.height) == (4, 6, 4)
    assert image.encoded_image_string == (tmp_path / "videos/sample_00000004.gif").read_bytes()
    assert Image.open(io.BytesIO(image.encoded_image_string)).n_frames == 3


def test_progress_is_a_line_per_logged_step_in_a_log_file(tmp_path, capsys):
    tracker = open_tracker(tmp_path, total=100)
    tracker.advance()
    tracker.advance()
    tracker.log(2, {"other": 1.0, "loss": 0.25})
    tracker.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tiny: step 2/100  loss 0.25  ")
    assert "steps/s  ETA " in line


def test_progress_is_a_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    tracker = open_tracker(tmp_path, step=4)
    tracker.advance()
    tracker.log(5, {"loss": 0.25})
    tracker.close()
    shown = capsys.readouterr().err
    assert "50%|" in shown
    assert "5/10" in shown
    assert "loss 0.25" in shown
