"""`vidwm finetune --from`: a world model of one robot becomes that of another, in three short runs.

    output_dir/start/       the given model, refitted to the data and not yet trained (`new_robot`)
    output_dir/tokenizer/   a run of `vidwm tokenizer --init_from start/tokenizer`, if asked for
    output_dir/pretrain/    a run of `vidwm pretrain --init_from start`
    output_dir/finetune/    a run of `vidwm finetune --model pretrain/...`, as without `--from`

Each is a run like any other, with a config of its own that can be changed and run by hand. Resuming
passes over the runs that are done and goes on with the one that was stopped; the settings of what
came before it have to be the same (`adapt_resume`). Settings of training (precision, schedule, seed
and the like) hold for all of them; steps, batch size and learning rate each has its own.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vidwm.config import TrainOptions
from vidwm.files import read_json
from vidwm.finetune_config import FinetuneConfig
from vidwm.training.adapt_resume import STAGES, check_resumed, with_full_paths
from vidwm.training.adapt_stages import finetune_stage, pretrain_stage, tokenizer_stage
from vidwm.training.checkpoint import list_checkpoints
from vidwm.training.grpo import finetune
from vidwm.training.new_robot import start_model
from vidwm.training.pretrain import pretrain
from vidwm.training.run_folder import RunFolder, open_run
from vidwm.training.tokenizer import train_tokenizer
from vidwm.world_model.world_model import WorldModel

Config = TypeVar("Config", bound=TrainOptions)


def adapt(config: FinetuneConfig) -> Path:
    """Make the start and run the stages; returns the folder of the newest model.

    A stage that is stopped early ends the command; `--resume` goes on with it. UserError when that
    has no start to go on from, or would mix what other settings made.
    """
    config, start = with_full_paths(config), config.output_dir / "start"
    if not config.resume:
        open_run(config.output_dir, resume=False)
        _make_start(config, start)
    else:
        check_resumed(config, start)
        done = sum(_steps_done(RunFolder(config.output_dir / name)) for name in STAGES)
        RunFolder(config.output_dir).record_start(done, config)
    chain = _Chain(config)
    world = read_json(start / "world_model.json")
    clip_frames = world["context_frames"] + world["horizon"]
    stage = tokenizer_stage(config, start, clip_frames)
    tokenizer = chain.run("tokenizer", train_tokenizer, stage)
    if chain.stopped:
        return start
    model = chain.run("pretrain", pretrain, pretrain_stage(config, start, tokenizer)) or start
    if chain.stopped:
        return model
    return chain.run("finetune", finetune, finetune_stage(config, model)) or model


class _Chain:
    """Runs stages one after the other, within one time limit."""

    def __init__(self, config: FinetuneConfig) -> None:
        self.config, self.stopped = config, False
        self.began = time.monotonic()

    def run(self, name: str, stage: Callable[[Config], Path], config: Config | None) -> Path | None:
        """The model of a stage: of its run where that is done, else after running it.

        None where there is nothing to run.
        """
        if config is None:
            return None
        run = RunFolder(self.config.output_dir / name)
        done = _steps_done(run)
        if done < config.steps:
            if not done and self.config.resume:  # killed before its first checkpoint
                shutil.rmtree(run.path, ignore_errors=True)
            limit = self.config.time_limit_minutes
            if limit:
                limit = max(limit - (time.monotonic() - self.began) / 60, 1e-9)  # 0 is none
            stage(
                dataclasses.replace(
                    config,
                    output_dir=run.path,
                    resume=done > 0,
                    time_limit_minutes=limit,
                )
            )
            self.stopped = _steps_done(run) < config.steps
        return list_checkpoints(run.checkpoints)[-1] / "model"


def _steps_done(run: RunFolder) -> int:
    saved = list_checkpoints(run.checkpoints)
    return int(saved[-1].name) if saved else 0


def _make_start(config: FinetuneConfig, folder: Path) -> None:
    """Write the start, all of it or nothing, and the settings it is made by before it."""
    assert config.from_ is not None
    old = WorldModel.from_pretrained(config.from_)
    new = start_model(config, old)
    temporary = folder.with_name(".start.tmp")
    try:
        new.save_pretrained(temporary)
        RunFolder(config.output_dir).record_start(0, config)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print("\n".join(["adapt: " + line for line in _changes(old, new)]))


def _changes(old: WorldModel, new: WorldModel) -> list[str]:
    """What is different, a line a thing."""
    sizes = [f"{m.size[0]}x{m.size[1]} ({m.layout.tokens_per_frame} tokens)" for m in (old, new)]
    rates = [m.setting.model_fps for m in (old, new)]
    names = [", ".join(m.setting.action_names) for m in (old, new)]
    lengths = [m.layout.sequence_length for m in (old, new)]
    lines = [
        f"frames {sizes[0]} -> {sizes[1]}, {rates[0]:g} -> {rates[1]:g} a second",
        f"actions {names[0]} -> {names[1]}",
        f"sequences of {lengths[0]} -> {lengths[1]} tokens, {old.layout.vocab_size} -> "
        f"{new.layout.vocab_size} ids",
    ]
    if (faster := round(rates[1] / rates[0])) > 1:
        lines.append(f"with --frame_skip {faster * new.setting.frame_skip} as fast as before")
    return lines
