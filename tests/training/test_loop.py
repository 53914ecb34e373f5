"""The loop: exact resume, stopping, several updates per step, and its errors."""

from __future__ import annotations

import errno
import json
import math
import os
import signal

import pytest
import torch
import yaml
from torch import nn

from vidwm.config import TrainOptions
from vidwm.device import pick_device
from vidwm.errors import UserError
from vidwm.training.checkpoint import read_checkpoint
from vidwm.training.loop import NonFiniteLoss, Stage, fit, prepare
from vidwm.training.run_folder import open_run
from vidwm.training.runtime import pick_precision
from vidwm.training.tracker import Tracker


def make_options(output_dir, **changes):
    values = {
        "output_dir": output_dir,
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 0.05,
        "weight_decay": 0.01,
        "warmup_steps": 3,
        "schedule": "cosine",
        "grad_clip": 1.0,
        "ema_decay": 0.9,
        "save_every": 0,
        "log_every": 1,
        "sample_every": 0,
        "seed": 3,
        "device": "cpu",
    }
    return TrainOptions(**(values | changes))


class TinyStage(Stage):
    """Regression with dropout; `at` runs before the batch of that step."""

    name = "tiny"
    fps = 5.0

    def __init__(self, at=None):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.modules = {"model": self.model}
        self.at = at or {}

    def train_step(self, step, updaters):
        scale = self.at.get(step, lambda: 1.0)() or 1.0
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        with updaters["model"].autocast():
            loss = scale * (self.model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        updaters["model"].backward(loss)
        updaters["model"].apply()
        return {"loss": loss}

    def sample_videos(self):
        assert not self.model.training
        torch.rand(7)
        return {"sample": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}

    def export(self, directory):
        assert not self.model.training
        torch.rand(7)
        directory.mkdir()
        (directory / "weights.json").write_text(json.dumps(self.model[0].weight.tolist()))


class TwoModules(Stage):
    """Two modules; the first is updated twice a step, from two micro-batches each."""

    name = "two"

    def __init__(self):
        torch.manual_seed(0)
        self.modules = {"generator": nn.Linear(2, 1), "discriminator": nn.Linear(2, 1)}

    def train_step(self, step, updaters):
        inputs = torch.randn(4, 2, generator=torch.Generator().manual_seed(step))
        update = updaters["generator"]
        for _ in range(2):
            for micro in inputs.chunk(2):
                loss = self.modules["generator"](micro).square().mean() / 2
                update.backward(loss)
            update.apply()
        if step >= 1:
            updaters["discriminator"].backward(self.modules["discriminator"](inputs).mean().abs())
            updaters["discriminator"].apply()
        return {"generator_loss": loss, "discriminator_loss": 0.0}

    def export(self, directory):
        directory.mkdir()


def run_fit(stage, options):
    return fit(stage, options, open_run(options.output_dir, resume=options.resume))


def losses(folder):
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    return [(row["step"], row["loss"], row["grad_norm"]) for row in map(json.loads, rows)]


def interrupt():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = run_fit(TinyStage(), make_options(tmp_path / "whole"))
    part = run_fit(TinyStage({2: interrupt}), make_options(tmp_path / "part"))
    assert (part.step, part.finished) == (3, False)
    torch.rand(5)  # the process that resumes has drawn other numbers
    rest = run_fit(TinyStage(), make_options(tmp_path / "part", resume=True))
    assert (rest.step, rest.finished) == (6, True)

    expected, found = (
        read_checkpoint(whole.checkpoint).parts,
        read_checkpoint(rest.checkpoint).parts,
    )
    assert set(expected) == {"model", "model_optimizer", "model_ema", "random"}
    for part_name, tensors in expected.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, found[part_name][name]), (part_name, name)
    assert len(losses(tmp_path / "whole")) == 6
    assert losses(tmp_path / "whole") == losses(tmp_path / "part")


def test_steps_after_the_checkpoint_are_logged_once(tmp_path):
    def crash():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run_fit(TinyStage({5: crash}), make_options(tmp_path / "run", save_every=2))
    assert len(losses(tmp_path / "run")) == 5
    run_fit(TinyStage(), make_options(tmp_path / "run", resume=True))
    run_fit(TinyStage(), make_options(tmp_path / "whole"))
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_sampling_and_saving_do_not_change_training(tmp_path):
    quiet = run_fit(TinyStage(), make_options(tmp_path / "quiet"))
    busy = run_fit(TinyStage(), make_options(tmp_path / "busy", sample_every=1, save_every=1))
    assert len(list((tmp_path / "busy" / "videos").iterdir())) == 6
    a, b = (read_checkpoint(r.checkpoint).parts["model"] for r in (quiet, busy))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_export_holds_the_averaged_weights(tmp_path):
    stage = TinyStage()
    result = run_fit(stage, make_options(tmp_path / "run"))
    exported = torch.tensor(json.loads((result.checkpoint / "model/weights.json").read_text()))
    parts = read_checkpoint(result.checkpoint).parts
    assert torch.equal(exported, parts["model_ema"]["0.weight"])
    assert torch.equal(stage.model[0].weight, parts["model"]["0.weight"])
    assert not torch.equal(exported, parts["model"]["0.weight"])


def test_time_limit_stops_with_a_checkpoint(tmp_path, capsys):
    result = run_fit(TinyStage(), make_options(tmp_path / "run", time_limit_minutes=1e-9))
    assert (result.step, result.finished, result.checkpoint.name) == (1, False, "00000001")
    assert "stopped at step 1 of 6 (time limit); continue" in capsys.readouterr().err


def test_signal_handlers_are_put_back(tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    run_fit(TinyStage(), make_options(tmp_path / "whole"))
    assert signal.getsignal(signal.SIGTERM) is before
    run_fit(TinyStage({2: interrupt}), make_options(tmp_path / "part"))
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopped at step 3 of 6 (SIGTERM)" in capsys.readouterr().err


def test_second_interrupt_is_immediate(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell starts its background jobs with Ctrl-C ignored; this test needs what a terminal has.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_fit(TinyStage({2: twice}), make_options(tmp_path / "run"))
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_non_finite_loss_stops_and_keeps_the_checkpoint(tmp_path, scale):
    options = make_options(tmp_path / "run", save_every=2)
    with pytest.raises(NonFiniteLoss, match=r"tiny stopped at step 4: the loss.*00000002") as info:
        run_fit(TinyStage({3: lambda: scale}), options)
    assert isinstance(info.value, UserError)
    kept = read_checkpoint(tmp_path / "run/checkpoints/00000002").parts["model"]
    assert all(tensor.isfinite().all() for tensor in kept.values())


def test_non_finite_gradient_stops_before_the_update(tmp_path):
    stage = TinyStage()
    stage.model[0].weight.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(NonFiniteLoss, match=r"step 1: the gradient norm.*nothing was saved"):
        run_fit(stage, make_options(tmp_path / "run"))
    assert stage.model[0].weight.isfinite().all()


def test_what_a_run_records(tmp_path):
    run_fit(TinyStage(), make_options(tmp_path / "run", steps=2))
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert TrainOptions(**config) == make_options(str(tmp_path / "run"), steps=2)
    run_fit(TinyStage(), make_options(tmp_path / "run", steps=3, resume=True))
    config_now = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config_now == config | {"steps": 3}  # and `resume` is no part of it
    history = [json.loads(r) for r in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [(h["from_step"], h["seed"]) for h in history] == [(0, 3), (2, 3)]
    assert history[0]["config"] == config
    assert {"commit", "vidwm", "command", "machine"} <= history[0].keys()
    assert history[0]["device"] == "cpu"
    assert history[0]["precision"] == pick_precision("auto", pick_device("cpu"))


def test_a_run_folder_is_never_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    open_run(tmp_path / "run", resume=False)  # empty is fine
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"run exists and is not empty; .*--output_dir.*--resume"):
        open_run(tmp_path / "run", resume=False)
    with pytest.raises(UserError, match=r"no checkpoint in .*run/checkpoints to resume from"):
        open_run(tmp_path / "run", resume=True)
    with pytest.raises(UserError, match=r"notes\.txt is a file"):
        open_run(tmp_path / "run/notes.txt", resume=False)


def test_resuming_something_else_is_refused(tmp_path):
    run_fit(TinyStage(), make_options(tmp_path / "run", steps=1, ema_decay=0.0))
    again = make_options(tmp_path / "run", ema_decay=0.0, resume=True)
    with pytest.raises(UserError, match="is of stage tiny, not two"):
        run_fit(TwoModules(), again)
    wider = TinyStage()
    wider.modules = {"model": nn.Sequential(nn.Linear(3, 9), nn.Dropout(0.5), nn.Linear(9, 1))}
    with pytest.raises(UserError, match=r"model was built differently.*0\.weight"):
        run_fit(wider, again)
    with pytest.raises(UserError, match="holds no model_ema"):
        run_fit(TinyStage(), make_options(tmp_path / "run", resume=True))


@pytest.mark.parametrize("method", ["__init__", "log", "close"])
def test_a_full_disk_while_logging_is_said_plainly(tmp_path, monkeypatch, method):
    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Tracker, method, no_space)
    with pytest.raises(UserError, match=r"Cannot write to .*run: no space left on device"):
        run_fit(TinyStage(), make_options(tmp_path / "run"))


@pytest.mark.parametrize("device", ["tpux", "cuda:99"])
def test_absent_devices_are_named(tmp_path, device):
    with pytest.raises(UserError, match=device):
        prepare(TinyStage(), make_options(tmp_path, device=device))


def test_held_out_scores_share_the_row_of_their_step(tmp_path):
    stage = TinyStage()
    stage.eval_every = 2
    stage.evaluate = lambda: {"heldout_loss": torch.tensor(1.5 if stage.model.training else 0.5)}
    run_fit(stage, make_options(tmp_path / "run", steps=5, log_every=4))
    rows = [json.loads(r) for r in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], "loss" in r, r["heldout_loss"]) for r in rows] == [
        (2, False, 0.5),
        (4, True, 0.5),
        (5, True, 0.5),
    ]


def test_a_warning_is_said_once(tmp_path, capsys):
    class WorriedOnce(TinyStage):
        eval_every = 2

        def evaluate(self):
            self.warning = "" if self.warned else "this looks wrong"
            self.warned = True
            return {"score": 1.0}

        warned = False

    assert run_fit(WorriedOnce(), make_options(tmp_path / "run")).finished
    said = capsys.readouterr()
    assert (said.out + said.err).count("this looks wrong") == 1


def test_a_stage_can_warn_and_end_the_run(tmp_path, capsys):
    class Worried(TinyStage):
        eval_every = 2

        def evaluate(self):
            self.warning, self.stop_reason = "this looks wrong", "it looks wrong"
            return {"score": 1.0}

    result = run_fit(Worried(), make_options(tmp_path / "run"))
    said = capsys.readouterr()
    assert (result.step, result.finished) == (2, False)
    assert (said.out + said.err).count("warning at step 2: this looks wrong") == 1
    assert "stopped at step 2 of 6 (it looks wrong)" in said.out + said.err
