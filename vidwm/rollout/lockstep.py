"""Plain decoding: every rollout is one token further with every step.

A frame that repeats the one before it may be drawn anew (rejection sampling, RLVR-World, arXiv
2505.13934, section 5.3). Then all rollouts go through the frame again, so that they stay in step;
those that are content meet the same random numbers, and draw the same tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vidwm_kernels.sample_tokens import restated

from vidwm.rollout.decoder import Decoder
from vidwm.rollout.kv_cache import GroupCache
from vidwm.rollout.window import Window


def decode_lockstep(
    decoder: Decoder, cache: GroupCache, states: Tensor, window: Window
) -> tuple[Tensor, Tensor, int]:
    """Tokens and logprobs, both (B, G, frames, N); states (B, 1, 1, D) are the context's last.

    An action is given, so it rides in the same step as the frame's last token. And the number of
    passes through the transformer, those of frames drawn anew among them.
    """
    G, frames = window.states.shape[1:3]
    retries = decoder.sampling.reject_repeats
    tokens = torch.empty_like(window.states)
    logprobs = torch.empty(window.states.shape, device=window.states.device)
    previous = window.previous[:, None].expand(-1, G, -1)
    opening, passes = None, 0
    for frame in range(frames):
        randomness, start = window.states[:, :, frame], cache.length
        for attempt in range(1 + retries):
            cache.length = start
            found = _frame(decoder, cache, states, opening, randomness, window)
            tokens[:, :, frame], logprobs[:, :, frame] = found
            passes += found[0].shape[2] - (opening is None)  # the context's states are there
            if attempt == retries:
                break
            repeated = (found[0] == previous).all(dim=-1, keepdim=True)
            if not repeated.any():
                break
            randomness = torch.where(repeated, restated(randomness, attempt + 1), randomness)
        previous = tokens[:, :, frame]
        if frame < frames - 1:
            actions = window.actions[:, None, frame].expand(-1, G, -1)
            opening = torch.cat([previous[..., -1:], actions], dim=2)
    return tokens, logprobs, passes


def _frame(
    decoder: Decoder,
    cache: GroupCache,
    states: Tensor,
    opening: Tensor | None,
    randomness: Tensor,
    window: Window,
) -> tuple[Tensor, Tensor]:
    """Tokens and logprobs (B, G, N) of one frame; opening: what is fed before it, after a frame."""
    tokens = torch.empty_like(randomness)
    logprobs = torch.empty(randomness.shape, device=randomness.device)
    fed = opening
    for place in range(randomness.shape[2]):
        drawing = (randomness[:, :, place, None], window.legal_at(place))
        if fed is None:
            drawn = decoder.draw(states.expand(-1, len(randomness[0]), -1, -1), *drawing)
        else:
            drawn = decoder.step(fed, cache, *drawing)
            cache.length += fed.shape[2]
        fed = drawn.tokens[:, :, -1:]
        tokens[:, :, place], logprobs[:, :, place] = fed[..., 0], drawn.logprobs[:, :, -1]
    return tokens, logprobs
