"""Decoding attention of G rollouts that share one context.

out = softmax(q [prefix_k, suffix_k]^T / sqrt(D)) [prefix_v, suffix_v], where all G rollouts of a
context read the same prefix, stored once. The newest Tq positions of the suffix belong to the
queries themselves, which are causal among each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidwm_kernels.dispatch import pick
from vidwm_kernels.group_attention import reference

IMPLEMENTATIONS = {"reference": reference.group_attention}


def group_attention(
    q: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    suffix_k: Tensor,
    suffix_v: Tensor,
    suffix_length: int,
) -> Tensor:
    """Attend to the whole prefix and to the first `suffix_length` positions of the suffix.

    q (B, G, Tq, H, D); prefix_k, prefix_v (B, Hkv, P, D); suffix_k, suffix_v (B, G, Hkv, S, D)
    -> (B, G, Tq, H, D) in the dtype of q. Query t sees suffix positions up to
    suffix_length - Tq + t; what lies beyond suffix_length is never read. Query head h uses key head
    h // (H / Hkv). fp32 inside, also under autocast. ValueError on shapes that do not fit.
    """
    B, G, Tq, H, D = q.shape
    Hkv, P = prefix_k.shape[1:3]
    S = suffix_k.shape[3]
    fits = (
        prefix_k.shape == prefix_v.shape == (B, Hkv, P, D)
        and suffix_k.shape == suffix_v.shape == (B, G, Hkv, S, D)
        and H % Hkv == 0
        and P > 0
    )
    if not fits:
        shapes = [tuple(x.shape) for x in (q, prefix_k, prefix_v, suffix_k, suffix_v)]
        raise ValueError(
            f"expected q (B, G, Tq, H, D), prefix (B, Hkv, P, D) twice and suffix "
            f"(B, G, Hkv, S, D) twice with P > 0 and H a multiple of Hkv, got {shapes}"
        )
    if not 0 < Tq <= suffix_length <= S:
        raise ValueError(
            f"suffix_length {suffix_length} must lie between Tq = {Tq} (at least 1) and S = {S}"
        )
    implementation = pick("group_attention", IMPLEMENTATIONS)
    with torch.autocast(q.device.type, enabled=False):
        return implementation(q, prefix_k, prefix_v, suffix_k, suffix_v, suffix_length)
