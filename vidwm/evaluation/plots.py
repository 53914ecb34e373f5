"""Plots of an evaluation, drawn from its report without any display.

curves.png         each metric over the predicted frames, a line per subject, 95 % intervals shaded
differences.png    paired differences in percent with their intervals, better to the right
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vidwm.evaluation.measure import BASE, CEILING, COPY, MODEL, SHUFFLED
from vidwm.evaluation.metrics import arrow, higher_is_better
from vidwm.evaluation.tables import Report

COLUMNS = 4
# Colours that stay apart for colour-blind readers (Okabe and Ito).
COLOURS = {
    COPY: "#999999",
    BASE: "#0072B2",
    MODEL: "#D55E00",
    SHUFFLED: "#CC79A7",
    CEILING: "#009E73",
}
VERDICT_COLOURS = {"better": "#009E73", "worse": "#D55E00"}
FOREST = (f"{MODEL}_vs_{BASE}", f"{SHUFFLED}_vs_{MODEL}")


def save_plots(report: Report, directory: Path) -> list[Path]:
    """Write the PNG files; differences are left out where there is nothing to compare."""
    paths = [directory / "curves.png"]
    _curves(report).savefig(paths[0], dpi=120)
    if shown := [name for name in FOREST if name in report["comparisons"]]:
        paths.append(directory / "differences.png")
        _forest(report, shown).savefig(paths[1], dpi=120)
    return paths


def _curves(report: Report) -> Figure:
    metrics = report["metrics"]
    rows = -(-len(metrics) // COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.7 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for panel, metric in zip(panels, metrics, strict=False):
        for subject, scores in report["subjects"].items():
            curve = scores[metric]["curve"]
            mean, low, high = (_numbers(curve[end]) for end in ("mean", "low", "high"))
            frames = range(1, len(mean) + 1)
            line = {"linestyle": "--"} if subject == SHUFFLED else {}
            front = {"zorder": 3} if subject == MODEL else {}
            panel.plot(
                frames, mean, color=COLOURS[subject], marker=".", label=subject, **line, **front
            )
            panel.fill_between(frames, low, high, color=COLOURS[subject], alpha=0.15, linewidth=0)
        panel.set_title(f"{metric} {arrow(metric)}", fontsize=10)
        panel.set_xticks(_ticks(report["setting"]["horizon"]))
        panel.tick_params(labelsize=8)
    for panel in panels[len(metrics) :]:
        panel.set_axis_off()
    figure.supxlabel("predicted frame", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
    return figure


def _forest(report: Report, comparisons: list[str]) -> Figure:
    metrics = report["metrics"]
    figure = Figure(
        figsize=(5.5 * len(comparisons), 0.35 * len(metrics) + 1.4), layout="constrained"
    )
    panels = figure.subplots(1, len(comparisons), squeeze=False, sharey=True)[0]
    for panel, name in zip(panels, comparisons, strict=True):
        panel.axvline(0, color="black", linewidth=0.8)
        for row, metric in enumerate(metrics):
            _forest_row(panel, row, metric, report["comparisons"][name][metric])
        panel.set_title(name.replace("_vs_", " against "), fontsize=10)
        panel.set_xlabel("improvement in percent (right is better)", fontsize=9)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(metrics)), metrics, fontsize=9)
    panels[0].set_ylim(len(metrics) - 0.5, -0.5)
    return figure


def _forest_row(panel: Axes, row: int, metric: str, change: dict) -> None:
    percent = change["percent"]
    if percent["change"] is None:
        return
    sign = 1 if higher_is_better(metric) else -1
    value = sign * percent["change"]
    colour = VERDICT_COLOURS.get(change["verdict"], "#666666")
    if percent["low"] is not None:
        panel.plot([sign * percent["low"], sign * percent["high"]], [row, row], color=colour)
    panel.plot(value, row, marker="o", color=colour)


def _numbers(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _ticks(horizon: int) -> range:
    return range(1, horizon + 1, -(-horizon // 10))
