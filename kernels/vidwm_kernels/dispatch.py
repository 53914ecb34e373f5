"""Which implementation of an operation runs: decided here alone.

The environment variable VIDWM_KERNELS says `auto` (the default: the fastest one that can run),
`reference` (plain PyTorch, on any device) or `triton`. Only reference implementations exist so far;
asking for another one is an error, never a silent fallback.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

VARIABLE = "VIDWM_KERNELS"
CHOICES = ("auto", "reference", "triton")


def requested() -> str:
    """The value of VIDWM_KERNELS; ValueError when it is not one of `CHOICES`."""
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in CHOICES:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(CHOICES)}; got '{choice}'")
    return choice


def pick(op: str, implementations: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The implementation of `op` to call, from those that exist by name."""
    choice = requested()
    if choice == "auto":
        choice = "reference"
    if choice not in implementations:
        raise ValueError(
            f"{op} has no {choice} implementation (only {', '.join(implementations)}); "
            f"unset {VARIABLE} or set it to 'auto'"
        )
    return implementations[choice]
