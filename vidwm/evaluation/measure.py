"""Scores of every window and predicted frame, for a model and what it is compared with.

All subjects meet the same windows, the same true frames and, where they sample, the same random
numbers, so their scores can be paired. A window's score is the MEAN over its sampled futures, never
the best of them. Windows go through in small chunks: memory depends neither on their number nor on
the length of the evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vidwm.data.clip import ClipBatch
from vidwm.data.joined import recordings_of
from vidwm.data.sampler import ClipSource
from vidwm.data.windows import Window
from vidwm.errors import UserError
from vidwm.evaluation.metrics import MOVING_METRICS, MOVING_THRESHOLD, REPETITION
from vidwm.evaluation.predict import (
    Prediction,
    copy_last_frame,
    predict,
    reconstruct,
    with_future_actions,
)
from vidwm.evaluation.windows import partners
from vidwm.reward.pixels import masked_mae, masked_mse, moving_mask
from vidwm.reward.scorer import Scorer
from vidwm.rollout.sampling import Sampling
from vidwm.world_model.world_model import WorldModel

COPY, BASE, MODEL, SHUFFLED, CEILING = SUBJECTS = (
    "copy_last_frame",
    "base",
    "model",
    "shuffled_actions",
    "reconstruction",
)
# At a time, of one model: bounds its key-value caches; larger batches are hardly faster.
MAX_ROLLOUTS = 128
CHUNK_BYTES = 256 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Scores by subject and metric, each (W, h): per window and predicted frame.

    moving_pixels (W, h) counts the pixels behind the moving metrics; where it is 0 they are 0 and
    must not count.
    """

    windows: tuple[Window, ...]
    recordings: tuple[int, ...]
    scores: dict[str, dict[str, np.ndarray]]
    moving_pixels: np.ndarray

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.scores[MODEL])

    @property
    def episodes(self) -> np.ndarray:
        """(W,) the recording each window is cut from, whatever the camera: they are independent."""
        return np.array(self.recordings)

    def weights(self, metric: str) -> np.ndarray:
        """(W, h): what a score counts in an average; pixels for the moving metrics, else 1."""
        moving = self.moving_pixels
        return moving if metric in MOVING_METRICS else np.ones_like(moving)


def measure(
    model: WorldModel,
    source: ClipSource,
    windows: Sequence[int],
    *,
    metrics: Sequence[str],
    sampling: Sampling | None = None,
    num_samples: int = 1,
    max_cache_gb: float | None = None,
    base: WorldModel | None = None,
) -> Measurement:
    """Score a model, its baselines and, if given, a base model on some windows of a source.

    windows: numbers into `source.windows`; metrics: what `Scorer` takes, measured on full frames;
    the moving metrics and the repetition rate are always added. The horizon is what the source's
    clips hold beyond the context; max_cache_gb bounds the caches of `generate`. With a single
    window there are no shuffled actions. UserError when base and model differ in what a window is.
    """
    if base is not None:
        check_comparable(model, base)
    models = {MODEL: model} | ({} if base is None else {BASE: base})
    draw = partial(
        predict,
        sampling=sampling or Sampling(),
        num_samples=num_samples,
        max_cache_gb=max_cache_gb,
    )
    scorer, c = Scorer(metrics), model.setting.context_frames
    named = recordings_of(source.dataset)
    number = {name: i for i, name in enumerate(dict.fromkeys(named))}
    recordings = [number[named[source.windows[w].episode]] for w in windows]
    partner = partners(recordings) if len(windows) > 1 else None
    chunk = _chunk_size(model, source, num_samples, 1 + len(models))
    parts: list[dict[str, dict[str, Tensor]]] = []
    moving: list[Tensor] = []
    bar = tqdm(total=len(windows), desc="evaluate", unit="window", disable=None)
    for start in range(0, len(windows), chunk):
        rows = range(start, min(start + chunk, len(windows)))
        batch = source.batch([windows[row] for row in rows])
        predictions = {name: draw(each, batch) for name, each in models.items()}
        predictions[COPY] = copy_last_frame(batch, c)
        predictions[CEILING] = reconstruct(model, batch)
        if partner is not None:
            lent = source.batch([windows[partner[row]] for row in rows]).actions
            predictions[SHUFFLED] = draw(model, with_future_actions(batch, lent, c))
        scores, counts = _score(scorer, predictions, batch, model)
        parts.append(scores)
        moving.append(counts)
        bar.update(len(rows))
    bar.close()
    subjects = [subject for subject in SUBJECTS if subject in parts[0]]
    return Measurement(
        windows=tuple(source.windows[w] for w in windows),
        recordings=tuple(recordings),
        scores={s: {m: _joined([p[s][m] for p in parts]) for m in parts[0][s]} for s in subjects},
        moving_pixels=_joined(moving),
    )


def check_comparable(model: WorldModel, base: WorldModel) -> None:
    """UserError unless both models read the same windows; horizon and tokenizer may differ."""
    for name, mine, other in (
        ("frame size", model.size, base.size),
        ("context_frames", model.setting.context_frames, base.setting.context_frames),
        ("frame_skip", model.setting.frame_skip, base.setting.frame_skip),
        ("number of action dimensions", model.actions.action_dims, base.actions.action_dims),
    ):
        if mine != other:
            raise UserError(
                f"The base model's {name} is {other}, the model's {mine}; only models that read "
                f"the same windows can be compared."
            )


def _score(
    scorer: Scorer, predictions: dict[str, Prediction], batch: ClipBatch, model: WorldModel
) -> tuple[dict[str, dict[str, Tensor]], Tensor]:
    """Per subject and metric (B, h), and the moving pixels (B, h), of one chunk."""
    c = model.setting.context_frames
    frames = batch.float_frames().to(model.device)
    truth, last_context = frames[:, c:], frames[:, c - 1 : c]
    # Side by side on the axis of rollouts, so that features of true frames are computed once.
    pred = torch.cat([p.frames.to(model.device) for p in predictions.values()], dim=1)
    scores = scorer.score_frames(pred, truth)
    moved = moving_mask(truth, last_context, MOVING_THRESHOLD)[:, None]
    for metric, error_of in zip(MOVING_METRICS, (masked_mae, masked_mse), strict=True):
        scores[metric] = error_of(pred, truth[:, None], moved)[0]
    repeated = [p.repeats.to(model.device) for p in predictions.values()]
    scores[REPETITION] = torch.cat(repeated, dim=1).float()
    sizes = [prediction.frames.shape[1] for prediction in predictions.values()]
    by_subject: dict[str, dict[str, Tensor]] = {subject: {} for subject in predictions}
    for metric, values in scores.items():
        for subject, samples in zip(predictions, values.split(sizes, dim=1), strict=True):
            by_subject[subject][metric] = samples.double().mean(dim=1)
    return by_subject, moved.sum((1, 3, 4, 5)).double()


def _chunk_size(model: WorldModel, source: ClipSource, num_samples: int, sampled: int) -> int:
    """Contexts at a time, so that rollouts and predicted pixels of a chunk stay within bounds."""
    horizon = source.clip_frames - model.setting.context_frames
    height, width = model.size
    frames = (num_samples * sampled + 2) * horizon
    fit = CHUNK_BYTES // (frames * 3 * height * width * 4)
    return max(1, min(MAX_ROLLOUTS // num_samples, fit))


def _joined(parts: list[Tensor]) -> np.ndarray:
    return torch.cat(parts).cpu().numpy()
