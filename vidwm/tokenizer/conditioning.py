"""How a frame's maps look at its context's: cross-attention on the coarse levels.

The block of iVideoGPT's and RLVR-World's compressive tokenizers (arXiv 2405.15223, section 3.1),
with their parameter names: silu(z + attention(norm(z) + position, norm(context) + position)).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidwm.gradient_checkpointing import CheckpointedBlock

HEADS = 4
GROUPS = 32
EPS = 1e-6
# Of new positions: in 24 dimensions per head the own place then leads by some 11 nats.
START_POSITION = 1.5


class CrossAttention(CheckpointedBlock):
    """Maps z (B * F, C, h, w) that attend to the maps (B, c, C, h, w) of c context frames.

    grid (h, w) is the size of the maps, of which every place has a learned position.
    """

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        places = grid[0] * grid[1]
        self.grid = grid
        self.att = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.q_norm, self.kv_norm = (nn.GroupNorm(GROUPS, width, EPS) for _ in range(2))
        self.q_pos_emb, self.kv_pos_emb = (
            nn.Parameter(torch.zeros(places, width)) for _ in range(2)
        )

    @torch.no_grad()
    def start_in_place(self) -> None:
        """Give every place a position of its own, and let it look where the same position is.

        The released models began with all positions 0, and had to find that out.
        """
        width = self.q_pos_emb.shape[1]
        self.q_pos_emb.normal_(std=START_POSITION)
        self.kv_pos_emb.copy_(self.q_pos_emb)
        turn = torch.linalg.qr(torch.randn(width, width))[0]
        self.att.in_proj_weight[: 2 * width] = torch.cat([turn, turn])

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        B = len(context)
        queries = _places(self.q_norm(z)) + self.q_pos_emb
        seen = _places(self.kv_norm(context.flatten(0, 1))) + self.kv_pos_emb
        weights, biases = self.att.in_proj_weight.chunk(3), self.att.in_proj_bias.chunk(3)
        # Keys and values are made once a context, for all frames that look at it.
        q = F.linear(queries, weights[0], biases[0]).reshape(B, -1, z.shape[1])
        k, v = (F.linear(seen, weights[i], biases[i]).reshape(B, -1, z.shape[1]) for i in (1, 2))
        q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        mixed = self.att.out_proj(mixed).view(len(z), -1, z.shape[1])
        return F.silu(z + mixed.transpose(1, 2).unflatten(2, z.shape[-2:]))


def _places(x: Tensor) -> Tensor:
    """(M, C, h, w) -> (M, h * w, C)."""
    return x.flatten(2).transpose(1, 2)


def resized_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """A table (h * w, C) of positions on grid `old`, interpolated for grid `new`."""
    if old == new:
        return table
    maps = table.T.view(1, -1, *old)
    resized = F.interpolate(maps, size=new, mode="bilinear", antialias=True)
    return resized.flatten(2)[0].T.contiguous()
