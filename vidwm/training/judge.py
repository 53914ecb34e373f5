"""What rollouts are worth: their rewards, and the advantages the policy learns from.

Scores of decoded frames (`vidwm.reward`) are mixed, weighed over the horizon, and compared within
each group. By default the reward of a rollout is shared by all of its tokens; with `credit: local`
every token answers for the errors near it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidwm.errors import UserError
from vidwm.finetune_config import FinetuneConfig
from vidwm.reward.mix import REPETITION_NAME, mixed, parse_reward, reward
from vidwm.reward.over_horizon import frame_weights
from vidwm.reward.repetition import repeats
from vidwm.reward.scorer import Scorer
from vidwm.training.credit import local_rewards
from vidwm.training.grpo_loss import advantages, decoupled_advantages
from vidwm.world_model.world_model import WorldModel


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """rewards (B, G); metrics by name (B, G, T); advantages (B, G, T * N), or (B, G, 1) where a
    rollout's tokens share one.
    """

    rewards: Tensor
    metrics: dict[str, Tensor]
    advantages: Tensor


class Judge:
    """Judges rollouts as a run's config says. UserError when its reward cannot be had."""

    def __init__(self, model: WorldModel, config: FinetuneConfig) -> None:
        self.model, self.config = model, config
        self.weights = parse_reward(config.reward)
        if config.credit == "local" and REPETITION_NAME in self.weights:
            raise UserError(
                "A repeated frame has no place in it that is to blame: leave repetition out of the "
                "reward or use credit = rollout."
            )
        self.scorer = Scorer(
            [name for name in self.weights if name != REPETITION_NAME],
            grid=model.tokenizer.config.grid if config.credit == "local" else None,
            memory_gb=config.max_scoring_gb,
        )

    def judge(self, tokens: Tensor, frames: Tensor, context: Tensor) -> Judgement:
        """Of rollouts tokens (B, G, T, N); frames (B, c + T, 3, H, W) as they were, in [0, 1], and
        the context (B, ...) that the first c are.
        """
        c, T = self.model.layout.context_frames, tokens.shape[2]
        seen = frames[:, c - 1 : c + T]
        last = self.model.layout.last_frame(context)
        if self.config.target == "reconstruction":
            seen = self._reconstruction(frames[:, : c + T], context)
        rows, decode = self.model.rows(tokens, context)
        metrics = self.scorer.score(rows, seen[:, 1:], seen[:, 0], decode=decode)
        over = self._frame_weights(T)
        if self.config.credit == "local":
            cells = mixed(metrics, self.weights)
            if over is not None:
                cells = cells * (T * over).to(cells)[:, None, None]
            metrics = {name: value.mean(dim=(3, 4)) for name, value in metrics.items()}
            return Judgement(
                rewards=reward(metrics, self.weights, over),
                metrics=metrics,
                advantages=advantages(local_rewards(cells).flatten(2), self.config.scale_rewards),
            )
        if REPETITION_NAME in self.weights:
            metrics[REPETITION_NAME] = repeats(tokens, last).float()
        rewards = reward(metrics, self.weights, over)
        return Judgement(
            rewards=rewards, metrics=metrics, advantages=self._advantages(rewards, metrics, over)
        )

    def _reconstruction(self, frames: Tensor, context: Tensor) -> Tensor:
        """Frames c-1, c, .. of (B, c + T, 3, H, W) as the tokenizer shows them, a clip at a time.

        The last context frame is among them, lest the tokenizer's errors count as motion.
        """
        shown = []
        for clip, given in zip(frames.split(1), context.split(1), strict=True):
            tokens = torch.cat(
                [self.model.layout.last_frame(given)[:, None], self.model.encode(clip)[1]], 1
            )
            shown.append(self.model.decode(tokens, given))
        return torch.cat(shown)

    def _frame_weights(self, T: int) -> Tensor | None:
        """Of T predicted frames; None for a plain mean, from which a dot product rounds apart."""
        if self.config.reward_over == "mean":
            return None
        return frame_weights(T, self.config.reward_over, self.config.discount)

    def _advantages(
        self, rewards: Tensor, metrics: dict[str, Tensor], over: Tensor | None
    ) -> Tensor:
        if self.config.combine == "sum_then_normalise":
            return advantages(rewards, self.config.scale_rewards)[..., None]
        kinds = torch.stack([reward(metrics, {name: 1.0}, over) for name in self.weights])
        return decoupled_advantages(kinds, torch.tensor([*self.weights.values()]))[..., None]
