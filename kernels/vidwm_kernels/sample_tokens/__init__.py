"""Draw one legal token per row, with randomness that depends on names alone.

`token_states` turns (seed, context key, rollout, position) into a state, `sample_tokens` turns a
state and logits into a token. Neither knows of batches, so the tokens do not depend on how the work
was split; `reference.py` says why the last bits of the logits, which do, hardly ever matter.
"""

from __future__ import annotations

from torch import Tensor

from vidwm_kernels.dispatch import pick
from vidwm_kernels.sample_tokens import reference
from vidwm_kernels.sample_tokens.counter import token_states

__all__ = ["sample_tokens", "token_states"]

IMPLEMENTATIONS = {"reference": reference.sample_tokens}


def sample_tokens(
    logits: Tensor,
    states: Tensor,
    low: int,
    high: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Draw tokens in low <= token < high.

    logits (..., V), states (...) int64 -> tokens (...) int64, logprobs (...) float32 in nats, under
    the distribution drawn from: legal ids, then temperature, then the `top_k` most likely (0 = all;
    ties at the border stay in), then the fewest ids that hold mass `top_p`. Temperature 0 takes the
    likeliest id, with its logprob at temperature 1. ValueError on settings out of range.
    """
    if not 0 <= low < high <= logits.shape[-1]:
        raise ValueError(f"legal range [{low}, {high}) must lie within {logits.shape[-1]} logits")
    if logits.shape[:-1] != states.shape:
        raise ValueError(
            f"one state per row of logits is needed, got {tuple(states.shape)} for "
            f"{tuple(logits.shape)}"
        )
    if not (temperature >= 0 and top_k >= 0 and 0 < top_p <= 1):
        raise ValueError(
            f"need temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got {temperature}, {top_k} "
            f"and {top_p}"
        )
    implementation = pick("sample_tokens", IMPLEMENTATIONS)
    return implementation(
        logits, states, low, high, temperature=temperature, top_k=top_k, top_p=top_p
    )
