"""The clips a given world model can be trained or measured on, checked against what it expects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vidwm.config import ResizeOptions
from vidwm.data.action_semantics import ActionSemantics
from vidwm.data.clip import EpisodeDataset
from vidwm.data.kept_parts import in_words, kept_camera, kept_semantics, parts_named
from vidwm.data.meant import with_meaning
from vidwm.data.mixture import by_itself
from vidwm.data.mixture_file import is_mixture
from vidwm.data.recordings import open_recordings
from vidwm.data.sampler import ClipSource, check_frame_size
from vidwm.data.selection import split_dataset
from vidwm.data.windows import any_fits
from vidwm.data_config import DataOptions
from vidwm.errors import UserError
from vidwm.world_model.world_model import Setting, WorldModel


def open_sources(
    options: ResizeOptions, model: WorldModel, horizon: int = 0
) -> tuple[ClipSource, ClipSource | None]:
    """Windows of the training and of the held-out episodes, at the model's size and frame skip.

    horizon: frames to predict (0: the model's). None if the model holds out nothing, or nothing
    that is long enough. UserError when resolution or actions do not fit, or no training episode is
    long enough.
    """
    dataset = open_fitting(options, model)
    train, heldout = split_of(model, dataset)
    fits = any_fits(
        dataset.lengths, heldout, _clip_frames(model, horizon), model.setting.frame_skip
    )
    return (
        clip_source(dataset, model, train, horizon),
        clip_source(dataset, model, heldout, horizon) if fits else None,
    )


def open_heldout(
    options: ResizeOptions, model: WorldModel, horizon: int = 0
) -> tuple[ClipSource, bool]:
    """Windows of the held-out episodes, and True; of all episodes, and False, if none are held out.

    Arguments as of `open_sources`; UserError also when none of the held-out is long enough.
    """
    dataset = open_fitting(options, model)
    train, heldout = split_of(model, dataset)
    return clip_source(dataset, model, heldout or train, horizon), bool(heldout)


def open_fitting(options: ResizeOptions, model: WorldModel) -> EpisodeDataset:
    """`open_seen`; UserError when resolution or actions are not what the model expects."""
    dataset = open_seen(options, model.setting)
    check_fits(dataset, model, resize=options.resize)
    return dataset


def open_seen(options: DataOptions, setting: Setting) -> EpisodeDataset:
    """The dataset, of the model's camera unless the options name another.

    A dataset that by its name is part of the mixture that the model was trained on is read as that
    part was, and it is said. UserError where what its actions are, or which camera, is not clear.
    """
    if is_mixture(options.data):  # which says it all by itself
        return open_recordings(replace(options, camera=options.camera or setting.camera))
    data, parts = options.data, setting.parts
    semantics = kept_semantics(data, parts)
    camera = options.camera or kept_camera(data, parts) or setting.camera
    dataset = open_recordings(replace(options, camera=camera))
    cameras = sorted({part.camera for part in parts})
    if camera is None and len(cameras) > 1 and len(dataset.cameras) > 1:
        raise UserError(
            f"{data} has the cameras {', '.join(dataset.cameras)}, and the parts of the model's "
            f"mixture have {', '.join(cameras)}; choose one with --camera."
        )
    if len(cameras) > 1 or any(part.semantics != ActionSemantics() for part in parts):
        named = ", ".join(part.name for part in parts_named(data, parts)) or "all parts"
        print(
            f"data        {data} is read as {named} of the model's mixture: camera "
            f"{dataset.camera}, {in_words(semantics)}"
        )
    return by_itself(dataset, semantics)


def clip_source(
    dataset: EpisodeDataset, model: WorldModel, episodes: Sequence[int], horizon: int = 0
) -> ClipSource:
    """Windows of some episodes; UserError when none of them is long enough."""
    return ClipSource(
        as_meant(dataset, model),
        clip_frames=_clip_frames(model, horizon),
        frame_skip=model.setting.frame_skip,
        episodes=episodes,
        size=model.size,
    )


def _clip_frames(model: WorldModel, horizon: int) -> int:
    return model.setting.context_frames + (horizon or model.setting.horizon)


def as_meant(dataset: EpisodeDataset, model: WorldModel) -> EpisodeDataset:
    """The dataset with actions as the model was trained on."""
    return with_meaning(dataset, model.setting.semantics, model.setting.frame_skip)


def check_fits(dataset: EpisodeDataset, model: WorldModel, *, resize: bool) -> None:
    """UserError when the first episode's frames or actions are not what the model was made for."""
    check_frame_size(dataset, model.size, resize=resize)
    actions = len(as_meant(dataset, model).action_names)
    if actions != model.actions.action_dims:
        raise UserError(
            f"{dataset.path}: actions have {actions} numbers per model step "
            f"({len(dataset.action_names)} dimensions, frame_skip {model.setting.frame_skip}), the "
            f"model expects {model.actions.action_dims}; use data of the same robot, or adapt the "
            f"model to this one with `vidwm finetune --from`."
        )


def split_of(model: WorldModel, dataset: EpisodeDataset) -> tuple[list[int], list[int]]:
    """Indices of training and held-out episodes, as when the model was first trained."""
    setting = model.setting
    return split_dataset(dataset, setting.heldout, setting.split_seed)
