"""What one training step of each stage does, phase by phase, for so many of its clips.

Formulas only where nothing can be counted: a decode step reads all weights, the shared prefixes and
what every rollout has written so far; AdamW reads and writes weights, gradients and two moments.
Low-rank updates are counted as they are trained: the matrices beside them have no gradients, and
rollouts are drawn from a plain copy that the updates are merged into.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vidwm.config import PretrainConfig, TokenizerConfig
from vidwm.estimate.counting import Cost, Work, cost
from vidwm.estimate.gpus import Gpu
from vidwm.estimate.networks import perceptual_net
from vidwm.finetune_config import FinetuneConfig
from vidwm.gradient_checkpointing import use_gradient_checkpointing
from vidwm.lora_config import LoraOptions
from vidwm.reward.mix import network_of, parse_reward
from vidwm.reward.perceptual import TRUNKS
from vidwm.rollout.kv_cache import cache_bytes
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.frozen import freeze_but
from vidwm.tokenizer.losses import LossWeights, reconstruction_losses
from vidwm.tokenizer.open_tokenizer import Tokenizer
from vidwm.training.lora import add_adapters
from vidwm.training.reconstruction import reconstructed
from vidwm.world_model.transformer import Transformer
from vidwm.world_model.world_model import WorldModel

FP32, HALF = 4, 2
ADAMW_BYTES = 7 * FP32  # a step reads weight, gradient and moments, and writes all but the gradient


@dataclass(frozen=True)
class Phase:
    """Part of a step, and how it computes: in half precision, or in fp32, of which convolutions on
    a GPU make TF32.
    """

    work: Work
    half: bool

    def floor(self, gpu: Gpu) -> float:
        """Seconds that it takes at least."""
        return gpu.floor(self.work.flops, self.work.bytes, "half" if self.half else "tf32")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step on `clips` of the batch: its phases, and bytes of memory by what holds them.

    Of `memory` everything is held all the time, of `passing` one after the other.
    """

    phases: dict[str, Phase]
    memory: dict[str, float]
    passing: dict[str, float]

    @property
    def peak(self) -> float:
        """Bytes held at the most."""
        return sum(self.memory.values()) + max(self.passing.values())

    def floor(self, gpu: Gpu) -> float:
        """Seconds that it takes at least."""
        return sum(phase.floor(gpu) for phase in self.phases.values())


StepOf = Callable[[int], Step]


def tokenizer_step(config: TokenizerConfig, tokenizer: Tokenizer) -> StepOf:
    """`vidwm tokenizer`; the critic, if there is one, is left out."""
    compressive = isinstance(tokenizer, CompressiveTokenizer)
    frames = 1 + config.later_frames if compressive else 1
    networks = nn.ModuleDict({"tokenizer": tokenizer})
    if config.perceptual_weight:
        networks["perceptual"] = perceptual_net(config.perceptual)
    weights = LossWeights(l1=config.l1_weight, perceptual=config.perceptual_weight)

    def loss(parts: Any, rows: int) -> Tensor:
        clips = torch.empty(rows, frames, 3, tokenizer.height, tokenizer.width)
        distance = parts["perceptual"] if config.perceptual_weight else None
        losses = [
            value
            for part in reconstructed(parts["tokenizer"], clips)
            for value in reconstruction_losses(
                part.decoded, part.frames, weights, distance
            ).values()
        ]
        return torch.stack(losses).sum()

    freeze_but(tokenizer, config.trained)
    networks.train()
    tokenizer.quantizer.eval()  # how a codebook follows depends on values; its work is next to none
    if config.gradient_checkpointing:
        use_gradient_checkpointing(networks)
    half = config.precision != "fp32"
    train, weight = cost(networks, loss, backward=True, half=half), size(tokenizer)

    def step(clips: int) -> Step:
        return Step(
            phases={"train": Phase(train.of(clips), half), "AdamW": adamw(tokenizer)},
            memory=trained(tokenizer, config.ema_decay)
            | {"loss networks": FP32 * (size(networks) - weight)},
            passing={"activations": train.of(min(clips, config.micro_batch or clips)).kept},
        )

    return step


def pretrain_step(config: PretrainConfig, model: WorldModel) -> StepOf:
    """`vidwm pretrain`; a frame tokenizer runs once for all steps, unless clips are varied anew.

    Imagined contexts are left out.
    """
    layout, transformer = model.layout, with_adapters(model.transformer, config, embeddings=True)

    def loss(transformer: Transformer, rows: int) -> Tensor:
        ids = torch.zeros(rows, layout.sequence_length - 1, dtype=torch.int64)
        states = transformer.hidden(ids)[:, layout.logit_positions()]
        logits = transformer.head(states, slice(0, layout.codebook_size)).float()
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.zeros(*logits.shape[:2], dtype=torch.int64).flatten()
        )

    half = config.precision != "fp32"
    train = cost(transformer, loss, backward=True, half=half)
    encodes = isinstance(model.tokenizer, CompressiveTokenizer) or config.varies_anew
    encode = encoding(model, layout.num_frames) if encodes else None

    def step(clips: int) -> Step:
        phases = {"encode": Phase(encode.of(clips), half=False)} if encode else {}
        return Step(
            phases=phases | {"train": Phase(train.of(clips), half), "AdamW": adamw(transformer)},
            memory=trained(transformer, config.ema_decay)
            | {"tokenizer": FP32 * size(model.tokenizer) if encodes else 0.0},
            passing={"activations": train.of(min(clips, config.micro_batch or clips)).kept},
        )

    return step


def finetune_step(config: FinetuneConfig, model: WorldModel) -> StepOf:
    """`vidwm finetune`, with rollouts decoded token by token."""
    layout, transformer, G = model.layout, model.transformer, config.group_size
    policy = with_adapters(transformer, config)
    N, h = layout.tokens_per_frame, config.horizon or layout.horizon
    P, F = layout.prompt_length, h * N + (h - 1) * layout.action_dims
    encode = encoding(model, layout.context_frames)
    prefill = cost(
        transformer, lambda t, rows: t.prefill(torch.zeros(rows, P, dtype=torch.int64))[0]
    )

    def futures(t: Transformer, rows: int) -> Tensor:
        states, prefix = t.prefill(torch.zeros(rows, P, dtype=torch.int64))
        later = t.continue_group(torch.zeros(rows, G, F - 1, dtype=torch.int64), prefix)
        logits = t.head(later[:, :, : h * N], slice(0, layout.codebook_size)).float()
        return logits.log_softmax(-1)[..., 0].sum() + states.float().sum() * 0

    half = config.precision != "fp32"
    forward = cost(transformer, futures, half=half)
    own = cost(policy, futures, half=half)
    train = cost(policy, futures, backward=True, half=half)
    decode = cost(model, lambda m, rows: m.decode(*blank(m, rows, G * h)), half=False)
    names = {network_of(name) for name in parse_reward(config.reward)} & TRUNKS.keys()
    nets = [perceptual_net(name) for name in sorted(names)]
    H, W = model.size
    judge = [
        cost(net, lambda n, rows: n.features(torch.empty(rows, 3, H, W))[0], half=False)
        for net in nets
    ]
    weight, other = size(transformer), size(model.tokenizer)
    updates = config.num_iterations * config.mini_batches
    c = transformer.config
    cache = (c.num_hidden_layers, c.num_key_value_heads, c.head_dim)

    def step(clips: int) -> Step:
        per_context = cache_bytes(*cache, P, F, G, HALF)
        cap = config.max_cache_gb * 1e9 or per_context * clips
        at_once = max(1, min(clips, int(cap // per_context)))
        read = (
            h
            * N
            * (
                HALF * (weight - c.vocab_size * c.hidden_size) * -(-clips // at_once)
                + clips * cache_bytes(*cache, P, F // 2, G, HALF)
            )
        )
        flops = forward.of(clips).flops - prefill.of(clips).flops
        seen = sum((net.of(clips * h * (G + 1)) for net in judge), Work())
        phases = {
            "encode": Phase(encode.of(clips), half=False),
            "prefill": Phase(prefill.of(clips), half),
            "decode steps": Phase(Work(flops, read), half),
            "pixels": Phase(decode.of(clips), half=False),
            "perceptual": Phase(seen, half=False),
        }
        if config.beta:
            phases["reference"] = Phase(forward.of(clips), half)
        if updates > 1:
            phases["old log-probabilities"] = Phase(own.of(clips), half)
        phases["train"] = Phase(train.of(clips) * config.num_iterations, half)
        phases["AdamW"] = adamw(policy, updates)
        memory = trained(policy, config.ema_decay) | {
            "reference": FP32 * weight * bool(config.beta),
            "tokenizer": FP32 * other,
            "perceptual networks": FP32 * sum(map(size, nets)),
        }
        share = max(1, clips // config.mini_batches)
        passing = {
            "activations": train.of(min(share, config.micro_batch or share)).kept,
            "key-value caches, weights to sample from": at_once * per_context
            + (HALF + FP32 * bool(config.lora_rank)) * weight,
            "scoring": config.max_scoring_gb * 1e9,
        }
        return Step(phases=phases, memory=memory, passing=passing)

    return step


def with_adapters(
    transformer: Transformer, options: LoraOptions, *, embeddings: bool = False
) -> Transformer:
    """A copy as it is trained: with adapters and all else frozen, if the options say so."""
    copied = copy.deepcopy(transformer)
    add_adapters(copied, options, embeddings=embeddings)
    return copied


def encoding(model: WorldModel, frames: int) -> Cost:
    """Frames (rows, frames, 3, H, W) to a context, and tokens of what is beyond it."""
    H, W = model.size
    return cost(model, lambda m, rows: m.encode(torch.empty(rows, frames, 3, H, W))[0], half=False)


def blank(model: WorldModel, rows: int, frames: int) -> tuple[Tensor, Tensor]:
    """Tokens of so many frames after each of so many contexts, and the contexts."""
    layout = model.layout
    tokens = torch.zeros(rows, frames, layout.tokens_per_frame, dtype=torch.int64)
    return tokens, torch.zeros(rows, *layout.context_shape, dtype=torch.int64)


def trained(network: nn.Module, ema_decay: float) -> dict[str, float]:
    """What training keeps of a network: weights, of what learns gradients and moments, average."""
    learns = learning(network)
    return {
        "weights": FP32 * size(network),
        "gradients": FP32 * learns,
        "moments": 2 * FP32 * learns,
        "average": FP32 * size(network) * bool(ema_decay),
    }


def adamw(network: nn.Module, updates: int = 1) -> Phase:
    """Updates of a network."""
    return Phase(Work(bytes=ADAMW_BYTES * learning(network) * updates), half=False)


def learning(network: nn.Module) -> int:
    """Number of weights that are trained."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def size(network: nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in network.parameters())
