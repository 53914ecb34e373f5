"""`vidwm finetune --from` through the command line: a world model becomes that of another robot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.pipeline import TOKENIZER, fails, metrics, run, weights
from vidwm.data.datasets import open_dataset
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.compressive_config import CompressiveConfig
from vidwm.tokenizer.vqgan_frame import VQGANConfig, VQGANTokenizer
from vidwm.training import adapt
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.presets import RT1, rt1_bins
from vidwm.world_model.transformer import Transformer
from vidwm.world_model.world_model import Setting, WorldModel, codec_for

TINY = Path(__file__).resolve().parents[2] / "assets/tiny"
QUICK = (
    *("--tokenizer_batch_size", 2, "--pretrain_batch_size", 2, "--batch_size", 2),
    *("--group_size", 2, "--reward", "mae=1", "--eval_every", 0, "--sample_every", 0),
    *("--save_every", 1, "--keep_last", 9, "--heldout", 0.3, "--learning_rate", 1e-3),
)
LAST = "checkpoints/last/model"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Another robot: 32 x 40 pixels, six actions."""
    folder = tmp_path_factory.mktemp("robot")
    generator = np.random.default_rng(0)
    for index in range(5):
        frames = generator.integers(0, 255, (9, 32, 40, 3), dtype=np.uint8)
        actions = generator.normal(size=(9, 6)).astype(np.float32)
        np.savez(folder / f"{index}.npz", image=frames, action=actions)
    return folder


def released(folder: Path, *, compressive: bool) -> Path:
    """A small world model of the kinds that RLVR-World released, with RT-1's actions."""
    if compressive:
        tokenizer = CompressiveTokenizer(
            CompressiveConfig(
                height=16, width=16, widths=(32, 32), groups=8, blocks=1, latent=4, patch=2,
                attention_height=128, fsq_levels=(4, 4), context_levels=(3, 3),
            )
        )  # fmt: skip
    else:
        tokenizer = VQGANTokenizer(
            VQGANConfig(height=16, width=16, widths=(8, 8, 8), groups=4, blocks=1, latent=4)
        )
    setting = Setting(
        context_frames=1 if compressive else 3,
        horizon=2 if compressive else 1,
        frame_skip=1,
        fps=3.0,
        action_names=tuple(RT1),
        heldout=0.0,
        split_seed=0,
        shared_action_ids=True,
    )
    layout = codec_for(tokenizer, rt1_bins(), setting).layout
    transformer = Transformer(
        TransformerConfig(
            vocab_size=layout.vocab_size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=layout.sequence_length,
            bos_token_id=layout.bos,
            eos_token_id=layout.eos,
        )
    )
    WorldModel(tokenizer, transformer, rt1_bins(), setting).save_pretrained(folder)
    return folder


def test_the_bundled_model_becomes_one_of_another_robot(data, tmp_path, capsys):
    run(
        *("finetune", "--from", TINY, "--data", data, *QUICK, "--output_dir", tmp_path / "out"),
        *("--tokenizer_steps", 1, "--pretrain_steps", 2, "--steps", 1),
    )
    old, out = WorldModel.from_pretrained(TINY), tmp_path / "out"
    start = WorldModel.from_pretrained(out / "start")
    model = WorldModel.from_pretrained(out / "finetune" / LAST)
    assert "frames 64x64 (64 tokens) -> 32x40 (20 tokens)" in capsys.readouterr().out
    assert model.size == (32, 40) and model.layout.tokens_per_frame == 20
    assert model.actions.action_dims == 6 and model.setting.heldout == 0.3
    assert start.setting.camera == model.setting.camera == "image"
    assert torch.equal(model.actions.low, start.actions.low)
    before, after = old.transformer.state_dict(), start.transformer.state_dict()
    for name, value in before.items():
        same = after[name][: old.layout.codebook_size] if len(value) > 2000 else after[name]
        assert torch.equal(same, value[: len(same)]), name
    frames = torch.from_numpy(open_dataset(data).episode(0).frames)[None] / 255
    pairs = zip(start.encode(frames), model.encode(frames), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)  # the decoder alone was trained
    for stage, steps in (("tokenizer", 1), ("pretrain", 2), ("finetune", 1)):
        assert [line["step"] for line in metrics(out / stage)][-1] == steps
    run("rollout", "--model", out / "finetune" / LAST, "--data", data, "--output_dir", out / "v")


@pytest.mark.parametrize("compressive", [False, True])
def test_resumed_equals_uninterrupted_for_released_models(data, tmp_path, monkeypatch, compressive):
    old = released(tmp_path / "old", compressive=compressive)
    words = (
        *("finetune", "--from", old, "--data", data, *QUICK, "--seed", 3),
        *("--tokenizer_trained", "networks", "--horizon", 2),
    )
    run(
        *(*words, "--output_dir", tmp_path / "whole"),
        *("--tokenizer_steps", 2, "--pretrain_steps", 2, "--steps", 1),
    )
    model = WorldModel.from_pretrained(tmp_path / "whole/finetune" / LAST)
    assert model.layout.vocab_size == WorldModel.from_pretrained(old).layout.vocab_size
    assert model.size == (32, 40) and model.layout.action_dims == 6
    for steps in ((1, 0, 0), (2, 1, 0), (2, 2, 1)):
        stages = zip(("--tokenizer_steps", "--pretrain_steps", "--steps"), steps, strict=True)
        counts = [word for pair in stages for word in pair]
        run(*words, *counts, "--output_dir", tmp_path / "parts", "--resume", steps != (1, 0, 0))
    for stage in ("tokenizer", "pretrain", "finetune"):
        if stage == "tokenizer":
            file = f"{stage}/{LAST}/diffusion_pytorch_model.safetensors"
            whole, parts = (load_file(tmp_path / run / file) for run in ("whole", "parts"))
        else:
            whole, parts = (weights(tmp_path / run / stage) for run in ("whole", "parts"))
        assert all(torch.equal(whole[name], parts[name]) for name in whole), stage

    def never(config):
        raise AssertionError("a run that is done was begun again")

    for name in ("train_tokenizer", "pretrain", "finetune"):
        monkeypatch.setattr(adapt, name, never)
    done = ("--tokenizer_steps", 2, "--pretrain_steps", 2, "--steps", 1)
    run(*words, *done, "--output_dir", tmp_path / "parts", "--resume")


def test_a_stage_that_is_stopped_ends_the_command(data, tmp_path):
    old = released(tmp_path / "old", compressive=False)
    words = ("finetune", "--from", old, "--data", data, *QUICK, "--output_dir", tmp_path / "out")
    run(*words, "--pretrain_steps", 3, "--steps", 1, "--time_limit_minutes", 1e-6)
    assert (tmp_path / "out/pretrain" / LAST).resolve().parent.name == "00000001"
    assert not (tmp_path / "out/finetune").exists()
    (tmp_path / "out/finetune").mkdir()
    (tmp_path / "out/finetune/metrics.jsonl").touch()  # as a kill before a checkpoint leaves it
    run(*words, "--pretrain_steps", 3, "--steps", 1, "--resume")
    assert (tmp_path / "out/finetune" / LAST / "world_model.json").is_file()


def test_what_cannot_be_adapted_is_said_in_a_sentence(data, tmp_path, capsys):
    old, out = released(tmp_path / "old", compressive=False), tmp_path / "out"
    words = ("finetune", "--data", data, "--output_dir", out)
    say = fails(capsys, *words, "--model", old, "--resize")
    assert "have 6 numbers" in say and "expects 13" in say and "`vidwm finetune --from`" in say
    assert "no such folder" in fails(capsys, *words, "--from", tmp_path / "nothing")
    say = fails(capsys, *words, "--from", old / "tokenizer")
    assert "holds a tokenizer or a transformer" in say and "vidwm import" in say
    assert "cells of 4x4 pixels" in fails(capsys, *words, "--from", old, "--height", 18)
    assert "to resume from" in fails(capsys, *words, "--from", old, "--resume")
    run("tokenizer", "--data", data, *TOKENIZER, "--steps", 1, "--output_dir", tmp_path / "t")
    other = ("pretrain", "--init_from", old, "--data", data, "--tokenizer", tmp_path / "t" / LAST)
    say = fails(capsys, *other, "--output_dir", out)
    assert "knows the 4375 codes of a per-frame one" in say and "writes the 16 codes" in say
    assert not out.exists()


def test_positions_are_made_for_a_longer_horizon_and_missed_without(data, tmp_path, capsys):
    old = released(tmp_path / "old", compressive=False)
    file = old / "world_model.json"
    file.write_text(file.read_text().replace('"horizon": 1', '"horizon": 2'))
    say = fails(
        *(capsys, "finetune", "--model", old, "--data", data, "--output_dir", tmp_path / "report")
    )
    assert "3 context frames and a horizon of 2" in say and "finetune --from" in say
    file.write_text(file.read_text().replace('"horizon": 2', '"horizon": 1'))
    run(
        *(
            "finetune",
            "--from",
            old,
            "--data",
            data,
            "--horizon",
            3,
            "--resize",
            *QUICK,
            "--frame_skip",
            2,
        ),
        *("--pretrain_steps", 0, "--steps", 0, "--output_dir", tmp_path / "out", "--resize"),
    )
    start = WorldModel.from_pretrained(tmp_path / "out/start")
    assert start.setting.horizon == 3 and start.size == (16, 16)
    assert start.setting.frame_skip == 2 and start.layout.action_dims == 12
    assert start.transformer.config.max_position_embeddings == start.layout.sequence_length


def test_a_start_made_by_other_settings_is_not_gone_on_with(data, tmp_path, capsys, monkeypatch):
    old, out = released(tmp_path / "old", compressive=False), tmp_path / "out"
    words = ("finetune", "--from", old, "--data", data, *QUICK, "--output_dir", out)
    none = ("--pretrain_steps", 0, "--steps", 0)
    run(*words, *none)
    before = (out / "config.yaml").read_text()
    other = ("--resume", "--heldout", 0.4, "--horizon", 2, "--learning_rate", 0.5)
    say = fails(capsys, *words, *none, *other)
    assert "heldout = 0.3 (now 0.4), horizon = 0 (now 2): resume" in say
    assert "learning_rate" not in say and str(out / "config.yaml") in say
    assert (out / "config.yaml").read_text() == before
    monkeypatch.chdir(data.parent)  # the same folder by another name is the same setting
    run(*words, *none, "--resume", "--data", data.name, "--learning_rate", 0.5)


def test_a_relative_path_is_the_one_of_where_the_start_was_made(
    data, tmp_path, capsys, monkeypatch
):
    old, out = released(tmp_path / "old", compressive=False), tmp_path / "out"
    words = ("finetune", "--from", old, *QUICK, "--output_dir", out)
    words = (*words, "--pretrain_steps", 0, "--steps", 0)
    other = tmp_path / data.name
    shutil.copytree(data, other)
    monkeypatch.chdir(data.parent)
    run(*words, "--data", data.name)
    monkeypatch.chdir(tmp_path)
    run(*words, "--resume", "--data", data)
    say = fails(capsys, *words, "--resume", "--data", data.name)
    assert f"data = {data} (now {other})" in say


def test_stages_that_others_go_on_from_are_not_changed_any_more(data, tmp_path, capsys):
    old, out = released(tmp_path / "old", compressive=False), tmp_path / "out"
    words = ("finetune", "--from", old, "--data", data, *QUICK, "--output_dir", out)
    counts = ("--tokenizer_steps", "--pretrain_steps", "--steps")

    def steps(*numbers):
        return [word for pair in zip(counts, numbers, strict=True) for word in pair]

    run(*words, *steps(1, 1, 0), "--tokenizer_trained", "networks")
    words = (*words, "--resume")
    say = fails(capsys, *words, *steps(2, 1, 0))
    assert f"{out / 'pretrain'} was made with" in say
    assert "tokenizer_steps = 1 (now 2), tokenizer_trained = networks (now decoder): resume" in say
    words = (*words, "--tokenizer_trained", "networks")
    run(*words, *steps(1, 2, 1), "--pretrain_learning_rate", 0.1)
    before = (out / "config.yaml").read_text()
    say = fails(capsys, *words, *steps(0, 0, 2))  # adapted tokens with the tokenizer of the start
    assert (
        f"{out / 'finetune'} was made with tokenizer_steps = 1 (now 0), pretrain_steps = 2" in say
    )
    assert "pretrain_learning_rate = 0.1 (now 0.0001): resume" in say
    assert (out / "config.yaml").read_text() == before
    run(*words, *steps(1, 2, 2), "--pretrain_learning_rate", 0.1, "--learning_rate", 0.5)
    assert metrics(out / "finetune")[-1]["step"] == 2
    history = (out / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["from_step"] for line in history] == [0, 2, 4]
