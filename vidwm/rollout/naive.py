"""The uncached twin of the rollout engine: the definition that the engine is tested against.

One rollout at a time, the whole sequence through the transformer again for every token, nothing
shared, nothing kept. Far too slow to use.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vidwm_kernels.sample_tokens import sample_tokens

from vidwm.rollout.engine import Rollouts
from vidwm.rollout.request import check_request
from vidwm.rollout.sampling import Sampling, random_states
from vidwm.world_model.layout import Layout
from vidwm.world_model.transformer import Transformer


@torch.no_grad()
def generate_naive(
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
    legal: Tensor | None = None,
) -> Rollouts:
    """What `vidwm.rollout.engine.generate` returns, from the same arguments."""
    horizon = layout.horizon if horizon is None else horizon
    check_request(transformer, layout, prompt_tokens, bins, group_size, keys, horizon, legal)
    states = random_states(layout, keys, group_size, sampling, horizon, first_rollout)
    tokens = torch.empty_like(states)
    logprobs = torch.empty(states.shape)
    for b in range(len(keys)):
        for g in range(group_size):
            frames = list(prompt_tokens[b])
            for frame in range(horizon):
                start = frame - frame % layout.horizon
                drawn: list[Tensor] = []
                for place in range(layout.tokens_per_frame):
                    ids = _sequence(layout, frames[start:], bins[b, start:], drawn)
                    found = sample_tokens(
                        transformer.hidden(ids[None])[0, -1],
                        transformer.model.norm.weight,
                        transformer.lm_head.weight[: layout.codebook_size],
                        states[b, g, frame, place],
                        eps=transformer.model.norm.eps,
                        temperature=sampling.temperature,
                        top_k=sampling.top_k,
                        top_p=sampling.top_p,
                        min_p=sampling.min_p,
                        legal=legal if legal is None or legal.ndim == 1 else legal[place],
                    )
                    logprobs[b, g, frame, place] = found.logprobs
                    drawn.append(found.tokens)
                frames.append(torch.stack(drawn))
            tokens[b, g] = torch.stack(frames[-horizon:])
    return Rollouts(tokens=tokens, logprobs=logprobs, tokens_per_pass=1.0)


def _sequence(layout: Layout, frames: list[Tensor], bins: Tensor, drawn: list[Tensor]) -> Tensor:
    """All ids so far: whole frames with their actions, bos after the context, the tokens drawn."""
    pieces: list[Tensor] = []
    for index, tokens in enumerate(frames):
        pieces += [tokens, layout.action_ids(bins[index])]
        if index == layout.context_frames - 1:
            pieces.append(torch.tensor([layout.bos]))
    pieces += [token[None] for token in drawn]
    return torch.cat(pieces)
