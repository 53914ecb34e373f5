"""Group-relative policy optimisation on token log-probabilities: the formulas, and nothing else.

    A_i   = (R_i - mean(R)) / (std(R) + eps)                      over the G rollouts of a context
    ratio = exp(logprob - old_logprob)
    loss  = -mean(min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon_high) A)) + beta * KL(ref)

Sources: Shao et al., arXiv 2402.03300, eq. 3-4 (GRPO, k3 KL); Liu et al., arXiv 2503.20783 (Dr.
GRPO: no division by the deviation, fixed denominator); Yu et al., arXiv 2503.14476 (DAPO:
epsilon_high, token mean, groups without spread dropped); Ye et al., arXiv 1912.09729, eq. 5
(dual clip, `delta`).
Rollouts of a world model all have the same length, so the three loss types differ only in what they
divide by when groups were dropped: `grpo` and `dapo` by what is left, `dr_grpo` by all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KL_LIMIT = 10.0


@dataclass(frozen=True, kw_only=True)
class GrpoSettings:
    """TRL's names; `delta` bounds the ratio where the advantage is negative (None: unbounded)."""

    epsilon: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = 3.0
    beta: float = 1e-3
    kl_estimator: str = "k3"


def advantages(rewards: Tensor, scale_rewards: str, eps: float = 1e-6) -> Tensor:
    """rewards (B, G) or (B, G, L), higher is better -> advantages like them, zero mean over G.

    scale_rewards, as in TRL: `group` divides by the group's deviation, `batch` by that of all
    rewards of the batch (so that groups that hardly differ stay small), `none` by nothing. With
    rewards by token (L) a group's deviation is that of all its tokens together, so that places
    where nothing is at stake stay quiet.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if scale_rewards == "group":
        deviation = centred.square().sum(dim=1, keepdim=True) / (rewards.shape[1] - 1)
        if rewards.ndim == 3:
            deviation = deviation.mean(dim=2, keepdim=True)
        return centred / (deviation.sqrt() + eps)
    if scale_rewards == "batch":
        return centred / (rewards.std() + eps)
    return centred


def decoupled_advantages(rewards: Tensor, weights: Tensor, eps: float = 1e-6) -> Tensor:
    """rewards (K, B, G) of K kinds, higher is better, weights (K,) >= 0 -> advantages (B, G).

    Each kind is normalised within its group before they are summed, so that none drowns in the
    spread of another; the sum is normalised over the batch. Source: GDPO, Liu et al., arXiv
    2601.05242, section 3.
    """
    each = torch.stack([advantages(kind, "group", eps) for kind in rewards])
    total = torch.einsum("k,kbg->bg", weights.to(each), each)
    return (total - total.mean()) / (total.std() + eps)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: str) -> Tensor:
    """KL(policy || reference) per token, in nats, from tokens drawn by the policy.

    k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1 with d = ref - policy, bounded to +-10.
    """
    d = (ref_logprobs - logprobs).clamp(-KL_LIMIT, KL_LIMIT)
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d.square() / 2
    return (d.exp() - d - 1).clamp(-KL_LIMIT, KL_LIMIT)


def policy_losses(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, settings: GrpoSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Clipped surrogate per token, the ratio, and where the clip was active.

    logprobs and old_logprobs (B, G, L), advantages (B, G, L or 1) -> three times (B, G, L).
    """
    weights = advantages
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - settings.epsilon, 1 + settings.epsilon_high)
    losses = -torch.minimum(ratio * weights, clipped * weights)
    if settings.delta is not None:
        losses = torch.where(weights < 0, torch.minimum(losses, -settings.delta * weights), losses)
    too_high = (ratio > 1 + settings.epsilon_high) & (weights > 0)
    too_low = (ratio < 1 - settings.epsilon) & (weights < 0)
    return losses, ratio, too_high | too_low


def denominator(kept: int, total: int, tokens: int, loss_type: str) -> int:
    """How many tokens the summed loss is divided by.

    kept and total count rollouts with and without the dropped groups; tokens per rollout.
    """
    return max(1, total if loss_type == "dr_grpo" else kept) * tokens
