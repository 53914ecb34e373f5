"""Tables of an evaluation report: one row a metric, as aligned text or as Markdown.

The arrow behind a metric's name points in the better direction. A change is shown in percent of the
reference, with its 95 % interval and what that interval says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vidwm.evaluation.metrics import arrow, written

Report = dict[str, Any]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text in columns; the first row is the head and underlined."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table; the first row is the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def score_rows(report: Report, subjects: Sequence[str], *, ends: bool) -> list[list[str]]:
    """Means of subjects; `ends` shows both ends of the interval, else half its width."""
    rows = [["metric", *subjects]]
    for metric in report["metrics"]:
        cells = [_score(metric, report["subjects"][subject][metric], ends) for subject in subjects]
        rows.append([f"{metric} {arrow(metric)}", *cells])
    return rows


def change_rows(report: Report, comparisons: Sequence[str]) -> list[list[str]]:
    """Paired differences in percent, a column per comparison."""
    rows = [["metric", *(name.replace("_vs_", " vs ") for name in comparisons)]]
    for metric in report["metrics"]:
        paired = [report["comparisons"][name][metric] for name in comparisons]
        cells = [f"{_percent(change['percent'])}  {change['verdict']}" for change in paired]
        rows.append([f"{metric} {arrow(metric)}", *cells])
    return rows


def comparison_rows(report: Report, comparison: str) -> list[list[str]]:
    """One paired difference in full: absolute, in percent, and the verdict."""
    rows = [["metric", "difference", "in percent", "verdict"]]
    for metric, change in report["comparisons"][comparison].items():
        absolute, percent = _ends(metric, change["absolute"], "change"), _percent(change["percent"])
        rows.append([f"{metric} {arrow(metric)}", absolute, percent, change["verdict"]])
    return rows


def _score(metric: str, score: dict[str, Any], ends: bool) -> str:
    if ends:
        return _ends(metric, score, "mean")
    if score["low"] is None:
        return written(metric, score["mean"])
    half = (score["high"] - score["low"]) / 2
    return f"{written(metric, score['mean'])} ±{written(metric, half)}"


def _ends(metric: str, score: dict[str, Any], name: str) -> str:
    value = written(metric, score[name])
    if score["low"] is None:
        return value
    return f"{value} [{written(metric, score['low'])}, {written(metric, score['high'])}]"


def _percent(change: dict[str, Any]) -> str:
    if change["change"] is None:
        return "-"
    value = f"{change['change']:+.1f} %"
    if change["low"] is None:
        return value
    return f"{value} [{change['low']:+.1f}, {change['high']:+.1f}]"
