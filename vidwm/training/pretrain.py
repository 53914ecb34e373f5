"""Stage 2, `vidwm pretrain`: maximum likelihood on tokens.

Episodes are tokenised once, windows of context + horizon are drawn from the training episodes, and
the transformer learns the next token of the predicted frames; context, actions and delimiters
carry no loss. The held-out loss is measured on fixed windows of the held-out episodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidwm.config import PretrainConfig
from vidwm.data.cache import TokenClips, tokenise
from vidwm.data.clip import EpisodeDataset
from vidwm.data.datasets import open_dataset
from vidwm.data.sampler import (
    Window,
    check_frame_size,
    epoch_order,
    evenly_spread,
    split_episodes,
    windows_of,
)
from vidwm.device import pick_device
from vidwm.errors import UserError
from vidwm.evaluation.strips import strip
from vidwm.rollout.engine import generate
from vidwm.rollout.sampling import Sampling
from vidwm.tokenizer.frame import FrameTokenizer
from vidwm.training.loop import Stage, fit
from vidwm.training.run_folder import open_run
from vidwm.training.runtime import seed_everything
from vidwm.training.updater import Updater
from vidwm.world_model.action_embeddings import start_smoothly
from vidwm.world_model.actions import ActionBins
from vidwm.world_model.copy_heads import start_copying
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.transformer import Transformer
from vidwm.world_model.world_model import Setting, WorldModel, layout_of

HELDOUT_WINDOWS = 128
SAMPLE_WINDOWS = 4
MIN_POSITIONS = 1024


class PretrainStage(Stage):
    """Token windows in, cross-entropy in nats per token out."""

    name = "pretrain"

    def __init__(
        self,
        model: WorldModel,
        clips: TokenClips,
        train: Sequence[Window],
        heldout: Sequence[Window],
        config: PretrainConfig,
    ) -> None:
        self.model, self.clips, self.config = model, clips, config
        self.train, self.heldout = train, heldout
        self.fps = model.setting.model_fps
        self.eval_every = config.eval_every
        self.device = pick_device(config.device)
        self.modules: dict[str, nn.Module] = {"transformer": model.transformer}
        self.places = model.layout.logit_positions().to(self.device)
        model.tokenizer.to(self.device)

    def train_step(
        self, step: int, updaters: Mapping[str, Updater]
    ) -> Mapping[str, float | Tensor]:
        config = self.config
        order = epoch_order(len(self.train), config.seed, step, config.batch_size)
        ids = self.sequences([self.train[i] for i in order])
        updater = updaters["transformer"]
        total = torch.zeros((), device=self.device)
        for part in ids.split(config.micro_batch or len(ids)):
            with updater.autocast():
                loss = self.loss(part) * (len(part) / len(ids))
            updater.backward(loss)
            total += loss.detach()
        updater.apply()
        return {"loss": total}

    def loss(self, ids: Tensor) -> Tensor:
        """Mean negative log-likelihood of the predicted frames' tokens; ids (B, L)."""
        layout = self.model.layout
        hidden = self.model.transformer.hidden(ids[:, :-1])[:, self.places]
        logits = self.model.transformer.head(hidden, slice(0, layout.codebook_size))
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, self.places + 1].flatten())

    def sequences(self, windows: Sequence[Window]) -> Tensor:
        """Token sequences (B, L) of windows."""
        return self.model.layout.sequence(*self._clips(windows)).to(self.device)

    def _clips(self, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, N) and action bins (B, T, A) of windows."""
        frames, skip = self.model.layout.num_frames, self.model.setting.frame_skip
        pairs = [self.clips.clip(w.episode, w.start, frames, skip) for w in windows]
        tokens, actions = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return tokens, self.model.actions.encode(actions)

    def evaluate(self) -> dict[str, float]:
        """Loss on fixed held-out windows, in nats per token."""
        if not self.heldout:
            return {}
        parts = self.sequences(self._spread(HELDOUT_WINDOWS)).split(32)
        losses = torch.stack([self.loss(part) * len(part) for part in parts])
        return {"heldout_loss": float(losses.sum()) / sum(map(len, parts))}

    def sample_videos(self) -> Mapping[str, Tensor]:
        """Strips of held-out predictions: context, truth, prediction, difference.

        All of them decoded from tokens, so what the tokenizer loses is in none of the differences.
        """
        if not self.heldout:
            return {}
        model, c = self.model, self.model.setting.context_frames
        tokens, bins = self._clips(self._spread(SAMPLE_WINDOWS))
        rollouts = generate(
            model.transformer,
            model.layout,
            tokens[:, :c],
            bins,
            group_size=1,
            keys=torch.arange(len(tokens)),
            sampling=Sampling(seed=self.config.seed),
        )
        true = model.decode(tokens.to(self.device)).cpu()
        predicted = model.decode(rollouts.tokens[:, 0]).cpu()
        return {
            f"heldout_{i}": strip(true[i, :c], true[i, c:], predicted[i]) for i in range(len(true))
        }

    def _spread(self, count: int) -> list[Window]:
        """Up to `count` held-out windows, evenly spread over all."""
        return [self.heldout[i] for i in evenly_spread(len(self.heldout), count)]

    def export(self, directory: Path) -> None:
        self.model.save_pretrained(directory)


def pretrain(config: PretrainConfig) -> Path:
    """Run the stage; returns the folder of the trained world model."""
    run = open_run(config.output_dir, resume=config.resume)
    dataset = open_dataset(config.data, camera=config.camera, split=config.split)
    tokenizer = FrameTokenizer.from_pretrained(config.tokenizer).to(pick_device(config.device))
    size = (tokenizer.height, tokenizer.width)
    check_frame_size(dataset, size, resize=config.resize)
    clips = tokenise(
        dataset,
        lambda frames: tokenizer.encode(frames.to(pick_device(config.device))),
        size=size,
        fingerprint=fingerprint(config.tokenizer),
        directory=config.cache_dir or config.output_dir.parent / "tokens",
    )
    train, heldout = split_episodes(dataset.episode_ids, config.heldout, config.split_seed)
    span = config.context_frames + config.horizon
    windows = windows_of(dataset.lengths, train, span, config.frame_skip)
    try:
        heldout_windows = windows_of(dataset.lengths, heldout, span, config.frame_skip)
    except UserError:
        heldout_windows = []
    seed_everything(config.seed)
    model = new_world_model(config, dataset, tokenizer, clips, train)
    stage = PretrainStage(model, clips, windows, heldout_windows, config)
    return fit(stage, config, run).checkpoint / "model"


def new_world_model(
    config: PretrainConfig,
    dataset: EpisodeDataset,
    tokenizer: FrameTokenizer,
    clips: TokenClips,
    train: Sequence[int],
) -> WorldModel:
    """An untrained model whose action ranges are those of the training episodes."""
    setting = Setting(
        context_frames=config.context_frames,
        horizon=config.horizon,
        frame_skip=config.frame_skip,
        fps=dataset.fps,
        action_names=_chunk_names(dataset.action_names, config.frame_skip),
        heldout=config.heldout,
        split_seed=config.split_seed,
        shared_action_ids=config.shared_action_ids,
    )
    rows = clips.action_chunks(train, config.frame_skip)
    actions = ActionBins.fit(rows, method=config.action_ranges, bins=config.action_bins)
    layout = layout_of(tokenizer, actions, setting)
    transformer = Transformer(
        TransformerConfig(
            vocab_size=layout.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size or _round_up(config.hidden_size * 8 // 3),
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads or config.num_heads,
            max_position_embeddings=max(MIN_POSITIONS, layout.sequence_length),
            bos_token_id=layout.bos,
            eos_token_id=layout.eos,
        )
    )
    start_smoothly(transformer.model.embed_tokens.weight, layout)
    start_copying(transformer, layout)
    return WorldModel(tokenizer, transformer, actions, setting)


def fingerprint(directory: Path) -> str:
    """Hash of a tokenizer's files."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        digest.update((directory / name).read_bytes())
    return digest.hexdigest()


def _chunk_names(names: Sequence[str], frame_skip: int) -> tuple[str, ...]:
    if frame_skip == 1:
        return tuple(names)
    return tuple(f"{name}.{i}" for i in range(frame_skip) for name in names)


def _round_up(width: int, multiple: int = 32) -> int:
    return -(-width // multiple) * multiple
