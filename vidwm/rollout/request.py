"""What `generate` can be asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from vidwm.errors import UserError
from vidwm.world_model.layout import Layout
from vidwm.world_model.transformer import Transformer


def check_request(
    transformer: Transformer,
    layout: Layout,
    context: Tensor,
    bins: Tensor,
    group_size: int,
    keys: Tensor,
    horizon: int,
    legal: Tensor | None = None,
) -> None:
    """UserError or ValueError when the arguments of `generate` cannot be served."""
    if not len(context):
        raise ValueError("there must be at least one context, got none")
    if group_size < 1 or horizon < 1:
        raise UserError(
            f"group_size and horizon must be at least 1, got {group_size} and {horizon}."
        )
    if keys.shape != (len(context),) or keys.dtype != torch.int64:
        raise ValueError(
            f"keys must be ({len(context)},) int64, got {tuple(keys.shape)} {keys.dtype}"
        )
    if bins.shape[1] < layout.context_frames + horizon - 1:
        raise UserError(
            f"{horizon} frames after {layout.context_frames} context frames need "
            f"{layout.context_frames + horizon - 1} actions, got {bins.shape[1]}."
        )
    # Both calls check what they are given, before anything is computed from it.
    layout.prompt(context, bins)
    layout.action_ids(bins)
    config = transformer.config
    if config.vocab_size != layout.vocab_size:
        raise UserError(
            f"The transformer has {config.vocab_size} ids, the layout {layout.vocab_size}; "
            f"they belong to different models."
        )
    frames = min(horizon, layout.horizon)
    longest = layout.prompt_length + frames * layout.block - layout.action_dims
    if longest > config.max_position_embeddings:
        raise UserError(
            f"Context and future take {longest} tokens, more than the model's "
            f"max_position_embeddings {config.max_position_embeddings}; use fewer frames."
        )
    if legal is not None:
        _check_legal(layout, legal)


def _check_legal(layout: Layout, legal: Tensor) -> None:
    shape = (layout.tokens_per_frame, layout.codebook_size)
    if legal.dtype != torch.bool or legal.shape not in (shape, shape[1:]):
        raise ValueError(
            f"legal must be bool, {shape[1:]} or {shape}, got {tuple(legal.shape)} {legal.dtype}"
        )
    if not legal.any(dim=-1).all():
        place = int((~legal.any(dim=-1)).flatten().nonzero()[0])
        raise UserError(f"No token is legal at place {place} of a frame; mark at least one.")
