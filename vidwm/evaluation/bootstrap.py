"""Bootstrap intervals over episodes, for means and for paired differences.

Windows of one episode look alike and are no independent evidence, so episodes are resampled, never
windows. All means of one `Bootstrap` share the same resamples, hence differences and ratios of two
subjects measured on the same episodes are paired. Intervals are percentiles (Efron, 1979); over
fewer than about ten episodes they come out too narrow.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A statistic and the ends of its 95 % interval, arrays of one shape; NaN where unknown."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def per_episode(
    values: np.ndarray, weights: np.ndarray, episodes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means within each episode: over all frames (E,), and frame by frame (E, h).

    values, weights (W, h) per window and predicted frame; episodes (W,) is the episode of each
    window. Episodes come in rising order; one whose weights are all zero gives NaN.
    """
    members = (np.unique(episodes)[:, None] == episodes).astype(float)  # (E, W)
    totals, masses = members @ (values * weights), members @ weights
    with np.errstate(invalid="ignore"):
        return totals.sum(axis=1) / masses.sum(axis=1), totals / masses


class Bootstrap:
    """Means over E episodes, each counted alike, with intervals from `resamples` redraws.

    Values are arrays (E, ...); an episode that is NaN does not count. With fewer than two episodes
    that count there is no interval: its ends are NaN.
    """

    def __init__(self, num_episodes: int, *, resamples: int = 2000, seed: int = 0) -> None:
        generator = np.random.Generator(np.random.PCG64(seed))
        share = np.full(num_episodes, 1 / num_episodes)
        drawn = generator.multinomial(num_episodes, share, size=resamples)
        # How often each episode counts; row 0 is the sample itself, the others its redraws.
        self.counts = np.concatenate([np.ones((1, num_episodes)), drawn])

    def mean(self, values: np.ndarray) -> Interval:
        """Mean over episodes."""
        return _interval(self._means(values), values)

    def difference(self, values: np.ndarray, reference: np.ndarray) -> Interval:
        """Mean of values - reference, episode by episode."""
        return self.mean(values - reference)

    def relative(self, values: np.ndarray, reference: np.ndarray) -> Interval:
        """That difference in percent of the reference's mean.

        NaN where that is 0, in the sample or in too many of its redraws for an interval: a
        percentage of what may as well be nothing has no upper end.
        """
        both = values - reference
        known = np.where(np.isfinite(both), reference, np.nan)
        base = self._means(known)
        nothing = (base == 0).mean(axis=0) > (1 - LEVEL) / 2
        base[nothing | (base == 0)] = np.nan
        with np.errstate(invalid="ignore"):
            percent = 100 * self._means(both) / np.abs(base)
        return _interval(percent, both)

    def _means(self, values: np.ndarray) -> np.ndarray:
        """(E, ...) -> (1 + resamples, ...)."""
        known = np.isfinite(values)
        totals = np.tensordot(self.counts, np.where(known, values, 0.0), axes=1)
        masses = np.tensordot(self.counts, known.astype(float), axes=1)
        with np.errstate(invalid="ignore"):
            return totals / masses


def _interval(statistics: np.ndarray, values: np.ndarray) -> Interval:
    tail = (1 - LEVEL) / 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = np.nanquantile(statistics[1:], (tail, 1 - tail), axis=0)
    enough = np.isfinite(values).sum(axis=0) >= 2
    return Interval(
        value=statistics[0],
        low=np.where(enough, low, np.nan),
        high=np.where(enough, high, np.nan),
    )


def verdict(change: Interval, higher_is_better: bool) -> str:
    """What a scalar difference means: better, worse, no change (0 is inside), or unknown."""
    low, high = float(change.low), float(change.high)
    if np.isnan(low):
        return "unknown"
    if low <= 0 <= high:
        return "no change"
    return "better" if (low > 0) == higher_is_better else "worse"
