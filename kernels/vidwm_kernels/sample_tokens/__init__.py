"""From hidden states to one legal token per row, with randomness that depends on names alone.

    hidden -> RMSNorm -> LM head -> legal ids -> / temperature -> top_k, top_p, min_p -> draw

`token_states` turns (seed, context key, rollout, position) into a state; `sample_tokens` turns a
state and a hidden state into a token. Neither knows of batches, so the tokens do not depend on how
the work was split; `reference.py` says why the last bits of the logits, which do, hardly ever
matter. Head and draw are one operation so that `fused.py` never writes logits to memory.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from vidwm_kernels.dispatch import pick
from vidwm_kernels.sample_tokens.counter import restated, token_states

__all__ = ["Drawn", "restated", "sample_tokens", "token_states"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Scores divided by less could leave the range of float32.
SMALLEST_TEMPERATURE = 1e-6


class Drawn(NamedTuple):
    """tokens (...) int64; logprobs (...) and entropy (...) float32, in nats."""

    tokens: Tensor
    logprobs: Tensor
    entropy: Tensor | None


def sample_tokens(
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
) -> Drawn:
    """Draw one of the ids 0 .. V-1 per row.

    hidden (..., D) before the final RMSNorm of weight norm_weight (D,) and `eps`; head (V, D), the
    LM head's rows of those ids; states (...) int64; legal bool (V,) or (..., V), True = may be
    drawn. fp32 inside, only the matrix product may run in the dtype of `head`; autocast is ignored.

    The distribution is the softmax over legal ids of logits / temperature, cut by three thresholds
    on the score in this order, renormalised after each; ties at a threshold stay in:
    top_k: at least the k-th largest score (0 = off);
    top_p: the largest threshold above which lies a mass of at least top_p (1 = off);
    min_p: at least min_p times the largest probability (0 = off).
    logprobs and entropy are of the distribution drawn from. Temperature 0 takes the likeliest legal
    id, the lowest of equals, with logprob and entropy at temperature 1, unfiltered.

    ValueError on settings out of range, shapes or dtypes that do not fit, and a row without legal
    ids. The last is checked on CPUs only: elsewhere such a row, like any row whose scores are not
    numbers, is given token -1 and logprob nan.
    """
    _check_settings(eps, temperature, top_k, top_p, min_p)
    _check_tensors(hidden, norm_weight, head, states, legal)
    implementation = pick("sample_tokens", hidden.device)
    device_type = hidden.device.type
    autocast = torch.is_autocast_enabled(device_type)  # leaving it alone when off saves 15 us
    with torch.autocast(device_type, enabled=False) if autocast else nullcontext():
        drawn: Drawn = implementation(
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
    return drawn


def _check_settings(eps: float, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    if not (temperature == 0 or SMALLEST_TEMPERATURE <= temperature < float("inf")):
        raise ValueError(
            f"temperature must be 0 or at least {SMALLEST_TEMPERATURE} and finite, "
            f"got {temperature}"
        )
    if not (eps >= 0 and top_k >= 0 and 0 < top_p <= 1 and 0 <= min_p <= 1):
        raise ValueError(
            f"need eps >= 0, top_k >= 0, 0 < top_p <= 1 and 0 <= min_p <= 1, got {eps}, {top_k}, "
            f"{top_p} and {min_p}"
        )


def _check_tensors(
    hidden: Tensor, norm_weight: Tensor, head: Tensor, states: Tensor, legal: Tensor | None
) -> None:
    *rows, D = hidden.shape
    V = len(head)
    if norm_weight.shape != (D,) or head.shape != (V, D) or V == 0 or D == 0:
        raise ValueError(
            f"expected hidden (..., D), norm_weight (D,) and head (V, D), none of them empty, got "
            f"{tuple(hidden.shape)}, {tuple(norm_weight.shape)} and {tuple(head.shape)}"
        )
    if not all(x.dtype in DTYPES for x in (hidden, norm_weight, head)):
        raise ValueError(
            f"hidden, norm_weight and head must be float32, float16 or bfloat16, got "
            f"{hidden.dtype}, {norm_weight.dtype} and {head.dtype}"
        )
    if list(states.shape) != rows or states.dtype != torch.int64:
        raise ValueError(
            f"states must be {tuple(rows)} int64, one per row of hidden, got "
            f"{tuple(states.shape)} {states.dtype}"
        )
    if legal is None:
        return
    if list(legal.shape) not in ([V], [*rows, V]) or legal.dtype != torch.bool:
        raise ValueError(
            f"legal must be ({V},) or {(*rows, V)} bool, got {tuple(legal.shape)} {legal.dtype}"
        )
    # Asking a GPU would make the CPU wait for it at every token.
    if legal.device.type == "cpu" and not legal.any(dim=-1).all():
        raise ValueError("legal must leave every row at least one id, got a row without any")
