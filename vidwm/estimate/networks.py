"""The networks that a run would train, built without memory for their weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from vidwm.config import PretrainConfig, TokenizerConfig
from vidwm.data.action_semantics import ActionSemantics
from vidwm.data.clip import EpisodeDataset
from vidwm.data.meant import with_meaning
from vidwm.data.recordings import open_recordings
from vidwm.errors import UserError
from vidwm.finetune_config import FinetuneConfig
from vidwm.reward.perceptual import TRUNKS, PerceptualNet
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.compressive_config import CompressiveConfig
from vidwm.tokenizer.open_tokenizer import Tokenizer, open_tokenizer
from vidwm.tokenizer.resized import resized
from vidwm.tokenizer.vqgan_frame import VQGANConfig, VQGANTokenizer
from vidwm.training.new_robot import refitted
from vidwm.training.new_tokenizer import starting_tokenizer
from vidwm.training.new_transformer import transformer_config
from vidwm.world_model.actions import ActionBins
from vidwm.world_model.presets import RT1, RT1_FPS, rt1_bins, rt1_setting, rt1_transformer
from vidwm.world_model.transformer import Transformer
from vidwm.world_model.world_model import Setting, WorldModel, codec_for

META = torch.device("meta")
# What stands for a folder that is not there yet: the sizes of the released RT-1 models.
RELEASED = ("rt1-single", "rt1-multi")


def tokenizer_to_train(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer of a `vidwm tokenizer` run."""
    if config.init_from:
        return tokenizer_at(config.init_from)
    size = (config.height, config.width)
    if not all(size):
        size = open_recordings(config).episode(0).frames.shape[2:]
    with META:
        return starting_tokenizer(config, size)


def tokenizer_at(folder: Path) -> Tokenizer:
    """That of a folder, or of a released size by its name."""
    if folder.exists() or str(folder) not in RELEASED:
        return open_tokenizer(folder).to(META)
    with META:
        if str(folder) == "rt1-multi":
            return CompressiveTokenizer(CompressiveConfig())
        return VQGANTokenizer(VQGANConfig())


def model_to_pretrain(config: PretrainConfig) -> WorldModel:
    """The world model of a `vidwm pretrain` run."""
    if config.init_from is not None:
        return model_at(config.init_from)
    assert config.tokenizer is not None
    tokenizer = tokenizer_at(config.tokenizer)
    names: tuple[str, ...] = tuple(RT1)
    if config.tokenizer.exists() or config.data.exists():
        names = tuple(_as_meant(config).action_names)
    setting = Setting(
        context_frames=config.context_frames,
        horizon=config.horizon,
        frame_skip=config.frame_skip,
        fps=RT1_FPS,
        action_names=names,
        heldout=config.heldout,
        split_seed=config.split_seed,
        shared_action_ids=config.shared_action_ids,
    )
    bins = _some_bins(names, config.action_bins)
    layout = codec_for(tokenizer, bins, setting).layout
    with META:
        transformer = Transformer(transformer_config(config, layout))
    return WorldModel(tokenizer, transformer, bins, setting)


def model_to_adapt(config: FinetuneConfig) -> WorldModel:
    """What a `vidwm finetune --from` run starts from; the size of a released model with its own
    frames and actions, unless the data is there.
    """
    assert config.from_ is not None
    old = model_at(config.from_)
    size, names = old.size, old.setting.action_names
    if reads_data(config):
        dataset = _as_meant(config)
        names = tuple(dataset.action_names)
        if not config.resize:
            size = dataset.episode(0).frames.shape[2:]
    setting = dataclasses.replace(
        old.setting,
        horizon=config.horizon or old.setting.horizon,
        frame_skip=config.frame_skip,
        action_names=names,
    )
    with META:
        tokenizer = resized(old.tokenizer, config.height or size[0], config.width or size[1])
    return refitted(old, tokenizer, _some_bins(names, old.actions.bins), setting)


def reads_data(config: FinetuneConfig) -> bool:
    """Whether what is adapted takes its shape from the data: not if that is absent, and the model
    known by its name alone.
    """
    assert config.from_ is not None
    return config.from_.exists() or config.data.exists()


def _as_meant(config: PretrainConfig | FinetuneConfig) -> EpisodeDataset:
    """The recordings, with actions as a new model would have them."""
    semantics = ActionSemantics(form=config.action_form, skipped=config.skipped_actions)
    return with_meaning(open_recordings(config), semantics, config.frame_skip)


def _some_bins(names: tuple[str, ...], count: int) -> ActionBins:
    one = torch.ones(len(names))
    return ActionBins(low=-one, high=one, bins=count)


def model_at(folder: Path) -> WorldModel:
    """That of a folder, or of a released size by its name."""
    if folder.exists():
        return WorldModel.from_pretrained(folder).to(META)
    if str(folder) not in RELEASED:
        raise UserError(
            f"No world model at {folder} to estimate with: make or import it first, or give "
            f"{' or '.join(RELEASED)} for the sizes of the released ones."
        )
    setting = rt1_setting(multi_step=str(folder) == "rt1-multi")
    tokenizer = tokenizer_at(folder)
    layout = codec_for(tokenizer, rt1_bins(), setting).layout
    with META:
        transformer = Transformer(rt1_transformer(layout.vocab_size))
    return WorldModel(tokenizer, transformer, rt1_bins(), setting)


def perceptual_net(name: str) -> PerceptualNet:
    """A perceptual network of the right sizes, whether or not its weights are on this machine."""
    trunk = TRUNKS[name]()
    widths = [[p.shape[0] for p in stage.parameters() if p.ndim == 4][-1] for stage in trunk]
    return PerceptualNet(trunk, [torch.ones(width) for width in widths]).to(META)
