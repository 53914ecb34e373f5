"""The Llama-style transformer; its weights and config ARE a Hugging Face Llama directory.

Pre-norm blocks of rotary self-attention and a SiLU-gated MLP, RMSNorm, no biases. Module names
equal those of `transformers.LlamaForCausalLM`, so a state dict goes both ways without renaming.
One block serves training, prefill and shared-prefix training, which differ only in the `attend`
function given to it; cached decoding has an arrangement of its own, `vidwm.rollout.decoder`.
Left out on purpose: rope scaling, attention bias, dropout, padding masks and tied embeddings; no
world model here needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidwm.errors import UserError
from vidwm.files import load_weights, save_weights
from vidwm.world_model.attention import (
    Attend,
    Prefix,
    causal_attention,
    continuing,
    recording,
    rope_tables,
    rotate,
)
from vidwm.world_model.llama_files import (
    INIT_STD,
    WEIGHTS_FILE,
    TransformerConfig,
    read_config,
    write_config,
)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Projections of rotary self-attention; who attends to whom is the caller's `attend`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, self.head_dim = config.hidden_size, config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv_width, bias=False)
        self.v_proj = nn.Linear(width, kv_width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, attend: Attend) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = attend(layer, rotate(q, cos, sin), rotate(k, cos, sin), v)
        return self.o_proj(out.flatten(-2))


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, attend: Attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, layer, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding and blocks: ids (..., L) at positions from `start` on -> states.

    The final norm lies here, where Llama's files have it, but is applied by the head.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        tables = rope_tables(config.head_dim, config.max_position_embeddings, config.rope_theta)
        self.register_buffer("cos", tables[0], persistent=False)
        self.register_buffer("sin", tables[1], persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Decoder:
        """As `nn.Module` moves and casts itself; the rotary tables only move, and stay fp32."""
        cos, sin = self.cos, self.sin
        super()._apply(fn, recurse)
        self.cos, self.sin = cos.to(self.cos.device), sin.to(self.sin.device)
        return self

    def forward(self, ids: Tensor, start: int, attend: Attend) -> Tensor:
        end = start + ids.shape[-1]
        if end > len(self.cos):
            raise UserError(
                f"A sequence of {end} tokens is longer than the model's max_position_embeddings "
                f"{len(self.cos)}; use fewer context frames or a shorter horizon."
            )
        cos, sin = self.cos[start:end, None], self.sin[start:end, None]
        x = self.embed_tokens(ids)
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, index, attend)
        return x


class Transformer(nn.Module):
    """Next-token model over ids (B, L); fp32 parameters, may run under torch.autocast."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=INIT_STD)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Transformer:
        """Open a Llama directory in fp32 on the CPU; UserError names what is missing or damaged."""
        transformer = cls(read_config(Path(directory)))
        load_weights(transformer, Path(directory) / WEIGHTS_FILE)
        return transformer

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a directory that `transformers.LlamaForCausalLM.from_pretrained` opens."""
        write_config(Path(directory), self.config, dtype)
        save_weights(self, Path(directory) / WEIGHTS_FILE, dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.lm_head.weight.dtype

    def forward(self, input_ids: Tensor, positions: slice | Tensor | None = None) -> Tensor:
        """Ids (B, L) -> logits (B, L', V); the LM head runs only at `positions` (None = all)."""
        hidden = self.hidden(input_ids)
        return self.head(hidden if positions is None else hidden[:, positions])

    def hidden(self, input_ids: Tensor) -> Tensor:
        """Ids (B, L) -> states before the final norm (B, L, D), causal."""
        return self.model(input_ids, 0, causal_attention)

    def head(self, hidden: Tensor, legal: slice = slice(None)) -> Tensor:
        """Final norm and LM head: states (..., D) -> logits (..., ids in `legal`).

        Computing only the legal rows of the LM head is exact: a softmax masked to those ids never
        sees the others.
        """
        return F.linear(self.model.norm(hidden), self.lm_head.weight[legal])

    def prefill(self, input_ids: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Contexts (B, P) -> states (B, P, D), and the keys and values that futures attend to."""
        prefix: list[tuple[Tensor, Tensor]] = []
        hidden = self.model(input_ids, 0, recording(causal_attention, prefix))
        return hidden, prefix

    def continue_group(self, input_ids: Tensor, prefix: Prefix) -> Tensor:
        """G whole futures per context in one differentiable pass: ids (B, G, L) -> (B, G, L, D).

        Equals `hidden` of context and future joined, without the context's states; the context
        is computed once, not G times.
        """
        return self.model(input_ids, prefix[0][0].shape[2], continuing(prefix))
