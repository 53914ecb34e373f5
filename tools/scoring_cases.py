"""The shapes that scoring kernels are inspected and timed at: parts of the released RT-1 models.

One context of 8 rollouts and its true frame. The interpreter counts bytes at a quarter of the
frames' 256 x 320 pixels, which changes no ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from case import Case
from torch import Tensor
from vidwm_kernels.lpips_distance import unit

G = 8
# Width, height and width of the maps of VGG16's five stages at 128 x 160.
VGG16 = ((64, 128, 160), (128, 64, 80), (256, 32, 40), (512, 16, 20), (512, 8, 10))


def scoring_cases() -> Iterator[Case]:
    """All of them."""
    yield _embed_codes(tokens=320, codes=4375, width=64)
    yield _group_norm_silu(128, 64, 80)
    yield _group_norm_silu(768, 16, 20)
    yield _lpips_distance()
    yield _pixel_errors(128, 160)


def _embed_codes(tokens: int, codes: int, width: int) -> Case:
    def make(dtype: torch.dtype, device: str) -> dict[str, Any]:
        ids = torch.randint(codes, (G, tokens), device=device)
        return {"tokens": ids, "table": torch.randn(codes, width, device=device).to(dtype)}

    def moved(t: dict[str, Any]) -> int:
        rows = G * tokens + len(t["tokens"].unique())
        return _size(t["tokens"]) + rows * width * t["table"].element_size()

    return Case(op="embed_codes", variant=f"{codes}x{width}", make=make, moved=moved, flops=0)


def _group_norm_silu(C: int, h: int, w: int) -> Case:
    def make(dtype: torch.dtype, device: str) -> dict[str, Any]:
        x = torch.randn(2, C, h, w, device=device).to(dtype)
        affine = torch.randn(2, C, device=device).to(dtype)
        return {
            "x": x.contiguous(memory_format=torch.channels_last),
            **{"weight": affine[0], "bias": affine[1], "groups": 32},
        }

    return Case(
        op="group_norm_silu",
        variant=f"{C}x{h}x{w}",
        make=make,
        settings={"eps": 1e-6},
        # Read for the statistics, read again, written: a level's maps exceed what a chip holds.
        moved=lambda t: 3 * _size(t["x"]),
        flops=2 * C * h * w * 12,
    )


def _lpips_distance() -> Case:
    def make(dtype: torch.dtype, device: str) -> dict[str, Any]:
        last = torch.channels_last
        pred = [torch.randn(G, *s, device=device).to(dtype) for s in VGG16]
        true = [unit(torch.randn(1, *s, device=device)) for s in VGG16]
        return {
            "pred": [a.contiguous(memory_format=last) for a in pred],
            "true": [b.contiguous(memory_format=last) for b in true],
            "heads": [torch.rand(s[0], device=device) for s in VGG16],
            "index": torch.zeros(G, dtype=torch.int64, device=device),
        }

    return Case(
        op="lpips_distance",
        variant="vgg16",
        make=make,
        moved=lambda t: sum(_size(x) for name in ("pred", "true") for x in t[name]),
        flops=G * sum(c * h * w for c, h, w in VGG16) * 7,
    )


def _pixel_errors(H: int, W: int) -> Case:
    def make(dtype: torch.dtype, device: str) -> dict[str, Any]:
        pred = torch.rand(G, 3, H, W, device=device).to(dtype)
        return {
            "pred": pred.contiguous(memory_format=torch.channels_last),
            "true": torch.rand(1, 3, H, W, device=device).to(dtype),
            "index": torch.zeros(G, dtype=torch.int64, device=device),
        }

    return Case(
        op="pixel_errors",
        variant=f"{H}x{W}",
        make=make,
        settings={"with_ssim": True},
        moved=lambda t: _size(t["pred"]) + _size(t["true"]),
        # Two products with a band of 11 taps for each of four means.
        flops=G * 3 * H * W * 4 * 2 * 2 * 11,
    )


def _size(x: Tensor) -> int:
    return x.numel() * x.element_size()
