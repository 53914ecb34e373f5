"""The README is true: its commands run, its configs and paths exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from vidwm.cli import main
from vidwm.data.datasets import open_dataset

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(?:sh|bash)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line]

# The smallest settings that still walk the whole way.
QUICK = {
    "tokenizer": "--steps 2 --batch_size 4 --widths [8,16] --downsample 8 "
    "--blocks 1 --fsq_levels [4,4] --perceptual_weight 0",
    "pretrain": "--steps 2 --batch_size 2 --hidden_size 16 --num_layers 1 --num_heads 2",
    "finetune": "--steps 1 --batch_size 2 --group_size 2 --reward mae=1",
    "evaluate": "--bootstrap 100 --windows_per_episode 1 --num_samples 1",
    "rollout": "--num_samples 1",
}


def own_data_commands() -> list[str]:
    lines = [line for line in COMMANDS if line.startswith("vidwm") and "my_data" in line]
    return [line for line in lines if not line.startswith("vidwm data ")]


@pytest.mark.slow
def test_the_commands_that_look_at_data_run_on_the_sample(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my_data").symlink_to(ROOT / "assets/sample")
    commands = [line for line in COMMANDS if line.startswith("vidwm data ")]
    assert [shlex.split(line)[2] for line in commands] == ["inspect", "check", "convert", "cache"]
    for line in commands:
        words = shlex.split(line, comments=True)[1:]
        if words[1] in ("convert", "cache"):  # of 400 episodes, the first few show the same
            Path("few.json").write_text('["episode_000000", "episode_000001"]')
            words += ["--episodes", "few.json"]
        assert main(words) == 0, line
    shown = capsys.readouterr().out
    assert "400 of 50 frames" in shown and "actions lead frames: they show from lag +0" in shown
    assert Path("my_data.png").is_file() and len(list(Path("my_npz").glob("*.npz"))) == 2
    assert len(open_dataset("my_frames")) == 2
    assert len(json.loads(Path("good.json").read_text())["episodes"]) == 400


def test_the_five_commands_on_own_data_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_data").mkdir()
    generator = np.random.default_rng(0)
    for index in range(4):
        frames = generator.integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)
        actions = generator.normal(size=(8, 3)).astype(np.float32)
        np.savez(f"my_data/{index}.npz", image=frames, action=actions)
    commands = own_data_commands()
    assert [shlex.split(line)[1] for line in commands] == list(QUICK)
    for line in commands:
        words = shlex.split(line, comments=True)[1:]
        assert main([*words, *QUICK[words[0]].split()]) == 0, line
    assert list(Path("runs").rglob("*.mp4")) and list(Path("runs").rglob("report.md"))


def test_the_command_for_another_robot_is_understood(capsys):
    (line,) = [line for line in COMMANDS if "--from" in line]
    assert main([*shlex.split(line)[1:], "--print_config"]) == 0
    assert "from: assets/tiny" in capsys.readouterr().out  # run in tests/training/test_adapt.py


def test_make_targets_and_configs_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [line.split()[1] for line in COMMANDS if line.startswith("make ")]
    assert {"demo", "test"} <= set(targets)
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    configs = re.findall(r"configs/[\w./-]+\.yaml", README + makefile)
    assert configs and not [path for path in configs if not (ROOT / path).is_file()]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_every_linked_file_exists(path):
    assert (ROOT / path).exists()


def test_every_command_of_the_readme_is_known():
    known = {"vidwm", "make", "git", "cd", "python", "pip", "tensorboard"}
    assert not [
        line
        for line in COMMANDS
        if shlex.split(line, comments=True)[:1]
        and Path(shlex.split(line, comments=True)[0]).name not in known
    ]


def test_no_placeholder_was_left():
    assert not re.findall(r"\b(?:TODO|TBD|FIXME|XXX|[A-Z]+_LINE|([A-Z])\1\1)\b", README)
