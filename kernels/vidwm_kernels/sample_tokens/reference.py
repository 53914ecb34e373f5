"""Inverse-CDF sampling in plain PyTorch: the smallest id whose cumulative probability exceeds u.

In float64, because a row is drawn again by other code paths (other batch sizes, the uncached twin)
whose logits differ in the last bits: the id changes when u falls between the two versions of a
cumulative probability, and rounding fp32 sums over a thousand ids makes that many times likelier.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample_tokens(
    logits: Tensor, uniforms: Tensor, *, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor]:
    """The definition over ids that are all legal; contract in the package's `__init__`."""
    scores = logits.double()
    if temperature == 0:
        probabilities = scores.softmax(dim=-1)
        tokens = scores.argmax(dim=-1)
    else:
        scores = scores / temperature
        if 0 < top_k < scores.shape[-1]:
            border = scores.topk(top_k, dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < border, float("-inf"))
        if top_p < 1:
            scores = _keep_nucleus(scores, top_p)
        probabilities = scores.softmax(dim=-1)
        cumulative = probabilities.cumsum(dim=-1)
        # u < 1, so the scaled number stays below the total whatever that was rounded to.
        target = uniforms.double()[..., None] * cumulative[..., -1:]
        tokens = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    chosen = probabilities.gather(-1, tokens[..., None]).squeeze(-1)
    return tokens, chosen.log().float()


def _keep_nucleus(scores: Tensor, mass: float) -> Tensor:
    """-inf for all but the fewest ids that together hold `mass`; equal scores: lower ids first."""
    ordered, ids = scores.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    dropped = torch.zeros_like(ids, dtype=torch.bool).scatter(-1, ids, before >= mass)
    return scores.masked_fill(dropped, float("-inf"))
