"""A kernel launch as a value: what to run, over which grid, with which arguments.

`fused.py` files plan launches from tensors and then run them. Because a plan can be looked at
without being run, `tools/kernel_report.py` compiles exactly what a GPU would run, at the same
shapes and constants, on a machine that has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of a `@triton.jit` function.

    args: tensors and numbers by parameter name, constants: its `tl.constexpr` parameters;
    grid: one to three sizes. matrix says that the kernel's work is a matrix product, so that it
    must use the tensor cores; streams that it reads whole tensors, so that it must load 16 bytes a
    thread at a time.
    """

    kernel: Any
    grid: tuple[int, ...]
    args: dict[str, Any]
    constants: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    matrix: bool = False
    streams: bool = False

    @property
    def name(self) -> str:
        """The kernel's name."""
        return str(self.kernel.fn.__name__)

    def run(self) -> None:
        """Launch it on the device of its tensors, or in the interpreter."""
        self.kernel[self.grid](
            **self.args, **self.constants, num_warps=self.num_warps, num_stages=self.num_stages
        )


def run_all(launches: Sequence[Launch]) -> None:
    """Run launches one after the other."""
    for launch in launches:
        launch.run()
