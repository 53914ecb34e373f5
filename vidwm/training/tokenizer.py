"""Stage 1, `vidwm tokenizer`: learn to write frames as tokens.

Single frames are drawn from the training episodes, or, for a compressive tokenizer, a context frame
and some of those after it. The autoencoder is trained on pixels, perception and, if wanted, a
critic. Codebook usage and perplexity are logged over the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidwm.config import TokenizerConfig
from vidwm.data.augment import augment
from vidwm.data.order import shares_of
from vidwm.data.recordings import open_recordings
from vidwm.data.sampler import ClipSource, evenly_spread
from vidwm.data.selection import split_dataset
from vidwm.data.windows import any_fits
from vidwm.data_config import AugmentOptions
from vidwm.device import pick_device
from vidwm.errors import UserError
from vidwm.gradient_checkpointing import use_gradient_checkpointing
from vidwm.reward.perceptual import load_perceptual
from vidwm.reward.pixels import mae, psnr
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.frame import FrameTokenizer
from vidwm.tokenizer.frozen import freeze_but
from vidwm.tokenizer.losses import (
    Discriminator,
    LossWeights,
    codebook_statistics,
    discriminator_loss,
    generator_loss,
    reconstruction_losses,
)
from vidwm.tokenizer.open_tokenizer import Tokenizer
from vidwm.tokenizer.vq import VQ
from vidwm.training.loop import Stage, fit, nothing_held_out
from vidwm.training.new_tokenizer import starting_tokenizer
from vidwm.training.reconstruction import Part, reconstructed
from vidwm.training.run_folder import open_run
from vidwm.training.run_loader import run_loader
from vidwm.training.runtime import seed_everything, seed_of_step
from vidwm.training.updater import Updater

HELDOUT_FRAMES = 256
SAMPLE_FRAMES = 16
MEAN_EPISODES = 64


class TokenizerStage(Stage):
    """Frames in, reconstruction losses out."""

    name = "tokenizer"

    def __init__(
        self,
        tokenizer: Tokenizer,
        train: ClipSource,
        heldout: ClipSource | None,
        config: TokenizerConfig,
    ) -> None:
        self.tokenizer, self.train, self.heldout, self.config = tokenizer, train, heldout, config
        self.later = config.later_frames if isinstance(tokenizer, CompressiveTokenizer) else 0
        self.fps = train.dataset.fps
        self.eval_every = config.sample_every
        if heldout is None and config.sample_every:
            self.warning = nothing_held_out("sample_every")
        self.device = pick_device(config.device)
        self.modules: dict[str, nn.Module] = {"tokenizer": tokenizer}
        if config.adversarial_weight:
            self.modules["discriminator"] = Discriminator()
        reader = FrameReader(train, self.later, config.seed, config)
        shares = shares_of(train.dataset, train.windows)
        self.loader = run_loader(reader, len(train.windows), config, shares=shares)
        self.weights = LossWeights(
            l1=config.l1_weight,
            mse=config.mse_weight,
            perceptual=config.perceptual_weight,
            adversarial=config.adversarial_weight,
        )
        self.perceptual = None
        if config.perceptual_weight:
            self.perceptual = load_perceptual(config.perceptual).to(self.device)
        if config.gradient_checkpointing:
            for network in filter(None, (tokenizer, self.perceptual)):  # both in train mode
                use_gradient_checkpointing(network)

    def train_step(
        self, step: int, updaters: Mapping[str, Updater]
    ) -> Mapping[str, float | Tensor]:
        config = self.config
        clips = self._on_device(self.loader[step])
        updater = updaters["tokenizer"]
        critic = updaters.get("discriminator")
        playing = critic is not None and step >= config.adversarial_start
        seen: list[Part] = []
        logs: dict[str, float | Tensor] = {}
        total = torch.zeros((), device=self.device)
        for some in clips.split(config.micro_batch or len(clips)):
            share = len(some) / len(clips)
            with updater.autocast():
                parts = reconstructed(self.tokenizer, some)
                loss, losses = self._loss(parts, critic.module if critic and playing else None)
            updater.backward(loss * share)
            total += loss.detach() * share
            for name, value in losses.items():
                logs[name] = logs.get(name, 0.0) + value.detach() * share
            seen += [dataclasses.replace(part, decoded=part.decoded.detach()) for part in parts]
        updater.apply()
        if critic is not None and playing:
            frames, decoded = (
                torch.cat([getattr(part, name) for part in seen]) for name in ("frames", "decoded")
            )
            logs["discriminator_loss"] = self._train_critic(critic, frames, decoded)
        return {"loss": total} | logs | _codebook(seen)

    def _loss(
        self, parts: Sequence[Part], critic: nn.Module | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the tokenizer is to lower, and its unweighted pieces."""
        total = torch.zeros((), device=self.device)
        pieces: dict[str, Tensor] = {}
        for part in parts:
            losses = reconstruction_losses(part.decoded, part.frames, self.weights, self.perceptual)
            if critic is not None:
                losses["adversarial"] = generator_loss(critic(part.decoded.clamp(0, 1)))
            weights = dataclasses.asdict(self.weights)
            total = total + part.loss + sum(weights[n] * value for n, value in losses.items())
            pieces |= {f"{part.prefix}{n}_loss": value for n, value in losses.items()}
        return total, pieces

    def _on_device(self, frames: Tensor) -> Tensor:
        return frames.to(self.device, non_blocking=True).float() / 255

    def _train_critic(self, critic: Updater, frames: Tensor, reconstruction: Tensor) -> Tensor:
        critic.module.zero_grad(set_to_none=True)  # the generator's loss left gradients here
        with critic.autocast():
            fake = critic.module(reconstruction.detach().clamp(0, 1))
            loss = discriminator_loss(critic.module(frames), fake)
        critic.backward(loss)
        critic.apply()
        return loss.detach()

    def evaluate(self) -> dict[str, float]:
        """Reconstruction of held-out frames: PSNR in dB, MAE in [0, 1], perceptual distance.

        And how much of the codebook their tokens use.
        """
        if self.heldout is None:
            return {}
        parts = self._reconstruct(self.heldout, HELDOUT_FRAMES)
        scores = _codebook(parts)
        for part in parts:
            decoded = part.decoded.clamp(0, 1)
            scores[f"{part.prefix}psnr"] = float(psnr(decoded, part.frames).mean())
            scores[f"{part.prefix}mae"] = float(mae(decoded, part.frames).mean())
            if self.perceptual is not None:
                distance = self.perceptual(decoded, part.frames).mean()
                scores[f"{part.prefix}perceptual"] = float(distance)
        return {f"heldout_{name}": value for name, value in scores.items()}

    def sample_videos(self) -> Mapping[str, Tensor]:
        """Held-out frames (or training frames, if none are held out) above what became of them."""
        videos = {}
        for part in self._reconstruct(self.heldout or self.train, SAMPLE_FRAMES):
            stacked = torch.cat([part.frames, part.decoded.float().clamp(0, 1)], dim=-2)
            videos[f"{part.prefix}reconstruction"] = (stacked * 255).round().byte().cpu()
        return videos

    @torch.no_grad()
    def _reconstruct(self, source: ClipSource, count: int) -> list[Part]:
        """About `count` frames of a source, in clips, and what becomes of them."""
        chosen = evenly_spread(len(source.windows), max(1, count // (1 + self.later)))
        frames = some_frames(source, chosen, self.later, draw=0)
        return reconstructed(self.tokenizer, self._on_device(frames))

    def export(self, directory: Path) -> None:
        self.tokenizer.save_pretrained(directory)


@dataclasses.dataclass(frozen=True)
class FrameReader:
    """What a step sees, for a `Loader` of a run with this seed; varied by `vary`."""

    source: ClipSource
    later: int
    seed: int
    vary: AugmentOptions

    def __call__(self, numbers: Sequence[int], step: int) -> Tensor:
        draw = seed_of_step(self.seed, step)
        return augment(some_frames(self.source, numbers, self.later, draw), self.vary, draw)


def some_frames(source: ClipSource, numbers: Sequence[int], later: int, draw: int) -> Tensor:
    """Of each window the first frame and `later` others at random: (B, T, 3, H, W) uint8."""
    frames = source.batch(numbers).frames
    generator = torch.Generator().manual_seed(draw)
    others = torch.rand(len(frames), frames.shape[1] - 1, generator=generator).argsort(dim=1)
    places = F.pad(1 + others[:, :later].sort(dim=1).values, (1, 0))
    return frames[torch.arange(len(frames))[:, None], places]


def _codebook(parts: Sequence[Part]) -> dict[str, float]:
    """How the tokens of each kind of part use their codebook."""
    tokens: dict[tuple[str, int], list[Tensor]] = {}
    for part in parts:
        tokens.setdefault((part.prefix, part.codebook_size), []).append(part.tokens)
    return {
        f"{prefix}{name}": value
        for (prefix, size), found in tokens.items()
        for name, value in codebook_statistics(torch.cat(found), size).items()
    }


def train_tokenizer(config: TokenizerConfig) -> Path:
    """Run the stage; returns the folder of the trained tokenizer."""
    run = open_run(config.output_dir, resume=config.resume)
    dataset = open_recordings(config)
    train, heldout = split_dataset(dataset, config.heldout, config.split_seed)
    seed_everything(config.seed)
    frame = dataset.episode(0).frames[0]
    tokenizer = starting_tokenizer(config, frame.shape[1:])
    freeze_but(tokenizer, config.trained)
    if config.micro_batch and isinstance(tokenizer.quantizer, VQ) and tokenizer.quantizer.learning:
        raise UserError(
            f"The tokenizer {config.init_from} has a vq codebook, which learns by the batch: leave "
            f"micro_batch at 0, or keep the codebook with trained = networks or decoder."
        )
    compressive = isinstance(tokenizer, CompressiveTokenizer)
    clip_frames = config.clip_frames if compressive else 1
    if not any_fits(dataset.lengths, heldout, clip_frames, 1):
        heldout = []
    sources = [
        ClipSource(
            dataset,
            clip_frames=clip_frames,
            frame_skip=1,
            episodes=episodes,
            size=(tokenizer.height, tokenizer.width),
        )
        for episodes in (train, heldout)
        if episodes
    ]
    if isinstance(tokenizer, FrameTokenizer) and not config.init_from and not config.resume:
        tokenizer.centre_on(mean_frame(sources[0]))
    stage = TokenizerStage(tokenizer, sources[0], sources[1] if heldout else None, config)
    return fit(stage, config, run).checkpoint / "model"


def mean_frame(source: ClipSource) -> Tensor:
    """Mean (3, H, W) in [0, 1] of every frame of at most `MEAN_EPISODES` episodes."""
    episodes = source.windows.episodes
    chosen = [episodes[i] for i in evenly_spread(len(episodes), MEAN_EPISODES)]
    numbers = [number for episode in chosen for number in source.windows.of(episode)]
    parts = [numbers[i : i + 64] for i in range(0, len(numbers), 64)]
    sums = [source.batch(part).float_frames().sum(dim=(0, 1)) for part in parts]
    return torch.stack(sums).sum(dim=0) / len(numbers)
