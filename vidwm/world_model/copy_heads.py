"""A head start: a new transformer begins with heads that look back one frame.

Most tokens of a frame are those that stood at the same place one frame earlier. Random weights need
more than a hundred steps to find that out, for it takes an attention head that looks back by
exactly one frame, the induction head of Elhage et al. (A Mathematical Framework for Transformer
Circuits, 2021) with a fixed distance. So two heads of the first layer are such heads to begin with:

    score    q . k = sum_i w^2 cos(f_i (p - s - distance))   has its peak at s = p - distance
    logits   lm_head . norm(W_o W_v embedding(s) + ...)      are largest for the token at s

Before rotation q and k are constant: they read one direction `u` that every embedding gets a share
of, and rotary positions turn them into a peak. The copied token leaves through other directions
(`outward`) than it came in by (`inward`), lest the head take the present token for the copy. Two
heads, because bos makes the way back one longer for the first predicted frame; at first they are
equally loud, so the copied token and a neighbour of it tie, which training soon settles. Where all
frames are equally far (a horizon of 1, no bos), or with a single attention head, there is one.
Nothing is frozen: this is where training starts, ours alone and not part of RLVR-World.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from vidwm.world_model.attention import rope_frequencies
from vidwm.world_model.layout import Layout
from vidwm.world_model.transformer import Block, Transformer

COMMON_SHARE = 0.5  # of the embeddings' energy: what lies along u
SHARPNESS = 8.0  # nats between the peak of a score and its neighbours
SLOWEST = 0.02  # radians per position; slower rotations tell no places apart
LOUDNESS = 5.0  # length of the copied token beside the present one
COPY_LOGIT = 12.0  # of the copied token, if both heads agreed


@torch.no_grad()
def start_copying(transformer: Transformer, layout: Layout) -> None:
    """Overwrite weights of the embedding, the first layer's attention and the LM head, in place."""
    config = transformer.config
    width, head_dim, K = config.hidden_size, config.head_dim, layout.codebook_size
    attention = cast(Block, transformer.model.layers[0]).self_attn
    embedding = transformer.model.embed_tokens.weight
    std = float(embedding.std())
    u = torch.ones(width) / math.sqrt(width)
    own = embedding - torch.outer(embedding @ u, u)
    common = std * math.sqrt(width * COMMON_SHARE / (1 - COMMON_SHARE))
    embedding.copy_(own + common * u)
    along_u = math.sqrt(width * COMMON_SHARE)  # of an embedding after RMSNorm

    frequencies = rope_frequencies(head_dim, config.rope_theta)
    heard = (frequencies > SLOWEST).float()
    drop = float((heard * (1 - frequencies.cos())).sum())  # of the score, one place off the peak
    weight = heard * math.sqrt(SHARPNESS * math.sqrt(head_dim) / drop) / along_u
    key = torch.cat([weight, torch.zeros_like(weight)])
    inward, outward = _directions(head_dim, u), _directions(head_dim, u)
    loudness = LOUDNESS * std * math.sqrt(width / (head_dim * (1 - COMMON_SHARE)))
    # With room for one head only: the distance that most predicted frames need.
    for head, distance in enumerate(layout.copy_distances[: config.num_attention_heads]):
        angle = frequencies * distance
        query = torch.cat([weight * angle.cos(), -weight * angle.sin()])
        rows = slice(head * head_dim, (head + 1) * head_dim)
        shared = head * config.num_key_value_heads // config.num_attention_heads
        kv_rows = slice(shared * head_dim, (shared + 1) * head_dim)
        attention.q_proj.weight[rows] = torch.outer(query, u)
        attention.k_proj.weight[kv_rows] = torch.outer(key, u)
        attention.v_proj.weight[kv_rows] = inward
        attention.o_proj.weight[:, rows] = loudness * outward.T
    scale = COPY_LOGIT / (std * math.sqrt(width * head_dim))
    transformer.lm_head.weight[:K] = scale * own[:K] @ inward.T @ outward


def _directions(count: int, u: Tensor) -> Tensor:
    """Random, nearly orthonormal rows (count, width), each orthogonal to u."""
    rows = torch.linalg.qr(torch.randn(len(u), count))[0].T
    return rows - torch.outer(rows @ u, u)
