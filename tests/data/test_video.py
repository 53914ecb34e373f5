"""Video spans: the right frames from every place, and one sentence for every damage."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vidwm.data.video import read_frames, write_gif, write_video
from vidwm.data.video_backends import why_not
from vidwm.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from kept_scheduler import kept_scheduler

Moving = Callable[..., np.ndarray]
SIZE = (64, 66)  # x265 writes past its buffers (PyAV 18.1) where a side is below 64


def encode(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    pts: list[int] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """A 10 fps video; `pts` in hundredths of a second places frames unevenly."""
    options_of_file = container_options or {}
    with kept_scheduler(), av.open(str(path), "w", options=options_of_file) as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[i], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode_all(path: Path) -> np.ndarray:
    """Every frame, front to back: what a span is compared with."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p"])
def test_written_frames_come_back(tmp_path: Path, moving: Moving, pix_fmt: str) -> None:
    frames = moving(20)
    write_video(tmp_path / "a.mp4", frames, 10, pix_fmt=pix_fmt)
    read = read_frames(tmp_path / "a.mp4", 0, 20)
    assert read.shape == frames.shape and read.dtype == np.uint8
    assert np.abs(read.astype(int) - frames).mean() < 3


@pytest.fixture(params=["av", "torchcodec", "decord"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if why_not(name):
        pytest.skip(f"{name} does not decode here: {why_not(name)}")
    return name


# Open groups of pictures begin with frames that refer to the group before: what seeking gets wrong.
X265 = "log-level=none:keyint=6:min-keyint=6"
KINDS = {
    "h264": ("libx264", "yuv420p", {"g": "8", "bf": "3", "x264-params": "b-pyramid=normal"}),
    "h264-full-chroma": ("libx264", "yuv444p", {}),
    "h264-open": ("libx264", "yuv420p", {"x264-params": "open-gop=1:keyint=6:bframes=3"}),
    "h264-refresh": ("libx264", "yuv420p", {"bf": "0", "x264-params": "intra-refresh=1:keyint=6"}),
    "h264-10bit": ("libx264", "yuv420p10le", {}),
    "hevc": ("libx265", "yuv420p", {"x265-params": X265 + ":open-gop=0"}),
    "hevc-open": ("libx265", "yuv420p", {"x265-params": X265}),
    "hevc-layers": ("libx265", "yuv420p", {"x265-params": X265 + ":temporal-layers=3:open-gop=0"}),
    "av1-pairs": ("libsvtav1", "yuv420p", {"g": "2", "preset": "12", "svtav1-params": "lp=1"}),
    "av1": ("libsvtav1", "yuv420p", {"g": "12", "preset": "12", "svtav1-params": "lp=1"}),
    "vp9": ("libvpx-vp9", "yuv420p", {"g": "7", "deadline": "realtime", "threads": "1"}),
}
# What the others would decode to other frames, or not at all.
REFUSED = {
    "av": set(),
    "torchcodec": {"h264-open", "h264-refresh", "h264-10bit"},
    "decord": {"h264-open", "h264-refresh", "h264-10bit", "hevc-open", "av1-pairs", "av1"},
}


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has none to ask")
def test_encoding_leaves_the_scheduler_as_it_was(tmp_path: Path, moving: Moving) -> None:
    """Changed by what is done inside, as libsvtav1 does it to a process of root."""
    if "libsvtav1" not in av.codecs_available:
        pytest.skip("this PyAV has no libsvtav1 to write the file with")
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    encode(tmp_path / "a.mp4", moving(4, *SIZE), *KINDS["av1"])
    assert (os.sched_getscheduler(0), os.sched_getparam(0)) == before


@pytest.mark.parametrize("kind", KINDS)
def test_every_span_equals_decoding_it_all(
    tmp_path: Path, moving: Moving, backend: str, kind: str
) -> None:
    encoder, pix_fmt, options = KINDS[kind]
    if encoder not in av.codecs_available:
        pytest.skip(f"this PyAV has no {encoder} to write the file with")
    path = encode(tmp_path / "a.mp4", moving(30, *SIZE), encoder, pix_fmt, options)
    if kind in REFUSED[backend]:
        with pytest.raises(UserError, match=rf"a\.mp4 .*{backend}"):
            read_frames(path, 0, 4, backend=backend)
        return
    expected = decode_all(path)
    for start in [*range(30), *reversed(range(30)), 3, 1, 20, 11, 22]:
        count = min(4, 30 - start)
        frames = read_frames(path, start, count, backend=backend)
        assert (frames == expected[start : start + count]).all(), start


@pytest.mark.parametrize("size", [(64, 64), (66, 70), (65, 67), (17, 34), (34, 17)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p"])
def test_odd_sizes(
    tmp_path: Path, moving: Moving, backend: str, size: tuple[int, int], pix_fmt: str
) -> None:
    """Noise shows how chroma is interpolated; FFmpeg's own codec takes every size."""
    noisy = moving(5, *size) ^ np.random.default_rng(0).integers(0, 64, (5, *size, 3), np.uint8)
    path = encode(tmp_path / "a.avi", noisy, "ffv1", pix_fmt)
    even = size[0] % 2 == size[1] % 2 == 0
    if backend == "av" or pix_fmt == "yuv444p" or (pix_fmt == "yuv420p" and even):
        assert (read_frames(path, 1, 4, backend=backend) == decode_all(path)[1:]).all()
    else:
        with pytest.raises(UserError, match=rf"a\.avi has colours that {backend}"):
            read_frames(path, 1, 4, backend=backend)


@pytest.mark.parametrize("color", [{"colorspace": "bt709"}, {"color_range": "pc"}])
def test_stated_colours(
    tmp_path: Path, moving: Moving, backend: str, color: dict[str, str]
) -> None:
    path = encode(tmp_path / "a.mp4", moving(5, 64, 64), options=color)
    assert (read_frames(path, 1, 4, backend=backend) == decode_all(path)[1:]).all()


def test_only_the_span_is_decoded(tmp_path: Path, moving: Moving) -> None:
    """The tail of the file is gone, and an early span neither needs nor misses it."""
    path = encode(
        tmp_path / "a.mp4",
        moving(40),
        options={"g": "10", "bf": "0", "crf": "10"},
        container_options={"movflags": "faststart"},
    )
    expected = decode_all(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 5])
    assert (read_frames(path, 10, 5) == expected[10:15]).all()
    with pytest.raises(UserError, match=r"a\.mp4.*(damaged|incomplete)"):
        read_frames(path, 30, 5)
    with pytest.raises(UserError, match=r"a\.mp4.*(damaged|incomplete)"):
        read_frames(path, 0, 40)


def test_what_the_decoder_made_up_is_no_frame(tmp_path: Path, moving: Moving) -> None:
    """It fills in what it cannot read of a picture, and says so."""
    path = encode(tmp_path / "a.mp4", moving(20, *SIZE), options={"bf": "0", "g": "10"})
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        places = [(packet.pos, packet.size) for packet in packets]
    content, expected = bytearray(path.read_bytes()), decode_all(path)
    position, size = places[13]
    content[position + size // 2 : position + size] = bytes(size - size // 2)
    path.write_bytes(content)
    assert (read_frames(path, 3, 10) == expected[3:13]).all()
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read at frames 10 to 14 .*damaged"):
        read_frames(path, 10, 5)
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read at frames 15 to 17 .*damaged"):
        read_frames(path, 15, 3)  # which refer to what was made up


@pytest.mark.parametrize("start", [0, 1])
def test_too_short(tmp_path: Path, moving: Moving, backend: str, start: int) -> None:
    write_video(tmp_path / "a.mp4", moving(5, *SIZE), 10)
    with pytest.raises(UserError, match=r"a\.mp4 has no frame 5 \(at 0\.500 s"):
        read_frames(tmp_path / "a.mp4", start, 9, backend=backend)
    with pytest.raises(UserError, match=r"a\.mp4 has no frame 70"):
        read_frames(tmp_path / "a.mp4", 70, 9, backend=backend)


def test_a_lost_frame_is_no_shift(tmp_path: Path, moving: Moving, backend: str) -> None:
    """Frame 4 was never recorded: later frames keep their numbers, and a span over it fails."""
    ticks = [0, 11, 20, 28, 50, 60, 72, 80]
    path = encode(tmp_path / "a.mp4", moving(8, *SIZE), options={"bf": "2"}, pts=ticks)
    assert (read_frames(path, 5, 4, fps=10, backend=backend) == decode_all(path)[4:]).all()
    assert (read_frames(path, 0, 4, fps=10, backend=backend) == decode_all(path)[:4]).all()
    for start in (0, 4):
        with pytest.raises(UserError, match=r"a\.mp4 has no frame 4"):
            read_frames(path, start, 6, fps=10, backend=backend)


def test_a_faster_video_is_refused(tmp_path: Path, moving: Moving, backend: str) -> None:
    write_video(tmp_path / "a.mp4", moving(12, *SIZE), 30)
    with pytest.raises(UserError, match=r"a\.mp4 shows two frames as frame 1 at 10 frames per"):
        read_frames(tmp_path / "a.mp4", 1, 2, fps=10, backend=backend)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.mp4 does not exist"):
        read_frames(tmp_path / "a.mp4", 0, 1)


@pytest.mark.parametrize("content", [b"", b"not a video at all", bytes(5000)])
def test_no_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read"):
        read_frames(tmp_path / "a.mp4", 0, 1)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(UserError, match=r"a\.mp4 holds no video that can be"):
        read_frames(tmp_path / "a.mp4", 0, 1)


def test_bounds_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start must be >= 0"):
        read_frames(tmp_path / "a.mp4", -1, 1)
    with pytest.raises(ValueError, match="count >= 1"):
        read_frames(tmp_path / "a.mp4", 0, 0)


def test_gif(tmp_path: Path, moving: Moving) -> None:
    frames = moving(4)
    write_gif(tmp_path / "a.gif", frames, 5)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.size, image.info["duration"]) == (4, (48, 32), 200)
        image.seek(3)
        last = np.asarray(image.convert("RGB"))
    assert np.abs(last.astype(int) - frames[3]).mean() < 12


@pytest.mark.parametrize("write", [write_video, write_gif])
def test_frames_to_write_are_checked(tmp_path: Path, write: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match="must be"):
        write(tmp_path / "a.out", np.zeros((2, 3, 8, 8), np.uint8), 10)
    with pytest.raises(ValueError, match="must be"):
        write(tmp_path / "a.out", np.zeros((0, 8, 8, 3), np.uint8), 10)
