"""Captured steps, on a CPU: a stand-in for CUDA graphs records operators and runs them again.

Like the real ones it takes nothing but what lies in the captured tensors, so a buffer that is not
filled, or a graph that is replayed for another cache, shows.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from vidwm_kernels import dispatch

from vidwm.rollout.decoder import Decoder
from vidwm.rollout.graph import GraphedDecoder, decoder_class
from vidwm.rollout.kv_cache import GroupCache, ragged
from vidwm.rollout.sampling import Sampling
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.transformer import Transformer


class Tape(TorchDispatchMode):
    """The operators of a block of code, in order, with the tensors they read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextmanager
def on_tape(graph: Tape) -> Iterator[None]:
    with graph:
        yield


def attention(
    q: Tensor, prefix_k: Tensor, prefix_v: Tensor, suffix_k: Tensor, suffix_v: Tensor, ends: Any
) -> Tensor:
    """Group attention of one query, which like the kernels asks no tensor for a number."""
    B, G, _, heads, _ = q.shape
    shared = [part[:, None].expand(-1, G, -1, -1, -1) for part in (prefix_k, prefix_v)]
    keys, values = (
        torch.cat(pair, dim=3).repeat_interleave(heads // prefix_k.shape[1], dim=2)
        for pair in zip(shared, (suffix_k, suffix_v), strict=True)
    )
    allowed = torch.arange(keys.shape[3]) < prefix_k.shape[2] + ragged(ends, q)[..., None]
    out = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(2, 3), keys, values, attn_mask=allowed.expand(B, G, -1)[:, :, None, None]
    )
    return out.transpose(2, 3)


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Every graph that is made, where CUDA's would be."""
    made: list[Tape] = []

    def new_graph() -> Tape:
        made.append(Tape())
        return made[-1]

    class Stream:
        def wait_stream(self, other: object) -> None:
            pass

    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    monkeypatch.setattr("vidwm.rollout.decoder.group_attention", attention)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", new_graph)
    monkeypatch.setattr(torch.cuda, "graph", on_tape)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    return made


def small() -> Transformer:
    transformer = Transformer(
        TransformerConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=16,
            bos_token_id=38,
            eos_token_id=39,
        )
    )
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return transformer


def drawn_by(decoder: Decoder, transformer: Transformer, steps: int) -> list[Tensor]:
    """Logprobs of some steps, those of two unequal lengths at the end, on a cache of its own."""
    generator = torch.Generator().manual_seed(3)
    contexts = torch.randint(0, 38, (2, 8), generator=generator)
    cache = GroupCache(transformer.prefill(contexts)[1], 3, 6)
    found = []
    for step in range(steps):
        ids = torch.randint(0, 38, (2, 3, 1), generator=generator)
        randomness = torch.randint(0, 2**62, (2, 3, 1), generator=generator)
        legal = torch.rand(38, generator=generator) < 0.7
        if step == steps - 1:
            cache.length = torch.tensor([[3, 2, 1], [1, 3, 2]])
        drawn = decoder.step(ids, cache, randomness, legal)
        found.append(torch.cat([drawn.tokens.float(), drawn.logprobs]))
        if step < steps - 1:
            cache.length += 1
    return found


@torch.no_grad()
def test_replayed_steps_are_those_of_plain_decoding(tapes: list[Tape]) -> None:
    transformer = small()
    plain = Decoder(transformer, 38, Sampling(), torch.float32)
    graphed = GraphedDecoder(transformer, 38, Sampling(), torch.float32)
    expected = drawn_by(plain, transformer, 4)
    for run in range(2):
        for found, right in zip(drawn_by(graphed, transformer, 4), expected, strict=True):
            torch.testing.assert_close(found, right, rtol=0, atol=1e-4)
        assert len(tapes) == 1 + run  # one shape, captured anew for a new cache


@torch.no_grad()
@pytest.mark.usefixtures("tapes")
def test_a_cache_in_the_place_of_another_is_read_anew() -> None:
    transformer = small()
    graphed = GraphedDecoder(transformer, 38, Sampling(), torch.float32)
    ids = torch.zeros(1, 2, 1).long()
    first, second = (
        GroupCache(transformer.prefill(torch.full((1, 4), token))[1], 2, 3) for token in (0, 1)
    )
    second.suffix = first.suffix  # as an allocator may hand out the same memory again
    before = graphed.step(ids, first, ids, None).logprobs.clone()
    after = graphed.step(ids, second, ids, None).logprobs
    assert (after - before).abs().min() > 1e-3


@torch.no_grad()
@pytest.mark.usefixtures("tapes")
def test_a_cache_is_let_go_before_the_next_is_made() -> None:
    transformer = small()
    decoder = GraphedDecoder(transformer, 38, Sampling(), torch.float32)
    cache = GroupCache(transformer.prefill(torch.zeros(1, 4).long())[1], 2, 3)
    ids = torch.zeros(1, 2, 1).long()
    decoder.step(ids, cache, ids, None)
    gone = ref(cache)
    del cache
    gc.collect()
    assert gone() is None


def test_only_kernels_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 1)
    monkeypatch.setenv(dispatch.VARIABLE, "auto")
    monkeypatch.setattr(dispatch, "_has_triton", lambda: True)
    assert decoder_class(cuda) is GraphedDecoder
    assert decoder_class(torch.device("cpu")) is Decoder
    monkeypatch.setattr(dispatch, "_has_triton", lambda: False)
    assert decoder_class(cuda) is Decoder
    monkeypatch.setattr(dispatch, "_has_triton", lambda: True)
    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    assert decoder_class(cuda) is Decoder
