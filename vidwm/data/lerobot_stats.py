"""The statistics that a LeRobotDataset v3.0 keeps in `meta/stats.json`.

Readers scale actions and states by them; the quantiles are those of newer datasets (q01 to q99).
Pixels are too many to hold, so theirs come from counts of each value, which is exact all the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


def row_stats(rows: np.ndarray) -> dict[str, Any]:
    """Statistics per column of (M, A); quantiles interpolate linearly."""
    stats = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    stats |= {name: np.quantile(rows, q, axis=0) for name, q in QUANTILES.items()}
    return {name: [float(v) for v in values] for name, values in stats.items()} | {
        "count": [len(rows)]
    }


def pixel_stats(counts: np.ndarray, num_frames: int) -> dict[str, Any]:
    """Statistics per channel in [0, 1] as (3, 1, 1), from exact counts (3, 256) of each value."""
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    stats = {
        "min": [values[np.flatnonzero(row)[0]] for row in counts],
        "max": [values[np.flatnonzero(row)[-1]] for row in counts],
        "mean": mean,
        "std": np.sqrt(np.maximum(share @ values**2 - mean**2, 0)),
    }
    total = share.cumsum(axis=1)
    for name, q in QUANTILES.items():
        stats[name] = [values[min(int(np.searchsorted(row, q)), 255)] for row in total]
    return {name: [[[float(v)]] for v in values] for name, values in stats.items()} | {
        "count": [num_frames]
    }
