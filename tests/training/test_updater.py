"""Updates of a step: clipping, precision, schedule, decay and the average of weights."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.training.test_loop import TinyStage, TwoModules, make_options, run_fit
from vidwm.training.checkpoint import read_checkpoint
from vidwm.training.ema import Ema
from vidwm.training.loop import prepare
from vidwm.training.updater import learning_rate


def test_several_updates_and_modules_in_a_step(tmp_path):
    result = run_fit(TwoModules(), make_options(tmp_path / "run", steps=3, ema_decay=0.0))
    parts = read_checkpoint(result.checkpoint).parts
    assert parts["generator_optimizer"]["weight/step"] == 6
    assert parts["discriminator_optimizer"]["weight/step"] == 2
    assert "generator_ema" not in parts
    rows = [json.loads(r) for r in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows]
    assert rates == pytest.approx([0.05 / 3, 0.1 / 3, 0.05])  # steps count, not updates
    assert {"grad_norm_generator", "grad_norm_discriminator"} <= rows[0].keys()


def test_micro_batches_add_up_to_the_whole_batch(tmp_path):
    inputs = torch.arange(8.0).view(4, 2)
    norms = []
    for chunks in (1, 4):
        stage = TwoModules()
        update = prepare(stage, make_options(tmp_path))["generator"]
        update.begin(0)
        for micro in inputs.chunk(chunks):
            update.backward(stage.modules["generator"](micro).square().mean() / chunks)
        norms.append(update.apply())
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert norms[0] > 1  # the norm before clipping


def test_clipping_scales_the_gradient(tmp_path):
    stage = TwoModules()
    update = prepare(stage, make_options(tmp_path, grad_clip=0.5))["generator"]
    seen = []
    update._optimizer.step = lambda: seen.extend(
        p.grad for p in stage.modules["generator"].parameters()
    )
    update.backward(100 * stage.modules["generator"](torch.ones(1, 2)).sum())
    assert update.apply() > 100
    assert torch.stack([g.norm() for g in seen]).norm() == pytest.approx(0.5, rel=1e-4)


def test_bf16_covers_the_forward_pass_only(tmp_path):
    stage = TinyStage()
    update = prepare(stage, make_options(tmp_path, precision="bf16"))["model"]
    with update.autocast():
        output = stage.model(torch.ones(1, 3))
    assert output.dtype == torch.bfloat16
    update.backward(output.float().sum())
    assert stage.model[0].weight.grad.dtype == torch.float32


def test_frozen_parameters_stay(tmp_path):
    stage = TinyStage()
    stage.model[0].requires_grad_(False)
    before = stage.model[0].weight.clone()
    result = run_fit(stage, make_options(tmp_path / "run"))
    assert torch.equal(stage.model[0].weight, before)
    moments = read_checkpoint(result.checkpoint).parts["model_optimizer"]
    assert {name.rpartition("/")[0] for name in moments} == {"2.weight", "2.bias"}


def test_schedule():
    options = make_options("", steps=10, warmup_steps=2, learning_rate=1.0)
    assert [learning_rate(options, s) for s in (0, 1, 2, 6)] == pytest.approx([0.5, 1, 1, 0.5])
    assert learning_rate(replace(options, schedule="constant"), 9) == 1.0


def test_an_update_moves_weights_by_the_rate_of_its_step(tmp_path):
    stage = TwoModules()
    update = prepare(stage, make_options(tmp_path, weight_decay=0.0))["generator"]
    before = update.module.weight.detach().clone()
    update.begin(0)
    update.backward(update.module(torch.ones(1, 2)).sum())
    update.apply()  # the first update of Adam is the learning rate times the gradient's sign
    expected = torch.full((1, 2), 0.05 / 3)
    torch.testing.assert_close(before - update.module.weight, expected, rtol=1e-4, atol=1e-6)


def test_only_matrices_decay(tmp_path):
    stage = TwoModules()
    options = make_options(tmp_path, weight_decay=0.5, warmup_steps=0)
    update = prepare(stage, options)["generator"]
    before = {n: p.detach().clone() for n, p in update.module.named_parameters()}
    update.begin(0)
    update.backward(0 * update.module(torch.ones(1, 2)).sum())
    update.apply()
    torch.testing.assert_close(update.module.weight, before["weight"] * (1 - 0.05 * 0.5))
    assert torch.equal(update.module.bias, before["bias"])


def test_ema_averages_parameters_and_copies_buffers():
    layer = nn.BatchNorm1d(1)  # weight 1, running_mean 0
    ema = Ema(layer, decay=0.5)
    with torch.no_grad():
        layer.weight.fill_(3.0)
        layer.running_mean.fill_(7.0)
    ema.update(layer, step=0)  # the decay is still warming up: (1 + 0) / (10 + 0)
    assert ema.tensors["weight"].item() == pytest.approx(0.1 * 1 + 0.9 * 3)
    assert ema.tensors["running_mean"].item() == 7.0
    ema.update(layer, step=1000)
    assert ema.tensors["weight"].item() == pytest.approx(0.5 * 2.8 + 0.5 * 3)
