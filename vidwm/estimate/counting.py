"""FLOPs, bytes and activations of a network, counted without memory or data for them.

A network built on the `meta` device runs on fake tensors, which have shapes and no values.
PyTorch's FLOP counter sees every matrix product, convolution and attention (in full, causal or
not), forwards and backwards; their operands and results are the bytes that must move at least when
all that is elementwise is fused into them; what autograd keeps is the memory of activations, of
checkpointed blocks their inputs, and for the largest of them what its own backward pass needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from vidwm.gradient_checkpointing import checkpointed

# The counter does not know the attention that tensors on a CPU are given; it is the same work.
CPU_ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
COUNTED = {*flop_registry, *CPU_ATTENTION}


@dataclass(frozen=True)
class Work:
    """FLOPs, bytes moved between memory and chip, and bytes kept for the backward pass."""

    flops: float = 0.0
    bytes: float = 0.0
    kept: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.kept + other.kept)

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.bytes * times, self.kept * times)


@dataclass(frozen=True)
class Cost:
    """Work on the first row of input, with the weights read for it, and on each further row."""

    first: Work
    further: Work

    def of(self, rows: int) -> Work:
        """Work on so many rows at once."""
        return self.first + self.further * (rows - 1)


def cost(
    network: nn.Module,
    run: Callable[[Any, int], Tensor],
    *,
    backward: bool = False,
    half: bool = True,
) -> Cost:
    """Cost of `run(network, rows)`, which makes its own input of so many rows.

    network: may lie on the `meta` device; backward: and of the gradients of what it returns, a
    loss (); half: under autocast to bf16.
    """
    one, two = (_once(network, run, rows, backward, half) for rows in (1, 2))
    return Cost(one, two + one * -1)


def _once(
    network: nn.Module, run: Callable[[Any, int], Tensor], rows: int, backward: bool, half: bool
) -> Work:
    around = _Around(network, run)
    traffic, flops = _Traffic(), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    with FakeTensorMode():
        fakes = {
            name: torch.empty(value.shape, dtype=value.dtype).requires_grad_(
                backward and value.requires_grad
            )
            for name, value in [*around.named_parameters(), *around.named_buffers()]
        }
        kept, anew = _Kept(fakes.values()), 0
        with (
            torch.set_grad_enabled(backward),
            torch.autocast("cpu", torch.bfloat16, enabled=half),
        ):
            with flops, traffic, kept:
                torch.func.functional_call(around, fakes, (rows, backward))
            if blocks := checkpointed(network):
                with _kept_by_each(blocks, fakes.values()) as each:
                    torch.func.functional_call(around, fakes, (rows, False))
                anew = max(each, default=0)
    return Work(flops.get_total_flops(), traffic.bytes, kept.bytes + anew)


class _Around(nn.Module):
    """A network and what is done with it, as one module."""

    def __init__(self, network: nn.Module, run: Callable[[Any, int], Tensor]) -> None:
        super().__init__()
        self.network, self.run = network, run

    def forward(self, rows: int, backward: bool) -> None:
        loss = self.run(self.network, rows)
        if backward:
            loss.backward()


class _Kept(torch.autograd.graph.saved_tensors_hooks):
    """Sums what autograd keeps for the backward pass, beside tensors that are there anyway."""

    def __init__(self, present: Iterable[Tensor]) -> None:
        super().__init__(self._keep, lambda tensor: tensor)
        self._present = {tensor.untyped_storage()._cdata for tensor in present}
        self._sizes: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        return sum(self._sizes.values())

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._present:
            self._sizes[storage._cdata] = storage.nbytes()
        return tensor


@contextmanager
def _kept_by_each(blocks: Sequence[nn.Module], present: Collection[Tensor]) -> Iterator[list[int]]:
    """Bytes that autograd keeps of every call of a block, beside its inputs: what a checkpointed
    block has in memory while its backward pass goes through it.
    """
    sizes: list[int] = []
    under_way: list[_Kept] = []

    def enter(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        under_way.append(_Kept([*present, *inputs]))
        under_way[-1].__enter__()

    def leave(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        own = under_way.pop()
        own.__exit__()
        sizes.append(own.bytes)

    handles = [block.register_forward_pre_hook(enter) for block in blocks]
    handles += [block.register_forward_hook(leave) for block in blocks]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


class _Traffic(TorchDispatchMode):
    """Sums operands and results of whatever the FLOP counter counts."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in COUNTED:
            tensors = [x for x in tree_leaves((args, out)) if isinstance(x, Tensor)]
            self.bytes += sum(x.numel() * x.itemsize for x in tensors)
        return out
