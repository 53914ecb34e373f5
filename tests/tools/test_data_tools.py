"""The script that times reading recordings, and its sides read the same."""

from __future__ import annotations

import subprocess
from collections.abc import Callable


def test_the_benchmark_of_videos_compares_what_is_equal(
    run_tool: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_tool("bench_data.py", "h264-short", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "clips of 16 frames from h264-short at 320 x 256: 1 interleaved rounds" in done.stdout
    assert "\nvidwm " in done.stdout and "\nPyAV, kept " in done.stdout
    assert "READ OTHERWISE" not in done.stdout


def test_records_need_a_path(run_tool: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = run_tool("bench_data.py", "rlds")
    assert done.returncode == 2 and "rlds needs --path" in done.stderr
