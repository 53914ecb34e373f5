"""Group rollouts as one would do them with `transformers`, on the same weights."""

from __future__ import annotations

from typing import Any

import torch
from rollout_cases import Shape
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache, StaticCache

from vidwm.world_model.transformer import Transformer


def peer_of(transformer: Transformer) -> LlamaForCausalLM:
    """The same weights in `transformers`."""
    config = transformer.config
    peer = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=False,
        )
    )
    peer.load_state_dict(transformer.state_dict())
    torch.nn.Module.to(peer, transformer.lm_head.weight)  # device and dtype
    return peer.eval().requires_grad_(False)


def run_generate(peer: LlamaForCausalLM, shape: Shape) -> Tensor:
    """The reference's loop: every frame is a call, on everything so far, of every rollout."""
    window, group = shape.window, shape.window.states.shape[1]
    ids, frames = shape.prompt.expand(group, -1), []
    for frame in range(window.frames):
        found = peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=window.layout.tokens_per_frame,
            min_new_tokens=window.layout.tokens_per_frame,
            do_sample=True,
            top_k=0,
            pad_token_id=0,
        )
        frames.append(found[:, ids.shape[1] :])
        if frame < window.frames - 1:
            ids = torch.cat([found, window.actions[:, frame].expand(group, -1)], dim=1)
    return torch.stack(frames, dim=1)


def run_static(peer: LlamaForCausalLM, shape: Shape, greedy: bool = False) -> Tensor:
    """One prefill, its cache expanded for the group, then a token at a time; actions in one go.

    The head runs for the last position and the legal ids alone, as a careful user would have it.
    """
    head = peer.lm_head.weight[: shape.window.layout.codebook_size]

    def logits_after(ids: Tensor, cache: Any) -> Tensor:
        states = peer.model(ids, past_key_values=cache, use_cache=True).last_hidden_state
        return torch.nn.functional.linear(states[:, -1], head)

    window, group = shape.window, shape.window.states.shape[1]
    prompt = shape.prompt.shape[1]
    single = DynamicCache(config=peer.config)
    logits = logits_after(shape.prompt, single)
    cache = StaticCache(config=peer.config, max_cache_len=prompt + window.length)
    layers: Any = single.layers
    for index, layer in enumerate(layers):
        keys, values = (x.expand(group, -1, -1, -1) for x in (layer.keys, layer.values))
        cache.update(keys, values, index)
    logits, frames = logits.expand(group, -1), []
    for frame in range(window.frames):
        tokens: list[Tensor] = []
        for place in range(window.layout.tokens_per_frame):
            if greedy:
                tokens.append(logits.argmax(dim=-1, keepdim=True))
            else:
                tokens.append(torch.multinomial(logits.softmax(dim=-1), 1))
            fed = tokens[-1]
            if place == window.layout.tokens_per_frame - 1:
                if frame == window.frames - 1:
                    break
                fed = torch.cat([fed, window.actions[:, frame].expand(group, -1)], dim=1)
            logits = logits_after(fed, cache)
        frames.append(torch.cat(tokens, dim=1))
    return torch.stack(frames, dim=1)
