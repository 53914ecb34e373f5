"""Stage 3, `vidwm finetune`: reinforcement learning from verifiable rewards.

One step: take B contexts, sample G futures of each, decode and score them against what really
happened, turn the scores into group-relative advantages, and update the transformer; tokenizer and
reference policy stay frozen. Source: RLVR-World, arXiv 2505.13934, section 4; the formulas are in
`grpo_loss`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from vidwm.data.clip import ClipBatch
from vidwm.data.joined import parts_kept
from vidwm.data.order import shares_of
from vidwm.data.sampler import ClipSource, evenly_spread
from vidwm.device import pick_device
from vidwm.errors import UserError
from vidwm.evaluation.sources import open_sources
from vidwm.evaluation.strips import strip
from vidwm.finetune_config import FinetuneConfig
from vidwm.reward.repetition import repetition_rate
from vidwm.rollout.engine import Rollouts, generate
from vidwm.rollout.sampling import Sampling
from vidwm.training.curriculum import horizon_at, trained_layout
from vidwm.training.gold import GoldWatch
from vidwm.training.judge import Judge
from vidwm.training.loop import Stage, fit, nothing_held_out
from vidwm.training.lora import add_adapters, merged_into
from vidwm.training.older_context import SeenReader, check_gap, older_context
from vidwm.training.policy_update import Experience, PolicyUpdate
from vidwm.training.run_folder import open_run
from vidwm.training.run_loader import run_loader
from vidwm.training.runtime import seed_everything, seed_of_step
from vidwm.training.sharpness import Sharpness
from vidwm.training.stopwatch import Stopwatch
from vidwm.training.updater import Updater
from vidwm.world_model.likelihood import sequence_logprobs
from vidwm.world_model.transformer import Transformer
from vidwm.world_model.world_model import WorldModel

HELDOUT_CONTEXTS = 64
SAMPLE_CONTEXTS = 4


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
        seed_everything(config.seed)
        add_adapters(model.transformer, config)
        self.modules: dict[str, nn.Module] = {"transformer": model.transformer}
        self.sharpness = Sharpness().to(self.device)
        if config.sharpness_rate > 0:
            self.modules["sharpness"] = self.sharpness
            self.rates = {"sharpness": config.sharpness_rate}
        self.judge = Judge(model, config)
        self.gold: GoldWatch | None = None
        if heldout is not None and config.eval_every:
            self.gold = GoldWatch(model, tuple(self.judge.weights), config.max_scoring_gb)
        elif config.stop_when_gold_falls:
            raise UserError(
                "stop_when_gold_falls needs held-out episodes, and this model's split has none, or "
                "none that is long enough: leave it out."
            )
        if heldout is None and config.eval_every:
            self.warning = nothing_held_out("eval_every")
        check_gap(model.codec, config.context_gap)
        self.layout = trained_layout(model, config.horizon)
        context_frames = self.layout.context_frames
        reader = SeenReader(train, context_frames, config.context_gap, config.seed, config)
        shares = shares_of(train.dataset, train.windows)
        self.loader = run_loader(reader, len(train.windows), config, shares=shares)
        self.policy = PolicyUpdate(model, self.layout, config, self.sharpness)

    def train_step(
        self, step: int, updaters: Mapping[str, Updater]
    ) -> Mapping[str, float | Tensor]:
        watch = Stopwatch()
        seen = self.loader[step]
        older = older_context(self.model, seen)
        experience, logs = self.collect(seen.clips, step, watch, updaters["transformer"], older)
        kept = experience.advantages.abs().amax(dim=(1, 2)) > 0
        logs["dropped_groups"] = float((~kept).float().mean())
        with watch.phase("train"):
            logs |= self.policy.update(experience, kept, updaters)
        logs["sharpness"] = float(self.sharpness.log_scale.detach().exp())
        logs |= watch.seconds
        frames = experience.tokens.shape[:3].numel()
        return logs | {"frames_per_second": frames / sum(watch.seconds.values())}

    def collect(
        self,
        batch: ClipBatch,
        step: int,
        watch: Stopwatch,
        updater: Updater,
        older: Tensor | None = None,
    ) -> tuple[Experience, dict[str, float | Tensor]]:
        """Sample and score a group of futures for every context of the batch (older, if given)."""
        config, model = self.config, self.model
        with watch.phase("rollout"):
            frames, context = self._seen(batch, older)
            bins = model.bins(batch.actions)
            with self._as_sampled():
                rollouts = self._rollouts(
                    model.transformer,
                    batch,
                    context,
                    group_size=config.group_size,
                    seed=seed_of_step(config.seed, step),
                    dtype=self._decoding_dtype(updater),
                    horizon=horizon_at(step, config.horizon_curriculum, self.layout.horizon),
                )
        with watch.phase("reward"):
            found = self.judge.judge(rollouts.tokens, frames, context)
        ref_logprobs = None
        if config.beta > 0:
            with watch.phase("reference"):
                ref_logprobs = self._fixed_logprobs(
                    self.reference,
                    rollouts.tokens,
                    context,
                    bins,
                    updater,
                    config.temperature,
                )
        old_logprobs = rollouts.logprobs.flatten(2)
        if not self.policy.single_update:
            # What the trainer itself finds, lest rounding (bf16) move the first ratio from 1.
            with watch.phase("old_logprobs"):
                old_logprobs = self._fixed_logprobs(
                    model.transformer,
                    rollouts.tokens,
                    context,
                    bins,
                    updater,
                    self.sharpness.temperature(config.temperature),
                )
        spread = found.rewards.std(dim=1)
        experience = Experience(
            context=context,
            bins=bins,
            tokens=rollouts.tokens,
            sampled_logprobs=rollouts.logprobs.flatten(2),
            old_logprobs=old_logprobs,
            ref_logprobs=ref_logprobs,
            advantages=found.advantages * (spread > config.min_spread)[:, None, None],
        )
        logs: dict[str, float | Tensor] = {
            "reward": found.rewards.mean(),
            "spread": spread.mean(),
            "horizon": float(rollouts.tokens.shape[2]),
            "tokens_per_pass": rollouts.tokens_per_pass,
            "repetition_rate": repetition_rate(rollouts.tokens, self.layout.last_frame(context)),
        }
        return experience, logs | {f"reward_{n}": v.mean() for n, v in found.metrics.items()}

    def _decoding_dtype(self, updater: Updater) -> torch.dtype | None:
        """Of rollouts: on a GPU the precision of training, on a CPU that of the weights."""
        half = updater.precision == "bf16" and self.device.type == "cuda"
        return torch.bfloat16 if half else None

    @torch.no_grad()
    def _fixed_logprobs(
        self,
        transformer: Transformer,
        tokens: Tensor,
        context: Tensor,
        bins: Tensor,
        updater: Updater,
        temperature: float | Tensor,
    ) -> Tensor:
        """Log-probabilities (B, G, h * N) without gradients, in the precision of training."""
        with updater.autocast():
            logprobs, _ = sequence_logprobs(
                transformer,
                self.layout,
                tokens,
                context,
                bins,
                temperature=temperature,
                micro_batch=self.config.micro_batch or None,
            )
        return logprobs.flatten(2)

    def evaluate(self) -> dict[str, float]:
        """Reward, its parts and gold metrics on fixed held-out contexts, one future each."""
        if self.heldout is None or self.gold is None:
            return {}
        batch = _spread_batch(self.heldout, HELDOUT_CONTEXTS)
        frames, context = self._seen(batch)
        with self._as_sampled():
            tokens = self._futures(self.model.transformer, batch, context)
        found = self.judge.judge(tokens, frames, context)
        truth = frames[:, self.layout.context_frames :]
        if not self.gold.started:
            start = self._futures(self.reference, batch, context)
            rewards = self.judge.judge(start, frames, context).rewards
            self.gold.start(start, context, truth, rewards[:, 0])
        gold = self.gold.look(tokens, context, truth, found.rewards[:, 0])
        self.warning = gold.warning
        if gold.warning and self.config.stop_when_gold_falls:
            self.stop_reason = "gold metrics fall"
        scores = {f"heldout_{name}": float(value.mean()) for name, value in found.metrics.items()}
        return scores | {"heldout_reward": float(found.rewards.mean())} | gold.scores

    def sample_videos(self) -> Mapping[str, Tensor]:
        """Strips of held-out predictions: context, truth, prediction, difference."""
        if self.heldout is None:
            return {}
        batch = _spread_batch(self.heldout, SAMPLE_CONTEXTS)
        frames, context = self._seen(batch)
        with self._as_sampled():
            tokens = self._futures(self.model.transformer, batch, context)
        predicted, frames = self.model.decode(tokens[:, 0], context).cpu(), frames.cpu()
        c = self.layout.context_frames
        return {
            f"heldout_{i}": strip(frames[i, :c], frames[i, c:], predicted[i])
            for i in range(len(batch))
        }

    @contextmanager
    def _as_sampled(self) -> Iterator[None]:
        """The model's transformer is the plain one that is sampled from and saved."""
        with self.sharpness.folded_into(self.model.transformer), merged_into(self.model):
            yield

    def _seen(self, batch: ClipBatch, older: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Frames (B, T, 3, H, W) in [0, 1], and the context (B, ...), unless an older is given."""
        frames = batch.float_frames().to(self.device)
        return frames, self.model.context(frames) if older is None else older

    def _futures(self, transformer: Transformer, batch: ClipBatch, context: Tensor) -> Tensor:
        """One future (B, 1, h, N) of each context, by the same random numbers every time."""
        return self._rollouts(
            transformer, batch, context, group_size=1, seed=self.config.seed, dtype=None
        ).tokens

    def _rollouts(
        self,
        transformer: Transformer,
        batch: ClipBatch,
        context: Tensor,
        *,
        group_size: int,
        seed: int,
        dtype: torch.dtype | None,
        horizon: int | None = None,
    ) -> Rollouts:
        return generate(
            transformer,
            self.layout,
            context,
            self.model.bins(batch.actions),
            group_size=group_size,
            keys=batch.keys,
            sampling=Sampling(temperature=self.config.temperature, seed=seed),
            horizon=horizon,
            max_cache_gb=self.config.max_cache_gb or None,
            dtype=dtype,
        )

    def export(self, directory: Path) -> None:
        with self._as_sampled():
            self.model.save_pretrained(directory)


def _spread_batch(source: ClipSource, count: int) -> ClipBatch:
    return source.batch(evenly_spread(len(source.windows), count))


def finetune(config: FinetuneConfig) -> Path:
    """Run the stage; returns the folder of the post-trained world model."""
    run = open_run(config.output_dir, resume=config.resume)
    assert config.model is not None
    model = WorldModel.from_pretrained(config.model)
    train, heldout = open_sources(config, model, config.horizon)
    parts = parts_kept(train.dataset, model.setting.parts)
    model.setting = dataclasses.replace(model.setting, parts=parts)
    stage = GrpoStage(model, train, heldout, config)
    return fit(stage, config, run).checkpoint / "model"
