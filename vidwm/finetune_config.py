"""What `vidwm finetune` can be told, with TRL's names except `group_size`; as in `vidwm.config`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vidwm.adapt_config import AdaptOptions
from vidwm.config import CacheOptions, HorizonOptions, ResizeOptions, TrainOptions
from vidwm.data_config import AugmentOptions
from vidwm.lora_config import LoraOptions
from vidwm.options import changed, option


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(
    ResizeOptions,
    AugmentOptions,
    CacheOptions,
    HorizonOptions,
    LoraOptions,
    AdaptOptions,
    TrainOptions,
):
    """GRPO: the world model, post-trained on decoded predictions."""

    model: Path | None = option(None, "world model folder (or give from)")
    reward: str = option("lpips=1,mae=1", "weighted mix of metrics, better is always higher")
    max_scoring_gb: float = option(1.0, "frames and features at a time, in scoring", above=0)
    steps: int = option(200, "rollout batches, each followed by its updates", at_least=0)
    batch_size: int = option(8, "contexts per step", at_least=1)
    learning_rate: float = option(5e-5, "peak learning rate of AdamW", above=0)
    sharpness_rate: float = option(
        0.0, "learning rate of a scale on all logits, how sure the policy is (0: fixed)", at_least=0
    )
    group_size: int = option(16, "rollouts per context (TRL: num_generations)", at_least=2)
    temperature: float = option(1.0, "of the rollouts", above=0)
    beta: float = option(1e-3, "weight of the KL to the starting model", at_least=0)
    kl_estimator: Literal["k1", "k2", "k3"] = option("k3", "estimator of that KL")
    epsilon: float = option(0.2, "how far the ratio may fall before it is clipped", above=0)
    epsilon_high: float | None = option(None, "how far it may rise (none: epsilon)", above=0)
    delta: float | None = option(3.0, "bound of the ratio where the advantage is negative", above=1)
    loss_type: Literal["grpo", "dr_grpo", "dapo"] = option("grpo", "how token losses are averaged")
    credit: Literal["rollout", "local"] = option(
        "rollout", "local: a token answers for the errors near it in its own frame"
    )
    scale_rewards: Literal["group", "batch", "none"] = option("group", "whose deviation divides")
    combine: Literal["sum_then_normalise", "normalise_then_sum"] = option(
        "sum_then_normalise", "several rewards: mix and compare, or compare each and mix (GDPO)"
    )
    reward_over: Literal["mean", "last", "discounted"] = option(
        "mean", "which predicted frames count in a rollout's reward"
    )
    discount: float = option(
        0.9, "of later frames, with reward_over discounted", above=0, at_most=1
    )
    target: Literal["true", "reconstruction"] = option(
        "true", "what rewards compare with: true frames, or what the tokenizer makes of them"
    )
    stop_when_gold_falls: bool = option(
        False, "stop when metrics outside of the reward get worse on held-out contexts as it rises"
    )
    num_iterations: int = option(1, "passes over each rollout batch", at_least=1)
    mini_batches: int = option(1, "updates per pass, each on its share of contexts", at_least=1)
    micro_batch: int = option(0, "contexts per backward pass (0: all at once)", at_least=0)
    horizon: int = option(0, "frames to predict, at most the model's (0: all)", at_least=0)
    min_spread: float = option(1e-6, "groups with less reward deviation are dropped", at_least=0)
    eval_every: int = option(25, "steps between held-out scores (0: none)", at_least=0)
    log_every: int = option(1, "steps between log lines", at_least=1)

    def conflicts(self) -> list[str]:
        if (self.model is None) == (self.from_ is None):
            return [
                "Give either model, a world model of this robot and resolution, or from, one of "
                "another to be adapted first."
            ]
        if self.from_ is None and (given := changed(self, AdaptOptions)):
            return [f"{', '.join(given)} would be ignored: that is for an adaptation, with from."]
        if self.from_ is None and not self.steps:
            return ["steps must be at least 1; none are for an adaptation alone, with from."]
        if self.tokenizer_steps and self.steps and not self.pretrain_steps:
            return [
                "GRPO of a tokenizer that was adapted needs a transformer that was too: give "
                "pretrain_steps, or leave out tokenizer_steps."
            ]
        if self.batch_size % self.mini_batches:
            return [
                f"mini_batches must divide batch_size = {self.batch_size}, got {self.mini_batches}."
            ]
        if self.context_gap and self.target == "reconstruction":
            return [
                "target = reconstruction shows frames given the context before them: leave "
                "context_gap at 0."
            ]
        decoupled = self.combine == "normalise_then_sum"
        if decoupled and (self.credit != "rollout" or self.scale_rewards != "group"):
            return [
                f"combine = normalise_then_sum needs credit = rollout and scale_rewards = group, "
                f"got {self.credit} and {self.scale_rewards}."
            ]
        if self.stop_when_gold_falls and not self.eval_every:
            return ["stop_when_gold_falls needs held-out scores: give eval_every a positive value."]
        return []
