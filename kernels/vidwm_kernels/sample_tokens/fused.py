"""Norm, LM head and draw in Triton: logits live in registers, a few numbers per row are written.

A program computes the logits of BLOCK_R rows and BLOCK_V ids (`fused_logits.py`), keeps their
maximum, the sum of their exponentials and the winner of their race, and `_merge` joins the tiles of
a row as one joins softmaxes: rescale by exp(tile's maximum - row's maximum), then add or compare.
Without filters that is all: the head is read once. Filters are thresholds found in passes before it
(`fused_filter.py`).
"""
# mypy: allow-untyped-defs, allow-incomplete-defs
# (the parameters of kernels are pointers and numbers, which Python's types have no names for)

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vidwm_kernels.add_linear.fused import refuse_gradients
from vidwm_kernels.launch import Launch, run_all
from vidwm_kernels.sample_tokens import Drawn
from vidwm_kernels.sample_tokens.fused_filter import thresholds
from vidwm_kernels.sample_tokens.fused_logits import Head, logits_of, or_zero

# What a row keeps of its tiles, in `partials` (R, PARTS, tiles).
TOP, SUM, RACE, WINNER, MOMENT, PARTS = (tl.constexpr(i) for i in range(6))


@triton.jit
def _no_nan(race):
    """A nan neither wins nor spoils the comparison: the sum of weights tells of it."""
    return tl.where(race == race, race, float("-inf"))


@triton.jit
def _waiting(states, ids):
    """-log(u) of `counter.uniforms`, bit by bit: states (BLOCK_R,), ids (BLOCK_V,)."""
    lower, upper = states.to(tl.uint32), (states >> 32).to(tl.uint32)
    x = (ids.to(tl.uint32) * 0x9E3779B9)[None, :] + lower[:, None]
    x ^= x >> 16
    x *= 0x85EBCA6B
    x += upper[:, None]
    x ^= x >> 13
    x *= 0xC2B2AE35
    x ^= x >> 16
    x &= 0x7FFFFFFF
    u = (x.to(tl.int32).to(tl.float32) + 0.5) * (1 / 2**31)
    return -tl.log(tl.minimum(u, 1 - 1 / 2**24))


@triton.jit
def _draw(
    hidden, norm_weight, head, legal, states, floors, peaks, partials, winners,
    R, V, tiles, eps, temperature, log_min_p,
    GREEDY: tl.constexpr, FILTER: tl.constexpr, ENTROPY: tl.constexpr, D: tl.constexpr,
    LEGAL: tl.constexpr, SCALE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """What every tile has to say: partials (R, PARTS, tiles) and ids in winners (R, tiles)."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    tile = tl.program_id(1)
    columns = tl.arange(0, BLOCK_V)
    ids = tile * BLOCK_V + columns
    logits, factors = logits_of(
        hidden, norm_weight, head, legal, rows, ids, R, V, eps, temperature,
        D, LEGAL, SCALE, BLOCK_R, BLOCK_V, BLOCK_D,
    )  # fmt: skip
    if FILTER:
        floor = tl.load(floors + rows, mask=rows < R, other=0.0)[:, None]
        peak = tl.load(peaks + rows, mask=rows < R, other=0.0)
        unlikely = (logits - or_zero(peak)[:, None]) * factors[:, None] < log_min_p
        logits = tl.where((logits < floor) | unlikely, float("-inf"), logits)
    top = tl.max(logits, 1)
    shifted = (logits - or_zero(top)[:, None]) * factors[:, None]
    weights = tl.exp(shifted)
    if GREEDY:
        race = logits
    else:
        race = weights / _waiting(tl.load(states + rows, mask=rows < R, other=0), ids)
    first, best = tl.max(_no_nan(race), 1, return_indices=True, return_indices_tie_break_left=True)
    winner = tl.sum(tl.where(columns[None, :] == best[:, None], shifted, 0.0), 1)

    place = partials + rows.to(tl.int64) * PARTS * tiles + tile
    tl.store(place + TOP * tiles, top * factors, mask=rows < R)
    tl.store(place + SUM * tiles, tl.sum(weights, 1), mask=rows < R)
    tl.store(place + RACE * tiles, first, mask=rows < R)
    tl.store(place + WINNER * tiles, winner, mask=rows < R)
    tl.store(winners + rows.to(tl.int64) * tiles + tile, tile * BLOCK_V + best, mask=rows < R)
    if ENTROPY:
        moment = tl.sum(weights * tl.where(weights > 0, shifted, 0.0), 1)
        tl.store(place + MOMENT * tiles, moment, mask=rows < R)


@triton.jit
def _merge(
    partials, winners, tokens, logprobs, entropy, R, tiles,
    GREEDY: tl.constexpr, ENTROPY: tl.constexpr, ROWS: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Join the tiles of ROWS rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tile = tl.arange(0, BLOCK_T)[None, :]
    inside = (row < R)[:, None] & (tile < tiles)
    places = partials + row.to(tl.int64)[:, None] * PARTS * tiles + tile
    tops = tl.load(places + TOP * tiles, mask=inside, other=float("-inf"))
    sums = tl.load(places + SUM * tiles, mask=inside, other=0.0)
    race = tl.load(places + RACE * tiles, mask=inside, other=float("-inf"))
    shifted = tl.load(places + WINNER * tiles, mask=inside, other=float("-inf"))

    top = or_zero(tl.max(tops, 1))
    shares = tl.exp(tops - top[:, None])
    total = tl.sum(sums * shares, 1)
    if not GREEDY:
        race = tl.where(inside, race, 0.0) * shares
    _, best = tl.max(_no_nan(race), 1, return_indices=True, return_indices_tie_break_left=True)
    winner = tl.sum(tl.where(tile == best[:, None], tops - top[:, None] + shifted, 0.0), 1)
    token = tl.load(winners + row.to(tl.int64) * tiles + best, mask=row < R, other=0)
    # False without any id, and when a logit was nan or infinite.
    valid = total > 0
    total = tl.where(valid, total, 1.0)
    tl.store(tokens + row, tl.where(valid, token, -1).to(tl.int64), mask=row < R)
    tl.store(logprobs + row, tl.where(valid, winner - tl.log(total), float("nan")), mask=row < R)
    if ENTROPY:
        moments = tl.load(places + MOMENT * tiles, mask=inside, other=0.0)
        apart = tl.where(shares > 0, tops - top[:, None], 0.0)
        spread = tl.log(total) - tl.sum(shares * (moments + sums * apart), 1) / total
        tl.store(entropy + row, tl.where(valid, spread, float("nan")), mask=row < R)


def sample_tokens(
    hidden: Tensor,
    norm_weight: Tensor,
    head: Tensor,
    states: Tensor,
    *,
    eps: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    legal: Tensor | None,
    with_entropy: bool,
) -> Drawn:
    """The operation of the package's `__init__`."""
    refuse_gradients("sample_tokens", hidden, norm_weight, head)
    launches, drawn = plan(
        hidden,
        norm_weight,
        head,
        states,
        eps=eps,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        legal=legal,
        with_entropy=with_entropy,
    )
    with torch.cuda.device_of(hidden):
        run_all(launches)
    return drawn


def plan(
    hidden: Tensor,
    norm_weight: Tensor,
    head: Tensor,
    states: Tensor,
    *,
    eps: float = 1e-6,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    legal: Tensor | None = None,
    with_entropy: bool = False,
) -> tuple[list[Launch], Drawn]:
    """The launches that compute what `sample_tokens` returns, and the tensors they will fill."""
    R, V, device = states.numel(), len(head), hidden.device
    drawn = Drawn(
        torch.empty(states.shape, dtype=torch.int64, device=device),
        torch.empty(states.shape, device=device),
        torch.empty(states.shape, device=device) if with_entropy else None,
    )
    if R == 0:
        return [], drawn
    greedy = temperature == 0
    over = Head.of(hidden, norm_weight, head, legal, R, eps, 1.0 if greedy else temperature)
    # Temperature 0 has no filters; a top_k of V or more keeps everything.
    count, mass = (0, 1.0) if greedy else (top_k if top_k < V else 0, top_p)
    filtered = not greedy and (count > 0 or mass < 1 or min_p > 0)
    launches: list[Launch] = []
    cuts: dict[str, Any] = {"floors": None, "peaks": None}
    if filtered:
        launches, cuts = thresholds(over, R, device, count, mass, peaks=min_p > 0)

    across = over.grid[1]
    partials = {
        "partials": torch.empty((R, PARTS.value, across), device=device),
        "winners": torch.empty((R, across), dtype=torch.int32, device=device),
        "tiles": across,
    }
    flags = {"GREEDY": greedy, "ENTROPY": with_entropy}
    lowest = {"log_min_p": math.log(min_p) if min_p > 0 else float("-inf")}
    draw = {"states": states.contiguous()} | cuts | lowest | partials
    launches.append(over.launch(_draw, draw, **flags, FILTER=filtered))
    block = triton.next_power_of_2(across)
    joined = flags | {"BLOCK_T": block, "ROWS": max(1, min(64, 512 // block))}
    merge = drawn._asdict() | {"R": R} | partials
    grid = (triton.cdiv(R, joined["ROWS"]),)
    launches.append(Launch(kernel=_merge, grid=grid, args=merge, constants=joined))
    return launches, drawn
