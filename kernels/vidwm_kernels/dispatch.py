"""Which implementation of an operation runs: decided here alone.

The environment variable VIDWM_KERNELS says `auto` (the default: Triton for tensors on a CUDA
device, elsewhere what is fastest on a CPU), `reference` (the plain definition, on any device) or
`triton` (also on a CPU, where it needs TRITON_INTERPRET=1). What is asked for by name runs or is an
error, never a silent fallback. Implementations are found by their place: `<op>/reference.py`,
`<op>/fused.py` and, where it differs from the reference, `<op>/cpu.py`, each with a function named
like the operation.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

VARIABLE = "VIDWM_KERNELS"
CHOICES = ("auto", "reference", "triton")
FILES = {"reference": "reference", "triton": "fused", "cpu": "cpu"}


def requested() -> str:
    """The value of VIDWM_KERNELS; ValueError when it is not one of `CHOICES`."""
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in CHOICES:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(CHOICES)}; got '{choice}'")
    return choice


def chosen(op: str, device: torch.device) -> str:
    """Which implementation of `op` serves tensors on `device`: a key of `FILES`."""
    choice = requested()
    if choice != "auto":
        return choice
    if device.type == "cuda" and _has_triton():
        return "triton"
    return "cpu" if device.type == "cpu" and _has_cpu(op) else "reference"


def pick(op: str, device: torch.device) -> Callable[..., Any]:
    """The implementation of `op` for tensors on `device`."""
    return _load(op, chosen(op, device))


@cache
def _load(op: str, choice: str) -> Callable[..., Any]:
    if choice == "triton" and not _has_triton():
        raise ValueError(
            f"{VARIABLE}=triton, but the package triton is not installed; install it (Linux only) "
            f"or set {VARIABLE}=auto"
        )
    return getattr(import_module(f"vidwm_kernels.{op}.{FILES[choice]}"), op)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@cache
def _has_cpu(op: str) -> bool:
    return find_spec(f"vidwm_kernels.{op}.cpu") is not None
