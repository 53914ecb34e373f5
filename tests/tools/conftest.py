from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script of `tools/` with arguments, as a user has it: without Triton's interpreter."""

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        return subprocess.run(
            [sys.executable, str(ROOT / "tools" / script), *arguments],
            capture_output=True,
            text=True,
            env=inherited | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"},
            check=False,
        )

    return run
