"""The shapes that kernels are inspected and timed at: those of the released RT-1 models.

Decode steps are here, scoring is in `scoring_cases.py`.

Single-step: context 1333 tokens, up to 320 more; multi-step: 1373, up to 651 more. Both: hidden
768, MLP 3072, 12 heads of 64, 4375 visual ids. One context of 16 rollouts (`x16`), eight (`x128`),
and a drafted block of 8 tokens (`draft`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from case import Case
from scoring_cases import scoring_cases
from torch import Tensor

D, F, H, HEAD, V = 768, 3072, 12, 64, 4375
PREFIX, SUFFIX = 1373, 651
POSITIONS = 8192


def cases() -> Iterator[Case]:
    """All of them."""
    for variant, B, T in (("x16", 1, 1), ("x128", 8, 1), ("draft", 1, 8)):
        yield from _layer(variant, B, 16, T)
    yield from scoring_cases()


def _layer(variant: str, B: int, G: int, T: int) -> Iterator[Case]:
    R = B * G * T

    def randn(*shape: int) -> Callable[[torch.dtype, str], Tensor]:
        return lambda dtype, device: torch.randn(shape, device=device).to(dtype)

    def places(value: int) -> Callable[[torch.dtype, str], Tensor]:
        return lambda _, device: torch.full((B, G), value, dtype=torch.int64, device=device)

    def table(_: torch.dtype, device: str) -> Tensor:
        return torch.randn(POSITIONS, HEAD, device=device)

    def made(**makers: Callable[[torch.dtype, str], Tensor]) -> Any:
        return lambda dtype, device: {k: make(dtype, device) for k, make in makers.items()}

    caches = {f"suffix_{x}": randn(B, G, H, SUFFIX + 16, HEAD) for x in "kv"}
    yield Case(
        op="qkv_rope",
        variant=variant,
        make=made(
            x=randn(B, G, T, D),
            norm_weight=randn(D),
            weight=randn(3 * D, D),
            cos=table,
            sin=table,
            starts=places(PREFIX + 300),
            slots=places(300),
            **caches,
        ),
        settings={"eps": 1e-6},
        # x and the weights in; q, k and v out; a row of either table per position, here one or T.
        moved=lambda t: _bytes(t, "x", "norm_weight", "weight") + 3 * _bytes(t, "x") + 8 * T * HEAD,
        flops=2 * R * 3 * D * D,
    )
    yield Case(
        op="group_attention",
        variant=variant,
        make=made(
            q=randn(B, G, T, H, HEAD),
            prefix_k=randn(B, H, PREFIX, HEAD),
            prefix_v=randn(B, H, PREFIX, HEAD),
            **caches,
            suffix_lengths=places(SUFFIX // 2),
        ),
        moved=lambda t: (
            _bytes(t, "prefix_k", "prefix_v")
            + 2 * _bytes(t, "q")
            + 2 * B * G * H * (SUFFIX // 2) * HEAD * t["q"].element_size()
        ),
        flops=4 * R * H * HEAD * (PREFIX + SUFFIX // 2),
    )
    yield Case(
        op="add_linear",
        variant=f"out {variant}",
        make=made(residual=randn(R, D), x=randn(R, D), weight=randn(D, D)),
        moved=lambda t: _bytes(t, "residual", "x", "weight", "residual"),
        flops=2 * R * D * D,
    )
    yield Case(
        op="gate_up",
        variant=variant,
        make=made(x=randn(R, D), norm_weight=randn(D), weight=randn(2 * F, D)),
        settings={"eps": 1e-6},
        moved=lambda t: _bytes(t, "x", "norm_weight", "weight") + R * F * t["x"].element_size(),
        flops=2 * R * 2 * F * D,
    )
    yield Case(
        op="add_linear",
        variant=f"down {variant}",
        make=made(residual=randn(R, D), x=randn(R, F), weight=randn(D, F)),
        moved=lambda t: _bytes(t, "residual", "x", "weight", "residual"),
        flops=2 * R * D * F,
    )
    yield Case(
        op="sample_tokens",
        variant=variant,
        make=made(
            hidden=randn(R, D),
            norm_weight=randn(D),
            head=randn(V, D),
            states=lambda _, device: torch.arange(R, device=device),
        ),
        settings={
            **{"eps": 1e-6, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
            **{"legal": None, "with_entropy": False},
        },
        moved=lambda t: _bytes(t, "hidden", "norm_weight", "head", "states") + 12 * R,
        flops=2 * R * V * D,
    )


def _bytes(tensors: dict[str, Any], *names: str) -> int:
    return sum(tensors[name].numel() * tensors[name].element_size() for name in names)
