"""What values each dimension of actions or states takes: range, quantiles, a small histogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 16
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One column of rows; the histogram has `BINS` equal bins from `minimum` to `maximum`."""

    name: str
    minimum: float
    q01: float
    mean: float
    q99: float
    maximum: float
    std: float
    histogram: tuple[int, ...]


def describe(rows: np.ndarray, names: Sequence[str]) -> list[Dimension]:
    """One `Dimension` per column of (M, A); values that are not finite are left out."""
    found = []
    for name, column in zip(names, rows.astype(np.float64).T, strict=True):
        values = column[np.isfinite(column)]
        if not len(values):
            values = np.zeros(1)
        low, high = float(values.min()), float(values.max())
        q01, q99 = (float(q) for q in np.quantile(values, (0.01, 0.99)))
        found.append(
            Dimension(
                name=name,
                minimum=low,
                q01=q01,
                mean=float(values.mean()),
                q99=q99,
                maximum=high,
                std=float(values.std()),
                histogram=tuple(_counts(values, low, high)),
            )
        )
    return found


def _counts(values: np.ndarray, low: float, high: float) -> list[int]:
    if not high - low > 1e-9 * max(abs(low), abs(high)):  # too narrow to be cut into bins
        return [len(values)] + [0] * (BINS - 1)
    return [int(count) for count in np.histogram(values, BINS, (low, high))[0]]


def bars(histogram: Sequence[int]) -> str:
    """A histogram as one bar of text per bin; an empty bin is blank, however few are in another."""
    top = max(histogram)
    levels = (-(-count * len(BARS) // top) if top else 0 for count in histogram)
    return "".join(BARS[level - 1] if level else " " for level in levels)


def dimension_lines(title: str, dimensions: Sequence[Dimension]) -> list[str]:
    """A table: a head, then a line per dimension."""
    width = max(len(title), *(len(dimension.name) for dimension in dimensions))
    heads = ("min", "1 %", "mean", "99 %", "max", "std")
    lines = [title.ljust(width) + "".join(f"{head:>11}" for head in heads) + "  histogram"]
    for d in dimensions:
        values = (d.minimum, d.q01, d.mean, d.q99, d.maximum, d.std)
        cells = "".join(f"{value:>11.4g}" for value in values)
        lines.append(f"{d.name.ljust(width)}{cells}  {bars(d.histogram)}".rstrip())
    return lines
