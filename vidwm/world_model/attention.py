"""Rotary positions, and the ways in which tokens attend during training.

Decoding attends through `vidwm_kernels.group_attention` (`vidwm.rollout.decoder`); these are the
differentiable ways, both on PyTorch's fused attention. On a CPU they compute in fp32 even under
autocast: the bf16 backward pass is slower there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

# (layer, q, k, v), each (..., L, heads, head_dim) -> (..., L, heads, head_dim)
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
# Keys and values of every layer, each (B, kv heads, P, head_dim)
Prefix = Sequence[tuple[Tensor, Tensor]]


def rope_frequencies(head_dim: int, theta: float) -> Tensor:
    """Radians per position of each rotated pair, (head_dim / 2,) float32."""
    return theta ** -(torch.arange(0, head_dim, 2).float() / head_dim)


def rope_tables(head_dim: int, positions: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, each (positions, head_dim) float32, both halves alike (Llama's order)."""
    angles = torch.arange(positions).float()[:, None] * rope_frequencies(head_dim, theta)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of x (..., L, heads, head_dim), in fp32."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x * cos + turned * sin).to(x.dtype)


def causal_attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every position attends to itself and those before it; q, k, v (B, L, heads, head_dim)."""
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return _attention(q, k, v, is_causal=True).transpose(1, 2)


def recording(attend: Attend, prefix: list[tuple[Tensor, Tensor]]) -> Attend:
    """The same attention, which also appends each layer's keys and values to `prefix`."""

    def attend_and_record(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        prefix.append((k.transpose(1, 2), v.transpose(1, 2)))
        return attend(layer, q, k, v)

    return attend_and_record


def continuing(prefix: Prefix) -> Attend:
    """Causal attention of G continuations (B, G, L, ...) that also see their context's prefix.

    The prefix is computed once per context, gradients included, and only its keys and values are
    laid out once per rollout. That copy costs less than a merge of two attentions.
    """

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        B, G, L = q.shape[:3]
        q, k, v = (part.transpose(2, 3) for part in (q, k, v))  # (B, G, heads, L, D)
        before = [part[:, None].expand(-1, G, -1, -1, -1) for part in prefix[layer]]
        keys, values = torch.cat([before[0], k], dim=3), torch.cat([before[1], v], dim=3)
        allowed = torch.ones(L, keys.shape[3], dtype=torch.bool, device=q.device)
        allowed = allowed.tril(keys.shape[3] - L)
        q, keys, values = (part.flatten(0, 1) for part in (q, keys, values))
        out = _attention(q, keys, values, attn_mask=allowed)
        return out.unflatten(0, (B, G)).transpose(2, 3)

    return attend


def _attention(
    q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool = False, attn_mask: Tensor | None = None
) -> Tensor:
    attention = partial(
        F.scaled_dot_product_attention,
        attn_mask=attn_mask,
        is_causal=is_causal,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    if q.device.type != "cpu":
        return attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return attention(q.float(), k.float(), v.float()).to(q.dtype)
