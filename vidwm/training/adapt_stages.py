"""The configs of the runs that an adaptation (`vidwm finetune --from`) is made of.

None stands for a run that is not asked for. Steps, batch size and learning rate of each are its
own; data and settings of training are those of the whole.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from vidwm.adapt_config import AdaptOptions
from vidwm.config import PretrainConfig, TokenizerConfig, TrainOptions
from vidwm.data_config import AugmentOptions, DataOptions
from vidwm.finetune_config import FinetuneConfig
from vidwm.lora_config import LoraOptions

# Fields of `TrainOptions` that every run has values of its own for.
OWN = {"output_dir", "steps", "batch_size", "learning_rate", "log_every", "resume"}


def tokenizer_stage(
    config: FinetuneConfig, start: Path, clip_frames: int
) -> TokenizerConfig | None:
    """Of the tokenizer of the start, a world model of clips of so many frames."""
    if not config.tokenizer_steps:
        return None
    return TokenizerConfig(
        **_common(config),
        init_from=start / "tokenizer",
        steps=config.tokenizer_steps,
        batch_size=config.tokenizer_batch_size,
        learning_rate=config.tokenizer_learning_rate,
        gradient_checkpointing=config.tokenizer_gradient_checkpointing,
        trained=config.tokenizer_trained,
        clip_frames=clip_frames,
        later_frames=min(3, clip_frames - 1),
        heldout=config.heldout,
        split_seed=config.split_seed,
    )


def pretrain_stage(
    config: FinetuneConfig, start: Path, tokenizer: Path | None
) -> PretrainConfig | None:
    """Of the start with its own tokenizer or another."""
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


def finetune_stage(config: FinetuneConfig, model: Path) -> FinetuneConfig | None:
    """Of a model that fits the data."""
    if not config.steps:
        return None
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(AdaptOptions)}
    return dataclasses.replace(config, **defaults, model=model, resize=True)


def _common(config: FinetuneConfig) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for kind in (DataOptions, AugmentOptions, TrainOptions):
        values |= _values(config, kind)
    return {n: v for n, v in values.items() if n not in OWN} | {"output_dir": config.output_dir}


def _values(config: FinetuneConfig, kind: type[Any]) -> dict[str, Any]:
    return {spec.name: getattr(config, spec.name) for spec in dataclasses.fields(kind)}
