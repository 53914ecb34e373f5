"""Which metrics a reward mixes, and with which weights.

A user writes `lpips=1,mae=1`, the mixture of RLVR-World (R = -(L1 + LPIPS)). Higher reward is
better: distances enter negated, PSNR and SSIM as they are, and the reward of a rollout is the
weighted sum over its predicted frames, by the weights of `over_horizon`. `repetition=w` takes w off
for a frame that repeats the one before it (RLVR-World, arXiv 2505.13934, section 5.3).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vidwm.errors import UserError
from vidwm.reward.perceptual import DEFAULT_PERCEPTUAL, TRUNKS

HIGHER_IS_BETTER = frozenset({"psnr", "ssim"})
# `lpips` is the default perceptual network under its short name.
METRIC_NAMES = ("lpips", *TRUNKS, "mae", "mse", "psnr", "ssim")
# Known to rewards alone: errors on pixels that moved, and tokens that equal those before.
MOVING_NAMES = ("moving_mae", "moving_mse")
REPETITION_NAME = "repetition"
REWARD_NAMES = (*METRIC_NAMES, *MOVING_NAMES, REPETITION_NAME)


def check_metric(name: str, known: Sequence[str] = METRIC_NAMES) -> None:
    """UserError, with the nearest known name, unless `name` is a metric."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise UserError(
            f"Unknown metric {name!r}: did you mean {near!r}? Known are {', '.join(known)}."
        )


def network_of(metric: str) -> str:
    """Name of the network behind a perceptual metric."""
    return DEFAULT_PERCEPTUAL if metric == "lpips" else metric


def parse_reward(text: str) -> dict[str, float]:
    """Weights by metric from `name=weight,...`; weights are finite, >= 0 and not all zero.

    UserError on anything else, on an unknown or repeated name, and on an empty text.
    """
    if not text.strip():
        raise UserError("The reward is empty: write name=weight pairs such as lpips=1,mae=1.")
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise UserError(
                f"Reward part {part.strip()!r} is not name=weight: write pairs such as "
                f"lpips=1,mae=1."
            )
        check_metric(name, REWARD_NAMES)
        if name in weights:
            raise UserError(f"Reward {text!r} names {name!r} twice: give each metric one weight.")
        weights[name] = _weight(name, value)
    if not any(weights.values()):
        raise UserError(f"All weights of reward {text!r} are zero: make at least one positive.")
    return weights


def _weight(name: str, value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or weight < 0:
        raise UserError(
            f"Reward weight {value!r} of {name!r} is not a number >= 0: write for example {name}=1 "
            f"(distances already enter negated)."
        )
    return weight


def reward(
    metrics: Mapping[str, Tensor], weights: Mapping[str, float], over: Tensor | None = None
) -> Tensor:
    """Reward (B, G) of rollouts, higher is better, from metrics by name, each (B, G, T).

    `metrics` must hold every metric that `weights` names; over: weights (T,) of frames (None: all
    alike).
    """
    frames = mixed(metrics, weights)
    return frames.mean(dim=-1) if over is None else frames @ over.to(frames)


def mixed(metrics: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum of metrics by name, all of one shape, signed so that higher is better."""
    return torch.stack([weight * signed(name, metrics) for name, weight in weights.items()]).sum(0)


def signed(name: str, metrics: Mapping[str, Tensor]) -> Tensor:
    """A metric, negated unless it is better when higher."""
    return metrics[name] if name in HIGHER_IS_BETTER else -metrics[name]
