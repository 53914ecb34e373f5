"""How sure the policy is, as one number that GRPO learns.

    logits' = exp(log_scale) * logits

A policy that draws less at random is often better, and no other direction in weight space says so
as cheaply: to scale all logits by two, a transformer's matrices would have to move further than
they can be moved safely. One number has a gradient with little noise and bears a large learning
rate. Wherever the policy is sampled or saved, the scale is folded into the weight of the final
norm, so the saved transformer is an ordinary one. Ours, not part of RLVR-World.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vidwm.world_model.transformer import Transformer


class Sharpness(nn.Module):
    """`log_scale` (), 0 at first: the model as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def temperature(self, temperature: float) -> Tensor:
        """The temperature that the transformer's own logits have to be divided by, ()."""
        return temperature * (-self.log_scale).exp()

    @contextmanager
    def folded_into(self, transformer: Transformer) -> Iterator[None]:
        """The transformer has the scale in its weights inside the block, and its own after it."""
        weight = transformer.model.norm.weight
        own = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(self.log_scale.exp())
        try:
            yield
        finally:
            with torch.no_grad():
                weight.copy_(own)
