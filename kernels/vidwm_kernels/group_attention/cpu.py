"""Group attention for CPUs, fp32: PyTorch's blocked softmax for either part, merged.

PyTorch's attention for CPUs keeps a block of scores in cache and gives the logarithm of each row's
sum of exponentials, so two parts are merged by one weight: sigmoid of the difference of the two.
Half precision is left to `reference.py`: parts would be rounded before they are merged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidwm_kernels.group_attention import reference


def group_attention(
    q: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    suffix_k: Tensor,
    suffix_v: Tensor,
    suffix_lengths: Tensor | int,
) -> Tensor:
    """The operation of the package's `__init__`; without gradients."""
    tensors = (q, prefix_k, prefix_v, suffix_k, suffix_v)
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if wanted or any(x.dtype != torch.float32 or x.stride(-1) != 1 for x in tensors):
        return reference.group_attention(*tensors, suffix_lengths)
    B, G, Tq, H, D = q.shape
    Hkv = prefix_k.shape[1]
    R = H // Hkv
    heads = q.unflatten(3, (Hkv, R))  # (B, G, Tq, Hkv, R, D)

    queries = heads.permute(0, 3, 1, 2, 4, 5).reshape(B, Hkv, G * Tq * R, D)
    out, log_sum = _attention(queries, prefix_k, prefix_v)
    shared = out.unflatten(2, (G, Tq * R)).transpose(1, 2)  # (B, G, Hkv, Tq*R, D)
    shared_log_sum = log_sum.unflatten(2, (G, Tq * R)).transpose(1, 2)

    queries = heads.permute(0, 1, 3, 2, 4, 5).reshape(B * G, Hkv, Tq * R, D)
    ragged = isinstance(suffix_lengths, Tensor)
    longest = int(suffix_lengths.max() if isinstance(suffix_lengths, Tensor) else suffix_lengths)
    keys, values = (x[..., :longest, :].flatten(0, 1) for x in (suffix_k, suffix_v))
    mask = None
    if ragged or Tq > 1:
        hidden = reference.hidden(suffix_lengths, longest, Tq, R, q)
        mask = q.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
        mask = mask.expand(B, G, 1, Tq * R, longest).flatten(0, 1)
    out, log_sum = _attention(queries, keys, values, mask)
    own, own_log_sum = (x.unflatten(0, (B, G)) for x in (out, log_sum))

    weight = torch.sigmoid(own_log_sum - shared_log_sum).unsqueeze(-1)
    merged = torch.lerp(shared, own, weight).unflatten(3, (Tq, R))
    return merged.transpose(2, 3).reshape(B, G, Tq, H, D)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention (B, H, T, D) and the log-sum-exp of its scores (B, H, T)."""
    out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, attn_mask=mask
    )
    return out, log_sum
