"""What the ranges of actions leave out: per dimension, how many of the values lie outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vidwm.files import write_json
from vidwm.world_model.actions import ActionBins

MANY = 0.05  # share of values outside above which a dimension is pointed at


@dataclass(frozen=True, kw_only=True)
class DimensionRange:
    """Ends of the bins, extremes of the data, and how many of `values` lie below and above."""

    name: str
    low: float
    high: float
    minimum: float
    maximum: float
    below: int
    above: int
    values: int
    discrete: bool

    @property
    def outside(self) -> float:
        """Share of the values that fall in the outermost bins for want of others."""
        return (self.below + self.above) / self.values


def range_report(
    bins: ActionBins, rows: np.ndarray, names: Sequence[str], discrete: Sequence[int]
) -> list[DimensionRange]:
    """One entry per dimension of the rows (M, A) that the bins were fitted on."""
    low, high = bins.low.numpy(), bins.high.numpy()
    below, above = (rows < low).sum(axis=0), (rows > high).sum(axis=0)
    return [
        DimensionRange(
            name=name,
            low=float(low[d]),
            high=float(high[d]),
            minimum=float(rows[:, d].min()),
            maximum=float(rows[:, d].max()),
            below=int(below[d]),
            above=int(above[d]),
            values=len(rows),
            discrete=d in discrete,
        )
        for d, name in enumerate(names)
    ]


def write_ranges(path: Path, report: Sequence[DimensionRange]) -> None:
    """The report as JSON."""
    write_json(path, {"ranges": [asdict(entry) | {"outside": entry.outside} for entry in report]})


def range_lines(report: Sequence[DimensionRange]) -> list[str]:
    """A table for people: a head, then a line per dimension."""
    width = max(len("action"), *(len(entry.name) for entry in report))
    heads = ("min", "low", "high", "max", "outside")
    lines = ["action".ljust(width) + "".join(f"{head:>11}" for head in heads)]
    for entry in report:
        ends = (entry.minimum, entry.low, entry.high, entry.maximum)
        cells = "".join(f"{value:>11.4g}" for value in ends)
        note = "  few values, uncut" if entry.discrete else ""
        note = "  many" if entry.outside > MANY else note
        lines.append(f"{entry.name.ljust(width)}{cells}{entry.outside:>11.2%}{note}")
    return lines
