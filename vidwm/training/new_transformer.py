"""Which transformer a pretraining run starts from."""

from __future__ import annotations

from vidwm.config import PretrainConfig
from vidwm.world_model.layout import Layout
from vidwm.world_model.llama_files import TransformerConfig

MIN_POSITIONS = 1024


def transformer_config(config: PretrainConfig, layout: Layout) -> TransformerConfig:
    """The sizes that the settings ask for, and the ids and positions that the layout needs."""
    return TransformerConfig(
        vocab_size=layout.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size or _round_up(config.hidden_size * 8 // 3),
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads or config.num_heads,
        max_position_embeddings=max(MIN_POSITIONS, layout.sequence_length),
        bos_token_id=layout.bos,
        eos_token_id=layout.eos,
    )


def _round_up(width: int, multiple: int = 32) -> int:
    return -(-width // multiple) * multiple
