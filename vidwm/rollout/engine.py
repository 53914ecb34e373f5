"""G imagined futures of every context: prefill once, fork, decode.

The context is computed and stored once; its G rollouts share it and only their own tokens exist
G times. Every sampled token costs one decoding step. The action that follows a frame is given, so
it rides in the same step as the frame's last token. Logits are computed for visual ids alone, the
only legal ones. The randomness of a token is a function of (seed, context key, rollout, frame,
place), so tokens do not depend on batch size, order or split.
Longer horizons than the model was trained for re-anchor: its last frames become a new context.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from vidwm_kernels.sample_tokens import sample_tokens, token_states

from vidwm.errors import UserError
from vidwm.world_model.kv_cache import GroupCache
from vidwm.world_model.layout import Layout
from vidwm.world_model.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn: temperature 0 takes the likeliest, top_k 0 and top_p 1 keep all."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise UserError(
                f"Sampling needs temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got "
                f"{self.temperature}, {self.top_k} and {self.top_p}."
            )


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """tokens (B, G, h, N) int64; logprobs (B, G, h, N) float32 in nats, as they were sampled."""

    tokens: Tensor
    logprobs: Tensor


@torch.no_grad()
def generate(
    transformer: Transformer,
    layout: Layout,
    prompt_tokens: Tensor,
    bins: Tensor,
    *,
    group_size: int,
    keys: Tensor,
    sampling: Sampling,
    horizon: int | None = None,
    first_rollout: int = 0,
) -> Rollouts:
    """Roll out every context `group_size` times.

    prompt_tokens (B, c, N); bins (B, >= c + horizon - 1, A), the actions from the first context
    frame on; keys (B,) int64 name the contexts. `horizon` in frames (None = the layout's);
    rollouts are numbered from `first_rollout`, so a group may be drawn in parts. UserError when
    sizes do not agree or the sequence is longer than the model's positions.
    """
    horizon = layout.horizon if horizon is None else horizon
    device = transformer.lm_head.weight.device
    prompt_tokens, bins, keys = prompt_tokens.to(device), bins.to(device), keys.to(device)
    check_request(transformer, layout, prompt_tokens, bins, group_size, keys, horizon)
    states = random_states(layout, keys, group_size, sampling, horizon, first_rollout)
    rows, tokens, logprobs = prompt_tokens, [], []
    for start in range(0, horizon, layout.horizon):
        drawn = states[:, :, start : start + layout.horizon]
        if start:
            # From here on every rollout has a context of its own.
            drawn = drawn.flatten(0, 1)[:, None]
            actions = bins[:, start:].repeat_interleave(group_size, dim=0)
        else:
            actions = bins
        found = _decode(transformer, layout, rows, actions, drawn, sampling)
        tokens.append(found[0].reshape(*states.shape[:2], *found[0].shape[2:]))
        logprobs.append(found[1].reshape(tokens[-1].shape))
        past = prompt_tokens[:, None].expand(-1, group_size, -1, -1)
        rows = torch.cat([past, *tokens], dim=2)[:, :, -layout.context_frames :].flatten(0, 1)
    return Rollouts(tokens=torch.cat(tokens, dim=2), logprobs=torch.cat(logprobs, dim=2))


def random_states(
    layout: Layout, keys: Tensor, group_size: int, sampling: Sampling, horizon: int, first: int
) -> Tensor:
    """What the randomness of every token starts from: (B, G, horizon, N) int64."""
    N = layout.tokens_per_frame
    rollouts = torch.arange(first, first + group_size, device=keys.device)
    places = torch.arange(horizon * N, device=keys.device).view(horizon, N)
    return token_states(sampling.seed, keys, rollouts, places)


def check_request(
    transformer: Transformer,
    layout: Layout,
    prompt_tokens: Tensor,
    bins: Tensor,
    group_size: int,
    keys: Tensor,
    horizon: int,
) -> None:
    """UserError or ValueError when the arguments of `generate` cannot be served."""
    if group_size < 1 or horizon < 1:
        raise UserError(
            f"group_size and horizon must be at least 1, got {group_size} and {horizon}."
        )
    if keys.shape != (len(prompt_tokens),) or keys.dtype != torch.int64:
        raise ValueError(
            f"keys must be ({len(prompt_tokens)},) int64, got {tuple(keys.shape)} {keys.dtype}"
        )
    if bins.shape[1] < layout.context_frames + horizon - 1:
        raise UserError(
            f"{horizon} frames after {layout.context_frames} context frames need "
            f"{layout.context_frames + horizon - 1} actions, got {bins.shape[1]}."
        )
    # Both calls check what they are given, before anything is computed from it.
    layout.prompt(prompt_tokens, bins)
    layout.action_ids(bins)
    config = transformer.config
    if config.vocab_size != layout.vocab_size:
        raise UserError(
            f"The transformer has {config.vocab_size} ids, the layout {layout.vocab_size}; "
            f"they belong to different models."
        )
    frames = min(horizon, layout.horizon)
    longest = layout.prompt_length + frames * layout.block - layout.action_dims
    if longest > config.max_position_embeddings:
        raise UserError(
            f"Context and future take {longest} tokens, more than the model's "
            f"max_position_embeddings {config.max_position_embeddings}; use fewer frames."
        )


def _decode(
    transformer: Transformer,
    layout: Layout,
    context: Tensor,
    bins: Tensor,
    states: Tensor,
    sampling: Sampling,
) -> tuple[Tensor, Tensor]:
    """One window: context (B, c, N), states (B, G, frames, N) -> tokens and logprobs like them."""
    G, frames, N = states.shape[1:]
    c, legal = layout.context_frames, slice(0, layout.codebook_size)
    forced = layout.action_ids(bins[:, c : c + frames - 1])[:, None].expand(-1, G, -1, -1)
    hidden, prefix = transformer.prefill(layout.prompt(context, bins))
    cache = GroupCache(prefix, G, frames * layout.block - layout.action_dims - 1)
    logits = transformer.head(hidden[:, -1:], legal).expand(-1, G, -1)
    tokens = torch.empty_like(states)
    logprobs = torch.empty(states.shape, device=states.device)
    for frame in range(frames):
        for place in range(N):
            drawn = sample_tokens(
                logits,
                states[:, :, frame, place],
                0,
                layout.codebook_size,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
            )
            tokens[:, :, frame, place], logprobs[:, :, frame, place] = drawn
            fed = drawn[0][..., None]
            if place == N - 1:
                if frame == frames - 1:
                    break
                fed = torch.cat([fed, forced[:, :, frame]], dim=2)
            logits = transformer.head(transformer.step(fed, cache)[:, :, -1], legal)
    return tokens, logprobs
