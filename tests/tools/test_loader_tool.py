"""The script that times the loader runs, and all of its sides give the same tokens."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RunTool = Callable[..., subprocess.CompletedProcess[str]]


def test_the_benchmark_of_clips_compares_what_is_equal(run_tool: RunTool) -> None:
    where = ("--data", str(ROOT / "assets/sample"), "--model", str(ROOT / "assets/tiny"))
    sizes = ("--episodes", "2", "--batch_size", "2", "--rounds", "1", "--steps", "4")
    done = run_tool("bench_loader.py", "clips", *where, *sizes)
    assert done.returncode == 0, done.stderr
    assert "equal tokens on all sides" in done.stdout
    rates = re.findall(r"^(.+?) +([\d.]+) clips/s", done.stdout, flags=re.MULTILINE)
    names = ["tokens, mapped", "tokens, 1 worker", "frames, mapped", "decoded"]
    assert [name for name, _ in rates] == names and all(float(rate) > 0 for _, rate in rates)


def test_the_start_of_an_epoch_needs_little_memory(run_tool: RunTool) -> None:
    done = run_tool("bench_loader.py", "epoch", "--episodes", "20000")
    assert done.returncode == 0, done.stderr
    found = re.search(r"([\d,]+) windows, first batch drawn .* at most (\d+) MB", done.stdout)
    assert found and int(found[1].replace(",", "")) > 1_500_000
    assert int(found[2]) < 100  # a list of so many windows takes 200
