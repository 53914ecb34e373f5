"""A mixture of two robots' sets through all commands: cameras, actions and order stay with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline import fails, metrics, run
from vidwm.data.joined import Joined
from vidwm.evaluation.sources import open_sources
from vidwm.finetune_config import FinetuneConfig
from vidwm.world_model.world_model import WorldModel

CAMERA = ("--camera", "image+aux_image")
TOKENIZER = (
    *("--height", 16, "--width", 32, "--widths", "[8, 16]", "--downsample", 8, "--blocks", 1),
    *("--fsq_levels", "[4, 4]", "--batch_size", 4, "--perceptual_weight", 0, "--heldout", 0.3),
    *("--crop", 0.8, "--hue", 0.1),
)
PRETRAIN = (
    *("--context_frames", 1, "--horizon", 2, "--frame_skip", 2, "--skipped_actions", "sum"),
    *("--hidden_size", 16, "--num_layers", 1, "--num_heads", 2, "--batch_size", 4),
    *("--heldout", 0.3, "--action_form", "delta"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of two sets with two cameras each, and a tokenizer of it."""
    folder = tmp_path_factory.mktemp("mixture")
    rng = np.random.default_rng(0)
    for name, count in (("a", 4), ("b", 3)):
        (folder / name).mkdir()
        for index in range(count):
            image = rng.integers(0, 255, (9, 16, 16, 3), dtype=np.uint8)
            grip = np.where(np.arange(9) < 4, -1.0, 1.0)
            action = np.stack([rng.normal(size=9), grip], axis=1).astype(np.float32)
            file = folder / name / f"{index}.npz"
            np.savez(file, image=image, aux_image=image[:, ::-1], action=action)
    mixture = {f"{folder}/a": 3, "late": {"data": f"{folder}/b", "action_shift": 1}}
    (folder / "mix.json").write_text(json.dumps(mixture))
    common = ("--data", folder / "mix.json", *CAMERA, "--log_every", 1, "--sample_every", 0)
    run("tokenizer", *common, *TOKENIZER, "--steps", 2, "--output_dir", folder / "tokenizer")
    return folder


def pretrain(root: Path, name: str, *words: object) -> Path:
    tokenizer = root / "tokenizer/checkpoints/last/model"
    run(
        *("pretrain", "--data", root / "mix.json", *CAMERA, "--log_every", 1, "--sample_every", 0),
        *(*PRETRAIN, "--tokenizer", tokenizer, "--output_dir", root / name, *words),
    )
    return root / name / "checkpoints/last/model"


def weights(model: Path) -> bytes:
    return (model / "transformer/model.safetensors").read_bytes()


def test_all_commands_take_the_mixture_and_the_model_keeps_what_it_means(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pretrain(root, "base", "--steps", 3)
    shown = capsys.readouterr().out
    assert "late: 25.0% of the clips; 3 episodes of npz" in shown
    assert "action_1" in shown and "few values, uncut" in shown
    ranges = json.loads((root / "base/action_ranges.json").read_text())["ranges"]
    assert [(entry["name"], entry["discrete"]) for entry in ranges] == [
        ("action_0", False), ("action_1", True),
    ]  # fmt: skip
    assert (ranges[1]["low"], ranges[1]["high"]) == (-1, 1) and ranges[0]["below"] > 0
    saved = json.loads((model / "world_model.json").read_text())
    assert saved["semantics"] == {
        "form": "delta", "shift": 0, "skipped": "sum", "discrete": [1],
    }  # fmt: skip
    assert saved["camera"] == "image+aux_image"
    assert [(p["name"], p["dataset"], p["semantics"]["shift"]) for p in saved["parts"]] == [
        ("a", "a", 0), ("late", "b", 1),
    ]  # fmt: skip
    assert str(root) not in (model / "world_model.json").read_text()
    assert "- late (b): weight 1, camera image+aux_image" in (model / "README.md").read_text()
    # None of the later commands is told about cameras or actions.
    common = ("--data", root / "mix.json", "--model", model)
    run(
        *("finetune", *common, "--reward", "mae=1", "--steps", 1, "--batch_size", 2),
        *("--group_size", 2, "--sample_every", 0, "--output_dir", root / "tuned"),
    )
    assert np.isfinite(metrics(root / "tuned")[-1]["heldout_reward"])
    for data in ("mix.json", "a"):
        run(
            *("evaluate", "--data", root / data, "--model", model, "--num_samples", 1),
            *("--bootstrap", 100, "--windows_per_episode", 1, "--perceptual", "none"),
            *("--output_dir", root / f"report_{data}"),
        )
    report = json.loads((root / "report_mix.json/report.json").read_text())
    assert report["data"]["episodes"] == 2  # one of each part is held out

    config = FinetuneConfig(data=root / "mix.json", model=model, output_dir=root / "none")
    train, _ = open_sources(config, WorldModel.from_pretrained(model))
    assert isinstance(train.dataset, Joined)
    batch = train.batch([0, len(train.windows) - 1])
    assert batch.frames.shape == (2, 3, 3, 16, 32) and batch.actions.shape == (2, 3, 2)
    window = train.windows[len(train.windows) - 1]
    part, number = train.dataset.place(window.episode)
    assert part.name == "late"
    with np.load(root / f"b/{part.dataset.episode_ids[number]}.npz") as arrays:
        recorded = arrays["action"]
    # The part moves rows up by one; a step of two frames sums two differences, or takes the last
    # of a command.
    t = window.start + 1
    expected = [recorded[t + 1, 0] - recorded[t - 1, 0], recorded[t + 1, 1]]
    np.testing.assert_allclose(batch.actions[1, 0], expected, atol=1e-5)


def test_a_model_that_is_gone_on_with_keeps_the_camera_it_then_sees(root: Path) -> None:
    first = pretrain(root, "first", "--steps", 1, "--eval_every", 0)
    for camera, words in {
        "image+aux_image": (),
        "aux_image+image": ("--camera", "aux_image+image"),
    }.items():
        out = root / f"second_{camera}"
        run(
            *("pretrain", "--init_from", first, "--data", root / "mix.json", *words),
            *("--steps", 1, "--batch_size", 2, "--eval_every", 0, "--output_dir", out),
        )
        model = WorldModel.from_pretrained(out / "checkpoints/last/model")
        assert model.setting.camera == camera
        assert model.setting.semantics.form == "delta"


def test_a_part_alone_means_the_same_to_later_commands_and_a_stranger_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pretrain(root, "parts", "--steps", 1, "--eval_every", 0)
    opened = WorldModel.from_pretrained(model)
    alone = FinetuneConfig(data=root / "b", model=model, output_dir=tmp_path / "none")
    within = FinetuneConfig(data=root / "mix.json", model=model, output_dir=tmp_path / "none")
    part, whole = open_sources(alone, opened)[0], open_sources(within, opened)[0]
    count = len(part.windows)
    rows = part.batch(range(count)).actions
    last = range(len(whole.windows) - count, len(whole.windows))
    assert (rows == whole.batch(last).actions).all()
    capsys.readouterr()

    later = ("--steps", 1, "--batch_size", 2, "--eval_every", 0, "--sample_every", 0)
    run(
        *("pretrain", "--init_from", model, "--data", root / "b", *later),
        *("--output_dir", tmp_path / "on"),
    )
    assert "b is read as late of the model's mixture" in capsys.readouterr().out
    on = WorldModel.from_pretrained(tmp_path / "on/checkpoints/last/model")
    assert on.setting == opened.setting

    new = shutil.copytree(root / "b", tmp_path / "new")
    for words in (
        ("pretrain", "--init_from", model, *later, "--output_dir", tmp_path / "x"),
        ("rollout", "--model", model, "--output_dir", tmp_path / "x"),
        ("evaluate", "--model", model, "--output_dir", tmp_path / "x"),
    ):
        assert "new is none of them by its name" in fails(capsys, *words, "--data", new)
    assert not (tmp_path / "x").exists()
    one = tmp_path / "one.json"
    one.write_text(json.dumps({"new": {"data": str(new), "action_shift": 2}}))
    run(
        *("finetune", "--model", model, "--data", one, "--reward", "mae=1", *later),
        *("--group_size", 2, "--output_dir", tmp_path / "tuned"),
    )
    tuned = WorldModel.from_pretrained(tmp_path / "tuned/checkpoints/last/model")
    assert {p.name: p.semantics.shift for p in tuned.setting.parts} == {"a": 0, "late": 1, "new": 2}


def test_a_resumed_run_sees_the_same_augmented_clips(root: Path) -> None:
    varied = ("--crop", 0.8, "--brightness", 0.2, "--eval_every", 0)
    whole = pretrain(root, "whole", *varied, "--steps", 4)
    pretrain(root, "resumed", *varied, "--steps", 2)
    resumed = pretrain(root, "resumed", *varied, "--steps", 4, "--resume")
    assert weights(whole) == weights(resumed)
    plain = pretrain(root, "plain", "--steps", 4, "--eval_every", 0)
    assert weights(plain) != weights(whole)
