"""LoRA: the matrices of a transformer stay, and updates of low rank beside them are trained.

    W x  becomes  W x + alpha / rank * B A x,   A (rank, in) random at first, B (out, rank) zero

After Hu et al., arXiv 2106.09685, by the package `peft`, which wraps every projection of attention
and MLP in place. Whatever is sampled from or saved is a plain transformer with the products added
to its matrices, so that no other command needs `peft`, and rollouts are as fast as ever.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn

from vidwm.errors import UserError
from vidwm.lora_config import LoraOptions
from vidwm.world_model.transformer import Block, Transformer
from vidwm.world_model.world_model import WorldModel

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_adapters(
    transformer: Transformer, options: LoraOptions, *, embeddings: bool = False
) -> None:
    """Freeze the weights and put adapters beside the projections, if `lora_rank` asks for it.

    embeddings: train the embedding as well, for ids that the transformer has to learn. Draws from
    torch's generator. UserError where `peft` is absent.
    """
    if not options.lora_rank:
        return
    try:
        import peft
    except ImportError as error:
        raise UserError(
            f"lora_rank needs the package peft ({error}): install it with "
            f"`pip install 'vidwm[lora]'`."
        ) from None
    settings = peft.LoraConfig(
        r=options.lora_rank,
        lora_alpha=cast(Any, options.lora_alpha),
        target_modules=list(PROJECTIONS),
    )
    peft.inject_adapter_in_model(settings, transformer)
    transformer.model.embed_tokens.requires_grad_(embeddings)


@contextmanager
def merged_into(model: WorldModel) -> Iterator[None]:
    """The world model has the plain transformer inside the block, and its own after it."""
    own = model.transformer
    model.transformer = merged(own)
    try:
        yield
    finally:
        model.transformer = own


def merged(transformer: Transformer) -> Transformer:
    """A copy with the adapters' products in its matrices; the same one, if it has none."""
    if not any(map(_is_wrapped, transformer.modules())):
        return transformer
    plain = copy.deepcopy(transformer)
    for layer in plain.model.layers:
        block = cast(Block, layer)
        for part in (block.self_attn, block.mlp):
            for name, child in list(part.named_children()):
                if _is_wrapped(child):
                    wrapped: Any = child
                    wrapped.merge()
                    setattr(part, name, wrapped.get_base_layer())
    return plain.requires_grad_(False)


def _is_wrapped(module: nn.Module) -> bool:
    return hasattr(module, "get_base_layer")
