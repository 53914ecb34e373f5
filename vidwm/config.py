"""What every command can be told: one frozen dataclass a command, one line of help a field.

A field says its type, its default, its help and its bounds in one place (`vidwm.options`). Keys are
flat and mean the same everywhere. Settings of GRPO carry TRL's names, except `group_size`.

A config only describes: it opens no file and imports no torch, so `vidwm --help` stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vidwm.adapt_config import TRAINED_HELP, Trained
from vidwm.data_config import (
    ActionOptions,
    AugmentOptions,
    DataOptions,
    LoaderOptions,
    VariantOptions,
)
from vidwm.lora_config import LoraOptions
from vidwm.options import Options, changed, option, required


@dataclass(frozen=True, kw_only=True)
class NewModelOptions(DataOptions):
    """For a model yet to be made, which keeps its split: later commands hold out the same."""

    heldout: float = option(0.1, "share of episodes kept from training", at_least=0, below=1)
    split_seed: int = option(0, "seed of the choice of held-out episodes", at_least=0)


@dataclass(frozen=True, kw_only=True)
class ResizeOptions(DataOptions):
    """For a model that exists, which knows its own size, frame skip and split."""

    resize: bool = option(False, "resize frames to the model's size instead of failing")


@dataclass(frozen=True, kw_only=True)
class GivenModelOptions(ResizeOptions):
    """Which model."""

    model: Path = required("world model folder")


@dataclass(frozen=True, kw_only=True)
class MachineOptions(Options):
    """Where it runs."""

    device: str = option("auto", "torch device; auto takes a GPU if there is one")
    num_threads: int = option(0, "CPU threads (0: torch decides)", at_least=0)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(MachineOptions, LoaderOptions):
    """How long and how it trains, and what it leaves behind."""

    output_dir: Path = required("run folder; must not exist unless resumed")
    steps: int = required("optimisation steps")
    batch_size: int = required("clips per step")
    learning_rate: float = required("peak learning rate of AdamW")
    weight_decay: float = option(0.01, "decoupled weight decay", at_least=0)
    warmup_steps: int = option(0, "steps of linear warm-up", at_least=0)
    schedule: Literal["constant", "cosine"] = option("constant", "learning rate after the warm-up")
    grad_clip: float = option(1.0, "largest gradient norm", above=0)
    ema_decay: float = option(0.0, "average of weights to save (0: none)", at_least=0, below=1)
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "auto: bf16 where the device is faster in it"
    )
    save_every: int = option(1000, "steps between checkpoints (0: only the last)", at_least=0)
    log_every: int = option(10, "steps between log lines", at_least=1)
    sample_every: int = option(1000, "steps between sample videos (0: none)", at_least=0)
    keep_last: int = option(2, "checkpoints kept", at_least=1)
    seed: int = option(0, "seed of weights, order and sampling", at_least=0)
    resume: bool = option(False, "go on from the last checkpoint of output_dir")
    time_limit_minutes: float = option(0.0, "stop and save after (0: no limit)", at_least=0)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(Options):
    """How futures are drawn."""

    num_samples: int = option(4, "futures drawn from each context", at_least=1)
    horizon: int = option(0, "frames to predict (0: the model's)", at_least=0)
    temperature: float = option(1.0, "0 takes the most probable token", at_least=0)
    top_k: int = option(0, "draw among the k most probable tokens (0: all)", at_least=0)
    top_p: float = option(1.0, "draw among the tokens that hold this mass", above=0, at_most=1)
    min_p: float = option(
        0.0, "draw among tokens at least this likely, times the likeliest", at_least=0, at_most=1
    )
    reject_repeats: int = option(
        0, "times a frame is drawn anew while it repeats the one before it", at_least=0
    )
    seed: int = option(0, "seed of the draws", at_least=0)


@dataclass(frozen=True, kw_only=True)
class CacheOptions(Options):
    """How much memory rollouts may take."""

    max_cache_gb: float = option(
        0.0,
        "key-value caches at a time; larger batches are decoded in parts (0: no bound)",
        at_least=0,
    )


@dataclass(frozen=True, kw_only=True)
class HorizonOptions(Options):
    """How old a context, and how much of the horizon, the transformer is trained on."""

    context_gap: int = option(
        0, "multi-step: frames in full come from up to so many steps back (paper: 15)", at_least=0
    )
    horizon_curriculum: int = option(
        0, "steps over which the predicted frames grow from 1 to the horizon", at_least=0
    )


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(NewModelOptions, AugmentOptions, TrainOptions):
    """The tokenizer: frames to tokens and back."""

    steps: int = option(10_000, "optimisation steps", at_least=1)
    batch_size: int = option(32, "frames per step (compressive: clips)", at_least=1)
    micro_batch: int = option(0, "of them per backward pass (0: all at once)", at_least=0)
    gradient_checkpointing: bool = option(
        False, "recompute activations in the backward pass: less memory, more work"
    )
    learning_rate: float = option(3e-4, "peak learning rate of AdamW", above=0)
    height: int = option(0, "frame height in pixels (0: as recorded)", at_least=0)
    width: int = option(0, "frame width in pixels (0: as recorded)", at_least=0)
    kind: Literal["frame", "vqgan", "compressive"] = option(
        "frame",
        "vqgan: RLVR-World's frame tokenizer; compressive: its other one, a context frame in full, "
        "later frames as few tokens given it",
    )
    later_frames: int = option(3, "compressive: frames per clip beside the context", at_least=1)
    clip_frames: int = option(16, "compressive: how long a clip they are drawn from", at_least=2)
    context_levels: tuple[int, ...] = option(
        (7, 5, 5, 5, 5), "compressive: fsq levels of context frames", at_least=2
    )
    latent_dim: int = option(64, "vqgan, compressive: channels of a latent", at_least=1)
    norm_groups: int = option(8, "vqgan, compressive: groups of a GroupNorm", at_least=1)
    quantizer: Literal["fsq", "vq"] = option("fsq", "fsq: a fixed grid; vq: a learned codebook")
    fsq_levels: tuple[int, ...] = option((8, 5, 5, 5), "levels per channel of fsq", at_least=2)
    codebook_size: int = option(1024, "codes of vq", at_least=2)
    code_dim: int = option(16, "width of a code of vq", at_least=1)
    widths: tuple[int, ...] = option((48, 96, 192), "channels, finest level first", at_least=1)
    blocks: int = option(2, "residual blocks per level", at_least=1)
    downsample: int = option(8, "pixels per token along each side, a power of two", at_least=1)
    perceptual_weight: float = option(1.0, "weight of the perceptual loss", at_least=0)
    perceptual: str = option("st_lpips_alex", "network of the perceptual loss")
    l1_weight: float = option(1.0, "weight of the absolute error", at_least=0)
    mse_weight: float = option(0.0, "weight of the squared error", at_least=0)
    adversarial_weight: float = option(0.0, "weight of the adversarial loss", at_least=0)
    adversarial_start: int = option(0, "step at which the adversarial loss sets in", at_least=0)
    init_from: Path | None = option(
        None, "tokenizer folder to start from; its network and size are kept"
    )
    trained: Trained = option("all", TRAINED_HELP)

    @property
    def patch(self) -> int:
        """Of a token's side, what the levels do not halve: the first layer folds so many pixels
        away, or a compressive tokenizer gathers so many latents.
        """
        return self.downsample // (1 << (len(self.widths) - 1))

    def conflicts(self) -> list[str]:
        if self.downsample & (self.downsample - 1) or self.patch < 1:
            return [
                f"downsample must be a power of two and at least {2 ** (len(self.widths) - 1)} "
                f"for {len(self.widths)} widths, got {self.downsample}."
            ]
        problems = [
            f"{name} must be a multiple of downsample = {self.downsample}, got {size}."
            for name, size in (("height", self.height), ("width", self.width))
            if size % self.downsample
        ]
        if self.trained != "all" and not self.init_from:
            problems.append(f"trained = {self.trained} needs init_from, whose other parts stay.")
        if self.micro_batch and self.quantizer == "vq":
            problems.append("micro_batch has quantizer = fsq only: vq learns codes by the batch.")
        if self.kind != "frame" and self.quantizer != "fsq":
            problems.append(f"kind = {self.kind} has quantizer = fsq only.")
        if self.kind == "vqgan" and self.patch != 1:
            problems.append(
                f"kind = vqgan halves at every level but the first: downsample must be "
                f"{2 ** (len(self.widths) - 1)} for {len(self.widths)} widths, got "
                f"{self.downsample}."
            )
        if self.kind == "compressive" and self.later_frames >= self.clip_frames:
            problems.append(
                f"later_frames must be below clip_frames = {self.clip_frames}, the first of which "
                f"is the context, got {self.later_frames}."
            )
        return problems


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(
    NewModelOptions, ActionOptions, VariantOptions, HorizonOptions, LoraOptions, TrainOptions
):
    """The world model, trained by maximum likelihood."""

    tokenizer: Path | None = option(None, "tokenizer folder (none: that of init_from)")
    init_from: Path | None = option(
        None, "world model to go on from; its sizes, ranges, split and frame skip are kept"
    )
    steps: int = option(10_000, "optimisation steps", at_least=1)
    batch_size: int = option(32, "clips per step", at_least=1)
    learning_rate: float = option(3e-4, "peak learning rate of AdamW", above=0)
    context_frames: int = option(2, "frames given", at_least=1)
    horizon: int = option(4, "frames predicted", at_least=1)
    context: Literal["true", "predicted"] = option(
        "true", "predicted: some clips go on from frames that the model imagined"
    )
    predicted_share: float = option(0.5, "share of such clips in a batch", above=0, at_most=1)
    predicted_start: int = option(0, "step from which there are such clips", at_least=0)
    action_bins: int = option(256, "bins per action dimension", at_least=2)
    shared_action_ids: bool = option(False, "one set of ids for all dimensions, as RLVR-World")
    hidden_size: int = option(256, "width of the transformer", at_least=1)
    num_layers: int = option(6, "layers", at_least=1)
    num_heads: int = option(4, "attention heads", at_least=1)
    num_kv_heads: int = option(0, "heads of keys and values (0: num_heads)", at_least=0)
    intermediate_size: int = option(0, "width of the MLP (0: 8/3 hidden_size)", at_least=0)
    cache_dir: Path | None = option(
        None, "token cache, or folder of them (none: tokens/ beside output_dir)"
    )
    micro_batch: int = option(0, "clips per backward pass (0: batch_size)", at_least=0)
    eval_every: int = option(500, "steps between held-out losses (0: none)", at_least=0)
    resize: bool = option(False, "resize frames to the tokenizer's size instead of failing")

    def conflicts(self) -> list[str]:
        problems = super().conflicts()
        if self.varies_anew and self.cache_dir is not None:
            varied = ", ".join(changed(self, AugmentOptions))
            problems.append(
                f"{varied}: clips are varied anew every time they are seen, so no cache holds "
                f"their tokens; leave cache_dir out, or give --variants as to `vidwm data cache`."
            )
        if self.tokenizer is None and self.init_from is None:
            problems.append("tokenizer is missing: give a tokenizer folder, or init_from.")
        if self.init_from is not None:
            kept = [name for name in changed(self, ActionOptions) if name != "frame_skip"]
            if kept:
                problems.append(
                    f"{', '.join(kept)}: the model of init_from keeps its own actions; leave that "
                    f"out, or train a new model."
                )
        if self.lora_rank and self.init_from is None:
            problems.append("lora_rank updates what is there already: give init_from as well.")
        if self.context == "predicted" and self.horizon < 2:
            problems.append(
                f"context = predicted imagines some of the predicted frames: horizon must be at "
                f"least 2, got {self.horizon}."
            )
        if self.hidden_size % (2 * self.num_heads):
            problems.append(
                f"hidden_size must be a multiple of 2 * num_heads = {2 * self.num_heads} "
                f"(rotary positions turn pairs), got {self.hidden_size}."
            )
        if self.num_kv_heads and self.num_heads % self.num_kv_heads:
            problems.append(
                f"num_kv_heads must divide num_heads = {self.num_heads}, got {self.num_kv_heads}."
            )
        return problems


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(GivenModelOptions, SamplingOptions, CacheOptions, MachineOptions):
    """Videos of predicted futures beside what happened."""

    output_dir: Path = option(Path("rollouts"), "folder for the videos")
    episode: int | None = option(None, "index (none: the first held-out episode)", at_least=0)
    start: int = option(0, "recorded frame at which the context starts", at_least=0)
    gif: bool = option(True, "write gif files beside the mp4")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(GivenModelOptions, SamplingOptions, CacheOptions, MachineOptions):
    """Held-out scores beside the baselines."""

    base: Path | None = option(None, "world model folder to compare it with")
    output_dir: Path = required("folder for report.json, report.md and the plots")
    windows_per_episode: int = option(4, "windows per held-out episode", at_least=1)
    bootstrap: int = option(2000, "resamples behind each interval", at_least=100)
    perceptual: str = option("auto", "perceptual networks (auto: all at hand)")
