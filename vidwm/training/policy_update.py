"""The update of GRPO: from sampled and judged rollouts to a step of the policy.

Formulas: `grpo_loss`. Gradients of a step are gathered group by group (`micro_batch`), so memory
does not grow with the number of contexts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vidwm.finetune_config import FinetuneConfig
from vidwm.training.grpo_loss import GrpoSettings, denominator, kl_estimate, policy_losses
from vidwm.training.sharpness import Sharpness
from vidwm.training.updater import Updater
from vidwm.world_model.layout import Layout
from vidwm.world_model.likelihood import sequence_logprobs
from vidwm.world_model.world_model import WorldModel


@dataclass(frozen=True, kw_only=True)
class Experience:
    """What one step sampled: contexts, rollouts and how good they were."""

    context: Tensor  # (B, ...), of the layout
    bins: Tensor  # (B, T, A)
    tokens: Tensor  # (B, G, h, N)
    sampled_logprobs: Tensor  # (B, G, h * N), as the sampler found them
    old_logprobs: Tensor  # (B, G, h * N), of the policy before this step's updates
    ref_logprobs: Tensor | None  # (B, G, h * N)
    advantages: Tensor  # (B, G, h * N), or (B, G, 1) where all tokens share their rollout's


class PolicyUpdate:
    """Moves a world model's transformer, and how sure it is, towards what scored well."""

    def __init__(
        self, model: WorldModel, layout: Layout, config: FinetuneConfig, sharpness: Sharpness
    ) -> None:
        self.model, self.layout, self.config, self.sharpness = model, layout, config, sharpness
        self.settings = GrpoSettings(
            epsilon=config.epsilon,
            epsilon_high=config.epsilon if config.epsilon_high is None else config.epsilon_high,
            delta=config.delta,
            beta=config.beta,
            kl_estimator=config.kl_estimator,
        )

    @property
    def single_update(self) -> bool:
        """One update per step: the policy that is trained is the one that sampled."""
        return self.config.num_iterations == 1 and self.config.mini_batches == 1

    def update(
        self, experience: Experience, kept: Tensor, updaters: Mapping[str, Updater]
    ) -> dict[str, float | Tensor]:
        """All updates on one batch of rollouts; groups without spread take no part."""
        rows = kept.nonzero().squeeze(1)
        if not len(rows):
            return {"loss": 0.0}
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for _ in range(self.config.num_iterations):
            for part in rows.tensor_split(min(self.config.mini_batches, len(rows))):
                share = round(len(kept) * len(part) / len(rows))
                for name, value in self._one_update(experience, part, share, updaters).items():
                    sums[name] = sums.get(name, torch.zeros(())) + value
                    counts[name] = counts.get(name, 0) + 1
        return {name: value / counts[name] for name, value in sums.items()}

    def _one_update(
        self,
        experience: Experience,
        rows: Tensor,
        contexts: int,
        updaters: Mapping[str, Updater],
    ) -> dict[str, Tensor]:
        G, tokens = experience.old_logprobs.shape[1:]
        divisor = denominator(len(rows) * G, contexts * G, tokens, self.config.loss_type)
        updater = updaters["transformer"]
        totals: dict[str, Tensor] = {}
        for part in rows.split(self.config.micro_batch or len(rows)):
            with updater.autocast():
                loss, sums = self._losses(experience, part)
            updater.backward(loss / divisor)
            for name, value in (sums | {"loss": loss.detach()}).items():
                totals[name] = totals.get(name, torch.zeros((), device=value.device)) + value
        for each in updaters.values():
            each.apply()
        count = len(rows) * G * tokens
        logs = {name: value / count for name, value in totals.items()}
        return logs | {"loss": totals["loss"] / divisor}

    def _losses(self, experience: Experience, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Summed loss of some groups, and sums over tokens of what is logged."""
        settings = self.settings
        logprobs, entropy = (
            value.flatten(2)
            for value in sequence_logprobs(
                self.model.transformer,
                self.layout,
                experience.tokens[rows],
                experience.context[rows],
                experience.bins[rows],
                temperature=self.sharpness.temperature(self.config.temperature),
            )
        )
        old = logprobs.detach() if self.single_update else experience.old_logprobs[rows]
        losses, ratio, clipped = policy_losses(logprobs, old, experience.advantages[rows], settings)
        sums = {
            "ratio": ratio,
            "clip_fraction": clipped.float(),
            "entropy": entropy,
            "sampler_gap": (old - experience.sampled_logprobs[rows]).abs(),
        }
        if experience.ref_logprobs is not None:
            kl = kl_estimate(logprobs, experience.ref_logprobs[rows], settings.kl_estimator)
            losses = losses + settings.beta * kl
            sums["kl"] = kl
        return losses.sum(), {name: value.detach().sum() for name, value in sums.items()}
