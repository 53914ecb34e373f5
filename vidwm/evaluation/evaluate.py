"""`vidwm evaluate`: how good a world model is on episodes it never saw.

Held-out episodes, fixed windows and seeds; beside the model stand copying the last frame, the
tokenizer's own reconstruction and, if given, a base model met under the same random numbers.
The protocol follows RLVR-World (arXiv 2505.13934): scores per predicted frame, in [0, 1], without
the context frames. What it adds: moving pixels, shuffled actions, and intervals over episodes.

    output_dir/  report.md  report.json  windows.csv  curves.png  differences.png  videos/
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from vidwm import provenance
from vidwm.config import EvaluateConfig, SamplingOptions
from vidwm.data.sampler import ClipSource
from vidwm.device import pick_device
from vidwm.errors import UserError
from vidwm.evaluation.measure import BASE, MODEL, Measurement, check_comparable, measure
from vidwm.evaluation.metrics import frame_metrics
from vidwm.evaluation.plots import save_plots
from vidwm.evaluation.report import (
    screen,
    write_json_report,
    write_markdown_report,
    write_windows,
)
from vidwm.evaluation.sources import open_heldout
from vidwm.evaluation.summary import summarise
from vidwm.evaluation.videos import save_examples
from vidwm.evaluation.windows import spread_windows
from vidwm.rollout.sampling import Sampling
from vidwm.world_model.world_model import WorldModel


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure, write everything into `output_dir` and return what report.json holds.

    UserError when output_dir holds anything, or models and data do not fit each other.
    """
    began = time.monotonic()
    _check_free(config.output_dir)
    model = open_model(config.model, config.device, config.num_threads)
    models = {MODEL: model}
    if config.base is not None:
        models = {BASE: open_model(config.base, config.device, config.num_threads), MODEL: model}
        check_comparable(model, models[BASE])
    source, heldout = open_heldout(config, model, config.horizon)
    windows = spread_windows(source.windows, config.windows_per_episode)
    sampling = sampling_of(config)
    measurement = measure(
        model,
        source,
        windows,
        metrics=frame_metrics(config.perceptual, model.size),
        sampling=sampling,
        num_samples=config.num_samples,
        max_cache_gb=config.max_cache_gb or None,
        base=models.get(BASE),
    )
    report = {
        **_about(config),
        "setting": _setting(model, source),
        "sampling": {"num_samples": config.num_samples, **dataclasses.asdict(sampling)},
        "data": _data(config, model, source, measurement, heldout),
        "bootstrap": config.bootstrap,
        "metrics": list(measurement.metrics),
        **summarise(measurement, resamples=config.bootstrap, seed=config.seed),
    }
    directory = config.output_dir
    directory.mkdir(parents=True, exist_ok=True)
    write_windows(measurement, source.dataset.episode_ids, directory / "windows.csv")
    videos = save_examples(models, source, windows, sampling, directory / "videos")
    plots = save_plots(report, directory)
    report["seconds"] = round(time.monotonic() - began, 1)
    write_markdown_report(report, directory / "report.md", plots, videos)
    write_json_report(report, directory / "report.json")
    return report


def evaluate_command(config: EvaluateConfig) -> None:
    """`evaluate`, and its table and the places of its files on the screen."""
    print(screen(evaluate(config)))
    directory = config.output_dir
    plots = ", ".join(str(path) for path in sorted(directory.glob("*.png")))
    print(f"\nreport  {directory / 'report.md'}, {directory / 'report.json'}")
    print(f"plots   {plots}\nvideos  {directory / 'videos'}")


def open_model(path: Path, device: str, num_threads: int) -> WorldModel:
    """The world model at `path` on the chosen device; num_threads 0 leaves torch its choice."""
    if num_threads:
        torch.set_num_threads(num_threads)
    return WorldModel.from_pretrained(path).to(pick_device(device)).eval()


def sampling_of(options: SamplingOptions) -> Sampling:
    """How futures are drawn, as the engine wants it."""
    return Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        reject_repeats=options.reject_repeats,
        seed=options.seed,
    )


def _check_free(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; choose a folder as --output_dir.")
    if directory.is_dir() and any(directory.iterdir()):
        raise UserError(
            f"{directory} exists and is not empty; choose another --output_dir or remove it."
        )


def _about(config: EvaluateConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    return {
        "vidwm": provenance.version(),
        "commit": provenance.git_commit(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": provenance.machine(),
        "config": {k: str(v) if isinstance(v, Path) else v for k, v in values.items()},
    }


def _setting(model: WorldModel, source: ClipSource) -> dict[str, Any]:
    height, width = model.size
    return {
        "context_frames": model.setting.context_frames,
        "horizon": source.clip_frames - model.setting.context_frames,
        "trained_horizon": model.setting.horizon,
        "frame_skip": model.setting.frame_skip,
        "fps": model.setting.model_fps,
        "height": height,
        "width": width,
        "tokens_per_frame": model.layout.tokens_per_frame,
    }


def _data(
    config: EvaluateConfig,
    model: WorldModel,
    source: ClipSource,
    measurement: Measurement,
    heldout: bool,
) -> dict[str, Any]:
    return {
        "path": str(config.data),
        "heldout": heldout,
        "heldout_share": model.setting.heldout,
        "split_seed": model.setting.split_seed,
        "episodes": len(set(measurement.episodes.tolist())),
        "too_short": source.dropped,
        "windows": len(measurement.windows),
        "windows_per_episode": config.windows_per_episode,
    }
