"""The clips a given world model can be trained or measured on, checked against what it expects."""

from __future__ import annotations

from collections.abc import Sequence

from vidwm.config import ResizeOptions
from vidwm.data.clip import EpisodeDataset
from vidwm.data.sampler import ClipSource, check_frame_size
from vidwm.data.selection import open_recordings, split_dataset
from vidwm.errors import UserError
from vidwm.world_model.world_model import WorldModel


def open_sources(
    options: ResizeOptions, model: WorldModel, horizon: int = 0
) -> tuple[ClipSource, ClipSource | None]:
    """Windows of the training and of the held-out episodes, at the model's size and frame skip.

    horizon: frames to predict (0: the model's). None if the model holds out nothing. UserError when
    resolution or actions do not fit, or no episode is long enough.
    """
    dataset = open_fitting(options, model)
    train, heldout = split_of(model, dataset)
    return (
        clip_source(dataset, model, train, horizon),
        clip_source(dataset, model, heldout, horizon) if heldout else None,
    )


def open_heldout(
    options: ResizeOptions, model: WorldModel, horizon: int = 0
) -> tuple[ClipSource, bool]:
    """Windows of the held-out episodes, and True; of all episodes, and False, if none are held out.

    Arguments and errors as `open_sources`.
    """
    dataset = open_fitting(options, model)
    train, heldout = split_of(model, dataset)
    return clip_source(dataset, model, heldout or train, horizon), bool(heldout)


def open_fitting(options: ResizeOptions, model: WorldModel) -> EpisodeDataset:
    """The dataset; UserError when its resolution or actions are not what the model expects."""
    dataset = open_recordings(options)
    check_fits(dataset, model, resize=options.resize)
    return dataset


def clip_source(
    dataset: EpisodeDataset, model: WorldModel, episodes: Sequence[int], horizon: int = 0
) -> ClipSource:
    """Windows of some episodes; UserError when none of them is long enough."""
    return ClipSource(
        dataset,
        clip_frames=model.setting.context_frames + (horizon or model.setting.horizon),
        frame_skip=model.setting.frame_skip,
        episodes=episodes,
        size=model.size,
    )


def check_fits(dataset: EpisodeDataset, model: WorldModel, *, resize: bool) -> None:
    """UserError when the first episode's frames or actions are not what the model was made for."""
    check_frame_size(dataset, model.size, resize=resize)
    episode = dataset.episode(0)
    actions = episode.actions.shape[1] * model.setting.frame_skip
    if actions != model.actions.action_dims:
        raise UserError(
            f"{dataset.path}: actions have {actions} numbers per model step "
            f"({episode.actions.shape[1]} dimensions x frame_skip {model.setting.frame_skip}), the "
            f"model expects {model.actions.action_dims}; use data of the same robot, or adapt the "
            f"model to this one with `vidwm finetune --from`."
        )


def split_of(model: WorldModel, dataset: EpisodeDataset) -> tuple[list[int], list[int]]:
    """Indices of training and held-out episodes, as when the model was first trained."""
    setting = model.setting
    return split_dataset(dataset, setting.heldout, setting.split_seed)
