"""Continuous actions become integer bins, so that a transformer can read them as tokens.

Each dimension is cut into equal bins between its `low` and `high`; actions beyond the range fall in
the outermost bins. All dimensions share one set of bins, as in RLVR-World (arXiv 2505.13934), whose
ranges are the minimum and maximum of the data set. One outlier then wastes most bins, hence the
1 % and 99 % quantiles are the default for new data; `minmax` reproduces the released models. A
gripper's command or a one-hot dimension is never cut: its rare values are no outliers.
The ranges belong to the model: they are saved with it and never refitted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidwm.errors import UserError

QUANTILES = (0.01, 0.99)


@dataclass(frozen=True, kw_only=True, eq=False)
class ActionBins:
    """Ranges of the A action dimensions, low and high (A,) float32 in the unit of the data."""

    low: Tensor
    high: Tensor
    bins: int = 256

    def __post_init__(self) -> None:
        if self.low.ndim != 1 or self.low.shape != self.high.shape:
            raise UserError(
                f"Action ranges: low and high must have one number per dimension, "
                f"got shapes {tuple(self.low.shape)} and {tuple(self.high.shape)}."
            )
        if not len(self.low) or self.bins < 1:
            raise UserError(
                f"Action ranges: at least 1 dimension and 1 bin are needed, "
                f"got {len(self.low)} dimensions and {self.bins} bins."
            )
        _check_finite(torch.stack([self.low, self.high]), "Action ranges")
        if (self.low > self.high).any():
            worst = int((self.low > self.high).float().argmax())
            raise UserError(
                f"Action ranges: dimension {worst} has low {self.low[worst]:g} above "
                f"high {self.high[worst]:g}; swap them."
            )

    @property
    def action_dims(self) -> int:
        """A."""
        return len(self.low)

    @classmethod
    def fit(
        cls,
        actions: Tensor | np.ndarray,
        *,
        method: str = "quantile",
        bins: int = 256,
        uncut: Sequence[int] = (),
    ) -> ActionBins:
        """Ranges of actions (M, A): `quantile` (1 % to 99 %) or `minmax`.

        Dimensions in `uncut`, and those whose quantiles are one value though others occur, have
        their minimum and maximum either way.
        """
        rows = _as_float(actions)
        if rows.ndim != 2 or not len(rows):
            raise UserError(
                f"Action ranges are fitted on rows (M, A) with M >= 1, got {tuple(rows.shape)}."
            )
        _check_finite(rows, "Actions")
        if method == "quantile":
            low, high = np.quantile(rows.numpy(), QUANTILES, axis=0).astype(np.float32)
            whole = np.isin(np.arange(len(low)), uncut) | (low == high)
            low = np.where(whole, rows.numpy().min(axis=0), low)
            high = np.where(whole, rows.numpy().max(axis=0), high)
        elif method == "minmax":
            low, high = rows.numpy().min(axis=0), rows.numpy().max(axis=0)
        else:
            raise UserError(
                f"Unknown way to fit action ranges '{method}'; use 'quantile' or 'minmax'."
            )
        return cls(low=torch.from_numpy(low), high=torch.from_numpy(high), bins=bins)

    def encode(self, actions: Tensor | np.ndarray) -> Tensor:
        """Bin of each action component: (..., A) float -> (..., A) int64 in [0, bins)."""
        rows = _as_float(actions)
        if not rows.ndim or rows.shape[-1] != self.action_dims:
            raise UserError(
                f"The model expects {self.action_dims} action dimensions, the data has "
                f"{rows.shape[-1] if rows.ndim else 0}; use data of the same robot and frame skip."
            )
        _check_finite(rows, "Actions")
        low, high = self.low.to(rows.device), self.high.to(rows.device)
        unit = ((rows - low) / (high - low + 1e-8)).clamp(0, 1)
        return (unit * self.bins).floor().long().clamp(0, self.bins - 1)

    def decode(self, bins: Tensor) -> Tensor:
        """Centre of each bin: (..., A) int64 -> (..., A) float32."""
        low, high = self.low.to(bins.device), self.high.to(bins.device)
        return low + (bins + 0.5) / self.bins * (high - low)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; `from_json` gives back exactly the same float32 values."""
        return {"low": self.low.tolist(), "high": self.high.tolist(), "bins": self.bins}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ActionBins:
        """Inverse of `to_json`; UserError when a key is missing or is not a list of numbers."""
        try:
            low, high = (torch.tensor(data[name]).float() for name in ("low", "high"))
            bins = int(data["bins"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"Action ranges must hold 'low' and 'high' (lists of numbers) and 'bins' "
                f"(a whole number): {error}."
            ) from error
        return cls(low=low, high=high, bins=bins)


def _as_float(actions: Tensor | np.ndarray) -> Tensor:
    return torch.as_tensor(actions).float()


def _check_finite(rows: Tensor, what: str) -> None:
    finite = torch.isfinite(rows)
    if finite.all():
        return
    dims = (~finite).reshape(math.prod(rows.shape[:-1]), rows.shape[-1]).any(dim=0)
    raise UserError(
        f"{what}: dimension {int(dims.float().argmax())} holds NaN or infinity; "
        f"repair or remove those rows."
    )
