"""Draw one legal token per row by inverse CDF, with random numbers that depend on names alone.

`uniform` turns (seed, context key, rollout, position) into a number, `sample_tokens` turns that
number and the logits into a token. Neither knows of batches, so the drawn tokens do not depend on
how the work was split.
"""

from __future__ import annotations

from torch import Tensor

from vidwm_kernels.dispatch import pick
from vidwm_kernels.sample_tokens import reference
from vidwm_kernels.sample_tokens.counter import uniform

__all__ = ["sample_tokens", "uniform"]

IMPLEMENTATIONS = {"reference": reference.sample_tokens}


def sample_tokens(
    logits: Tensor,
    uniforms: Tensor,
    low: int,
    high: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Draw tokens in low <= token < high.

    logits (..., V), uniforms (...) in [0, 1) -> tokens (...) int64, logprobs (...) float32 in nats,
    under the distribution drawn from: legal ids, then temperature, then the `top_k` most likely
    (0 = all; ties at the border stay in), then the fewest ids that hold mass `top_p`. Temperature 0
    takes the likeliest id, with its logprob at temperature 1. ValueError on settings out of range.
    """
    if not 0 <= low < high <= logits.shape[-1]:
        raise ValueError(f"legal range [{low}, {high}) must lie within {logits.shape[-1]} logits")
    if logits.shape[:-1] != uniforms.shape:
        raise ValueError(
            f"one uniform per row of logits is needed, got {tuple(uniforms.shape)} for "
            f"{tuple(logits.shape)}"
        )
    if not (temperature >= 0 and top_k >= 0 and 0 < top_p <= 1):
        raise ValueError(
            f"need temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got {temperature}, {top_k} "
            f"and {top_p}"
        )
    implementation = pick("sample_tokens", IMPLEMENTATIONS)
    tokens, logprobs = implementation(
        logits[..., low:high], uniforms, temperature=temperature, top_k=top_k, top_p=top_p
    )
    return tokens + low, logprobs
