"""Video files that stay open from one span to the next, a bounded number in each process.

Opening a file costs as much as decoding several small frames. A file is taken out while it is read
and put back when that went well: so threads never share one, and one that failed is opened anew. A
forked process starts without any; what it inherited it neither uses nor closes, since the position
in a file is shared with the parent, and closing may wait for threads that only the parent has.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock

import numpy as np

from vidwm.data.video_backends import OpenVideo, open_video
from vidwm.errors import UserError

MAX_OPEN = 16  # files; a decoder of 640 x 480 holds some ten MB of pictures

Key = tuple[str, str]
Stamp = tuple[int, int, int]


class OpenFiles:
    """The least recently read file is closed when there would be more than `limit`."""

    def __init__(self, limit: int = MAX_OPEN) -> None:
        self._limit, self._lock = limit, Lock()
        self._files: OrderedDict[Key, tuple[Stamp, OpenVideo]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._files)

    def read(
        self, path: Path, backend: str, start: int, count: int, fps: float | None
    ) -> np.ndarray:
        """Frames of a file, opened with `backend` if it is not open or has been replaced."""
        key, stamp = (str(path), backend), _stamp(path)
        with self._lock:
            opened, video = self._files.pop(key, (stamp, None))
        if video is not None and opened != stamp:
            video.close()
            video = None
        if video is None:
            video = open_video(path, backend)
        try:
            frames = video.read(start, count, _rate(path, fps or video.rate))
        except BaseException:
            video.close()
            raise
        with self._lock:
            _, twin = self._files.pop(key, (stamp, None))  # of a thread that read it meanwhile
            closing = [twin] if twin is not None else []
            self._files[key] = stamp, video
            while len(self._files) > self._limit:
                closing.append(self._files.popitem(last=False)[1][1])
        for other in closing:
            other.close()
        return frames

    def abandon(self) -> None:
        """Start without any file, in a forked process, which frees none it inherited.

        Those open are not freed even at its end, and garbage of the parent, in which a file may be
        that nobody closed, is not collected here.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._files))
        gc.freeze()
        self._files, self._lock = OrderedDict(), Lock()


def _rate(path: Path, rate: float) -> float:
    if not 0 < rate < float("inf"):
        raise UserError(f"Video {path} states no frame rate; re-encode it with one.")
    return rate


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


OPEN_FILES = OpenFiles()
os.register_at_fork(after_in_child=OPEN_FILES.abandon)
