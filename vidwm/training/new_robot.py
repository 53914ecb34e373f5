"""A world model of one robot as the untrained start of another's: the same networks, refitted.

What belongs to the data is made anew from the training episodes: frame size, frame rate, action
ranges, and the mean frame that a `FrameTokenizer` sees differences to (the bundled tokenizer,
untrained, then shows 18 frames of Bridge at 15.1 dB instead of 12.9, and 40 of other Meta-World
recordings at 22.2 instead of 15.9). What belongs to the networks is kept: the tokenizer
(`tokenizer.resized`) and the transformer (`world_model.new_actions`). The start is a world model
like any other; its scores are those of no adaptation at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vidwm.data.clip import EpisodeDataset
from vidwm.data.joined import camera_read, parts_kept
from vidwm.data.meant import recorded_actions
from vidwm.data.recordings import open_recordings
from vidwm.data.sampler import ClipSource
from vidwm.data.selection import split_dataset
from vidwm.finetune_config import FinetuneConfig
from vidwm.tokenizer.frame import FrameTokenizer
from vidwm.tokenizer.open_tokenizer import Tokenizer
from vidwm.tokenizer.resized import resized
from vidwm.training.action_fit import ActionFit, fit_actions
from vidwm.training.tokenizer import mean_frame
from vidwm.world_model.actions import ActionBins
from vidwm.world_model.new_actions import for_layout
from vidwm.world_model.range_report import range_lines
from vidwm.world_model.world_model import Setting, WorldModel, codec_for


def start_model(config: FinetuneConfig, old: WorldModel) -> WorldModel:
    """`old` for the data of `config`; UserError when its cells do not divide the frames."""
    dataset = open_recordings(config)
    train, _ = split_dataset(dataset, config.heldout, config.split_seed)
    recorded = {i: recorded_actions(dataset, i) for i in train}
    actions = fit_actions(config, dataset, recorded, old.actions.bins)
    print("\n".join(range_lines(actions.report)))
    setting = _setting(config, dataset, actions, old.setting)
    tokenizer = _tokenizer(config, dataset, train, old.tokenizer)
    return refitted(old, tokenizer, actions.bins, setting)


def refitted(
    old: WorldModel, tokenizer: Tokenizer, bins: ActionBins, setting: Setting
) -> WorldModel:
    """`old` with its transformer as another tokenizer, of its own codes, and actions have it."""
    layout = codec_for(tokenizer, bins, setting).layout
    names = (old.setting.action_names, setting.action_names)
    transformer = for_layout(old.transformer, old.layout, layout, *names)
    return WorldModel(tokenizer, transformer, bins, setting)


def _setting(
    config: FinetuneConfig, dataset: EpisodeDataset, actions: ActionFit, old: Setting
) -> Setting:
    return dataclasses.replace(
        old,
        horizon=config.horizon or old.horizon,
        frame_skip=config.frame_skip,
        fps=dataset.fps,
        action_names=actions.names,
        semantics=actions.semantics,
        camera=camera_read(dataset, config.camera),
        parts=parts_kept(dataset),
        heldout=config.heldout,
        split_seed=config.split_seed,
    )


def _tokenizer(
    config: FinetuneConfig, dataset: EpisodeDataset, train: Sequence[int], old: Tokenizer
) -> Tokenizer:
    size = (old.height, old.width) if config.resize else dataset.episode(0).frames.shape[2:]
    new = resized(old, config.height or size[0], config.width or size[1])
    if isinstance(new, FrameTokenizer):
        frames = ClipSource(
            dataset, clip_frames=1, frame_skip=1, episodes=train, size=(new.height, new.width)
        )
        new.centre_on(mean_frame(frames))
    return new
