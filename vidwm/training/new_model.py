"""Which world model maximum likelihood begins with: a new one, or one that is there already.

A new one takes its sizes from the config and its actions from the data. A given one
(`--init_from`) keeps all of that; only its camera may be another, and its tokenizer one with the
same codes, such as its own after it was adapted to new frames.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vidwm.config import PretrainConfig
from vidwm.data.clip import EpisodeDataset
from vidwm.data.joined import camera_read, parts_kept
from vidwm.tokenizer.open_tokenizer import Tokenizer
from vidwm.training.action_fit import ActionFit
from vidwm.training.new_transformer import transformer_config
from vidwm.world_model.action_embeddings import start_smoothly
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
        camera=config.camera or setting.camera,
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


def gone_on_with(
    model: WorldModel, tokenizer: Tokenizer, dataset: EpisodeDataset, camera: str | None
) -> WorldModel:
    """The model with another tokenizer, and the camera and parts of a dataset, opened by `camera`.

    UserError when the tokenizer has other codes.
    """
    layout = codec_for(tokenizer, model.actions, model.setting).layout
    check_same_codebook(model.layout, layout)
    setting = dataclasses.replace(
        model.setting,
        camera=camera_read(dataset, camera),
        parts=parts_kept(dataset, model.setting.parts),
    )
    return WorldModel(tokenizer, model.transformer, model.actions, setting)


def new_world_model(
    config: PretrainConfig,
    dataset: EpisodeDataset,
    tokenizer: Tokenizer,
    actions: ActionFit,
) -> WorldModel:
    """An untrained model with the given actions."""
    setting = Setting(
        context_frames=config.context_frames,
        horizon=config.horizon,
        frame_skip=config.frame_skip,
        fps=dataset.fps,
        action_names=actions.names,
        heldout=config.heldout,
        split_seed=config.split_seed,
        shared_action_ids=config.shared_action_ids,
        semantics=actions.semantics,
        camera=camera_read(dataset, config.camera),
        parts=parts_kept(dataset),
    )
    layout = codec_for(tokenizer, actions.bins, setting).layout
    transformer = Transformer(transformer_config(config, layout))
    start_smoothly(transformer.model.embed_tokens.weight, layout)
    start_copying(transformer, layout)
    return WorldModel(tokenizer, transformer, actions.bins, setting)
