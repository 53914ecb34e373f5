"""Group attention in plain PyTorch, fp32: two softmax parts, merged by their log-sum-exp.

The G * Tq queries of a context meet its prefix in one matrix product per key head; the suffixes,
which differ, are one batched product. Each part keeps its maximum m, its sum of exponentials and
its unnormalised output, so the merge is exact: rescale both by exp(m - max of both), add, divide.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_attention(
    q: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    suffix_k: Tensor,
    suffix_v: Tensor,
    suffix_lengths: Tensor | int,
) -> Tensor:
    """The definition; contract in the package's `__init__`."""
    with torch.autocast(q.device.type, enabled=False):
        return _group_attention(q, prefix_k, prefix_v, suffix_k, suffix_v, suffix_lengths)


def _group_attention(
    q: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    suffix_k: Tensor,
    suffix_v: Tensor,
    suffix_lengths: Tensor | int,
) -> Tensor:
    _, G, Tq, H, D = q.shape
    Hkv = prefix_k.shape[1]
    R = H // Hkv
    heads = (q.float() * D**-0.5).unflatten(3, (Hkv, R))  # (B, G, Tq, Hkv, R, D)

    queries = heads.permute(0, 3, 1, 2, 4, 5).flatten(2, 4)  # (B, Hkv, G*Tq*R, D)
    scores = _scores(queries, prefix_k.float())
    shared = [
        part.unflatten(2, (G, Tq, -1)).permute(0, 2, 1, 3, 4, 5)  # (B, G, Hkv, Tq, R, .)
        for part in _softmax_part(scores, prefix_v.float())
    ]

    queries = heads.permute(0, 1, 3, 2, 4, 5).flatten(3, 4)  # (B, G, Hkv, Tq*R, D)
    ragged = isinstance(suffix_lengths, Tensor)
    longest = int(suffix_lengths.max() if isinstance(suffix_lengths, Tensor) else suffix_lengths)
    scores = _scores(queries, suffix_k[..., :longest, :].float())
    if ragged or Tq > 1:
        scores = scores.masked_fill(hidden(suffix_lengths, longest, Tq, R, q), float("-inf"))
    own = [
        part.unflatten(3, (Tq, -1))
        for part in _softmax_part(scores, suffix_v[..., :longest, :].float())
    ]

    out = _merge(shared, own)  # (B, G, Hkv, Tq, R, D)
    return out.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).to(q.dtype)


def hidden(lengths: Tensor | int, longest: int, Tq: int, R: int, q: Tensor) -> Tensor:
    """Which of `longest` suffix positions a query may not see: ([B, G, 1,] Tq * R, longest)."""
    later = torch.arange(Tq, device=q.device).repeat_interleave(R)[:, None]
    first = lengths[..., None, None, None] if isinstance(lengths, Tensor) else lengths
    return torch.arange(longest, device=q.device) > first - Tq + later


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    if queries.shape[-2] == 1:
        # One query is a matrix-vector product, which CPUs do faster this way round.
        return (keys @ queries.mT).mT
    return queries @ keys.mT


def _softmax_part(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum, sum of exponentials and unnormalised output of one part of the keys."""
    # The result does not depend on the maximum that is subtracted, so no gradient flows into it.
    maximum = scores.detach().amax(dim=-1, keepdim=True)
    weights = (scores - maximum).exp()
    return maximum, weights.sum(dim=-1, keepdim=True), weights @ values


def _merge(first: list[Tensor], second: list[Tensor]) -> Tensor:
    maximum = torch.maximum(first[0], second[0])
    a, b = (first[0] - maximum).exp(), (second[0] - maximum).exp()
    return (first[2] * a + second[2] * b) / (first[1] * a + second[1] * b)
