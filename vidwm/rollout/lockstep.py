"""Plain decoding: every rollout is one token further with every step."""

from __future__ import annotations

import torch
from torch import Tensor

from vidwm.rollout.decoder import Decoder
from vidwm.rollout.kv_cache import GroupCache
from vidwm.rollout.window import Window


def decode_lockstep(
    decoder: Decoder, cache: GroupCache, states: Tensor, window: Window
) -> tuple[Tensor, Tensor]:
    """Tokens and logprobs, both (B, G, frames, N); states (B, 1, 1, D) are the context's last.

    An action is given, so it rides in the same step as the frame's last token.
    """
    G, frames, N = window.states.shape[1:]
    tokens = torch.empty_like(window.states)
    logprobs = torch.empty(window.states.shape, device=window.states.device)
    drawn = decoder.draw(
        states.expand(-1, G, -1, -1), window.states[:, :, 0, :1], window.legal_at(0)
    )
    for frame in range(frames):
        for place in range(N):
            newest = drawn.tokens[:, :, -1:]
            tokens[:, :, frame, place] = newest[..., 0]
            logprobs[:, :, frame, place] = drawn.logprobs[:, :, -1]
            fed, following = newest, (frame, place + 1)
            if place == N - 1:
                if frame == frames - 1:
                    break
                actions = window.actions[:, None, frame].expand(-1, G, -1)
                fed, following = torch.cat([newest, actions], dim=2), (frame + 1, 0)
            randomness = window.states[:, :, following[0], following[1], None]
            drawn = decoder.step(fed, cache, randomness, window.legal_at(following[1]))
            cache.length += fed.shape[2]
    return tokens, logprobs
