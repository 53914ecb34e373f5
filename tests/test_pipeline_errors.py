"""What commands refuse, each in one sentence and before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline import (
    FINETUNE,
    PRETRAIN,
    TOKENIZER,
    fails,
    metrics,
    run,
    write_episodes,
)
from vidwm.data.datasets import open_dataset
from vidwm.evaluation.sources import split_of
from vidwm.world_model.world_model import WorldModel


def test_actions_of_another_robot_are_refused(trained, tmp_path, capsys):
    data = write_episodes(tmp_path / "three", actions=3)
    model = trained / "pretrain/checkpoints/last/model"
    message = fails(
        *(capsys, "finetune", "--data", data, "--model", model, "--output_dir", tmp_path / "x")
    )
    assert "3" in message and "expects 2" in message and not (tmp_path / "x").exists()


def test_episodes_too_short_are_refused(trained, tmp_path, capsys):
    data = write_episodes(tmp_path / "short", frames=3)
    model = trained / "pretrain/checkpoints/last/model"
    message = fails(
        *(capsys, "finetune", "--data", data, "--model", model, "--output_dir", tmp_path / "x")
    )
    assert "long enough" in message and "3" in message


def test_another_resolution_is_refused_unless_resized(trained, tmp_path, capsys):
    folder = tmp_path / "large"
    folder.mkdir()
    video = np.zeros((8, 32, 32, 3), np.uint8)
    for index in range(3):
        np.savez(folder / f"{index}.npz", image=video, action=np.zeros((8, 2), np.float32))
    model = trained / "pretrain/checkpoints/last/model"
    command = ("evaluate", "--data", folder, "--model", model, "--bootstrap", 100)
    pretrain = ("pretrain", "--data", folder, *PRETRAIN, "--steps", 1)
    tokenizer = ("--tokenizer", trained / "tokenizer/checkpoints/last/model")
    for words in (command, (*pretrain, *tokenizer)):
        message = fails(capsys, *words, "--output_dir", tmp_path / words[0])
        assert "32x32" in message and "16x16" in message and "--resize" in message
        run(*words, "--output_dir", tmp_path / words[0], "--resize")


@pytest.mark.parametrize("what", ["missing", "unknown", "truncated", "nan"])
def test_data_that_cannot_be_used_is_exit_code_2(trained, tmp_path, capsys, what):
    data = tmp_path / "data"
    if what == "unknown":
        data.mkdir()
        (data / "notes.txt").write_text("nothing to see")
    elif what != "missing":
        shutil.copytree(trained / "data", data)
        file = data / "episode_0.npz"
        if what == "truncated":
            file.write_bytes(file.read_bytes()[:500])
        else:
            arrays = dict(np.load(file))
            arrays["action"][2] = np.nan
            np.savez(file, **arrays)
    message = fails(
        *(capsys, "tokenizer", "--data", data, *TOKENIZER, "--steps", 1),
        *("--output_dir", tmp_path / "run"),
    )
    assert str(data) in message or "episode_0" in message
    assert not (tmp_path / "run").exists()


def test_settings_that_do_not_fit_are_told_before_anything_is_read(tmp_path, capsys):
    message = fails(
        *(capsys, "pretrain", "--data", "absent", "--tokenizer", "absent", "--num_heads", 4),
        *("--num_kv_heads", 3, "--output_dir", tmp_path / "run"),
    )
    assert "num_kv_heads" in message


def test_gold_metrics_need_held_out_episodes(trained, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(trained / "pretrain/checkpoints/last/model", model)
    setting = json.loads((model / "world_model.json").read_text())
    (model / "world_model.json").write_text(json.dumps(setting | {"heldout": 0.0}))
    message = fails(
        *(capsys, "finetune", "--data", trained / "data", "--model", model, "--reward", "mae=1"),
        *("--stop_when_gold_falls", "true", "--output_dir", tmp_path / "run"),
    )
    assert "needs held-out episodes" in message


def test_a_run_is_not_overwritten(trained, capsys):
    model = trained / "pretrain/checkpoints/last/model"
    before = (trained / "finetune/metrics.jsonl").read_bytes()
    message = fails(
        *(capsys, "finetune", "--data", trained / "data", "--model", model),
        *("--output_dir", trained / "finetune"),
    )
    assert "--resume" in message and (trained / "finetune/metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("part", ["world_model.json", "transformer/model.safetensors"])
def test_a_damaged_checkpoint_is_named(trained, tmp_path, capsys, part):
    model = tmp_path / "model"
    shutil.copytree(trained / "pretrain/checkpoints/last/model", model)
    content = (model / part).read_bytes()
    (model / part).write_bytes(content[: len(content) // 2])
    command = ("evaluate", "--data", trained / "data", "--model", model, "--output_dir", "x")
    assert Path(part).name in fails(capsys, *command)
    (model / part).unlink()
    assert Path(part).name in fails(capsys, *command)


def test_an_unknown_reward_is_refused(trained, tmp_path, capsys):
    message = fails(
        *(capsys, "finetune", "--data", trained / "data", "--reward", "lpip=1"),
        *("--model", trained / "pretrain/checkpoints/last/model", "--output_dir", tmp_path / "x"),
    )
    assert "lpip" in message and "lpips" in message


@pytest.mark.parametrize("stage", ["tokenizer", "pretrain", "finetune"])
def test_held_out_scores_of_nothing_are_missed_in_a_sentence(trained, tmp_path, capsys, stage):
    model = tmp_path / "model"
    shutil.copytree(trained / "pretrain/checkpoints/last/model", model)
    setting = json.loads((model / "world_model.json").read_text())
    (model / "world_model.json").write_text(json.dumps(setting | {"heldout": 0.0}))
    words = {
        "tokenizer": ("tokenizer", *TOKENIZER, "--heldout", 0),
        "pretrain": ("pretrain", "--init_from", model, "--batch_size", 2, "--sample_every", 0),
        "finetune": ("finetune", "--model", model, *FINETUNE, "--sample_every", 0),
    }[stage]
    option = "sample_every" if stage == "tokenizer" else "eval_every"
    words = (*words, "--data", trained / "data")
    said = []
    for every in (1, 0):
        folder = tmp_path / str(every)
        run(*words, "--steps", 2, f"--{option}", every, "--output_dir", folder)
        found = capsys.readouterr()
        shown = found.out + found.err
        said.append(shown.count("no episode is held out") * shown.count(f"{option} 0"))
        assert not any(key.startswith("heldout") for line in metrics(folder) for key in line)
    assert said == [1, 0]


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_held_out_episodes_that_are_too_short_are_missed_alike(trained, tmp_path, capsys, stage):
    data, base = tmp_path / "data", trained / "pretrain/checkpoints/last/model"
    shutil.copytree(trained / "data", data)
    dataset = open_dataset(data)
    _, heldout = split_of(WorldModel.from_pretrained(base), dataset)
    for index in heldout:
        file = data / f"{dataset.episode_ids[index]}.npz"
        with np.load(file) as content:
            short = {name: values[:3] for name, values in content.items()}  # a clip has four
        np.savez(file, **short)
    words = {
        "pretrain": ("pretrain", "--init_from", base, "--batch_size", 2, "--eval_every", 1),
        "finetune": ("finetune", "--model", base, *FINETUNE),
    }[stage]
    words = (*words, "--data", data, "--sample_every", 0, "--steps", 1)
    run(*words, "--output_dir", tmp_path / "run")
    found = capsys.readouterr()
    assert (found.out + found.err).count("or none that is long enough: there are no held-out") == 1
