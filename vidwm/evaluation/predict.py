"""What is measured against the truth: a model's futures, and the baselines that need no model.

copy last frame     nothing moves: what any world model has to beat
reconstruction      the truth through the tokenizer and back: what no token model can beat by much
shuffled actions    the model told what the robot did elsewhere: how much it listens to its actions
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from vidwm.data.clip import ClipBatch
from vidwm.reward.repetition import repeats
from vidwm.rollout.engine import generate
from vidwm.rollout.sampling import Sampling
from vidwm.world_model.world_model import WorldModel

DECODE_FRAMES = 64


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Futures of B contexts: frames (B, G, h, 3, H, W) float in [0, 1]; repeats (B, G, h) bool."""

    frames: Tensor
    repeats: Tensor


def predict(
    model: WorldModel,
    batch: ClipBatch,
    sampling: Sampling,
    num_samples: int,
    max_cache_gb: float | None = None,
) -> Prediction:
    """Futures of the batch's contexts under its actions, up to the last frame of its clips."""
    c = model.setting.context_frames
    context = model.context(batch.float_frames())
    rollouts = generate(
        model.transformer,
        model.layout,
        context,
        model.bins(batch.actions),
        group_size=num_samples,
        keys=batch.keys,
        sampling=sampling,
        horizon=batch.frames.shape[1] - c,
        max_cache_gb=max_cache_gb,
    )
    return _decoded(model, rollouts.tokens, context)


def reconstruct(model: WorldModel, batch: ClipBatch) -> Prediction:
    """The true future through the model's tokenizer; its repeats are those of the true tokens."""
    context, tokens = model.encode(batch.float_frames())
    return _decoded(model, tokens[:, None], context)


def copy_last_frame(batch: ClipBatch, context_frames: int) -> Prediction:
    """The last context frame, held."""
    frames = batch.float_frames()
    held = frames[:, None, context_frames - 1 : context_frames]
    held = held.expand(-1, -1, frames.shape[1] - context_frames, -1, -1, -1)
    return Prediction(frames=held, repeats=torch.ones(held.shape[:3], dtype=torch.bool))


def with_future_actions(batch: ClipBatch, actions: Tensor, context_frames: int) -> ClipBatch:
    """The batch with other actions (B, T, A) from the one that leads to the first predicted frame.

    Actions between context frames stay: their effect can be seen, so they belong to the context.
    """
    first = context_frames - 1
    mixed = torch.cat([batch.actions[:, :first], actions[:, first:]], dim=1)
    return dataclasses.replace(batch, actions=mixed)


def _decoded(model: WorldModel, tokens: Tensor, context: Tensor) -> Prediction:
    rows, decode = model.rows(tokens, context)
    with torch.no_grad():
        parts = [decode(part) for part in rows.flatten(0, 2).split(DECODE_FRAMES)]
    return Prediction(
        frames=torch.cat(parts).unflatten(0, tokens.shape[:3]),
        repeats=repeats(tokens, model.layout.last_frame(context)),
    )
