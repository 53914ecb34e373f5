"""From scores per window to what a report says: means, curves and paired differences, as JSON.

An episode's score is the mean over its windows and predicted frames (for the moving metrics: over
its moving pixels), the score of a subject the mean over episodes, each counted alike.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vidwm.evaluation.bootstrap import Bootstrap, Interval, per_episode, verdict
from vidwm.evaluation.measure import BASE, COPY, MODEL, SHUFFLED, Measurement
from vidwm.evaluation.metrics import higher_is_better

# Subject, reference; in the order of a report. Those that were not measured are left out.
COMPARISONS = ((MODEL, BASE), (SHUFFLED, MODEL), (MODEL, COPY), (BASE, COPY))


def summarise(measurement: Measurement, *, resamples: int, seed: int) -> dict[str, Any]:
    """`subjects`: by name and metric, mean, low, high and the same as curves over the horizon.

    `comparisons`: by "subject_vs_reference" and metric, the paired difference, absolute and in
    percent, each with its interval, and a verdict. Numbers are floats, None where undefined.
    """
    bootstrap = Bootstrap(len(np.unique(measurement.episodes)), resamples=resamples, seed=seed)
    means = {
        subject: {
            metric: per_episode(values, measurement.weights(metric), measurement.episodes)
            for metric, values in scores.items()
        }
        for subject, scores in measurement.scores.items()
    }
    subjects = {
        subject: {
            metric: _numbers(bootstrap.mean(overall), "mean")
            | {"curve": _numbers(bootstrap.mean(curve), "mean")}
            for metric, (overall, curve) in by_metric.items()
        }
        for subject, by_metric in means.items()
    }
    comparisons = {
        f"{subject}_vs_{reference}": {
            metric: _paired(
                bootstrap, metric, means[subject][metric][0], means[reference][metric][0]
            )
            for metric in measurement.metrics
        }
        for subject, reference in COMPARISONS
        if subject in means and reference in means
    }
    return {"subjects": subjects, "comparisons": comparisons}


def _paired(
    bootstrap: Bootstrap, metric: str, values: np.ndarray, reference: np.ndarray
) -> dict[str, Any]:
    change = bootstrap.difference(values, reference)
    return {
        "absolute": _numbers(change, "change"),
        "percent": _numbers(bootstrap.relative(values, reference), "change"),
        "verdict": verdict(change, higher_is_better(metric)),
    }


def _numbers(interval: Interval, name: str) -> dict[str, Any]:
    return {
        name: _plain(interval.value),
        "low": _plain(interval.low),
        "high": _plain(interval.high),
    }


def _plain(values: np.ndarray) -> Any:
    """Nested lists of floats with 7 digits, None for what JSON cannot say."""
    if values.ndim:
        return [_plain(value) for value in values]
    number = float(values)
    return float(f"{number:.7g}") if math.isfinite(number) else None
