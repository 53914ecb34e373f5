"""An exponential moving average (EMA) of a module's weights, often better than the last weights.

Early in a run the average would remember random weights, so the decay warms up as
min(decay, (1 + step) / (10 + step)), a function of the step alone. Buffers are copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """The averaged copy of one module's weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = _copy(module)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards the module's present weights."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        for name, value in module.state_dict().items():
            if name in parameters:
                self.tensors[name].lerp_(value, weight)
            else:
                self.tensors[name].copy_(value)

    @contextmanager
    def swapped_in(self, module: nn.Module) -> Iterator[None]:
        """The module holds the average inside the block, and exactly its own weights after it."""
        own = _copy(module)
        module.load_state_dict(self.tensors)
        try:
            yield
        finally:
            module.load_state_dict(own)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
