"""Writes predicted futures as video files that any player and any web page can show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidwm.data.sampler import ClipSource
from vidwm.data.video import write_gif, write_video
from vidwm.data.windows import Window
from vidwm.evaluation.predict import predict
from vidwm.evaluation.strips import titled_strip
from vidwm.rollout.sampling import Sampling
from vidwm.world_model.world_model import WorldModel

EXAMPLES = 4


def save_examples(
    models: dict[str, WorldModel],
    source: ClipSource,
    windows: Sequence[int],
    sampling: Sampling,
    directory: Path,
) -> list[Path]:
    """Strips `context | truth | each model | difference` of a few windows, mp4 and gif.

    The windows are spread evenly over the given ones, not picked; of each model its first future
    is shown. The difference is that of the last model.
    """
    count = min(EXAMPLES, len(windows))
    chosen = [windows[(2 * i + 1) * len(windows) // (2 * count)] for i in range(count)]
    batch = source.batch(chosen)
    shown = {name: predict(model, batch, sampling, 1) for name, model in models.items()}
    c = next(iter(models.values())).setting.context_frames
    fps = next(iter(models.values())).setting.model_fps
    directory.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for i, number in enumerate(chosen):
        frames = batch.float_frames()[i]
        futures = [prediction.frames[i, 0].cpu() for prediction in shown.values()]
        video = titled_strip(frames[:c], frames[c:], futures, list(shown))
        name = f"{i + 1}_{window_name(source, source.windows[number])}"
        paths += save_video(directory / name, video, fps, gif=True)
    return paths


def window_name(source: ClipSource, window: Window) -> str:
    """Part of a file name: the episode's id, with everything unusual replaced, and the start."""
    episode = re.sub(r"[^A-Za-z0-9._-]+", "_", source.dataset.episode_ids[window.episode])
    return f"{episode.strip('._')}_start{window.start:04d}"


def save_video(stem: Path, frames: np.ndarray, fps: float, *, gif: bool) -> list[Path]:
    """Write frames (T, H, W, 3) uint8, H and W even, as `stem`.mp4 and, if asked, `stem`.gif."""
    paths = video_paths(stem, gif=gif)
    # Players outside of browsers know only yuv420p; pixels enlarged twofold lose nothing by it.
    write_video(paths[0], frames, fps, pix_fmt="yuv420p")
    if gif:
        write_gif(paths[1], frames, fps)
    return paths


def video_paths(stem: Path, *, gif: bool) -> list[Path]:
    """The files `save_video` writes."""
    suffixes = (".mp4", ".gif") if gif else (".mp4",)
    return [stem.with_name(stem.name + suffix) for suffix in suffixes]
