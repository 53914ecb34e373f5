"""The scripts that inspect and time kernels and rollouts run, and see what is wrong."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from kernel_cases import cases  # noqa: E402
from kernel_report import Code  # noqa: E402

RunTool = Callable[..., subprocess.CompletedProcess[str]]


def test_the_report_reads_machine_code_and_counts_bytes(tmp_path: Path, run_tool: RunTool) -> None:
    output = tmp_path / "report.md"
    done = run_tool("kernel_report.py", "--only", "add_linear out x16", "--output", str(output))
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in output.read_text().splitlines() if "add_linear" in line]
    assert [row[2] for row in rows[:2]] == ["sm_80", "sm_90"]
    for row in rows[:2]:
        registers, spilled, _, tensor_core = (int(cell) for cell in row[3:7])
        assert 0 < registers < 256 and spilled == 0 and tensor_core > 0
    memory = float(rows[2][2].removesuffix("x"))
    assert 1.0 <= memory < 1.15


def code(**changes: object) -> Code:
    sound = {
        "registers": 40,
        "spilled": 0,
        "shared": 0,
        "tensor_core": 4,
        "wide_loads": 2,
        "streams": False,
    }
    return Code(**({"kernel": "_k", "arch": 80, "matrix": True} | sound | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "half", "fault"),
    [
        ({}, True, None),
        ({"spilled": 8}, True, "_k spills 8 bytes on sm_80"),
        ({"tensor_core": 0}, True, "_k uses no tensor cores on sm_80"),
        ({"tensor_core": 0}, False, None),
        ({"wide_loads": 0}, True, "_k has no 128-bit loads on sm_80"),
        ({"matrix": False, "tensor_core": 0, "wide_loads": 0}, True, None),
        ({"shared": 99 * 1024}, True, None),
        (
            {"shared": 102400},
            True,
            "_k needs 102400 bytes of shared memory on sm_80, more than the 101376 that every GPU "
            "since Ampere has",
        ),
    ],
)
def test_the_report_faults_what_must_not_be(
    changes: dict[str, object], half: bool, fault: str | None
) -> None:
    assert code(**changes).faults(half) == ([] if fault is None else [fault])


def test_cases_cover_every_operation_with_a_kernel() -> None:
    folders = {path.parent.name for path in (ROOT / "kernels").rglob("fused.py")}
    assert {case.op for case in cases()} == folders


def test_the_benchmark_of_kernels_checks_before_it_times(tmp_path: Path, run_tool: RunTool) -> None:
    if torch.cuda.is_available():
        pytest.skip("would time kernels on the GPU")
    output = tmp_path / "kernels.csv"
    done = run_tool("bench_kernels.py", "--only", "add_linear out x16", "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("add_linear out x16           right\n")
    with output.open() as file:
        sides = {row["side"]: float(row["us"]) for row in csv.DictReader(file)}
    assert sides.keys() == {"ours", "reference", "pytorch"} and min(sides.values()) > 0


def test_the_benchmark_of_rollouts_compares_the_sides(run_tool: RunTool) -> None:
    sides = "engine,drafts,static,generate"
    done = run_tool(
        "bench_rollout.py", "tiny", "--rounds", "1", "--new-tokens", "24", "--sides", sides
    )
    assert done.returncode == 0, done.stderr
    assert "tokens of drafts equal to plain ones: 100.0000 %" in done.stdout
    assert "likeliest tokens of the static cache equal to ours: 100.0000 %" in done.stdout
    for side in sides.split(","):
        assert any(line.startswith(f"{side} ") for line in done.stdout.splitlines())
