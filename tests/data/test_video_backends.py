"""Which library decodes, which files stay open, and what workers do with them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.test_video import KINDS, encode
from vidwm.data import video_backends
from vidwm.data.video import read_frames, write_video
from vidwm.data.video_av import AvVideo
from vidwm.data.video_backends import CHOICES, VARIABLE, open_video, why_not
from vidwm.data.video_errors import DecodingFailed, NoDecoder
from vidwm.data.video_files import OPEN_FILES, OpenFiles
from vidwm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
Moving = Callable[..., np.ndarray]


@pytest.fixture()
def video(tmp_path: Path, moving: Moving) -> Path:
    write_video(tmp_path / "a.mp4", moving(20, 64, 64), 10)
    return tmp_path / "a.mp4"


@pytest.fixture()
def fresh() -> Iterator[None]:
    """Nothing is known of what loads, nor afterwards."""
    why_not.cache_clear()
    yield
    why_not.cache_clear()


def open_descriptors(path: Path) -> int:
    """How many times this process holds a file open."""
    links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    return sum(os.path.realpath(link) == str(path.resolve()) for link in links)


def test_the_variable_chooses(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    monkeypatch.setitem(video_backends.OPENERS, "av", lambda path: chosen.append(AvVideo(path)))
    monkeypatch.setenv(VARIABLE, "av")
    with pytest.raises(AttributeError):  # the lambda opens nothing
        read_frames(video, 0, 2)
    assert len(chosen) == 1
    monkeypatch.setenv(VARIABLE, "ffmpeg")
    with pytest.raises(UserError, match=rf"{VARIABLE} must be one of auto, .*got 'ffmpeg'"):
        read_frames(video, 0, 2)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("error", [ImportError, OSError, DecodingFailed])
def test_what_does_not_load_says_so(
    video: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def trial(_: bytes) -> None:
        raise error("libavutil.so.60: no such file\nand ten lines more")

    monkeypatch.setitem(video_backends.TRIALS, "torchcodec", trial)
    with pytest.raises(UserError, match=r"^torchcodec does not decode .*\(libavutil.*file\); inst"):
        read_frames(video, 0, 2, backend="torchcodec")
    assert len(read_frames(video, 0, 2)) == 2


@pytest.mark.usefixtures("fresh")
def test_auto_asks_the_next_where_pyav_has_no_decoder(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> AvVideo:
        raise NoDecoder(f"Video {path} holds no video that can be decoded; re-encode it.")

    found = AvVideo(video)
    monkeypatch.setattr(video_backends, "AvVideo", refuse)
    for name in video_backends.TRIALS:
        monkeypatch.setitem(video_backends.TRIALS, name, lambda _: None)
        monkeypatch.setitem(video_backends.OPENERS, name, refuse)
    with pytest.raises(UserError, match="holds no video that can be decoded"):
        open_video(video, "auto")
    monkeypatch.setitem(video_backends.OPENERS, "decord", lambda path: found)
    assert open_video(video, "auto") is found


def test_a_file_stays_open_and_few_do(tmp_path: Path, moving: Moving) -> None:
    files = OpenFiles(limit=2)
    paths = [tmp_path / f"{i}.mp4" for i in range(4)]
    for i, path in enumerate(paths):
        write_video(path, moving(4, seed=i), 10)
        assert len(files.read(path, "av", 0, 4, None)) == 4
    assert [open_descriptors(path) for path in paths] == [0, 0, 1, 1]
    files.read(paths[2], "av", 1, 2, None)  # now the last one read
    files.read(paths[0], "av", 1, 2, None)
    assert [open_descriptors(path) for path in paths] == [1, 0, 1, 0]
    assert len(files) == 2


def test_a_replaced_file_is_opened_anew(video: Path, moving: Moving) -> None:
    first = read_frames(video, 0, 4)
    write_video(video.with_name("b.mp4"), moving(20, 64, 64, seed=5), 10)
    video.with_name("b.mp4").replace(video)
    second = read_frames(video, 0, 4)
    assert np.abs(second.astype(int) - first).mean() > 5
    video.unlink()
    with pytest.raises(UserError, match=r"a\.mp4 does not exist"):
        read_frames(video, 0, 4)


def test_a_failed_file_is_closed(video: Path) -> None:
    with pytest.raises(UserError, match=r"a\.mp4 has no frame 20"):
        read_frames(video, 15, 9)
    assert open_descriptors(video) == 0
    assert len(read_frames(video, 15, 5)) == 5


def check_all(path: Path, expected: np.ndarray, backend: str) -> None:
    """Exit code 1 of a process that reads other frames than these, starting after those before."""
    for start in (12, 3, 9, 0, 15):
        assert (read_frames(path, start, 4, backend=backend) == expected[start : start + 4]).all()


def test_decord_refuses_sizes_it_cannot_copy(tmp_path: Path, moving: Moving) -> None:
    if why_not("decord"):
        pytest.skip(f"decord does not decode here: {why_not('decord')}")
    write_video(tmp_path / "a.mp4", moving(4, 32, 48), 10)
    with pytest.raises(UserError, match=r"a\.mp4 cannot be opened by decord"):
        read_frames(tmp_path / "a.mp4", 0, 4, backend="decord")


@pytest.mark.parametrize("backend", CHOICES[2:])
def test_no_library_is_given_a_count_it_would_make_room_for(video: Path, backend: str) -> None:
    """decord ends the process."""
    if why_not(backend):
        pytest.skip(f"{backend} does not decode here: {why_not(backend)}")
    content = bytearray(video.read_bytes())
    place = content.index(b"stts") + 12  # after its name, version and number of entries
    assert int.from_bytes(content[place : place + 4], "big") == 20
    content[place] = 0x7F
    video.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mp4 states \d{10} frames and holds 20; the file is "):
        read_frames(video, 0, 4, backend=backend)


@pytest.mark.parametrize("backend", CHOICES[1:])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers(video: Path, method: str, backend: str) -> None:
    """Processes that begin while the parent holds the file, and the parent beside them."""
    if why_not(backend):
        pytest.skip(f"{backend} does not decode here: {why_not(backend)}")
    expected = read_frames(video, 0, 20, backend=backend).copy()
    read_frames(video, 5, 4, backend=backend)
    context = multiprocessing.get_context(method)
    workers = [
        context.Process(target=check_all, args=(video, expected, backend))
        for _ in range(2 if method == "fork" else 1)
    ]
    for worker in workers:
        worker.start()
    check_all(video, expected, backend)
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)


def test_a_forked_process_closes_nothing_and_opens_its_own(video: Path) -> None:
    read_frames(video, 0, 2)
    assert open_descriptors(video) == 1
    child = os.fork()
    if not child:
        empty = len(OPEN_FILES) == 0
        read_frames(video, 0, 2)
        os._exit(0 if empty and open_descriptors(video) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_process_ends_though_decoding_threads_stayed_behind(
    tmp_path: Path, moving: Moving
) -> None:
    """Freeing what it inherited would wait for them, be it open or the parent's garbage."""
    if "libsvtav1" not in av.codecs_available:
        pytest.skip("this PyAV has no libsvtav1 to write the file with")
    code = (
        "import gc, os, sys\n"
        "from vidwm.data import video_av\n"
        "from vidwm.data.video import read_frames\n"
        "video_av.processors = lambda: 2\n"
        "gc.disable()\n"
        "read_frames(sys.argv[1], 0, 4)\n"
        "video_av.AvVideo(sys.argv[1]).read(0, 4, 10)\n"
        "child = os.fork()\n"
        "if child:\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "gc.collect()\n"
    )
    path = encode(tmp_path / "a.mp4", moving(8, 64, 64), *KINDS["av1"])
    words = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(words, cwd=ROOT, start_new_session=True) as process:
        try:
            assert process.wait(timeout=60) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def thread_count(path: Path) -> int:
    return AvVideo(path)._codec.thread_count


def test_av1_is_decoded_by_all_processors_where_no_process_shares_them(
    tmp_path: Path, moving: Moving, monkeypatch: pytest.MonkeyPatch, video: Path
) -> None:
    if "libsvtav1" not in av.codecs_available:
        pytest.skip("this PyAV has no libsvtav1 to write the file with")
    path = encode(tmp_path / "av1.mp4", moving(30, 64, 64), *KINDS["av1"])
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [thread_count(path), thread_count(video)] == [3, 1]
    threaded = [AvVideo(path).read(start, 4, 10) for start in (0, 17, 9, 26)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(thread_count, path).result(timeout=60) == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert thread_count(path) == 1
    assert (np.stack(threaded) == [AvVideo(path).read(s, 4, 10) for s in (0, 17, 9, 26)]).all()


def test_threads_share_no_file(video: Path) -> None:
    expected = read_frames(video, 0, 20).copy()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: check_all(video, expected, "auto"), range(12)))
