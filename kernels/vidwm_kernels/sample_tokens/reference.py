"""Sampling by an exponential race in plain PyTorch, fp32.

Id i arrives after -log(u_i) / p_i, and the first to arrive is i with probability p_i (Gumbel-max
with one logarithm less). Why not invert the cumulative distribution with one number? Other batch
sizes and the uncached twin compute logits that differ in the last bits. A race ends differently
only when its first two arrive that close together; of a cumulative sum every border moves, which
was measured to change some hundred times as many tokens.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vidwm_kernels.linear import linear
from vidwm_kernels.sample_tokens import Drawn
from vidwm_kernels.sample_tokens.counter import uniforms


def sample_tokens(
    hidden: Tensor,
    norm_weight: Tensor,
    head: Tensor,
    states: Tensor,
    *,
    eps: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    legal: Tensor | None,
    with_entropy: bool,
) -> Drawn:
    """The definition; contract in the package's `__init__`."""
    normed = F.rms_norm(hidden.float(), norm_weight.shape, norm_weight.float(), eps)
    return sample_from_logits(
        linear(normed, head),
        states,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        legal=legal,
        with_entropy=with_entropy,
    )


def sample_from_logits(
    logits: Tensor,
    states: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    legal: Tensor | None = None,
    with_entropy: bool = False,
) -> Drawn:
    """The part after the LM head: logits (..., V), the rest as in `sample_tokens`, unchecked."""
    scores = logits.float()
    if legal is not None:
        scores = scores.masked_fill(~legal, float("-inf"))
    if temperature == 0:
        probabilities = scores.softmax(dim=-1)
        best = scores.max(dim=-1, keepdim=True).indices
    else:
        if temperature != 1:
            scores = scores / temperature
        probabilities = _filtered(scores, top_k, top_p, min_p).softmax(dim=-1)
        # All is divided by log u, not by -log u: the first to arrive is then the smallest, and one
        # pass over V is saved. On CPUs min(dim) is also twice as fast as argmin.
        race = uniforms(states, 0, logits.shape[-1]).log_()
        torch.div(probabilities, race, out=race)
        best = race.min(dim=-1, keepdim=True).indices
    logprobs = probabilities.gather(-1, best).squeeze(-1).log()
    tokens = best.squeeze(-1).masked_fill_(logprobs.isnan(), -1)
    entropy = torch.special.entr(probabilities).sum(dim=-1) if with_entropy else None
    return Drawn(tokens, logprobs, entropy)


def _filtered(scores: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Scores with -inf below the three thresholds."""
    if 0 < top_k < scores.shape[-1]:
        kth = scores.topk(top_k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < kth, float("-inf"))
    if top_p < 1:
        scores = scores.masked_fill(scores < _nucleus_border(scores, top_p), float("-inf"))
    if min_p > 0:
        border = scores.amax(dim=-1, keepdim=True) + math.log(min_p)
        scores = scores.masked_fill(scores < border, float("-inf"))
    return scores


def _nucleus_border(scores: Tensor, mass: float) -> Tensor:
    """The largest score such that it and all above hold `mass` of the distribution: (..., 1)."""
    ordered = scores.sort(dim=-1, descending=True).values
    held = ordered.softmax(dim=-1).cumsum(dim=-1)
    # The last entry is the whole mass as these roundings give it, so the border always exists.
    index = (held < mass * held[..., -1:]).sum(dim=-1, keepdim=True)
    return ordered.gather(-1, index)
