"""`vidwm rollout`: predicted futures of one context as videos beside what happened.

Per sample a strip `context | truth | prediction | difference` as mp4 and gif, one picture of all
samples frame by frame, and their scores on the screen. Horizons beyond the model's are reached by
feeding predictions back with the next recorded actions, as far as the episode goes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vidwm.config import RolloutConfig
from vidwm.data.clip import EpisodeDataset
from vidwm.data.sampler import ClipSource
from vidwm.data.windows import Window
from vidwm.errors import UserError
from vidwm.evaluation.evaluate import open_model, sampling_of
from vidwm.evaluation.metrics import arrow, frame_metrics, written
from vidwm.evaluation.predict import copy_last_frame, predict
from vidwm.evaluation.sources import clip_source, open_fitting, split_of
from vidwm.evaluation.strips import filmstrip, panel_scale, titled_strip
from vidwm.evaluation.tables import aligned
from vidwm.evaluation.videos import save_video, video_paths, window_name
from vidwm.reward.perceptual import DEFAULT_PERCEPTUAL, MIN_SIZE, available_perceptual
from vidwm.reward.scorer import Scorer
from vidwm.world_model.world_model import WorldModel


def render_rollouts(config: RolloutConfig) -> list[Path]:
    """Write the videos and the picture, print scores and paths, and return the paths.

    UserError when the episode is not there or too short, when models and data do not fit, or when
    one of the files exists: then nothing is written.
    """
    model = open_model(config.model, config.device, config.num_threads)
    dataset = open_fitting(config, model)
    source, window = _source(config, dataset, model)
    name = window_name(source, window)
    stems = [config.output_dir / f"{name}_sample{i}" for i in range(config.num_samples)]
    picture = config.output_dir / f"{name}_film.png"
    _check_free([picture, *(path for s in stems for path in video_paths(s, gif=config.gif))])

    batch = source.batch([source.windows.index(window)])
    prediction = predict(
        model, batch, sampling_of(config), config.num_samples, config.max_cache_gb or None
    )
    c = model.setting.context_frames
    frames, futures = batch.float_frames(), prediction.frames.cpu()
    held = copy_last_frame(batch, c).frames
    table = _score_table(model, torch.cat([held, futures], dim=1), frames[:, c:])

    config.output_dir.mkdir(parents=True, exist_ok=True)
    context, truth = frames[0, :c], frames[0, c:]
    paths = []
    for stem, future in zip(stems, futures[0], strict=True):
        video = titled_strip(context, truth, [future], ["prediction"])
        paths += save_video(stem, video, model.setting.model_fps, gif=config.gif)
    film = filmstrip(context, truth, list(futures[0]), panel_scale(model.size[1]))
    Image.fromarray(film.permute(1, 2, 0).numpy()).save(picture)
    paths.append(picture)
    shown = f"{len(truth)} predicted frames from frame {window.start} of episode"
    print(f"{shown} {dataset.episode_ids[window.episode]}\n\n{table}\n")
    print(*paths, sep="\n")
    return paths


def _source(
    config: RolloutConfig, dataset: EpisodeDataset, model: WorldModel
) -> tuple[ClipSource, Window]:
    """Clips of the chosen episode, and the window that starts where the user said."""
    index = config.episode
    if index is None:
        train, heldout = split_of(model, dataset)
        index = (heldout or train)[0]
    if index >= len(dataset):
        raise UserError(
            f"{config.data} has {len(dataset)} episodes, numbered from 0; --episode {index} is not "
            f"among them."
        )
    setting = model.setting
    horizon = config.horizon or setting.horizon
    span = (setting.context_frames + horizon - 1) * setting.frame_skip + 1
    if config.start + span > dataset.lengths[index]:
        raise UserError(
            f"Episode {dataset.episode_ids[index]} has {dataset.lengths[index]} frames, but "
            f"{setting.context_frames} context frames and a horizon of {horizon} at frame skip "
            f"{setting.frame_skip} need {config.start + span} with --start {config.start}; use a "
            f"shorter --horizon or an earlier --start."
        )
    return clip_source(dataset, model, [index], horizon), Window(index, config.start)


def _score_table(model: WorldModel, futures: Tensor, truth: Tensor) -> str:
    """Means over frames; futures (1, 1 + G, h, 3, H, W), first the held last frame."""
    readable = DEFAULT_PERCEPTUAL in available_perceptual() and min(model.size) >= MIN_SIZE
    perceptual = DEFAULT_PERCEPTUAL if readable else "none"
    metrics = [metric for metric in frame_metrics(perceptual, model.size) if metric != "mse"]
    scores = Scorer(metrics).score_frames(futures, truth)
    means = {metric: values[0].mean(dim=1) for metric, values in scores.items()}
    rows = [["", *(f"{metric} {arrow(metric)}" for metric in metrics)]]
    names = ["copy of last frame", *(f"sample {g}" for g in range(futures.shape[1] - 1))]
    for i, name in enumerate(names):
        rows.append([name, *(written(metric, float(means[metric][i])) for metric in metrics)])
    average = [written(metric, float(means[metric][1:].mean())) for metric in metrics]
    return aligned([*rows, ["mean of samples", *average]])


def _check_free(paths: list[Path]) -> None:
    if taken := [path for path in paths if path.exists()]:
        raise UserError(
            f"{taken[0]} exists ({len(taken)} of {len(paths)} files do); remove it or choose "
            f"another --output_dir."
        )
