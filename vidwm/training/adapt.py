"""`vidwm finetune --from`: a world model of one robot becomes that of another, in three short runs.

    output_dir/start/       the given model, refitted to the data and not yet trained (`new_robot`)
    output_dir/tokenizer/   a run of `vidwm tokenizer --init_from start/tokenizer`, if asked for
    output_dir/pretrain/    a run of `vidwm pretrain --init_from start`
    output_dir/finetune/    a run of `vidwm finetune --model pretrain/...`, as without `--from`

Each is a run like any other, with a config of its own that can be changed and run by hand. Resuming
passes over the runs that are done and goes on with the one that was stopped. Settings of training
(precision, schedule, seed and the like) hold for all of them; steps, batch size and learning rate
each has its own.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from vidwm.adapt_config import AdaptOptions
from vidwm.config import PretrainConfig, TokenizerConfig, TrainOptions
from vidwm.data_config import DataOptions
from vidwm.errors import UserError
from vidwm.files import read_json
from vidwm.finetune_config import FinetuneConfig
from vidwm.lora_config import LoraOptions
from vidwm.training.checkpoint import list_checkpoints
from vidwm.training.grpo import finetune
from vidwm.training.new_robot import start_model
from vidwm.training.pretrain import pretrain
from vidwm.training.run_folder import RunFolder, open_run
from vidwm.training.tokenizer import train_tokenizer
from vidwm.world_model.world_model import WorldModel

Config = TypeVar("Config", bound=TrainOptions)

# Fields of `TrainOptions` that every run has values of its own for.
OWN = {"output_dir", "steps", "batch_size", "learning_rate", "log_every", "resume"}


def adapt(config: FinetuneConfig) -> Path:
    """Make the start and run the stages; returns the folder of the newest model.

    A stage that is stopped early ends the command; `--resume` goes on with it.
    """
    start = config.output_dir / "start"
    if not config.resume:
        open_run(config.output_dir, resume=False)
        _make_start(config, start)
    elif not start.is_dir():
        raise UserError(
            f"There is no {start} to resume from; check --output_dir, or start anew without "
            f"--resume in a new or empty folder."
        )
    RunFolder(config.output_dir).record_start(0, config)
    chain = _Chain(config)
    tokenizer = chain.run("tokenizer", train_tokenizer, _tokenizer_config(config, start))
    if chain.stopped:
        return start
    model = chain.run("pretrain", pretrain, _pretrain_config(config, start, tokenizer)) or start
    if chain.stopped:
        return model
    return chain.run("finetune", finetune, _finetune_config(config, model)) or model


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
    """Write the start, all of it or nothing."""
    assert config.from_ is not None
    old = WorldModel.from_pretrained(config.from_)
    new = start_model(config, old)
    temporary = folder.with_name(".start.tmp")
    try:
        new.save_pretrained(temporary)
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


def _tokenizer_config(config: FinetuneConfig, start: Path) -> TokenizerConfig | None:
    if not config.tokenizer_steps:
        return None
    world = read_json(start / "world_model.json")
    clip_frames = world["context_frames"] + world["horizon"]
    return TokenizerConfig(
        **_common(config),
        init_from=start / "tokenizer",
        steps=config.tokenizer_steps,
        batch_size=config.tokenizer_batch_size,
        learning_rate=config.tokenizer_learning_rate,
        trained=config.tokenizer_trained,
        clip_frames=clip_frames,
        later_frames=min(3, clip_frames - 1),
        heldout=config.heldout,
        split_seed=config.split_seed,
    )


def _pretrain_config(
    config: FinetuneConfig, start: Path, tokenizer: Path | None
) -> PretrainConfig | None:
    if not config.pretrain_steps:
        return None
    return PretrainConfig(
        **_common(config),
        **_values(config, LoraOptions),
        init_from=start,
        tokenizer=tokenizer,
        steps=config.pretrain_steps,
        batch_size=config.pretrain_batch_size,
        learning_rate=config.pretrain_learning_rate,
        micro_batch=config.micro_batch * config.group_size,  # as many sequences at a time
        context_gap=config.context_gap,
        resize=True,
    )


def _finetune_config(config: FinetuneConfig, model: Path) -> FinetuneConfig | None:
    if not config.steps:
        return None
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(AdaptOptions)}
    return dataclasses.replace(config, **defaults, model=model, resize=True)


def _common(config: FinetuneConfig) -> dict[str, Any]:
    values = _values(config, DataOptions) | _values(config, TrainOptions)
    return {n: v for n, v in values.items() if n not in OWN} | {"output_dir": config.output_dir}


def _values(config: FinetuneConfig, kind: type[Any]) -> dict[str, Any]:
    return {spec.name: getattr(config, spec.name) for spec in dataclasses.fields(kind)}
