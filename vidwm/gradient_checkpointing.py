"""Gradient checkpointing: memory for time in training, the same gradients.

Of a block only the inputs are kept; what its backward pass needs is computed anew when that comes.
Source: Chen et al., arXiv 1604.06174. Blocks say by their class that they may be run so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class CheckpointedBlock(nn.Module):
    """A module that may keep its inputs alone; only in train mode, and where there are gradients.

    Its forward pass takes tensors by place, draws no random numbers and changes no buffers.
    """

    gradient_checkpointing = False

    @property
    def keeps_inputs_alone(self) -> bool:
        """Whether a call would, as things stand."""
        return self.gradient_checkpointing and self.training and torch.is_grad_enabled()

    def __call__(self, *inputs: Tensor) -> Any:
        if self.keeps_inputs_alone:
            return checkpoint(
                super().__call__, *inputs, use_reentrant=False, preserve_rng_state=False
            )
        return super().__call__(*inputs)


def checkpointed(network: nn.Module) -> list[CheckpointedBlock]:
    """Blocks of a network that would keep their inputs alone, as things stand."""
    blocks = [block for block in network.modules() if isinstance(block, CheckpointedBlock)]
    return [block for block in blocks if block.keeps_inputs_alone]


def use_gradient_checkpointing(network: nn.Module) -> None:
    """From now on, every block of the network that can keeps its inputs alone."""
    for block in network.modules():
        if isinstance(block, CheckpointedBlock):
            block.gradient_checkpointing = True
