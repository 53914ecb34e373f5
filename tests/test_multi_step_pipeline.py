"""Multi-step models through the command line: compressive tokenizer to evaluation, in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.pipeline import FINETUNE, fails, metrics, run, train_stages
from tests.pipeline import TOKENIZER as FRAME_TOKENIZER
from vidwm.cli import main
from vidwm.evaluation.strips import strip
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.training import pretrain as pretrain_stage
from vidwm.training.pretrain import PretrainStage
from vidwm.world_model.world_model import WorldModel

SIZE = 16
TOKENIZER = (
    *("--kind", "compressive", "--heldout", 0.3, "--widths", "[8, 32, 32]", "--downsample", 8),
    *("--blocks", 1, "--fsq_levels", "[4, 4]", "--context_levels", "[3, 3]", "--latent_dim", 4),
    *("--later_frames", 2, "--clip_frames", 6, "--batch_size", 4, "--perceptual_weight", 0),
    *("--adversarial_weight", 0.1, "--adversarial_start", 1),
)
PRETRAIN = (
    *("--context_frames", 1, "--horizon", 2, "--context_gap", 3, "--hidden_size", 16),
    *("--num_layers", 1, "--num_heads", 2, "--batch_size", 4, "--micro_batch", 3),
    *("--eval_every", 2, "--heldout", 0.3),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with data and a run of each training stage."""
    root = tmp_path_factory.mktemp("multi_step")
    train_stages(root, TOKENIZER, PRETRAIN)
    return root


def test_each_stage_logs_both_parts_or_what_it_promises(trained):
    logged = metrics(trained / "tokenizer")[-1]
    for name in ("l1_loss", "perplexity", "heldout_psnr"):
        assert np.isfinite(logged[name])
        prefix, _, rest = name.partition("heldout_")
        both = f"heldout_context_{rest}" if rest else f"context_{prefix}"
        assert np.isfinite(logged[both])
    assert {"adversarial_loss", "context_adversarial_loss", "discriminator_loss"} <= logged.keys()
    assert np.isfinite(metrics(trained / "pretrain")[-1]["heldout_loss"])
    assert np.isfinite(metrics(trained / "finetune")[-1]["heldout_reward"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--hue", 0.1, "--variants", 3), "leave variants out"),
        (("--cache_dir", "tokens"), "leave cache_dir out, and give what `vidwm data cache` makes"),
    ],
)
def test_nothing_is_said_of_a_cache_where_tokens_are_not_cached(
    trained, tmp_path, capsys, words, said
):
    tokenizer = trained / "tokenizer/checkpoints/last/model"
    words = ("pretrain", "--data", trained / "data", *PRETRAIN, "--tokenizer", tokenizer, *words)
    words = (*words, "--steps", 1, "--output_dir", tmp_path / "new")
    assert f"whose tokens are not cached; {said}" in fails(capsys, *words)
    assert not (tmp_path / "new").exists()


def test_videos_of_every_stage(trained):
    assert (trained / "tokenizer/videos").exists()
    for stage in ("pretrain", "finetune"):
        assert list((trained / stage / "videos").rglob("heldout_0*"))


def test_a_sample_video_begins_with_all_that_the_model_was_given(trained, monkeypatch, tmp_path):
    """Frames in full, from further back, then the newest; and the two frames predicted."""
    shown = []
    monkeypatch.setattr(
        pretrain_stage, "strip", lambda *videos: shown.append(videos) or strip(*videos)
    )
    words = ("pretrain", "--data", trained / "data", *PRETRAIN, "--steps", 1, "--sample_every", 1)
    tokenizer = trained / "tokenizer/checkpoints/last/model"
    run(*words, "--tokenizer", tokenizer, "--output_dir", tmp_path / "run")
    assert [tuple(map(len, videos)) for videos in shown] == 4 * [(2, 2, 2)]
    codec = WorldModel.from_pretrained(tmp_path / "run/checkpoints/last/model").codec
    context = torch.randint(0, 9, (3, *codec.layout.context_shape))
    given, last = codec.decode_context(context), codec.layout.last_frame(context)
    maps = codec.tokenizer.context_maps(codec.layout.full(context))
    assert torch.equal(given[:, :1], codec.tokenizer.decode_context(maps).clamp(0, 1))
    assert torch.equal(given[:, 1], codec.decode(last, context))


def test_the_model_says_what_it_is_and_its_tokenizer_stays(trained):
    base, tuned = (trained / f"{s}/checkpoints/last/model" for s in ("pretrain", "finetune"))
    world = json.loads((tuned / "world_model.json").read_text())
    assert world["kind"] == "multi_step" and world["layout"]["tokens_per_context_frame"] == 16
    before, after = (
        load_file(m / "tokenizer/diffusion_pytorch_model.safetensors") for m in (base, tuned)
    )
    assert all((before[name] == after[name]).all() for name in before)
    CompressiveTokenizer.from_pretrained(tuned / "tokenizer")


def test_rollouts_and_evaluation_beyond_the_horizon(trained, tmp_path):
    model = trained / "finetune/checkpoints/last/model"
    common = ("--data", trained / "data", "--model", model)
    run("rollout", *common, "--horizon", 5, "--output_dir", tmp_path / "rollouts")
    assert list((tmp_path / "rollouts").glob("*_film.png"))
    base = trained / "pretrain/checkpoints/last/model"
    run("evaluate", *common, "--base", base, "--horizon", 4, "--output_dir", tmp_path / "report")
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["setting"]["horizon"] == 4


@pytest.mark.parametrize("stage", ["tokenizer", "pretrain"])
def test_a_resumed_run_equals_an_uninterrupted_one(trained, tmp_path, stage):
    parts = {"tokenizer": TOKENIZER, "pretrain": PRETRAIN}
    arguments = [stage, "--data", trained / "data", "--log_every", 1, *parts[stage]]
    if stage == "pretrain":
        arguments += ["--tokenizer", trained / "tokenizer/checkpoints/last/model"]
    run(*arguments, "--steps", 2, "--save_every", 1, "--output_dir", tmp_path / "run")
    run(*arguments, "--steps", 3, "--resume", "true", "--output_dir", tmp_path / "run")
    model = "checkpoints/last/model"
    file = "diffusion_pytorch_model.safetensors"
    if stage == "pretrain":
        file = "transformer/model.safetensors"
    whole, resumed = (
        load_file(folder / model / file) for folder in (trained / stage, tmp_path / "run")
    )
    assert all((whole[name] == resumed[name]).all() for name in whole)


def test_local_credit_finds_the_cells_of_later_frames(trained, tmp_path):
    base = trained / "pretrain/checkpoints/last/model"
    run(
        *("finetune", "--data", trained / "data", "--model", base, *FINETUNE, "--steps", 1),
        *("--credit", "local", "--target", "reconstruction", "--output_dir", tmp_path / "run"),
    )
    assert np.isfinite(metrics(tmp_path / "run")[-1]["reward"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--quantizer", "vq"), "has quantizer = fsq only"),
        (("--later_frames", 6), "later_frames must be below clip_frames = 6"),
        (("--widths", "[8, 32, 40]"), "multiples of 32, got 40"),
        (("--widths", "[9, 32, 32]"), "multiples of the 8 groups, got 9"),
        (("--clip_frames", 40), "None of the 4 episodes is long enough"),
    ],
)
def test_settings_that_do_not_fit(trained, tmp_path, capsys, changes, message):
    words = ("tokenizer", "--data", trained / "data", *TOKENIZER, *changes)
    output = ("--output_dir", tmp_path / "run")
    assert main([str(word) for word in (*words, *output)]) == 2
    assert message in capsys.readouterr().err


def test_post_training_meets_contexts_as_old_and_as_varied_as_pretraining_did(trained, tmp_path):
    words = ("finetune", "--data", trained / "data", *FINETUNE, "--steps", 1)
    model = ("--model", trained / "pretrain/checkpoints/last/model")
    for gap in (0, 4):
        run(*words, *model, "--context_gap", gap, "--output_dir", tmp_path / str(gap))
    now, older = (metrics(tmp_path / gap)[0] for gap in ("0", "4"))
    assert now["reward"] == metrics(trained / "finetune")[0]["reward"] != older["reward"]
    assert older["sampler_gap"] < 0.1
    run(*words, *model, "--context_gap", 4, "--crop", 0.5, "--output_dir", tmp_path / "varied")
    assert metrics(tmp_path / "varied")[0]["reward"] != older["reward"]


@pytest.mark.parametrize("kind", ["frame", "compressive"])
def test_the_horizon_grows(trained, tmp_path, monkeypatch, kind):
    lengths = []
    loss = PretrainStage.loss
    monkeypatch.setattr(
        PretrainStage, "loss", lambda self, ids: lengths.append(ids.shape[1]) or loss(self, ids)
    )
    data = ("--data", trained / "data", "--log_every", 1, "--horizon_curriculum", 3)
    tokenizer = trained / "tokenizer/checkpoints/last/model"
    if kind == "frame":
        words = ("--data", trained / "data", *FRAME_TOKENIZER, "--steps", 1)
        run("tokenizer", *words, "--output_dir", tmp_path / "tokenizer")
        tokenizer = tmp_path / "tokenizer/checkpoints/last/model"
    pretrain = (*data, *PRETRAIN, "--context_gap", 0, "--tokenizer", tokenizer, "--horizon", 3)
    run("pretrain", *pretrain, "--steps", 4, "--output_dir", tmp_path / "pretrain")
    assert [logged["horizon"] for logged in metrics(tmp_path / "pretrain")] == [1, 2, 3, 3]
    model = tmp_path / "pretrain/checkpoints/last/model"
    layout = WorldModel.from_pretrained(model).layout
    short, long = layout.sequence_length - 2 * layout.block, layout.sequence_length
    assert layout.horizon == 3
    assert sorted(set(lengths)) == [short, short + layout.block, long]
    finetune = (*data, *FINETUNE, "--model", model, "--steps", 3)
    run("finetune", *finetune, "--output_dir", tmp_path / "finetune")
    logged = metrics(tmp_path / "finetune")
    assert [step["horizon"] for step in logged] == [1, 2, 3]
    # A step all of whose groups are equal updates nothing, and has no gap to log.
    gaps = [step["sampler_gap"] for step in logged if "sampler_gap" in step]
    assert gaps and max(gaps) < 0.1


def test_pretraining_on_imagined_contexts(trained, tmp_path, monkeypatch, capsys):
    lengths = []
    loss = PretrainStage.loss
    monkeypatch.setattr(
        PretrainStage, "loss", lambda self, ids: lengths.append(ids.shape) or loss(self, ids)
    )
    tokenizer = trained / "tokenizer/checkpoints/last/model"
    words = (
        *("pretrain", "--data", trained / "data", *PRETRAIN, "--tokenizer", tokenizer),
        *("--context", "predicted", "--predicted_share", 0.25, "--predicted_start", 1),
        *("--eval_every", 0, "--sample_every", 0, "--log_every", 1),
    )
    run(*words, "--steps", 2, "--output_dir", tmp_path / "run")
    layout = WorldModel.from_pretrained(tmp_path / "run/checkpoints/last/model").layout
    whole, later = layout.sequence_length, layout.sequence_length - layout.block
    # 4 clips at 3 a pass, then 1 that begins later and 3 that do not; held-out ones at the end.
    assert lengths[:4] == [(3, whole), (1, whole), (1, later), (3, whole)]
    run(*words, "--steps", 1, "--output_dir", tmp_path / "again")
    run(*words, "--steps", 2, "--resume", "true", "--output_dir", tmp_path / "again")
    file = "checkpoints/last/model/transformer/model.safetensors"
    once, resumed = (load_file(tmp_path / name / file) for name in ("run", "again"))
    assert all((once[name] == resumed[name]).all() for name in once)
    short = (*words, "--horizon", 1, "--output_dir", tmp_path / "short")
    assert main([str(word) for word in short]) == 2
    assert "horizon must be at least 2, got 1" in capsys.readouterr().err


def test_gaps_that_make_no_sense_are_told(trained, tmp_path, capsys):
    data = ("--data", trained / "data", "--steps", 1)
    run("tokenizer", *data, *FRAME_TOKENIZER, "--output_dir", tmp_path / "run")
    tokenizer = tmp_path / "run/checkpoints/last/model"
    model = trained / "pretrain/checkpoints/last/model"
    for words, message in (
        (("pretrain", "--tokenizer", tokenizer), "must be 0 with a per-frame tokenizer"),
        (("finetune", "--model", model, "--target", "reconstruction"), "leave context_gap at 0"),
    ):
        given = (*words, *data, "--context_gap", 2, "--output_dir", tmp_path / words[0])
        assert main([str(word) for word in given]) == 2
        assert message in capsys.readouterr().err


def test_the_released_frame_tokenizer_is_trained_and_gone_on_from(trained, tmp_path):
    common = ("--data", trained / "data", "--perceptual_weight", 0, "--batch_size", 4, "--steps", 2)
    network = ("--kind", "vqgan", "--widths", "[8, 16]", "--downsample", 2, "--blocks", 1)
    sizes = ("--fsq_levels", "[4, 4]", "--latent_dim", 4, "--sample_every", 1, "--log_every", 1)
    run("tokenizer", *common, *network, *sizes, "--output_dir", tmp_path / "first")
    first = tmp_path / "first/checkpoints/last/model"
    assert np.isfinite(metrics(tmp_path / "first")[-1]["heldout_psnr"])
    run("tokenizer", *common, *sizes, "--init_from", first, "--output_dir", tmp_path / "second")
    before, after = (
        load_file(tmp_path / f"{name}/checkpoints/last/model/diffusion_pytorch_model.safetensors")
        for name in ("first", "second")
    )
    assert before.keys() == after.keys()
    assert not (before["encoder.conv_in.weight"] == after["encoder.conv_in.weight"]).all()


def test_the_tokenizer_learns_the_same_from_parts_of_a_batch(trained, tmp_path):
    words = ("--data", trained / "data", *TOKENIZER, "--steps", 1, "--log_every", 1)
    words = (*words, "--adversarial_start", 0)
    logged = []
    for micro_batch in (0, 3):
        folder = tmp_path / f"by_{micro_batch}"
        run("tokenizer", *words, "--micro_batch", micro_batch, "--output_dir", folder)
        logged.append(metrics(folder)[-1])
    assert {"adversarial_loss", "discriminator_loss", "context_perplexity"} <= logged[0].keys()
    for name in (n for n in logged[0] if n.endswith(("loss", "grad_norm", "perplexity"))):
        np.testing.assert_allclose(logged[1][name], logged[0][name], rtol=1e-4, err_msg=name)
