"""The uncached twin of the rollout engine: the definition that the engine is tested against.

One rollout at a time, the whole sequence through the transformer again for every token, nothing
shared, nothing kept. Far too slow to use.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vidwm_kernels.sample_tokens import restated, sample_tokens

from vidwm.rollout.engine import Rollouts
from vidwm.rollout.request import check_request
from vidwm.rollout.sampling import Sampling, random_states
from vidwm.world_model.layout import Layout
from vidwm.world_model.transformer import Transformer


@torch.no_grad()
def generate_naive(
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
) -> Rollouts:
    """What `vidwm.rollout.engine.generate` returns, from the same arguments."""
    horizon = layout.horizon if horizon is None else horizon
    check_request(transformer, layout, context, bins, group_size, keys, horizon, legal)
    states = random_states(layout, keys, group_size, sampling, horizon, first_rollout)
    tokens = torch.empty_like(states)
    logprobs = torch.empty(states.shape)
    for b in range(len(keys)):
        for g in range(group_size):
            past = context[b : b + 1]
            for frame in range(horizon):
                if frame % layout.horizon == 0:
                    before = layout.prompt(past, bins[b : b + 1, frame:])[0]
                else:
                    action = layout.action_ids(bins[b, layout.context_frames + frame - 1])
                    before = torch.cat([before, tokens[b, g, frame - 1], action])
                last = tokens[b, g, frame - 1] if frame else layout.last_frame(past)[0]
                randomness = states[b, g, frame]
                for attempt in range(1 + sampling.reject_repeats):
                    found = _frame(transformer, layout, before, randomness, sampling, legal)
                    tokens[b, g, frame], logprobs[b, g, frame] = found
                    if not torch.equal(found[0], last):
                        break
                    randomness = restated(randomness, attempt + 1)
                past = layout.advanced(past, tokens[b : b + 1, g, frame, None])
    return Rollouts(tokens=tokens, logprobs=logprobs, tokens_per_pass=1.0)


def _frame(
    transformer: Transformer,
    layout: Layout,
    before: Tensor,
    randomness: Tensor,
    sampling: Sampling,
    legal: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Tokens and logprobs (N,) of the frame after ids `before`."""
    drawn: list[Tensor] = []
    logprobs: list[Tensor] = []
    for place in range(layout.tokens_per_frame):
        ids = torch.cat([before, *drawn])
        found = sample_tokens(
            transformer.hidden(ids[None])[0, -1],
            transformer.model.norm.weight,
            transformer.lm_head.weight[: layout.codebook_size],
            randomness[place],
            eps=transformer.model.norm.eps,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            legal=legal if legal is None or legal.ndim == 1 else legal[place],
        )
        drawn.append(found.tokens[None])
        logprobs.append(found.logprobs)
    return torch.cat(drawn), torch.stack(logprobs)
