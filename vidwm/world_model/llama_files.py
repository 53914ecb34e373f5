"""The settings of a transformer, and their place in a Hugging Face Llama directory.

`config.json` is what `transformers.LlamaConfig` reads and writes; `model.safetensors` beside it
holds the weights under `LlamaForCausalLM`'s names. The released RLVR-World directories carry a
wrong `architectures` entry and no metadata; neither matters here, names and shapes decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from vidwm.errors import UserError
from vidwm.files import read_json, write_json

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INIT_STD = 0.02

# What this transformer is, in LlamaConfig's words; a file that says otherwise cannot be opened.
FIXED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes, under the names of `transformers.LlamaConfig`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int
    bos_token_id: int
    eos_token_id: int

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise UserError(
                f"hidden_size {self.hidden_size} must be a multiple of twice "
                f"num_attention_heads {self.num_attention_heads}."
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}."
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


def write_config(directory: Path, config: TransformerConfig, dtype: torch.dtype) -> None:
    """Write `config.json` so that transformers opens the directory as LlamaForCausalLM."""
    own = {
        "architectures": ["LlamaForCausalLM"],
        "head_dim": config.head_dim,
        "initializer_range": INIT_STD,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    write_json(directory / CONFIG_FILE, FIXED | own | asdict(config))


def read_config(directory: Path) -> TransformerConfig:
    """Settings of the model in `directory`; UserError when it is not a plain Llama."""
    path = directory / CONFIG_FILE
    data = read_json(path)
    _check_is_plain_llama(path, data)
    values = {f.name: data[f.name] for f in fields(TransformerConfig) if f.name in data}
    values.setdefault("num_key_value_heads", values.get("num_attention_heads"))
    if "rope_theta" in _rope(data):
        values["rope_theta"] = _rope(data)["rope_theta"]
    required = [f.name for f in fields(TransformerConfig) if f.default is MISSING]
    missing = [name for name in required if values.get(name) is None]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; it is not a complete Llama config.")
    return TransformerConfig(**values)


def _rope(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rotary settings: transformers 5 writes them, rope_theta included, one level down."""
    return data.get("rope_parameters") or data.get("rope_scaling") or {}


def _check_is_plain_llama(path: Path, data: Mapping[str, Any]) -> None:
    for name, expected in FIXED.items():
        if data.get(name, expected) != expected:
            raise UserError(f"{path}: {name} is {data[name]!r}, only {expected!r} is supported.")
    kind = _rope(data).get("rope_type", _rope(data).get("type", "default"))
    if kind != "default":
        raise UserError(f"{path}: rope type is {kind!r}, only 'default' is supported.")
    heads, width = data.get("num_attention_heads"), data.get("hidden_size")
    if data.get("head_dim") is not None and heads and width and data["head_dim"] * heads != width:
        raise UserError(
            f"{path}: head_dim {data['head_dim']} times num_attention_heads {heads} must equal "
            f"hidden_size {width}."
        )
