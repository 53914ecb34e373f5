"""Stage 1, `vidwm tokenizer`: learn to write frames as tokens.

Single frames are drawn from the training episodes; the autoencoder is trained on pixels,
perception and, if wanted, a critic. Codebook usage and perplexity are logged over the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vidwm.config import TokenizerConfig
from vidwm.data.datasets import open_dataset
from vidwm.data.sampler import ClipSource, epoch_order, evenly_spread, split_episodes
from vidwm.device import pick_device
from vidwm.reward.perceptual import load_perceptual
from vidwm.reward.pixels import mae, psnr
from vidwm.tokenizer.frame import FrameTokenizer, FrameTokenizerConfig
from vidwm.tokenizer.losses import (
    Discriminator,
    LossWeights,
    codebook_statistics,
    discriminator_loss,
    generator_loss,
    reconstruction_losses,
)
from vidwm.training.loop import Stage, fit
from vidwm.training.run_folder import open_run
from vidwm.training.runtime import seed_everything
from vidwm.training.updater import Updater

HELDOUT_FRAMES = 256
SAMPLE_FRAMES = 16
MEAN_EPISODES = 64


class TokenizerStage(Stage):
    """Frames in, reconstruction losses out."""

    name = "tokenizer"

    def __init__(
        self,
        tokenizer: FrameTokenizer,
        train: ClipSource,
        heldout: ClipSource | None,
        config: TokenizerConfig,
    ) -> None:
        self.tokenizer, self.train, self.heldout, self.config = tokenizer, train, heldout, config
        self.fps = train.dataset.fps
        self.eval_every = config.sample_every
        self.device = pick_device(config.device)
        self.modules: dict[str, nn.Module] = {"tokenizer": tokenizer}
        if config.adversarial_weight:
            self.modules["discriminator"] = Discriminator()
        self.weights = LossWeights(
            l1=config.l1_weight,
            mse=config.mse_weight,
            perceptual=config.perceptual_weight,
            adversarial=config.adversarial_weight,
        )
        self.perceptual = None
        if config.perceptual_weight:
            self.perceptual = load_perceptual(config.perceptual).to(self.device)

    def train_step(
        self, step: int, updaters: Mapping[str, Updater]
    ) -> Mapping[str, float | Tensor]:
        config = self.config
        order = epoch_order(len(self.train.windows), config.seed, step, config.batch_size)
        frames = self.train.batch(order).float_frames()[:, 0].to(self.device)
        updater = updaters["tokenizer"]
        critic = updaters.get("discriminator")
        playing = critic is not None and step >= config.adversarial_start
        with updater.autocast():
            reconstruction, tokens, quantiser_loss = self.tokenizer(frames)
            losses = reconstruction_losses(reconstruction, frames, self.weights, self.perceptual)
            if critic is not None and playing:
                losses["adversarial"] = generator_loss(critic.module(reconstruction.clamp(0, 1)))
        weights = dataclasses.asdict(self.weights)
        loss = quantiser_loss + sum(weights[name] * value for name, value in losses.items())
        updater.backward(loss)
        updater.apply()
        logs = {"loss": loss.detach()} | {f"{n}_loss": v.detach() for n, v in losses.items()}
        if critic is not None and playing:
            logs["discriminator_loss"] = self._train_critic(critic, frames, reconstruction)
        return logs | codebook_statistics(tokens, self.tokenizer.codebook_size)

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
        frames, tokens, decoded = self._reconstruct(self.heldout, HELDOUT_FRAMES)
        scores = {
            "psnr": float(psnr(decoded, frames).mean()),
            "mae": float(mae(decoded, frames).mean()),
            **codebook_statistics(tokens, self.tokenizer.codebook_size),
        }
        if self.perceptual is not None:
            scores["perceptual"] = float(self.perceptual(decoded, frames).mean())
        return {f"heldout_{name}": value for name, value in scores.items()}

    def sample_videos(self) -> Mapping[str, Tensor]:
        """Held-out frames (or training frames, if none are held out) above what became of them."""
        frames, _, decoded = self._reconstruct(self.heldout or self.train, SAMPLE_FRAMES)
        stacked = torch.cat([frames, decoded], dim=-2)
        return {"reconstruction": (stacked * 255).round().byte().cpu()}

    def _reconstruct(self, source: ClipSource, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Some frames of a source, their tokens, and the frames again."""
        chosen = evenly_spread(len(source.windows), count)
        frames = source.batch(chosen).float_frames()[:, 0].to(self.device)
        tokens = self.tokenizer.encode(frames)
        return frames, tokens, self.tokenizer.decode(tokens)

    def export(self, directory: Path) -> None:
        self.tokenizer.save_pretrained(directory)


def train_tokenizer(config: TokenizerConfig) -> Path:
    """Run the stage; returns the folder of the trained tokenizer."""
    run = open_run(config.output_dir, resume=config.resume)
    dataset = open_dataset(config.data, camera=config.camera, split=config.split)
    train, heldout = split_episodes(dataset.episode_ids, config.heldout, config.split_seed)
    seed_everything(config.seed)
    frame = dataset.episode(0).frames[0]
    if config.init_from:
        tokenizer = FrameTokenizer.from_pretrained(config.init_from)
    else:
        tokenizer = FrameTokenizer(network_of(config, frame.shape[1:]))
    size = (tokenizer.height, tokenizer.width)
    sources = [
        ClipSource(dataset, clip_frames=1, frame_skip=1, episodes=episodes, size=size)
        for episodes in (train, heldout)
        if episodes
    ]
    if not config.init_from and not config.resume:
        tokenizer.centre_on(mean_frame(sources[0]))
    stage = TokenizerStage(tokenizer, sources[0], sources[1] if heldout else None, config)
    return fit(stage, config, run).checkpoint / "model"


def mean_frame(source: ClipSource) -> Tensor:
    """Mean (3, H, W) in [0, 1] of every frame of at most `MEAN_EPISODES` episodes."""
    episodes = sorted({window.episode for window in source.windows})
    chosen = {episodes[i] for i in evenly_spread(len(episodes), MEAN_EPISODES)}
    numbers = [i for i, window in enumerate(source.windows) if window.episode in chosen]
    parts = [numbers[i : i + 64] for i in range(0, len(numbers), 64)]
    sums = [source.batch(part).float_frames().sum(dim=(0, 1)) for part in parts]
    return torch.stack(sums).sum(dim=0) / len(numbers)


def network_of(config: TokenizerConfig, recorded: tuple[int, int]) -> FrameTokenizerConfig:
    """The part of the settings that describes the network; `recorded` (H, W): the data's frames."""
    return FrameTokenizerConfig(
        height=config.height or recorded[0],
        width=config.width or recorded[1],
        patch=config.patch,
        widths=tuple(config.widths),
        blocks=config.blocks,
        quantizer=config.quantizer,
        fsq_levels=tuple(config.fsq_levels),
        codebook_size=config.codebook_size,
        code_dim=config.code_dim,
    )
