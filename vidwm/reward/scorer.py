"""Tokens of G rollouts per context and the true frames in, metrics of every predicted frame out.

Decoding and scoring share one pass over chunks of distinct frames, so the pixels of all rollouts
are never alive together. A token frame that occurs several times, in any rollout, step or context,
is decoded once, and each distinct (token frame, true frame) pair is compared once. Perceptual
features of a true frame are computed once per context, not per rollout, and dropped after their
last use. Chunks are as large as a memory budget allows, by what one frame was seen to take.
Everything runs in fp32 without autograd, on frames clamped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from vidwm_kernels.pixel_errors import pixel_errors

from vidwm.errors import UserError
from vidwm.reward import pixels
from vidwm.reward.feature_pass import FeaturePass
from vidwm.reward.live_memory import peak_bytes
from vidwm.reward.mix import METRIC_NAMES, MOVING_NAMES, check_metric, network_of
from vidwm.reward.motion import motion_weights
from vidwm.reward.perceptual import load_perceptual

PIXEL_METRICS = frozenset({"mae", "mse", "psnr", "ssim", *MOVING_NAMES})
PIXEL_MAPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": pixels.absolute_error,
    "mse": pixels.squared_error,
    "moving_mae": pixels.absolute_error,
    "moving_mse": pixels.squared_error,
}


def has_map(metric: str) -> bool:
    """Whether a metric is a mean over places, so that each place has its share in it."""
    return metric not in PIXEL_METRICS or metric in PIXEL_MAPS


GB = 10**9
# More at a time is not faster on a CPU.
LARGEST_CHUNK = {"cpu": 64, "cuda": 4096}


class Scorer:
    """Scores predictions by the named metrics.

    memory_gb: what tensors may take at a time
    while frames are decoded and compared (10^9 bytes; a frame at a time if that is more); chunk: a
    number of frames at a time, instead; grid (h, w): every metric of a frame becomes a map of that
    many cells, whose mean is the metric. UserError on an unknown metric, one that has no map where
    a grid is given, or missing weights.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        chunk: int | None = None,
        grid: tuple[int, int] | None = None,
        memory_gb: float = 1.0,
    ) -> None:
        for metric in metrics:
            check_metric(metric, (*METRIC_NAMES, *MOVING_NAMES))
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1 frame, got {chunk}")
        if grid and (mapless := [metric for metric in metrics if not has_map(metric)]):
            raise UserError(
                f"{mapless[0]} is no mean over places, so no place has a share in it; with local "
                f"credit use mae, mse or perceptual metrics."
            )
        self.grid = grid
        self.metrics = tuple(metrics)
        self.chunk, self.memory_gb = chunk, memory_gb
        self.fits: dict[tuple[object, ...], int] = {}
        networks = {network_of(metric) for metric in metrics if metric not in PIXEL_METRICS}
        self.networks = {name: load_perceptual(name) for name in sorted(networks)}

    def score(
        self,
        tokens: Tensor,
        true: Tensor,
        last_context: Tensor | None = None,
        *,
        decode: Callable[[Tensor], Tensor],
    ) -> dict[str, Tensor]:
        """Metrics by name, each (B, G, T) float32 (with a grid (B, G, T, h, w)), of tokens
        (B, G, T, N) int64.

        decode: rows (M, N) of them -> frames (M, 3, H, W), equal rows to equal frames;
        true (B, T, 3, H, W) float in [0, 1]; last_context (B, 3, H, W) likewise, which the moving
        metrics need. ValueError when they are not.
        """
        rows, row_of = _distinct_rows(tokens.flatten(0, 2))
        return self._score(rows, row_of.view(tokens.shape[:3]), decode, true, last_context)

    def score_frames(self, pred: Tensor, true: Tensor) -> dict[str, Tensor]:
        """As `score`, for frames pred (B, G, T, 3, H, W) in [0, 1] that are already decoded."""
        pixels.check_frames(pred, "pred")
        flat = pred.flatten(0, 2)
        rows = torch.arange(len(flat), device=pred.device)
        return self._score(rows, rows.view(pred.shape[:3]), flat.__getitem__, true)

    def _score(
        self,
        rows: Tensor,
        row_of: Tensor,
        decode: Callable[[Tensor], Tensor],
        true: Tensor,
        last_context: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Score rows (R, ...), what `decode` eats; row_of (B, G, T) says which row is where."""
        B, _, T = row_of.shape
        pixels.check_frames(true, "true")
        if true.ndim != 5 or true.shape[:2] != (B, T):
            raise ValueError(f"true must be ({B}, {T}, 3, H, W), got {tuple(true.shape)}")
        truth = _Truth(true.flatten(0, 1), self._motion(true, last_context))
        pairs = _distinct_pairs(row_of)
        shape = (len(pairs.row), *(self.grid or ()))
        values = {name: torch.empty(shape, device=true.device) for name in self.metrics}
        with torch.inference_mode(), torch.autocast(true.device.type, enabled=False):
            for network in self.networks.values():
                network.to(true.device)
            if len(rows):
                chunk = self.chunk or self._fitting(rows[:1], decode, truth.first(), T)
                self._fill(values, rows, decode, truth, pairs, chunk)
        # Gathered outside inference mode: rewards must be usable in a loss.
        return {name: value[pairs.pair_of] for name, value in values.items()}

    def _motion(self, true: Tensor, last_context: Tensor | None) -> Tensor | None:
        if not set(MOVING_NAMES).intersection(self.metrics):
            return None
        if last_context is None or last_context.shape != true[:, 0].shape:
            raise ValueError(
                f"the moving metrics need the last context frames, {tuple(true[:, 0].shape)}, got "
                f"{None if last_context is None else tuple(last_context.shape)}"
            )
        return motion_weights(true, last_context).flatten(0, 1)

    def _fitting(
        self, row: Tensor, decode: Callable[[Tensor], Tensor], truth: _Truth, alive: int
    ) -> int:
        """How many frames at a time fit, when features of `alive` true frames are kept."""
        kind = (row.shape, truth.frames.shape, alive)
        if kind not in self.fits:
            self.fits[kind] = self._measured_fit(row, decode, truth, alive)
        return self.fits[kind]

    def _measured_fit(
        self, row: Tensor, decode: Callable[[Tensor], Tensor], truth: _Truth, alive: int
    ) -> int:
        pairs = _distinct_pairs(row.new_zeros(1, 1, 1, dtype=torch.int64))
        shape = (1, *(self.grid or ()))
        values = {name: torch.empty(shape, device=row.device) for name in self.metrics}
        one = peak_bytes(lambda: self._fill(values, row, decode, truth, pairs, 1))
        kept = sum(
            maps.nbytes
            for network in self.networks.values()
            for maps in network.true_features(truth.frames)
        )
        fit = (self.memory_gb * GB - alive * kept) / max(one, 1)
        return max(1, min(int(fit), LARGEST_CHUNK[row.device.type]))

    def _fill(
        self,
        values: dict[str, Tensor],
        rows: Tensor,
        decode: Callable[[Tensor], Tensor],
        truth: _Truth,
        pairs: _Pairs,
        chunk: int,
    ) -> None:
        """Metrics of all pairs, into values (P, ...) by name, `chunk` frames at a time."""
        compared = {
            name: FeaturePass(network, truth.frames, pairs.place)
            for name, network in self.networks.items()
        }
        for first in range(0, len(rows), chunk):
            frames = decode(rows[first : first + chunk]).float().clamp(0, 1)
            for features in compared.values():
                features.load(frames)
            for span in pairs.spans(first, first + len(frames), chunk):
                row, place = pairs.row[span] - first, pairs.place[span]
                found = self._pixel_metrics(frames[row], truth, place)
                for name in self.metrics:
                    if name not in PIXEL_METRICS:
                        features = compared[network_of(name)]
                        found[name] = features.distance(row, place, span.start, self.grid)
                    values[name][span] = found[name]

    def _pixel_metrics(self, frames: Tensor, truth: _Truth, place: Tensor) -> dict[str, Tensor]:
        """Those asked for, of frames (Q, 3, H, W) against true frames `place`."""
        names = PIXEL_METRICS.intersection(self.metrics)
        by_place = names if self.grid else names.intersection(MOVING_NAMES)
        found = {}
        for name in by_place:
            errors = PIXEL_MAPS[name](frames, truth.frames[place])
            if name in MOVING_NAMES and truth.motion is not None:
                errors = errors * truth.motion[place]
            cells = F.adaptive_avg_pool2d(errors, self.grid or (1, 1))[:, 0]
            found[name] = cells if self.grid else cells[:, 0, 0]
        if names - by_place:
            mae, mse, ssim = pixel_errors(
                frames, truth.frames, place, with_ssim="ssim" in self.metrics
            )
            found |= {"mae": mae, "mse": mse, "psnr": pixels.psnr_of(mse)}
            found |= {} if ssim is None else {"ssim": ssim}
        return found


class _Truth(NamedTuple):
    """True frames (P, 3, H, W) and the weights of their pixels (P, 1, H, W) in moving metrics."""

    frames: Tensor
    motion: Tensor | None

    def first(self) -> _Truth:
        return _Truth(self.frames[:1], None if self.motion is None else self.motion[:1])


def _distinct_rows(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows of tokens (M, N) by first appearance, and for each of the M its row."""
    rows, row_of = tokens.unique(dim=0, return_inverse=True)
    here = torch.arange(len(tokens), device=tokens.device)
    first = here.new_full((len(rows),), len(tokens)).scatter_reduce(0, row_of, here, "amin")
    # By first appearance, a chunk of rows meets few contexts, so few true features live at a time.
    order = first.argsort()
    rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
    return rows[order], rank[row_of]


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Distinct (token row, true frame) pairs, sorted by row.

    row, place (P,): which row and which of the B * T true frames; pair_of (B, G, T): which pair.
    """

    row: Tensor
    place: Tensor
    pair_of: Tensor

    def spans(self, first_row: int, end_row: int, size: int) -> list[slice]:
        """Slices of at most `size` pairs which together are the pairs of these rows."""
        bounds = torch.tensor([first_row, end_row], device=self.row.device)
        start, stop = torch.searchsorted(self.row, bounds).tolist()
        return [slice(at, min(at + size, stop)) for at in range(start, stop, size)]


def _distinct_pairs(row_of: Tensor) -> _Pairs:
    B, _, T = row_of.shape
    place = torch.arange(B * T, device=row_of.device).view(B, 1, T)
    pairs, pair_of = (row_of * (B * T) + place).unique(return_inverse=True)
    return _Pairs(row=pairs // (B * T), place=pairs % (B * T), pair_of=pair_of)
