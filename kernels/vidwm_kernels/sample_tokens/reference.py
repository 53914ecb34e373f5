"""Sampling by an exponential race in plain PyTorch, fp32.

Id i arrives after -log(u_i) / p_i, and the first to arrive is i with probability p_i (Gumbel-max
with one logarithm less). Why not invert the cumulative distribution with one number? Other batch
sizes and the uncached twin compute logits that differ in the last bits. A race ends differently
only when its first two arrive that close together; of a cumulative sum every border moves, which
was measured to change some hundred times as many tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidwm_kernels.sample_tokens.counter import uniforms


def sample_tokens(
    logits: Tensor,
    states: Tensor,
    low: int,
    high: int,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor]:
    """The definition; contract in the package's `__init__`."""
    scores = logits[..., low:high].float()
    if temperature == 0:
        probabilities = scores.softmax(dim=-1)
        best = scores.argmax(dim=-1, keepdim=True)
    else:
        if temperature != 1:
            scores = scores / temperature
        if 0 < top_k < high - low:
            border = scores.topk(top_k, dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < border, float("-inf"))
        if top_p < 1:
            scores = _keep_nucleus(scores, top_p)
        probabilities = scores.softmax(dim=-1)
        waiting = uniforms(states, low, high).log_().neg_()
        best = torch.div(probabilities, waiting, out=waiting).argmax(dim=-1, keepdim=True)
    logprobs = probabilities.gather(-1, best).squeeze(-1).log()
    return best.squeeze(-1) + low, logprobs


def _keep_nucleus(scores: Tensor, mass: float) -> Tensor:
    """-inf for all but the fewest ids that together hold `mass`; equal scores: lower ids first."""
    ordered, ids = scores.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    dropped = torch.zeros_like(ids, dtype=torch.bool).scatter(-1, ids, before >= mass)
    return scores.masked_fill(dropped, float("-inf"))
