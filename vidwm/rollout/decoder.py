"""The transformer as decoding runs it: fused operations on weights that are read once a step.

The same numbers as `Transformer.model`, arranged for few rows: q, k and v are one product that
rotates and writes the cache, gate and up are one, and both residual sums ride in a product. What
the operations are on a CPU or a GPU is `vidwm_kernels`' business.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vidwm_kernels.add_linear import add_linear
from vidwm_kernels.gate_up import gate_up
from vidwm_kernels.group_attention import group_attention
from vidwm_kernels.linear import packed
from vidwm_kernels.qkv_rope import qkv_rope
from vidwm_kernels.sample_tokens import Drawn, sample_tokens

from vidwm.rollout.kv_cache import GroupCache
from vidwm.rollout.sampling import Sampling
from vidwm.world_model.transformer import Block, Transformer


class Decoder:
    """Feeds tokens and draws tokens.

    In the transformer's own dtype it holds views of its weights; in another `dtype`, and on a CPU
    where matrices are large, it holds copies. `slack`: positions beyond the model's last that may
    be fed but never count, as the ends of drafts.
    """

    def __init__(
        self,
        transformer: Transformer,
        codebook_size: int,
        sampling: Sampling,
        dtype: torch.dtype,
        slack: int = 0,
    ) -> None:
        model, self.sampling, self.dtype = transformer.model, sampling, dtype
        blocks = [cast(Block, layer) for layer in model.layers]
        self.embedding = model.embed_tokens.weight.to(dtype)
        self.cos, self.sin = (F.pad(table, (0, 0, 0, slack)) for table in (model.cos, model.sin))
        self.eps = model.norm.eps
        self.layers = [
            {
                "attention_norm": block.input_layernorm.weight,
                "qkv": _stacked(*(getattr(block.self_attn, f"{x}_proj") for x in "qkv")),
                "out": block.self_attn.o_proj.weight,
                "mlp_norm": block.post_attention_layernorm.weight,
                "gate_up": _stacked(block.mlp.gate_proj, block.mlp.up_proj),
                "down": block.mlp.down_proj.weight,
            }
            for block in blocks
        ]
        self.layers = [{k: _ready(w, dtype) for k, w in layer.items()} for layer in self.layers]
        self.norm = model.norm.weight
        self.head = _ready(transformer.lm_head.weight[:codebook_size], dtype)

    def feed(self, ids: Tensor, cache: GroupCache) -> Tensor:
        """Feed the next tokens of every rollout: ids (B, G, T) -> states (B, G, T, D).

        The states are those before the final norm. The tokens lie in the cache afterwards but do
        not count until the caller raises `cache.length`.
        """
        # -1, drawn where scores are not numbers, is fed as 0; `generate` reports it at the end.
        x, eps = F.embedding(ids.clamp(min=0), self.embedding), self.eps
        slots, starts = cache.length, cache.position
        ends = slots + ids.shape[2]
        for layer, prefix, suffix in zip(self.layers, cache.prefix, cache.suffix, strict=True):
            q = qkv_rope(
                *(x, layer["attention_norm"], layer["qkv"], self.cos, self.sin, starts, slots),
                *suffix,
                eps=eps,
            )
            attended = group_attention(q, *prefix, *suffix, ends)
            x = add_linear(x, attended.flatten(-2), layer["out"])
            inner = gate_up(x, layer["mlp_norm"], layer["gate_up"], eps=eps)
            x = add_linear(x, inner, layer["down"])
        return x

    def draw(self, states: Tensor, randomness: Tensor, legal: Tensor | None) -> Drawn:
        """Visual tokens after states (..., D), by the random states (...) int64."""
        sampling = self.sampling
        return sample_tokens(
            states,
            self.norm,
            self.head,
            randomness,
            eps=self.eps,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            legal=legal,
        )

    def step(
        self, ids: Tensor, cache: GroupCache, randomness: Tensor, legal: Tensor | None
    ) -> Drawn:
        """Feed ids (B, G, T) and draw what follows the last of them: randomness (B, G, <= T)."""
        states = self.feed(ids, cache)[:, :, -randomness.shape[2] :]
        return self.draw(states, randomness, legal)


def _ready(weight: Tensor, dtype: torch.dtype) -> Tensor:
    weight = weight.to(dtype)
    return packed(weight) if weight.ndim == 2 else weight


@torch.inference_mode(False)
@torch.no_grad()
def _stacked(*linears: nn.Linear) -> Tensor:
    """The rows of several projections as one matrix.

    The projections become views of it, so that nothing is stored twice; training and loading go on
    as before, since both write in place.
    """
    weights = [linear.weight for linear in linears]
    first, rows = weights[0], [len(weight) for weight in weights]
    offset = first.storage_offset()
    for weight in weights:
        apart = weight.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
        if apart or not weight.is_contiguous() or weight.storage_offset() != offset:
            break
        offset += weight.numel()
    else:
        return first.detach().as_strided((sum(rows), first.shape[1]), (first.shape[1], 1))
    stacked = torch.cat(weights)
    for linear, part in zip(linears, stacked.split(rows), strict=True):
        linear.weight.data = part
    return stacked
