"""Stage 2, `vidwm pretrain`: maximum likelihood on tokens.

Windows of context + horizon are drawn from the training episodes (`token_windows`), and the
transformer learns the next token of the predicted frames; context, actions and delimiters
carry no loss. The held-out loss is measured on fixed windows of the held-out episodes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidwm.config import PretrainConfig
from vidwm.data.cache import JoinedTokens, Tokens, cached_tokens
from vidwm.data.clip import EpisodeDataset
from vidwm.data.joined import Joined
from vidwm.data.meant import as_recorded, recorded_actions
from vidwm.data.order import Share, shares_of
from vidwm.data.recordings import open_recordings
from vidwm.data.sampler import (
    ClipSource,
    check_frame_size,
    evenly_spread,
)
from vidwm.data.selection import split_dataset
from vidwm.data.windows import any_fits, windows_of
from vidwm.data_config import AugmentOptions
from vidwm.device import pick_device
from vidwm.errors import UserError
from vidwm.evaluation.sources import as_meant, check_fits, open_seen
from vidwm.evaluation.strips import strip
from vidwm.rollout.engine import generate
from vidwm.rollout.sampling import Sampling
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.open_tokenizer import FramewiseTokenizer, open_tokenizer
from vidwm.training.action_fit import fit_actions
from vidwm.training.caching import token_contents
from vidwm.training.curriculum import horizon_at
from vidwm.training.loop import Stage, fit, nothing_held_out
from vidwm.training.lora import add_adapters, merged, merged_into
from vidwm.training.new_model import gone_on_with, new_world_model, settings_of
from vidwm.training.older_context import check_gap
from vidwm.training.predicted_context import continued, drawn_jump
from vidwm.training.run_folder import open_run
from vidwm.training.run_loader import run_loader
from vidwm.training.runtime import seed_everything, seed_of_step
from vidwm.training.token_windows import (
    CachedWindows,
    Clips,
    EncodedWindows,
    StepReader,
    TokenWindows,
)
from vidwm.training.updater import Updater
from vidwm.world_model.codec import CompressiveCodec, FrameCodec
from vidwm.world_model.range_report import range_lines, write_ranges
from vidwm.world_model.world_model import WorldModel

HELDOUT_WINDOWS = 128
SAMPLE_WINDOWS = 4


class PretrainStage(Stage):
    """Token windows in, cross-entropy in nats per token out."""

    name = "pretrain"

    def __init__(
        self,
        model: WorldModel,
        train: TokenWindows,
        heldout: TokenWindows | None,
        config: PretrainConfig,
        shares: tuple[Share, ...] = (),
    ) -> None:
        self.model, self.train, self.heldout, self.config = model, train, heldout, config
        self.fps = model.setting.model_fps
        self.eval_every = config.eval_every
        if heldout is None and config.eval_every:
            self.warning = nothing_held_out("eval_every")
        self.device = pick_device(config.device)
        self.modules: dict[str, nn.Module] = {"transformer": model.transformer}
        self.places = model.layout.logit_positions().to(self.device)
        model.tokenizer.to(self.device)
        mapped = isinstance(train, CachedWindows)
        reader = StepReader(train.read, config.seed)
        self.loader = run_loader(reader, len(train), config, shares=shares, mapped=mapped)

    def train_step(
        self, step: int, updaters: Mapping[str, Updater]
    ) -> Mapping[str, float | Tensor]:
        config = self.config
        horizon = horizon_at(step, config.horizon_curriculum, self.model.layout.horizon)
        batch = self._batch(step, horizon)
        count = sum(len(ids) * frames for ids, frames in batch)
        updater = updaters["transformer"]
        total = torch.zeros((), device=self.device)
        for ids, frames in batch:
            for part in ids.split(config.micro_batch or len(ids)):
                with updater.autocast():
                    loss = self.loss(part) * (len(part) * frames / count)
                updater.backward(loss)
                total += loss.detach()
        updater.apply()
        return {"loss": total, "horizon": float(horizon)}

    def _batch(self, step: int, horizon: int) -> list[tuple[Tensor, int]]:
        """Sequences of step `step` and how many predicted frames each holds, by that number."""
        config, draw = self.config, seed_of_step(self.config.seed, step)
        clips = self.train.clips(self.loader[step])
        count = len(clips.context)
        own = round(config.predicted_share * count)
        if config.context == "true" or step < config.predicted_start or horizon < 2 or not own:
            return [(self.sequences(clips, horizon), horizon)]
        jump = drawn_jump(horizon, draw)
        with merged_into(self.model):
            later = continued(self.model, clips.part(slice(own)), jump, draw)
        batch = [(self.sequences(later, horizon - jump), horizon - jump)]
        if own < count:
            batch.append((self.sequences(clips.part(slice(own, None)), horizon), horizon))
        return batch

    def loss(self, ids: Tensor) -> Tensor:
        """Mean negative log-likelihood of the predicted frames' tokens; ids (B, L)."""
        layout = self.model.layout
        places = self.places[self.places < ids.shape[1] - 1]  # of as many frames as there are
        hidden = self.model.transformer.hidden(ids[:, :-1])[:, places]
        logits = self.model.transformer.head(hidden, slice(0, layout.codebook_size))
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, places + 1].flatten())

    def sequences(self, clips: Clips, horizon: int | None = None) -> Tensor:
        """Token sequences (B, L) of the context and `horizon` frames (None: all)."""
        layout, bins = self.model.layout, self.model.actions.encode(clips.actions)
        layout = dataclasses.replace(layout, horizon=horizon or layout.horizon)
        return layout.sequence(clips.context, clips.tokens[:, : layout.horizon], bins).to(
            self.device
        )

    @cached_property
    def watched(self) -> Clips:
        """The held-out clips of every evaluation."""
        assert self.heldout is not None
        return _spread(self.heldout, HELDOUT_WINDOWS)

    def evaluate(self) -> dict[str, float]:
        """Loss on fixed held-out windows, in nats per token."""
        if self.heldout is None:
            return {}
        parts = self.sequences(self.watched).split(32)
        losses = torch.stack([self.loss(part) * len(part) for part in parts])
        return {"heldout_loss": float(losses.sum()) / sum(map(len, parts))}

    def sample_videos(self) -> Mapping[str, Tensor]:
        """Strips of held-out predictions: context, truth, prediction, difference.

        The context is all that the model is given: of a multi-step model the frames in full, which
        may be older, and then the newest. All of them are decoded from tokens, so what the
        tokenizer loses is in none of the differences.
        """
        if self.heldout is None:
            return {}
        model, clips = self.model, _spread(self.heldout, SAMPLE_WINDOWS)
        context = clips.context.to(self.device)
        rollouts = generate(
            merged(model.transformer),
            model.layout,
            context,
            model.bins(clips.actions),
            group_size=1,
            keys=torch.arange(len(context)),
            sampling=Sampling(seed=self.config.seed),
        )
        given = model.codec.decode_context(context).cpu()
        true = model.decode(clips.tokens.to(self.device), context).cpu()
        predicted = model.decode(rollouts.tokens[:, 0], context).cpu()
        return {
            f"heldout_{i}": strip(*videos)
            for i, videos in enumerate(zip(given, true, predicted, strict=True))
        }

    def export(self, directory: Path) -> None:
        with merged_into(self.model):
            self.model.save_pretrained(directory)


def _spread(windows: TokenWindows, count: int) -> Clips:
    """Up to `count` windows, evenly spread over all, the same every time."""
    return windows.batch(evenly_spread(len(windows), count), draw=0)


def pretrain(config: PretrainConfig) -> Path:
    """Run the stage; returns the folder of the trained world model."""
    run = open_run(config.output_dir, resume=config.resume)
    given = None
    if config.init_from is not None:
        given = WorldModel.from_pretrained(config.init_from)
        dataset = open_seen(config, given.setting)
        config = settings_of(given, config.init_from, config)
    else:
        dataset = open_recordings(config)
    assert config.tokenizer is not None
    device = pick_device(config.device)
    tokenizer = open_tokenizer(config.tokenizer).to(device)
    if isinstance(tokenizer, CompressiveTokenizer):
        _check_no_cache(config)
    if given is not None:
        given = gone_on_with(given, tokenizer, dataset, config.camera)
        check_fits(dataset, given, resize=config.resize)
    check_frame_size(dataset, (tokenizer.height, tokenizer.width), resize=config.resize)
    train, heldout = split_dataset(dataset, config.heldout, config.split_seed)
    clips = None
    if not isinstance(tokenizer, CompressiveTokenizer) and not config.varies_anew:
        clips = tokenised(config, dataset, tokenizer)
    seed_everything(config.seed)
    fitted = None
    if given is None:
        fitted = fit_actions(config, dataset, _recorded(dataset, clips, train), config.action_bins)
        given = new_world_model(config, dataset, tokenizer, fitted)
    model = given
    add_adapters(model.transformer, config, embeddings=True)
    check_gap(model.codec, config.context_gap)
    dataset = as_meant(dataset, model)

    def windows(episodes: Sequence[int]) -> TokenWindows:
        if clips is None:
            vary = config if episodes is train else None
            return encoded_windows(config, dataset, model, episodes, device, vary)
        span = model.layout.num_frames
        found = windows_of(dataset.lengths, episodes, span, config.frame_skip)
        varied = episodes is train
        return CachedWindows(clips, found, model.layout, config.frame_skip, dataset, varied)

    fits = any_fits(dataset.lengths, heldout, model.layout.num_frames, config.frame_skip)
    watched = windows(heldout) if fits else None
    trained = windows(train)
    shares = shares_of(dataset, trained.windows)
    stage = PretrainStage(model, trained, watched, config, shares)
    if fitted is not None:
        print("\n".join(range_lines(fitted.report)))
        write_ranges(run.path / "action_ranges.json", fitted.report)
    return fit(stage, config, run).checkpoint / "model"


def _check_no_cache(config: PretrainConfig) -> None:
    """UserError where a config with a compressive tokenizer tells of cached tokens."""
    kind = f"{config.tokenizer} is a compressive tokenizer, whose tokens are not cached"
    if config.cache_dir is not None:
        raise UserError(
            f"cache_dir = {config.cache_dir} is for tokens, but {kind}; leave cache_dir out, and "
            f"give what `vidwm data cache` makes without --tokenizer, a cache of frames, as --data."
        )
    if config.variants > 1:
        raise UserError(
            f"variants = {config.variants} are of cached tokens, but {kind}; leave variants out, "
            f"and clips are varied anew."
        )


def _recorded(
    dataset: EpisodeDataset, clips: Tokens | None, episodes: Sequence[int]
) -> dict[int, np.ndarray]:
    """Actions of episodes as recorded; where they are tokenised none is decoded for them."""
    if clips is None:
        return {i: recorded_actions(dataset, i) for i in episodes}
    return {i: clips.actions(i).numpy() for i in episodes}


def tokenised(
    config: PretrainConfig, dataset: EpisodeDataset, tokenizer: FramewiseTokenizer
) -> Tokens:
    """Tokens of all episodes, from the cache or into it; each part of a mixture has its own."""
    assert config.tokenizer is not None
    if isinstance(dataset, Joined):
        return JoinedTokens([tokenised(config, part.dataset, tokenizer) for part in dataset.parts])
    recorded = as_recorded(dataset)
    return cached_tokens(
        recorded,
        lambda frames: tokenizer.encode(frames.to(pick_device(config.device))),
        token_contents(recorded, tokenizer, config.tokenizer, config.cached_variants),
        config.cache_dir or config.output_dir.parent / "tokens",
    )


def encoded_windows(
    config: PretrainConfig,
    dataset: EpisodeDataset,
    model: WorldModel,
    episodes: Sequence[int],
    device: torch.device,
    vary: AugmentOptions | None = None,
) -> EncodedWindows:
    """Windows whose tokens are made when they are read, of frames varied by `vary`."""
    source = ClipSource(
        dataset,
        clip_frames=model.layout.num_frames,
        frame_skip=config.frame_skip,
        episodes=episodes,
        size=model.size,
    )
    codec = cast(FrameCodec | CompressiveCodec, model.codec)
    return EncodedWindows(source, codec, device, config.context_gap, vary)
