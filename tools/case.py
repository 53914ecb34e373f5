"""An operation at a shape: what kernels are inspected and timed at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from vidwm_kernels.launch import Launch


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operation at one shape.

    make(dtype, device) gives its tensors by name, settings its other arguments; moved(tensors): the
    bytes that no implementation can avoid; flops: multiplications and additions.
    """

    op: str
    variant: str
    make: Callable[[torch.dtype, str], dict[str, Any]]
    moved: Callable[[dict[str, Any]], int]
    flops: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.op} {self.variant}"

    def function(self, file: str) -> Callable[[dict[str, Any]], Any]:
        """The operation as `<op>/<file>.py` has it, of the tensors."""
        found = getattr(import_module(f"vidwm_kernels.{self.op}.{file}"), self.op)
        return lambda tensors: found(**tensors, **self.settings)

    def plan(self, tensors: dict[str, Any]) -> list[Launch]:
        """The launches of `<op>/fused.py`."""
        plan = import_module(f"vidwm_kernels.{self.op}.fused").plan
        return list(plan(**tensors, **self.settings)[0])
