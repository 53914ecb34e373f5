"""The script that times scoring runs, and both of its sides give the same numbers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable


def test_the_benchmark_of_scoring_compares_what_is_equal(
    run_tool: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_tool("bench_scoring.py", "tiny", "--contexts", "1", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    gaps = [float(gap) for gap in re.findall(r"(?:mae|ssim|alex) ([\d.]+e-\d+)", done.stdout)]
    assert len(gaps) == 3 and max(gaps) < 1e-4
    for line in ("vidwm ", "plain ", "shares: decode", "floor "):
        assert f"\n{line}" in done.stdout
