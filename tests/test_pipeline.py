"""All stages through the command line, on six small npz episodes: what a user does, in seconds."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.pipeline import (
    FINETUNE,
    PRETRAIN,
    TOKENIZER,
    metrics,
    run,
    weights,
)
from vidwm.cli import main
from vidwm.data.cache import CachedTokens
from vidwm.data.npz import NpzDataset
from vidwm.data.sampler import split_episodes
from vidwm.evaluation.sources import open_sources
from vidwm.finetune_config import FinetuneConfig
from vidwm.training.gold import GoldLook, GoldWatch
from vidwm.training.grpo import GrpoStage
from vidwm.training.stopwatch import Stopwatch
from vidwm.training.updater import Updater
from vidwm.world_model.world_model import WorldModel


def test_finetuning_logs_what_it_promises(trained):
    logged = metrics(trained / "finetune")[-1]
    promised = (
        *("reward", "reward_mae", "reward_mse", "spread", "kl", "clip_fraction", "ratio"),
        *("entropy", "repetition_rate", "sampler_gap", "dropped_groups", "frames_per_second"),
        *("seconds_rollout", "seconds_reward", "seconds_reference", "seconds_train"),
        *("heldout_reward", "heldout_mae"),
    )
    assert not [name for name in promised if name not in logged]
    assert logged["sampler_gap"] < 0.1 and logged["reward"] < 0
    assert {"gold_psnr", "gold_ssim"} <= logged.keys() and "gold_mae" not in logged
    first = metrics(trained / "finetune")[0]
    assert first["reward"] == pytest.approx(-first["reward_mae"] - 0.5 * first["reward_mse"])


@pytest.mark.parametrize(
    ("stage", "video"),
    [("tokenizer", "reconstruction"), ("pretrain", "heldout_0"), ("finetune", "heldout_0")],
)
def test_every_stage_shows_sample_videos(trained, stage, video):
    videos = {path.name for path in (trained / stage / "videos").iterdir()}
    assert f"{video}_00000002.gif" in videos


def test_finetuning_changes_the_transformer_and_nothing_else(trained):
    before, after = weights(trained / "pretrain"), weights(trained / "finetune")
    assert any((before[name] != after[name]).any() for name in before)
    part = "checkpoints/last/model/tokenizer/model.safetensors"
    kept, same = load_file(trained / "pretrain" / part), load_file(trained / "finetune" / part)
    assert all((kept[name] == same[name]).all() for name in kept)


def test_tokens_are_cached_and_reused(trained, tmp_path, monkeypatch):
    read = []
    episode = NpzDataset.episode
    monkeypatch.setattr(NpzDataset, "episode", lambda self, i: read.append(i) or episode(self, i))
    cache = trained / "tokens"
    shards = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    assert shards
    run(
        *("pretrain", "--data", trained / "data", *PRETRAIN, "--steps", 1),
        *("--tokenizer", trained / "tokenizer/checkpoints/last/model", "--cache_dir", cache),
        *("--output_dir", tmp_path / "again"),
    )
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")} == shards
    assert read == [0]  # to see the size of its frames; tokens and actions are in the cache


def test_worker_processes_change_nothing(trained, tmp_path):
    """Of a run that is resumed, too, and reads frames from a cache."""
    run("data", "cache", trained / "data", "--output_dir", tmp_path / "frames")
    words = (
        *("tokenizer", "--data", tmp_path / "frames", "--log_every", 1, "--sample_every", 2),
        *(*TOKENIZER, "--num_workers", 2, "--output_dir", tmp_path / "run"),
    )
    run(*words, "--steps", 1)
    run(*words, "--steps", 3, "--resume")
    found, expected = weights(tmp_path / "run"), weights(trained / "tokenizer")
    assert all(found[name].equal(expected[name]) for name in expected)


def test_variants_are_cached_and_drawn_alike_by_every_process_and_resumed_run(
    trained, tmp_path, capsys, monkeypatch
):
    tokenizer = ("--tokenizer", trained / "tokenizer/checkpoints/last/model")
    vary = ("--crop", 0.5, "--brightness", 0.3)
    cache = tmp_path / "cache"
    words = (*tokenizer, *vary, "--variants", 3, "--output_dir", cache)
    run("data", "cache", trained / "data", *words)
    assert "6 episodes in 3 variants, 60 frames at 16x16" in capsys.readouterr().out
    words = ("pretrain", "--data", trained / "data", *PRETRAIN, *tokenizer, *vary)
    words = (*words, "--log_every", 1, "--sample_every", 2, "--cache_dir", cache)
    assert main([*map(str, words), "--output_dir", str(tmp_path / "anew")]) == 2
    assert "crop, brightness: clips are varied anew" in (said := capsys.readouterr().err)
    assert "leave cache_dir out, or give --variants" in said
    words = (*words, "--variants", 3)
    files = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    asked, read = [], CachedTokens.clip

    def clip(self, episode, start, frames, skip, variant=0):
        asked.append((episode, variant))
        return read(self, episode, start, frames, skip, variant)

    monkeypatch.setattr(CachedTokens, "clip", clip)
    run(*words, "--steps", 3, "--output_dir", tmp_path / "straight")
    _, heldout = split_episodes([f"episode_{i}" for i in range(6)], 0.3, 0)
    assert {v for e, v in asked if e in heldout} == {0}
    assert {v for e, v in asked if e not in heldout} == {0, 1, 2}
    run(*words, "--steps", 1, "--num_workers", 2, "--output_dir", tmp_path / "parted")
    run(*words, "--steps", 3, "--num_workers", 2, "--output_dir", tmp_path / "parted", "--resume")
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == files
    found, expected = weights(tmp_path / "parted"), weights(tmp_path / "straight")
    assert all(found[name].equal(expected[name]) for name in expected)
    plain = metrics(trained / "pretrain")
    assert metrics(tmp_path / "straight")[0]["loss"] != plain[0]["loss"]


def test_a_changed_recording_is_tokenised_anew(trained, tmp_path):
    data = shutil.copytree(trained / "data", tmp_path / "data")
    cache = tmp_path / "tokens"
    words = (
        *("pretrain", "--data", data, *PRETRAIN, "--steps", 1),
        *("--tokenizer", trained / "tokenizer/checkpoints/last/model", "--cache_dir", cache),
    )
    run(*words, "--output_dir", tmp_path / "first")
    file = data / "episode_0.npz"
    arrays = dict(np.load(file))
    size = file.stat().st_size
    np.savez(file, image=arrays["image"], action=arrays["action"] + 1)
    assert file.stat().st_size == size
    run(*words, "--output_dir", tmp_path / "second")
    first, second = (load_file(next(f.glob("*.safetensors"))) for f in by_age(cache))
    assert (second["actions"] - first["actions"])[:10].unique().tolist() == [1.0]


def by_age(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_the_first_ratio_is_one_whatever_the_number_of_updates(trained, tmp_path):
    for updates in (1, 2):
        run(
            *("finetune", "--data", trained / "data", "--reward", "mae=1", "--batch_size", 2),
            *("--group_size", 4, "--num_iterations", updates, "--learning_rate", 1e-12),
            *("--model", trained / "pretrain/checkpoints/last/model", "--steps", 1),
            *("--precision", "bf16", "--output_dir", tmp_path / str(updates)),
        )
        logged = metrics(tmp_path / str(updates))[0]
        assert logged["ratio"] == 1 and logged["clip_fraction"] == 0
        assert 0 < logged["sampler_gap"] < 0.1


def test_credit_changes_the_update_and_not_what_is_rewarded(trained, tmp_path):
    for credit in ("rollout", "local"):
        run(
            *("finetune", "--data", trained / "data", "--reward", "mae=1,mse=2", "--steps", 1),
            *("--model", trained / "pretrain/checkpoints/last/model", "--batch_size", 2),
            *("--group_size", 4, "--credit", credit, "--output_dir", tmp_path / credit),
        )
    rollout, local = (metrics(tmp_path / credit)[0] for credit in ("rollout", "local"))
    for name in ("reward", "reward_mae", "reward_mse", "spread"):
        assert local[name] == pytest.approx(rollout[name], rel=1e-4), name
    before, after = weights(tmp_path / "rollout"), weights(tmp_path / "local")
    assert any((before[name] != after[name]).any() for name in before)


def test_the_policy_learns_how_sure_to_be_and_the_model_saved_is_that_policy(trained, tmp_path):
    base = trained / "pretrain/checkpoints/last/model"
    run(
        *("finetune", "--data", trained / "data", "--model", base, "--reward", "mae=1"),
        *("--sharpness_rate", 0.1, "--learning_rate", 1e-12, "--steps", 1, "--batch_size", 2),
        *("--group_size", 4, "--output_dir", tmp_path / "run"),
    )
    scale = metrics(tmp_path / "run")[0]["sharpness"]
    assert abs(math.log(scale)) == pytest.approx(0.1, rel=1e-3)  # Adam's first step
    name = "model.norm.weight"
    before = load_file(base / "transformer/model.safetensors")
    after = load_file(tmp_path / "run/checkpoints/last/model/transformer/model.safetensors")
    np.testing.assert_allclose(after[name], before[name] * scale, rtol=1e-5)
    np.testing.assert_allclose(after["lm_head.weight"], before["lm_head.weight"], atol=1e-8)


@pytest.mark.parametrize("stage", ["tokenizer", "pretrain", "finetune"])
def test_a_resumed_run_equals_an_uninterrupted_one(trained, tmp_path, stage):
    steps = {"tokenizer": 3, "pretrain": 3, "finetune": 2}[stage]
    start = {
        "tokenizer": TOKENIZER,
        "pretrain": (*PRETRAIN, "--tokenizer", trained / "tokenizer/checkpoints/last/model"),
        "finetune": (*FINETUNE, "--model", trained / "pretrain/checkpoints/last/model"),
    }[stage]
    command = (
        *(stage, "--data", trained / "data", "--log_every", 1),
        *("--sample_every", 2, *start, "--output_dir", tmp_path / "run"),
    )
    run(*command, "--steps", 1)
    run(*command, "--steps", steps, "--resume")
    whole, resumed = weights(trained / stage), weights(tmp_path / "run")
    assert all((whole[name] == resumed[name]).all() for name in whole)
    last, again = metrics(trained / stage)[-1], metrics(tmp_path / "run")[-1]
    held_out = [name for name in last if name.startswith(("heldout_", "gold_"))]
    assert stage == "tokenizer" or held_out
    assert [again[name] for name in held_out] == [last[name] for name in held_out]


def test_gold_metrics_start_from_the_given_model_however_often_a_run_is_resumed(
    trained, tmp_path, monkeypatch
):
    starts = []
    look = GoldWatch.look

    def watched(self, *arguments):
        starts.append(self.first)
        return look(self, *arguments)

    monkeypatch.setattr(GoldWatch, "look", watched)
    command = (
        *("finetune", "--data", trained / "data", *FINETUNE, "--output_dir", tmp_path / "run"),
        *("--model", trained / "pretrain/checkpoints/last/model"),
    )
    run(*command, "--steps", 1)
    run(*command, "--steps", 2, "--resume")
    before, after = starts
    assert before.keys() == after.keys() > {"reward", "ssim"}
    assert all((before[name] == after[name]).all() for name in before)


@pytest.mark.parametrize("stop", [True, False])
def test_falling_gold_metrics_warn_and_can_end_the_run(
    trained, tmp_path, capsys, monkeypatch, stop
):
    fallen = GoldLook(scores={"gold_ssim": 0.5}, warning="ssim fell")
    monkeypatch.setattr(GoldWatch, "look", lambda *_: fallen)
    run(
        *("finetune", "--data", trained / "data", *FINETUNE, "--output_dir", tmp_path / "run"),
        *("--model", trained / "pretrain/checkpoints/last/model", "--steps", 2),
        *("--stop_when_gold_falls", stop),
    )
    said = "".join(capsys.readouterr())
    assert "warning at step 1: ssim fell" in said
    assert ("stopped at step 1 of 2 (gold metrics fall)" in said) == stop
    assert len(metrics(tmp_path / "run")) == (1 if stop else 2)
    assert (tmp_path / "run/checkpoints/last/model/world_model.json").is_file()


def test_evaluation_compares_base_and_post_trained(trained, tmp_path):
    run(
        *("evaluate", "--data", trained / "data", "--num_samples", 2),
        *("--model", trained / "finetune/checkpoints/last/model"),
        *("--base", trained / "pretrain/checkpoints/last/model"),
        *("--output_dir", tmp_path / "evaluation", "--bootstrap", 100),
    )
    report = json.loads((tmp_path / "evaluation/report.json").read_text())
    assert report and (tmp_path / "evaluation/report.md").stat().st_size > 0


def test_rollouts_are_rendered(trained, tmp_path):
    run(
        *("rollout", "--data", trained / "data", "--num_samples", 2),
        *("--model", trained / "finetune/checkpoints/last/model", "--horizon", 5),
        *("--output_dir", tmp_path / "videos"),
    )
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 2


def test_finetuning_on_a_part_of_the_horizon(trained, tmp_path, capsys):
    base = trained / "pretrain/checkpoints/last/model"
    common = ("finetune", "--data", trained / "data", "--model", base, *FINETUNE, "--steps", 1)
    run(*common, "--horizon", 1, "--output_dir", tmp_path / "one")
    assert np.isfinite(metrics(tmp_path / "one")[-1]["heldout_reward"])
    assert json.loads((base / "world_model.json").read_text())["horizon"] == 2
    longer = [str(word) for word in (*common, "--horizon", 3, "--output_dir", tmp_path / "three")]
    assert main(longer) == 2
    assert "horizon must be at most the model's 2, got 3" in capsys.readouterr().err


def test_the_first_ratio_is_one_however_sure_the_policy_is_and_in_bf16(trained, tmp_path):
    config = FinetuneConfig(
        data=trained / "data",
        model=trained / "pretrain/checkpoints/last/model",
        output_dir=tmp_path / "run",
        reward="mae=1",
        precision="bf16",
        num_iterations=2,
    )
    model = WorldModel.from_pretrained(config.model)
    train, heldout = open_sources(config, model)
    stage = GrpoStage(model, train, heldout, config)
    with torch.no_grad():
        stage.sharpness.log_scale.fill_(0.5)
    updater = Updater("transformer", model.transformer, config, stage.device)
    experience, _ = stage.collect(train.batch([0, 1]), 0, Stopwatch(), updater)
    with updater.autocast():
        _, sums = stage.policy._losses(experience, torch.arange(2))
    assert float(sums["ratio"]) == experience.old_logprobs.numel()


def test_the_camera_that_was_read_is_saved_with_the_model(trained):
    model = WorldModel.from_pretrained(trained / "pretrain/checkpoints/last/model")
    assert model.setting.camera == "image"
