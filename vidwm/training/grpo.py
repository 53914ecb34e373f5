"""Stage 3, `vidwm finetune`: reinforcement learning from verifiable rewards.

One step: take B contexts, sample G futures of each, decode and score them against what really
happened, turn the scores into group-relative advantages, and update the transformer; tokenizer and
reference policy stay frozen. Source: RLVR-World, arXiv 2505.13934, section 4; the formulas are in
`grpo_loss`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
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
from vidwm.rollout.engine import Sampling, generate
from vidwm.training.credit import local_rewards
from vidwm.training.grpo_loss import (
    GrpoSettings,
    advantages,
    denominator,
    kl_estimate,
    policy_losses,
)
from vidwm.training.loop import Stage, fit
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


@dataclass(frozen=True, kw_only=True)
class Experience:
    """What one step sampled: contexts, rollouts and how good they were."""

    context: Tensor  # (B, c, N) tokens
    bins: Tensor  # (B, T, A)
    tokens: Tensor  # (B, G, h, N)
    sampled_logprobs: Tensor  # (B, G, h * N), as the sampler found them
    old_logprobs: Tensor  # (B, G, h * N), of the policy before this step's updates
    ref_logprobs: Tensor | None  # (B, G, h * N)
    advantages: Tensor  # (B, G, h * N), or (B, G, 1) where all tokens share their rollout's


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
        self.scorer = Scorer(model.decode, tuple(self.weights), grid=grid)
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
            logs |= self.update(experience, kept, updaters)
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
        if not self.single_update:
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
            "repetition_rate": repetition_rate(rollouts.tokens, context[:, -1]),
        }
        return experience, logs | {f"reward_{n}": v.mean() for n, v in metrics.items()}

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
                self.model.layout,
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
