"""Every committed YAML loads into the config of its stage, is short and opens with its story."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidwm.cli import COMMANDS
from vidwm.config_loader import load_config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.y*ml"))


def test_there_are_configs() -> None:
    assert len(FILES) >= 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_a_config_loads_is_short_and_has_a_head(file: Path) -> None:
    stage = file.stem.split("_")[0]
    assert stage in COMMANDS, f"{file.name} must be named <stage>_<data>.yaml"
    load_config(COMMANDS[stage][0], file)
    lines = file.read_text().splitlines()
    assert len(lines) <= 60
    assert lines[0].startswith("#")
    assert any(" GB on " in line for line in lines if line.startswith("#"))  # time and memory
    assert any(f"vidwm {stage} --config" in line for line in lines if line.startswith("#"))
