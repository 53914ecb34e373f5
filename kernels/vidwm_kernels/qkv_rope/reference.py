"""Norm, projections, rotary positions and cache in plain PyTorch, fp32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vidwm_kernels.linear import linear


def qkv_rope(
    x: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    starts: Tensor | int,
    slots: Tensor | int,
    suffix_k: Tensor,
    suffix_v: Tensor,
    *,
    eps: float,
) -> Tensor:
    """The definition; contract in the package's `__init__`."""
    T, Hkv, Dh = x.shape[2], suffix_k.shape[2], suffix_k.shape[4]
    normed = F.rms_norm(x.float(), norm_weight.shape, norm_weight.float(), eps)
    heads = linear(normed, weight).unflatten(-1, (-1, Dh))  # (B, G, T, H + 2 Hkv, Dh)
    turning, v = heads.split([heads.shape[3] - Hkv, Hkv], dim=3)

    positions = _following(starts, T)
    tables = cos[positions].unsqueeze(-2), sin[positions].unsqueeze(-2)  # ([B, G,] T, 1, Dh)
    q, k = _rotate(turning, *tables).split([turning.shape[3] - Hkv, Hkv], dim=3)
    _write(suffix_k, k, slots)
    _write(suffix_v, v, slots)
    return q.to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([-second, first], dim=-1), sin)


def _write(cache: Tensor, new: Tensor, slots: Tensor | int) -> None:
    """New (B, G, T, Hkv, Dh) into cache (B, G, Hkv, S, Dh)."""
    B, G, T = new.shape[:3]
    new = new.to(cache.dtype)
    if isinstance(slots, Tensor):
        contexts = torch.arange(B, device=cache.device)[:, None, None]
        rollouts = torch.arange(G, device=cache.device)[:, None]
        cache[contexts, rollouts, :, _following(slots, T)] = new
    else:
        cache[..., slots : slots + T, :] = new.transpose(2, 3)


def _following(first: Tensor | int, T: int) -> Tensor | slice:
    """The T places from `first` (B, G) on: an index (B, G, T), or a slice where it is a number."""
    if isinstance(first, Tensor):
        return first.long()[..., None] + torch.arange(T, device=first.device)
    return slice(first, first + T)
