"""A transformer for another layout: the same network with a new vocabulary and room for positions.

Visual ids, bos and eos keep their rows of the embedding and of the LM head. An id of an action bin
gets the rows of the old bin whose value is nearest, both counted in shares of their ranges, so that
the middle of the old range becomes the middle of the new; in the old dimension of the same name,
or where there is none in that of the same place (counted round, if the old robot has fewer).
Attention and MLP are kept. Positions are rotary, so nothing is learned of any one of them: their
number (`max_position_embeddings`) just grows to the new sequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from vidwm.errors import UserError
from vidwm.world_model.compressive_layout import CompressiveLayout
from vidwm.world_model.layout import Layout
from vidwm.world_model.transformer import Transformer


def for_layout(
    transformer: Transformer,
    old: Layout,
    new: Layout,
    old_names: Sequence[str],
    new_names: Sequence[str],
) -> Transformer:
    """A copy of a transformer of layout `old` for layout `new`; names are those of the actions.

    UserError when the layouts have other visual ids.
    """
    check_same_codebook(old, new)
    ids = inherited_ids(old, new, inherited_dimensions(old_names, new_names))
    config = dataclasses.replace(
        transformer.config,
        vocab_size=new.vocab_size,
        max_position_embeddings=max(
            transformer.config.max_position_embeddings, new.sequence_length
        ),
        bos_token_id=new.bos,
        eos_token_id=new.eos,
    )
    with transformer.lm_head.weight.device:
        copy = Transformer(config)
    tensors = transformer.state_dict()
    for table in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[table] = tensors[table][ids.to(tensors[table].device)]
    copy.load_state_dict(tensors)
    return copy.eval()


def check_same_codebook(old: Layout, new: Layout) -> None:
    """UserError when the visual ids of two layouts differ."""
    if type(old) is not type(new) or old.first_action_id != new.first_action_id:
        raise UserError(
            f"The transformer knows the {_codes(old)}, this tokenizer writes the {_codes(new)}; "
            f"use a tokenizer that was adapted from the transformer's own."
        )


def _codes(layout: Layout) -> str:
    kind = "compressive" if isinstance(layout, CompressiveLayout) else "per-frame"
    return f"{layout.first_action_id} codes of a {kind} one"


def inherited_dimensions(old: Sequence[str], new: Sequence[str]) -> list[int]:
    """For each new action dimension the old one it starts from: of the same name, else place."""
    return [old.index(name) if name in old else place % len(old) for place, name in enumerate(new)]


def inherited_ids(old: Layout, new: Layout, dimensions: Sequence[int]) -> Tensor:
    """For each id of `new` the id of `old` whose rows it starts from, (V,) int64."""
    bins = nearest_bins(old.action_bins, new.action_bins)
    rows = old.action_ids(bins[:, None].expand(-1, old.action_dims)).T  # (A, bins)
    chosen = rows[:1] if new.shared_action_ids else rows[list(dimensions)]
    visual = torch.arange(old.first_action_id)
    return torch.cat([visual, chosen.flatten(), torch.tensor([old.bos, old.eos])])


def nearest_bins(old: int, new: int) -> Tensor:
    """For each of `new` equal bins of a range the nearest of `old` bins of a range, (new,)."""
    return ((torch.arange(new) + 0.5) / new * old).floor().long()
