"""Real recordings of other robots, which lie beside the repository, walk the whole way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vidwm.cli import main

TINY = {
    "tokenizer": "--steps 2 --batch_size 4 --widths [8,16] --downsample 16 --blocks 1 "
    "--fsq_levels [4,4] --perceptual_weight 0",
    "pretrain": "--steps 2 --batch_size 2 --hidden_size 16 --num_layers 1 --num_heads 2",
    "finetune": "--steps 1 --batch_size 2 --group_size 2 --reward mae=1",
    "evaluate": "--bootstrap 100 --windows_per_episode 1 --num_samples 1 --perceptual none",
    "rollout": "--num_samples 1",
}


@pytest.mark.parametrize("name", ["bridge_rlds", "bair_npz", "metaworld_npz"])
def test_the_same_commands_work_on_real_recordings(shared: Path, tmp_path: Path, name: str) -> None:
    made = {
        command: tmp_path / command / "checkpoints/last/model"
        for command in ("tokenizer", "pretrain", "finetune")
    }
    inputs = {
        "pretrain": ["--tokenizer", made["tokenizer"]],
        "finetune": ["--model", made["pretrain"]],
        "evaluate": ["--model", made["finetune"], "--base", made["pretrain"]],
        "rollout": ["--model", made["finetune"]],
    }
    for command, settings in TINY.items():
        words = [command, "--data", shared / "data" / name, *inputs.get(command, [])]
        words += [*settings.split(), "--output_dir", tmp_path / command]
        assert main([str(word) for word in words]) == 0, command
    report = json.loads((tmp_path / "evaluate/report.json").read_text())
    assert report["data"]["windows"] >= 1
    assert list((tmp_path / "rollout").glob("*.mp4"))
