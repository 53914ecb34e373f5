"""Perceptual features during a pass over frames: true frames' are computed once and shared."""

from __future__ import annotations

import torch
from torch import Tensor

from vidwm.reward.perceptual import PerceptualNet


class FeaturePass:
    """Features of the predicted frames at hand, and of true frames from first use to last.

    true (P, 3, H, W); places: of every pair, in the order of asking, its true frame (0..P-1).
    """

    def __init__(self, net: PerceptualNet, true: Tensor, places: Tensor) -> None:
        self.net = net
        self.true = true
        order = torch.arange(len(places), device=places.device)
        unused = order.new_full((len(true),), -1)
        self.last_use = unused.scatter_reduce(0, places, order, "amax")
        self.slot = unused.clone()
        self.kept = places[:0]
        self.true_maps: list[Tensor] = []
        self.pred_maps: list[Tensor] = []

    def load(self, frames: Tensor) -> None:
        """Take predicted frames (M, 3, H, W) in the place of those before."""
        self.pred_maps = self.net.features(frames)

    def distance(
        self, rows: Tensor, places: Tensor, now: int, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Distances (Q,) of loaded frames `rows` to true frames `places`; `now`: the first pair.

        With a grid, their maps (Q, *grid).
        """
        wanted = places.unique()
        missing = wanted[~torch.isin(wanted, self.kept)]
        if len(missing):
            self._fetch(missing, now)
        slots = self.slot[places]
        everyone = torch.arange(len(self.pred_maps[0]), device=rows.device)
        pred = self.pred_maps
        if not torch.equal(rows, everyone):
            pred = [stage[rows] for stage in pred]
        if grid:
            return self.net.distance_map(pred, self.true_maps, slots, grid)
        return self.net.distance(pred, self.true_maps, slots)

    def _fetch(self, missing: Tensor, now: int) -> None:
        fresh = self.net.true_features(self.true[missing])
        needed = self.last_use[self.kept] >= now
        old = [stage[needed] for stage in self.true_maps] or [stage[:0] for stage in fresh]
        self.true_maps = [torch.cat(both) for both in zip(old, fresh, strict=True)]
        self.kept = torch.cat([self.kept[needed], missing])
        self.slot[self.kept] = torch.arange(len(self.kept), device=self.kept.device)
