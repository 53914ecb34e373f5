"""A whole decode step as one replay of a CUDA graph, so that launches cost nothing.

The graph reads ids, lengths, randomness and masks from buffers of its own and leaves what was
drawn in others; it is captured once per shape of a step. Everything that changes from step to step,
positions included, is data on the device, so a replay needs no other preparation than filling the
buffers. Only the fused kernels can be captured: the plain ones ask the device for numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from vidwm_kernels.dispatch import chosen
from vidwm_kernels.sample_tokens import Drawn

from vidwm.rollout.decoder import Decoder
from vidwm.rollout.kv_cache import GroupCache, ragged

WARM_UPS = 2  # kernels are compiled before the capture, not during it


@dataclass(frozen=True, kw_only=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    ids: Tensor
    length: Tensor
    randomness: Tensor
    legal: Tensor | None
    drawn: Drawn


class GraphedDecoder(Decoder):
    """A `Decoder` on a CUDA device whose steps are replayed. One cache at a time."""

    # Weak, lest the last cache stay in memory beside the next.
    cache: ReferenceType[GroupCache] | None = None

    def step(
        self, ids: Tensor, cache: GroupCache, randomness: Tensor, legal: Tensor | None
    ) -> Drawn:
        """As `Decoder.step`. What it returns is overwritten by the next step of the same shape."""
        if self.cache is None or self.cache() is not cache:
            self.cache, self.captured = ref(cache), dict[tuple[object, ...], _Captured]()
        length = ragged(cache.length, ids)
        # A cache that was cut down to other rollouts has other tensors.
        key = (
            ids.shape,
            randomness.shape,
            None if legal is None else legal.shape,
            cache.suffix[0][0].data_ptr(),
        )
        if key not in self.captured:
            with torch.cuda.device(ids.device):
                self.captured[key] = self._capture(ids, cache, length, randomness, legal)
        step = self.captured[key]
        step.ids.copy_(ids)
        step.length.copy_(length)
        step.randomness.copy_(randomness)
        if step.legal is not None and legal is not None:
            step.legal.copy_(legal)
        with torch.cuda.device(ids.device):
            step.graph.replay()
        return step.drawn

    def _capture(
        self,
        ids: Tensor,
        cache: GroupCache,
        length: Tensor,
        randomness: Tensor,
        legal: Tensor | None,
    ) -> _Captured:
        ids, own, randomness = ids.clone(), length.clone(), randomness.clone()
        legal = None if legal is None else legal.clone()
        before, cache.length = cache.length, own
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                super().step(ids, cache, randomness, legal)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            drawn = super().step(ids, cache, randomness, legal)
        cache.length = before
        return _Captured(
            graph=graph, ids=ids, length=own, randomness=randomness, legal=legal, drawn=drawn
        )


def decoder_class(device: torch.device) -> type[Decoder]:
    """Which decoder serves a device."""
    graphed = device.type == "cuda" and chosen("sample_tokens", device) == "triton"
    return GraphedDecoder if graphed else Decoder
