"""Which world model maximum likelihood begins with: a new one, or one that is there already.

A new one takes its sizes from the config and its action ranges from the data. A given one
(`--init_from`) keeps all of that; only its tokenizer may be another with the same codes, such as
its own after it was adapted to new frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from vidwm.config import PretrainConfig
from vidwm.data.clip import EpisodeDataset
from vidwm.data.sampler import action_chunks
from vidwm.tokenizer.open_tokenizer import Tokenizer
from vidwm.training.new_transformer import transformer_config
from vidwm.world_model.action_embeddings import start_smoothly
from vidwm.world_model.actions import ActionBins
from vidwm.world_model.copy_heads import start_copying
from vidwm.world_model.new_actions import check_same_codebook
from vidwm.world_model.transformer import Transformer
from vidwm.world_model.world_model import Setting, WorldModel, codec_for


def settings_of(model: WorldModel, folder: Path, config: PretrainConfig) -> PretrainConfig:
    """The config with what a given model, opened from `folder`, decides."""
    setting, transformer = model.setting, model.transformer.config
    return dataclasses.replace(
        config,
        tokenizer=config.tokenizer or folder / "tokenizer",
        context_frames=setting.context_frames,
        horizon=setting.horizon,
        frame_skip=setting.frame_skip,
        heldout=setting.heldout,
        split_seed=setting.split_seed,
        shared_action_ids=setting.shared_action_ids,
        action_bins=model.actions.bins,
        hidden_size=transformer.hidden_size,
        num_layers=transformer.num_hidden_layers,
        num_heads=transformer.num_attention_heads,
        num_kv_heads=transformer.num_key_value_heads,
        intermediate_size=transformer.intermediate_size,
    )


def with_tokenizer(model: WorldModel, tokenizer: Tokenizer) -> WorldModel:
    """The model with another tokenizer; UserError when it writes other codes."""
    layout = codec_for(tokenizer, model.actions, model.setting).layout
    check_same_codebook(model.layout, layout)
    return WorldModel(tokenizer, model.transformer, model.actions, model.setting)


def new_world_model(
    config: PretrainConfig,
    dataset: EpisodeDataset,
    tokenizer: Tokenizer,
    recorded: Iterable[Tensor],
) -> WorldModel:
    """An untrained model whose action ranges are those of recorded actions, each (T, A)."""
    setting = Setting(
        context_frames=config.context_frames,
        horizon=config.horizon,
        frame_skip=config.frame_skip,
        fps=dataset.fps,
        action_names=chunk_names(dataset.action_names, config.frame_skip),
        heldout=config.heldout,
        split_seed=config.split_seed,
        shared_action_ids=config.shared_action_ids,
    )
    rows = action_chunks(recorded, config.frame_skip)
    actions = ActionBins.fit(rows, method=config.action_ranges, bins=config.action_bins)
    layout = codec_for(tokenizer, actions, setting).layout
    transformer = Transformer(transformer_config(config, layout))
    start_smoothly(transformer.model.embed_tokens.weight, layout)
    start_copying(transformer, layout)
    return WorldModel(tokenizer, transformer, actions, setting)


def chunk_names(names: Sequence[str], frame_skip: int) -> tuple[str, ...]:
    """Names of the numbers of one model step, in the order of `sampler.chunk_actions`."""
    if frame_skip == 1:
        return tuple(names)
    return tuple(f"{name}.{i}" for i in range(frame_skip) for name in names)
