"""G imagined futures of every context: prefill once, fork, decode.

The context is computed and stored once; its G rollouts share it and only their own tokens exist
G times. Logits are computed for visual ids alone, the only legal ones, and never leave the draw.
The randomness of a token is a function of (seed, context key, rollout, frame, place), so tokens
depend neither on batch size, order or split nor on drafts. Batches whose caches would not fit the
budget are decoded in parts.
Longer horizons than the model was trained for re-anchor: its last frames become a new context.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidwm.errors import UserError
from vidwm.rollout.block_size import STEP_COSTS
from vidwm.rollout.decoder import Decoder
from vidwm.rollout.draft import SLACK, DraftedDecoding, worth_drafting
from vidwm.rollout.graph import decoder_class
from vidwm.rollout.kv_cache import GroupCache, cache_bytes
from vidwm.rollout.lockstep import decode_lockstep
from vidwm.rollout.request import check_request
from vidwm.rollout.sampling import Sampling, random_states
from vidwm.rollout.window import Window
from vidwm.world_model.layout import Layout
from vidwm.world_model.transformer import Transformer

GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """tokens (B, G, h, N) int64; logprobs (B, G, h, N) float32 in nats, as they were sampled.

    tokens_per_pass: new tokens, actions included, per rollout and pass through the transformer;
    1 without drafts, or a little more, since actions share a pass; less where frames were drawn
    anew (`reject_repeats`), whose passes count and whose rejected tokens do not.
    """

    tokens: Tensor
    logprobs: Tensor
    tokens_per_pass: float

    def reshape(self, *groups: int) -> Rollouts:
        """The same rollouts with other (B, G)."""
        return dataclasses.replace(
            self,
            tokens=self.tokens.view(*groups, *self.tokens.shape[2:]),
            logprobs=self.logprobs.view(*groups, *self.tokens.shape[2:]),
        )


@dataclass(frozen=True, kw_only=True)
class Request:
    """One context (...) of `generate_mixed`, bins (>= c + horizon - 1, A), a name."""

    context: Tensor
    bins: Tensor
    key: int
    group_size: int


@torch.no_grad()
def generate(
    transformer: Transformer,
    layout: Layout,
    context: Tensor,
    bins: Tensor,
    *,
    group_size: int,
    keys: Tensor,
    sampling: Sampling,
    horizon: int | None = None,
    first_rollout: int = 0,
    legal: Tensor | None = None,
    drafts: bool | None = None,
    max_cache_gb: float | None = None,
    dtype: torch.dtype | None = None,
) -> Rollouts:
    """Roll out every context `group_size` times.

    context (B, ...), as the layout has it; bins (B, >= c + horizon - 1, A), the actions from the
    first context frame on; keys (B,) int64 name the contexts. `horizon` in frames (None = the
    layout's); rollouts are numbered from `first_rollout`, so a group may be drawn in parts. legal
    (K,) or (N, K) bool, which tokens may stand (at each place of) a frame; dtype: in which to
    decode (None = the weights'). drafts: None = on a CPU, where they were measured. They and
    max_cache_gb, the size of key-value caches at a time (10^9 bytes; None = no bound), change the
    speed, not the tokens, up to near-ties that products of other shapes round apart: fewer than 1
    token in 100,000 in fp32, about 1 in 200 in bf16. UserError when sizes do not agree, the
    sequence is longer than the model's positions, one context's caches exceed the budget, or scores
    are nan.
    """
    horizon = layout.horizon if horizon is None else horizon
    device = transformer.lm_head.weight.device
    context, bins, keys = context.to(device), bins.to(device), keys.to(device)
    check_request(transformer, layout, context, bins, group_size, keys, horizon, legal)
    if max_cache_gb is not None and not 0 < max_cache_gb < math.inf:
        raise UserError(f"max_cache_gb must be above 0 and finite, got {max_cache_gb}.")
    drafts = device.type == "cpu" if drafts is None else drafts
    states = random_states(layout, keys, group_size, sampling, horizon, first_rollout)
    legal = None if legal is None else legal.to(device)
    dtype = dtype or transformer.dtype
    decoder = decoder_class(device)(transformer, layout.codebook_size, sampling, dtype, SLACK)
    job = _Job(transformer, decoder, layout, legal, drafts, max_cache_gb)
    rows, parts = context, []
    for start in range(0, horizon, layout.horizon):
        drawn, actions = states[:, :, start : start + layout.horizon], bins
        if start:
            # From here on every rollout has a context of its own.
            drawn = drawn.flatten(0, 1)[:, None]
            actions = bins[:, start:].repeat_interleave(group_size, dim=0)
        found = job.window(rows, actions, drawn)
        parts.append(found.reshape(*states.shape[:2]))
        if not start:
            rows = rows.repeat_interleave(group_size, dim=0)
        rows = layout.advanced(rows, parts[-1].tokens.flatten(0, 1))
    found = joined(parts, dim=2)
    if found.logprobs.isnan().any():
        raise UserError(
            "The model's scores are not numbers (nan): its weights are damaged or training "
            "diverged; go back to an earlier checkpoint."
        )
    return found


def generate_mixed(
    transformer: Transformer,
    layout: Layout,
    requests: Sequence[Request],
    **options: Any,
) -> list[Rollouts]:
    """Roll out contexts of different lengths and group sizes; one result (1, G, h, N) each.

    Requests of equal shape are decoded together. `options` are those of `generate`.
    """
    shapes = [(len(r.context), len(r.bins), r.group_size) for r in requests]
    results: list[Rollouts | None] = [None] * len(requests)
    for shape in sorted(set(shapes)):
        members = [index for index, found in enumerate(shapes) if found == shape]
        found = generate(
            transformer,
            layout.of_context(requests[members[0]].context),
            torch.stack([requests[i].context for i in members]),
            torch.stack([requests[i].bins for i in members]),
            group_size=shape[2],
            keys=torch.tensor([requests[i].key for i in members]),
            **options,
        )
        for row, index in enumerate(members):
            part = slice(row, row + 1)
            results[index] = dataclasses.replace(
                found, tokens=found.tokens[part], logprobs=found.logprobs[part]
            )
    return [result for result in results if result is not None]


@dataclass(frozen=True)
class _Job:
    """What does not change from window to window."""

    transformer: Transformer
    decoder: Decoder
    layout: Layout
    legal: Tensor | None
    drafts: bool
    max_cache_gb: float | None

    def window(self, context: Tensor, bins: Tensor, states: Tensor) -> Rollouts:
        """context (B, ...), states (B, G, frames, N) -> rollouts (B, G, frames, N), in parts."""
        size = self._contexts_at_a_time(states)
        parts = [
            self._decode(*part)
            for part in zip(*(x.split(size) for x in (context, bins, states)), strict=True)
        ]
        return joined(parts, dim=0)

    def _decode(self, context: Tensor, bins: Tensor, states: Tensor) -> Rollouts:
        layout, frames = self.layout, states.shape[2]
        c = layout.context_frames
        actions = layout.action_ids(bins[:, c : c + frames - 1])
        window = Window.after(layout, context, actions, states, self.legal)
        prompt = layout.prompt(context, bins)
        return decode_window(self.transformer, self.decoder, prompt, window, drafts=self.drafts)

    def _contexts_at_a_time(self, states: Tensor) -> int:
        """As many contexts as fit into the budget; UserError when not even one does."""
        if self.max_cache_gb is None:
            return len(states)
        config = self.transformer.config
        one = cache_bytes(
            layers=config.num_hidden_layers,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            prefix=self.layout.prompt_length,
            suffix=_capacity(self.layout, states.shape[2], self.drafts),
            group_size=states.shape[1],
            size=self.decoder.dtype.itemsize,
        )
        fit = int(self.max_cache_gb * GB // one)
        if not fit:
            raise UserError(
                f"One context with {states.shape[1]} rollouts needs {one / GB:.3g} GB of "
                f"key-value caches, more than max_cache_gb {self.max_cache_gb:g}; raise it or use "
                f"fewer rollouts."
            )
        return fit


def decode_window(
    transformer: Transformer, decoder: Decoder, prompt: Tensor, window: Window, *, drafts: bool
) -> Rollouts:
    """One window of all contexts at once: prompt (B, P) ids, prefilled once and shared."""
    G, frames = window.states.shape[1:3]
    device = prompt.device.type
    with torch.autocast(device, decoder.dtype, enabled=decoder.dtype != transformer.dtype):
        hidden, prefix = transformer.prefill(prompt)
    cache = GroupCache(
        _handed_over(prefix, decoder.dtype), G, _capacity(window.layout, frames, drafts)
    )
    last = hidden[:, None, -1:].to(decoder.dtype)
    cost = STEP_COSTS[device]
    rejecting = decoder.sampling.reject_repeats > 0
    if drafts and not rejecting and worth_drafting(window, cost):
        drafted = DraftedDecoding(decoder, cache, window, cost)
        tokens, logprobs = drafted.run(last)
        passes = drafted.passes / window.states.shape[:2].numel()
    else:
        tokens, logprobs, passes = decode_lockstep(decoder, cache, last, window)
    per_pass = max(window.length - 1, 1) / max(passes, 1)
    return Rollouts(tokens=tokens, logprobs=logprobs, tokens_per_pass=per_pass)


def _handed_over(
    prefix: MutableSequence[tuple[Tensor, Tensor]], dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values layer by layer, each let go as soon as the next is taken."""
    while prefix:
        k, v = prefix.pop(0)
        yield k.to(dtype), v.to(dtype)


def _capacity(layout: Layout, frames: int, drafts: bool) -> int:
    """Suffix tokens to make room for: the last token of the window is never fed."""
    return frames * layout.block - layout.action_dims - 1 + (SLACK if drafts else 0)


def joined(parts: Sequence[Rollouts], dim: int) -> Rollouts:
    """Rollouts of contexts (dim 0), or of windows of the same contexts (dim 2), as one."""
    sizes = [part.tokens.numel() for part in parts]
    passes = sum(n / part.tokens_per_pass for n, part in zip(sizes, parts, strict=True))
    return Rollouts(
        tokens=torch.cat([part.tokens for part in parts], dim=dim),
        logprobs=torch.cat([part.logprobs for part in parts], dim=dim),
        tokens_per_pass=sum(sizes) / passes,
    )
