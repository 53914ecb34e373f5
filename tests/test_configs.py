"""Every committed YAML loads into the config of its stage, is short and opens with its story."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidwm.cli import COMMANDS
from vidwm.config import NewModelOptions
from vidwm.config_loader import load_config
from vidwm.world_model.presets import rt1_setting

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


@pytest.mark.parametrize("stage", ["tokenizer", "pretrain"])
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_configs_of_rt1_hold_out_what_released_models_do(stage: str, kind: str) -> None:
    config = load_config(COMMANDS[stage][0], CONFIGS / f"{stage}_rt1_{kind}.yaml")
    setting = rt1_setting(multi_step=kind == "multi")
    assert isinstance(config, NewModelOptions) and setting.heldout == 0.01
    assert (config.heldout, config.split_seed) == (setting.heldout, setting.split_seed)
