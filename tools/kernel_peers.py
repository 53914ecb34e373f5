"""The operations as one would write them with PyTorch's own: what kernels are timed against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Any]


def group_attention(t: Tensors) -> Tensor:
    q, length = t["q"], int(t["suffix_lengths"].max())
    keys, values = (
        torch.cat(
            [
                t[f"prefix_{x}"][:, None].expand(-1, q.shape[1], -1, -1, -1),
                t[f"suffix_{x}"][..., :length, :],
            ],
            dim=3,
        ).flatten(0, 1)
        for x in "kv"
    )
    new, seen = q.shape[2], keys.shape[2]
    mask = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril(seen - new)
    queries = q.flatten(0, 1).transpose(1, 2)
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return out.transpose(1, 2).unflatten(0, q.shape[:2])


def qkv_rope(t: Tensors) -> Tensor:
    x, T, head = t["x"], t["x"].shape[2], t["suffix_k"].shape[4]
    normed = F.rms_norm(x, t["norm_weight"].shape, t["norm_weight"], 1e-6)
    heads = F.linear(normed, t["weight"]).unflatten(-1, (-1, head))
    kv = t["suffix_k"].shape[2]
    q, k, v = heads.split([heads.shape[3] - 2 * kv, kv, kv], dim=3)
    start, slot = int(t["starts"].max()), int(t["slots"].max())
    tables = [t[name][start : start + T, None].to(x.dtype) for name in ("cos", "sin")]

    def turned(y: Tensor) -> Tensor:
        first, second = y.chunk(2, dim=-1)
        return y * tables[0] + torch.cat([-second, first], dim=-1) * tables[1]

    t["suffix_k"][..., slot : slot + T, :] = turned(k).transpose(2, 3)
    t["suffix_v"][..., slot : slot + T, :] = v.transpose(2, 3)
    return turned(q)


def gate_up(t: Tensors) -> Tensor:
    normed = F.rms_norm(t["x"], t["norm_weight"].shape, t["norm_weight"], 1e-6)
    gate, up = F.linear(normed, t["weight"]).chunk(2, dim=-1)
    return F.silu(gate) * up


def add_linear(t: Tensors) -> Tensor:
    return t["residual"] + F.linear(t["x"], t["weight"])


def sample_tokens(t: Tensors) -> tuple[Tensor, Tensor]:
    normed = F.rms_norm(t["hidden"], t["norm_weight"].shape, t["norm_weight"], 1e-6)
    probabilities = F.linear(normed, t["head"]).float().softmax(dim=-1)
    tokens = torch.multinomial(probabilities, 1)
    return tokens, probabilities.gather(-1, tokens).log()


def embed_codes(t: Tensors) -> Tensor:
    return F.embedding(t["tokens"], t["table"])


def group_norm_silu(t: Tensors) -> Tensor:
    return F.silu(F.group_norm(t["x"], t["groups"], t["weight"], t["bias"], 1e-6))


def lpips_distance(t: Tensors) -> Tensor:
    total = torch.zeros(len(t["index"]), device=t["index"].device)
    for a, b, head in zip(t["pred"], t["true"], t["heads"], strict=True):
        difference = (F.normalize(a.float(), dim=1) - b[t["index"]]).square()
        total += F.conv2d(difference, head.view(1, -1, 1, 1)).mean(dim=(1, 2, 3))
    return total


def pixel_errors(t: Tensors) -> tuple[Tensor, ...]:
    a, b = t["pred"].float().clamp(0, 1), t["true"].float()[t["index"]]
    taps = torch.exp(-(torch.arange(11.0, device=a.device) - 5).square() / 4.5)
    window = (torch.outer(taps, taps) / taps.sum() ** 2).expand(3, 1, 11, 11)
    planes = F.conv2d(torch.cat([a, b, a * a, b * b, a * b]), window, groups=3)
    x, y, xx, yy, xy = planes.chunk(5)
    luminance = (2 * x * y + 1e-4) / (x * x + y * y + 1e-4)
    structure = (2 * (xy - x * y) + 9e-4) / (xx - x * x + yy - y * y + 9e-4)
    error = a - b
    scores = error.abs(), error.square(), luminance * structure
    return tuple(score.mean(dim=(1, 2, 3)) for score in scores)


PYTORCH: dict[str, Callable[[Tensors], Any]] = {
    f.__name__: f
    for f in (
        *(group_attention, qkv_rope, gate_up, add_linear, sample_tokens),
        *(embed_codes, group_norm_silu, lpips_distance, pixel_errors),
    )
}
