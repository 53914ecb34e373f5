"""Stage 3, `vidwm finetune`: reinforcement learning from verifiable rewards.

One step: take B contexts, sample G futures of each, decode and score them against what really
happened, turn the scores into group-relative advantages, and update the transformer; tokenizer and
reference policy stay frozen. Source: RLVR-World, arXiv 2505.13934, section 4; the formulas are in
`grpo_loss`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vidwm.config import FinetuneConfig
from vidwm.data.clip import ClipBatch
from vidwm.data.sampler import ClipSource, epoch_order, evenly_spread
from vidwm.device import pick_device
from vidwm.evaluation.repetition import repetition_rate
from vidwm.evaluation.sources import open_sources
from vidwm.evaluation.strips import strip
from vidwm.reward.mix import mixed, parse_reward, reward
from vidwm.reward.scorer import Scorer
from vidwm.rollout.engine import generate
from vidwm.rollout.sampling import Sampling
from vidwm.training.credit import local_rewards
from vidwm.training.grpo_loss import advantages
from vidwm.training.loop import Stage, fit
from vidwm.training.policy_update import Experience, PolicyUpdate
from vidwm.training.run_folder import open_run
from vidwm.training.sharpness import Sharpness
from vidwm.training.stopwatch import Stopwatch
from vidwm.training.updater import Updater
from vidwm.world_model.likelihood import sequence_logprobs
from vidwm.world_model.transformer import Transformer
from vidwm.world_model.world_model import WorldModel

HELDOUT_CONTEXTS = 64
SAMPLE_CONTEXTS = 4
SEED_STRIDE = 1_000_003


class GrpoStage(Stage):
    """Contexts in, better futures out."""

    name = "finetune"

    def __init__(
        self,
        model: WorldModel,
        train: ClipSource,
        heldout: ClipSource | None,
        config: FinetuneConfig,
    ) -> None:
        self.model, self.train, self.heldout, self.config = model, train, heldout, config
        self.fps = model.setting.model_fps
        self.eval_every = config.eval_every
        self.device = pick_device(config.device)
        self.model.to(self.device)
        self.reference = copy.deepcopy(model.transformer).eval().requires_grad_(False)
        self.modules: dict[str, nn.Module] = {"transformer": model.transformer}
        self.sharpness = Sharpness().to(self.device)
        if config.sharpness_rate > 0:
            self.modules["sharpness"] = self.sharpness
            self.rates = {"sharpness": config.sharpness_rate}
        self.weights = parse_reward(config.reward)
        grid = model.tokenizer.config.grid if config.credit == "local" else None
        self.scorer = Scorer(
            model.decode, tuple(self.weights), grid=grid, memory_gb=config.max_scoring_gb
        )
        self.policy = PolicyUpdate(model, config, self.sharpness)

    def train_step(
        self, step: int, updaters: Mapping[str, Updater]
    ) -> Mapping[str, float | Tensor]:
        config, watch = self.config, Stopwatch()
        order = epoch_order(len(self.train.windows), config.seed, step, config.batch_size)
        batch = self.train.batch(order)
        with self.sharpness.folded_into(self.model.transformer):
            experience, logs = self.collect(batch, step, watch, updaters["transformer"])
        kept = experience.advantages.abs().amax(dim=(1, 2)) > 0
        logs["dropped_groups"] = float((~kept).float().mean())
        with watch.phase("train"):
            logs |= self.policy.update(experience, kept, updaters)
        logs["sharpness"] = float(self.sharpness.log_scale.detach().exp())
        logs |= watch.seconds
        frames = experience.tokens.shape[:3].numel()
        return logs | {"frames_per_second": frames / sum(watch.seconds.values())}

    def collect(
        self, batch: ClipBatch, step: int, watch: Stopwatch, updater: Updater
    ) -> tuple[Experience, dict[str, float | Tensor]]:
        """Sample and score a group of futures for every context of the batch."""
        config, model = self.config, self.model
        frames = batch.float_frames().to(self.device)
        context_frames = model.setting.context_frames
        truth = frames[:, context_frames:]
        with watch.phase("rollout"):
            context = model.tokens(frames[:, :context_frames])
            bins = model.bins(batch.actions)
            rollouts = generate(
                model.transformer,
                model.layout,
                context,
                bins,
                group_size=config.group_size,
                keys=batch.keys,
                sampling=Sampling(
                    temperature=config.temperature, seed=config.seed * SEED_STRIDE + step
                ),
                max_cache_gb=config.max_cache_gb or None,
                dtype=self._decoding_dtype(updater),
            )
        with watch.phase("reward"):
            rewards, metrics, credited = self.judge(rollouts.tokens, truth)
        ref_logprobs = None
        if config.beta > 0:
            with watch.phase("reference"):
                ref_logprobs = self._fixed_logprobs(
                    self.reference, rollouts.tokens, context, bins, updater
                )
        old_logprobs = rollouts.logprobs.flatten(2)
        if not self.policy.single_update:
            # What the trainer itself finds, lest rounding (bf16) move the first ratio from 1.
            with watch.phase("old_logprobs"):
                old_logprobs = self._fixed_logprobs(
                    model.transformer, rollouts.tokens, context, bins, updater
                )
        spread = rewards.std(dim=1)
        scaled = advantages(credited, config.scale_rewards)
        experience = Experience(
            context=context,
            bins=bins,
            tokens=rollouts.tokens,
            sampled_logprobs=rollouts.logprobs.flatten(2),
            old_logprobs=old_logprobs,
            ref_logprobs=ref_logprobs,
            advantages=scaled * (spread > config.min_spread)[:, None, None],
        )
        logs: dict[str, float | Tensor] = {
            "reward": rewards.mean(),
            "spread": spread.mean(),
            "tokens_per_pass": rollouts.tokens_per_pass,
            "repetition_rate": repetition_rate(rollouts.tokens, context[:, -1]),
        }
        return experience, logs | {f"reward_{n}": v.mean() for n, v in metrics.items()}

    def _decoding_dtype(self, updater: Updater) -> torch.dtype | None:
        """Of rollouts: on a GPU the precision of training, on a CPU that of the weights."""
        half = updater.precision == "bf16" and self.device.type == "cuda"
        return torch.bfloat16 if half else None

    def judge(self, tokens: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Rewards (B, G), their metrics (B, G, T), and what tokens are credited with.

        The last is (B, G, T * N), or (B, G, 1) where a rollout's tokens share its reward.
        """
        metrics = self.scorer.score(tokens, truth)
        if self.scorer.grid is None:
            rewards = reward(metrics, self.weights)
            return rewards, metrics, rewards[..., None]
        cells = mixed(metrics, self.weights)
        metrics = {name: value.mean(dim=(3, 4)) for name, value in metrics.items()}
        return reward(metrics, self.weights), metrics, local_rewards(cells).flatten(2)

    @torch.no_grad()
    def _fixed_logprobs(
        self,
        transformer: Transformer,
        tokens: Tensor,
        context: Tensor,
        bins: Tensor,
        updater: Updater,
    ) -> Tensor:
        """Log-probabilities (B, G, h * N) without gradients, in the precision of training."""
        with updater.autocast():
            logprobs, _ = sequence_logprobs(
                transformer,
                self.model.layout,
                tokens,
                context,
                bins,
                temperature=self.config.temperature,
                micro_batch=self.config.micro_batch or None,
            )
        return logprobs.flatten(2)

    def evaluate(self) -> dict[str, float]:
        """Reward and its parts on fixed held-out contexts, one future each."""
        if self.heldout is None:
            return {}
        batch = _spread_batch(self.heldout, HELDOUT_CONTEXTS)
        tokens, truth = self._predict(batch, group_size=1)
        rewards, metrics, _ = self.judge(tokens, truth)
        scores = {f"heldout_{name}": float(value.mean()) for name, value in metrics.items()}
        return scores | {"heldout_reward": float(rewards.mean())}

    def sample_videos(self) -> Mapping[str, Tensor]:
        """Strips of held-out predictions: context, truth, prediction, difference."""
        if self.heldout is None:
            return {}
        batch = _spread_batch(self.heldout, SAMPLE_CONTEXTS)
        tokens, truth = self._predict(batch, group_size=1)
        predicted = self.model.decode(tokens[:, 0])
        context = batch.float_frames()[:, : self.model.setting.context_frames]
        return {
            f"heldout_{i}": strip(context[i], truth[i].cpu(), predicted[i].cpu())
            for i in range(len(batch))
        }

    def _predict(self, batch: ClipBatch, group_size: int) -> tuple[Tensor, Tensor]:
        model = self.model
        frames = batch.float_frames().to(self.device)
        context = model.tokens(frames[:, : model.setting.context_frames])
        with self.sharpness.folded_into(model.transformer):
            rollouts = generate(
                model.transformer,
                model.layout,
                context,
                model.bins(batch.actions),
                group_size=group_size,
                keys=batch.keys,
                sampling=Sampling(temperature=self.config.temperature, seed=self.config.seed),
            )
        return rollouts.tokens, frames[:, model.setting.context_frames :]

    def export(self, directory: Path) -> None:
        with self.sharpness.folded_into(self.model.transformer):
            self.model.save_pretrained(directory)


def _spread_batch(source: ClipSource, count: int) -> ClipBatch:
    return source.batch(evenly_spread(len(source.windows), count))


def finetune(config: FinetuneConfig) -> Path:
    """Run the stage; returns the folder of the post-trained world model."""
    run = open_run(config.output_dir, resume=config.resume)
    model = WorldModel.from_pretrained(config.model)
    train, heldout = open_sources(config, model)
    stage = GrpoStage(model, train, heldout, config)
    return fit(stage, config, run).checkpoint / "model"
