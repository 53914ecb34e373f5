"""A head start for the embeddings of action bins: neighbours begin alike.

Bins are ordered, but as ids of a transformer they begin as strangers, and with little data many are
hardly ever seen. Instead of noise, every dimension's rows start as a smooth random function of the
bin's place in its range: random mixtures of a few cosines. Training moves them on from there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidwm.world_model.layout import Layout

NUM_WAVES = 8


def smooth_rows(count: int, width: int, std: float) -> Tensor:
    """Rows (count, width) of standard deviation `std`; row i is a smooth function of i / count."""
    places = (torch.arange(count) + 0.5) / count
    waves = torch.cos(math.pi * places[:, None] * torch.arange(NUM_WAVES))
    rows = waves @ torch.randn(NUM_WAVES, width)
    return rows * (std / rows.std())


@torch.no_grad()
def start_smoothly(embedding: Tensor, layout: Layout) -> None:
    """Overwrite the action rows of an embedding table (V, D) in place, keeping their scale."""
    first, bins = layout.first_action_id, layout.action_bins
    for start in range(first, first + layout.num_action_ids, bins):
        rows = embedding[start : start + bins]
        rows.copy_(smooth_rows(bins, rows.shape[1], float(rows.std())))
