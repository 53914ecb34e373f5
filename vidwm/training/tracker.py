"""What a run tells while it runs: metrics.jsonl, TensorBoard, sample videos, progress.

Videos are written as animated GIFs by Pillow, both beside the run and into TensorBoard's image
protocol: torch's own `add_video` needs moviepy and breaks with its version 2 (pytorch#147317).
On a terminal progress is a bar; elsewhere it is a line per logged step, kept short for log files.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from vidwm.training.run_folder import RunFolder


class Tracker:
    """Records a run of `total` steps of which `step` are done, after `seconds` of training.

    Rows after `step` are dropped: they belong to work that a resumed run does again.
    """

    def __init__(self, run: RunFolder, stage: str, *, step: int, total: int, seconds: float):
        self.stage, self.total = stage, total
        self._videos = run.videos
        run.path.mkdir(parents=True, exist_ok=True)
        _drop_rows_after(run.metrics, step)
        self._metrics = run.metrics.open("a", encoding="utf-8")
        self._board: Any = SummaryWriter(
            str(run.tensorboard), purge_step=step + 1 if step else None
        )
        self._bar = (
            tqdm(total=total, initial=step, desc=stage, unit="step", dynamic_ncols=True)
            if sys.stderr.isatty()
            else None
        )
        self._started = time.monotonic() - seconds
        self._last = (step, time.monotonic())

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all resumes."""
        return time.monotonic() - self._started

    def advance(self) -> None:
        """One more step is done."""
        if self._bar is not None:
            self._bar.update()

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record the scalars of a step; NaN and infinity become null in metrics.jsonl."""
        row: dict[str, float | None] = {"step": step, "time": round(self.seconds, 3)}
        row |= {k: v if math.isfinite(v) else None for k, v in scalars.items()}
        self._metrics.write(json.dumps(row) + "\n")
        self._metrics.flush()
        for name, value in scalars.items():
            self._board.add_scalar(f"{self.stage}/{name}", value, step)
        self._show(step, scalars)

    def video(self, step: int, name: str, frames: Tensor, fps: float) -> None:
        """Record a video: frames (T, 3, H, W) uint8."""
        gif = encode_gif(frames, fps)
        self._videos.mkdir(exist_ok=True)
        (self._videos / f"{name}_{step:08d}.gif").write_bytes(gif)
        _, _, height, width = frames.shape
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        summary = Summary(value=[Summary.Value(tag=f"{self.stage}/{name}", image=image)])
        self._board.file_writer.add_summary(summary, step)

    def say(self, message: str) -> None:
        """Tell the user one line, above the bar if there is one."""
        tqdm.write(message, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        """Flush and close every file."""
        if self._bar is not None:
            self._bar.close()
        self._board.close()
        self._metrics.close()

    def _show(self, step: int, scalars: Mapping[str, float]) -> None:
        name = "loss" if "loss" in scalars else next(iter(scalars))
        main = f"{name} {scalars[name]:.4g}"
        if self._bar is not None:
            self._bar.set_postfix_str(main)
            return
        before, then = self._last
        self._last = (step, time.monotonic())
        rate = (step - before) / max(self._last[1] - then, 1e-9)
        left = tqdm.format_interval((self.total - step) / max(rate, 1e-9))
        self.say(f"{self.stage}: step {step}/{self.total}  {main}  {rate:.3g} steps/s  ETA {left}")


def encode_gif(frames: Tensor, fps: float) -> bytes:
    """Frames (T, 3, H, W) uint8 as an endless animated GIF; its clock ticks 10 milliseconds."""
    images = [Image.fromarray(f) for f in frames.permute(0, 2, 3, 1).contiguous().cpu().numpy()]
    buffer = io.BytesIO()
    duration = max(20, round(100 / fps) * 10)  # browsers slow down anything faster than 20 ms
    options: dict[str, Any] = {"save_all": True, "append_images": images[1:], "loop": 0}
    images[0].save(buffer, format="GIF", duration=duration, **options)
    return buffer.getvalue()


def _drop_rows_after(path: Path, step: int) -> None:
    """Keep the rows up to `step`; a last line cut short by a crash goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
