"""How likely a model finds given futures: the differentiable counterpart of the sampler.

Same distribution as `vidwm.rollout.engine` samples from without top-k and top-p: softmax over
visual ids at a temperature. A context is computed once for its G futures, and the LM head runs only
where tokens of predicted frames are predicted, only for ids that are legal there.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vidwm.world_model.layout import Layout
from vidwm.world_model.transformer import Transformer


def sequence_logprobs(
    transformer: Transformer,
    layout: Layout,
    tokens: Tensor,
    context: Tensor,
    bins: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    micro_batch: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of every predicted token given all before it, and the entropy there.

    tokens (B, G, h, N) of at most the layout's frames, context (B, ...), bins (B, >= c + h - 1, A)
    -> logprobs, entropy (both (B, G, h, N) float32, nats). Only logprobs carry a gradient.
    Temperature 0 counts as 1, as in the sampler; as a tensor () it can be learned. `micro_batch`
    contexts are computed at a time (None = all), which bounds memory only without gradients; with
    them, call this on parts and run backward on each.
    """
    size = micro_batch or len(tokens)
    if not isinstance(temperature, Tensor):
        temperature = temperature or 1.0
    logprobs, entropy = [], []
    for start in range(0, len(tokens), size):
        part = slice(start, start + size)
        values = _group_logprobs(
            transformer, layout, tokens[part], context[part], bins[part], temperature
        )
        logprobs.append(values[0])
        entropy.append(values[1])
    return torch.cat(logprobs), torch.cat(entropy)


def _group_logprobs(
    transformer: Transformer,
    layout: Layout,
    tokens: Tensor,
    context: Tensor,
    bins: Tensor,
    temperature: float | Tensor,
) -> tuple[Tensor, Tensor]:
    B, G, h = tokens.shape[:3]
    layout = dataclasses.replace(layout, horizon=min(h, layout.horizon))
    future = layout.future(tokens.flatten(0, 1), bins.repeat_interleave(G, dim=0))
    before, prefix = transformer.prefill(layout.prompt(context, bins))
    # The last token of the sequence predicts nothing that counts, so it is not fed.
    hidden = transformer.continue_group(future[:, :-1].unflatten(0, (B, G)), prefix)
    hidden = torch.cat([before[:, None, -1:].expand(-1, G, -1, -1), hidden], dim=2)
    places = (layout.logit_positions() - (layout.prompt_length - 1)).to(hidden.device)
    logits = transformer.head(hidden[:, :, places], slice(0, layout.codebook_size))
    logprobs = (logits.float() / temperature).log_softmax(dim=-1)
    chosen = logprobs.gather(-1, tokens.flatten(2)[..., None]).view(tokens.shape)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1).view(tokens.shape)
    return chosen, entropy
