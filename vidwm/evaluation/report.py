"""The words and files of an evaluation: report.json, report.md, windows.csv, and the screen.

report.json holds everything that is said anywhere else; windows.csv holds the score of every window
and subject, for one's own analysis. All text is made from the same dictionary.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidwm.evaluation.bootstrap import per_episode
from vidwm.evaluation.measure import BASE, CEILING, COPY, MODEL, SHUFFLED, Measurement
from vidwm.evaluation.metrics import MOVING_THRESHOLD
from vidwm.evaluation.tables import (
    Report,
    aligned,
    change_rows,
    comparison_rows,
    markdown,
    score_rows,
)

HEADINGS = {
    f"{MODEL}_vs_{BASE}": "Model against base",
    f"{SHUFFLED}_vs_{MODEL}": "What shuffling the actions costs the model",
    f"{MODEL}_vs_{COPY}": "Model against copying the last frame",
    f"{BASE}_vs_{COPY}": "Base against copying the last frame",
}
FEW_EPISODES = 10
# Below this ratio of copying's error to the tokenizer's, the tokenizer dominates every score.
MIN_HEADROOM = 2


def write_json_report(report: Report, path: Path) -> None:
    """report.json."""
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_markdown_report(
    report: Report, path: Path, plots: Sequence[Path], videos: Sequence[Path]
) -> None:
    """report.md; plots and videos are linked by their place beside it."""
    parts = [f"# Evaluation\n\n{setting_line(report)}"]
    parts += ["## Scores", markdown(score_rows(report, list(report["subjects"]), ends=True))]
    parts += [headroom_line(report)]
    for name in report["comparisons"]:
        parts += [f"## {HEADINGS[name]}", markdown(comparison_rows(report, name))]
    pictures = [*plots, *(video for video in videos if video.suffix == ".gif")]
    parts += ["## Pictures"]
    parts += [f"![{file.stem}]({file.relative_to(path.parent).as_posix()})" for file in pictures]
    parts += ["## How it was measured", "\n".join(f"- {note}" for note in notes(report))]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def write_windows(measurement: Measurement, episode_ids: Sequence[str], path: Path) -> None:
    """windows.csv: a row per subject and window, means over its futures and predicted frames.

    A moving metric without moving pixels is left empty.
    """
    windows = measurement.windows
    moving = measurement.moving_pixels.sum(axis=1).astype(int)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "episode", "start", "moving_pixels", *measurement.metrics])
        for subject, scores in measurement.scores.items():
            means = [
                per_episode(values, measurement.weights(metric), np.arange(len(windows)))[0]
                for metric, values in scores.items()
            ]
            for row, window in enumerate(windows):
                cells = ["" if np.isnan(mean[row]) else f"{mean[row]:.7g}" for mean in means]
                place = [episode_ids[window.episode], window.start, moving[row]]
                writer.writerow([subject, *place, *cells])


def screen(report: Report) -> str:
    """The report in as few lines as say it; subjects' intervals as half widths."""
    subjects = [name for name in report["subjects"] if name != SHUFFLED]
    told = [f"{MODEL}_vs_{BASE}", f"{SHUFFLED}_vs_{MODEL}"]
    parts = [setting_line(report), aligned(score_rows(report, subjects, ends=False))]
    parts += [headroom_line(report)]
    if comparisons := [name for name in told if name in report["comparisons"]]:
        parts += [aligned(change_rows(report, comparisons))]
    if report["data"]["episodes"] < FEW_EPISODES:
        parts += [_few_episodes(report)]
    return "\n\n".join(parts)


def setting_line(report: Report) -> str:
    """Contexts, horizon, frame rate, sampling and data in two sentences."""
    setting, data, sampling = report["setting"], report["data"], report["sampling"]
    whose = "held-out" if data["heldout"] else "(NOT held out: --heldout 0)"
    drawn = f"temperature {sampling['temperature']:g}"
    drawn += f", top_k {sampling['top_k']}" if sampling["top_k"] else ""
    drawn += f", top_p {sampling['top_p']:g}" if sampling["top_p"] < 1 else ""
    drawn += f", min_p {sampling['min_p']:g}" if sampling["min_p"] > 0 else ""
    return (
        f"{data['windows']} windows of {data['episodes']} {whose} episodes of {data['path']}: "
        f"{setting['context_frames']} context frames, {setting['horizon']} predicted, "
        f"{setting['fps']:g} frames a second, {setting['height']}x{setting['width']}.\n"
        f"Mean of {sampling['num_samples']} futures per window, {drawn}, seed {sampling['seed']}; "
        f"95 % intervals over episodes."
    )


def headroom_line(report: Report) -> str:
    """Whether this setting measures the world model or its tokenizer."""
    copied, ceiling = (report["subjects"][name] for name in (COPY, CEILING))
    if not ceiling["mae"]["mean"]:
        return "The tokenizer reconstructs the frames without error."
    ratio = copied["mae"]["mean"] / ceiling["mae"]["mean"]
    measured = "the world model" if ratio >= MIN_HEADROOM else "the tokenizer, not the world model"
    return (
        f"Copying the last frame has {ratio:.2g} times the MAE of the tokenizer's reconstruction "
        f"({ceiling['psnr']['mean']:.1f} dB): scores measure {measured}."
    )


def notes(report: Report) -> list[str]:
    """How to read the numbers, and how to get them again."""
    data, sampling, setting = report["data"], report["sampling"], report["setting"]
    lines = [
        f"Scores are means over {sampling['num_samples']} sampled futures of each window, never "
        f"the best of them; context frames are not scored. Arrows point to the better side.",
        "An episode's score is the mean over its windows and predicted frames, a subject's the "
        f"mean over episodes. Intervals: {report['bootstrap']} bootstrap redraws of the episodes, "
        "percentiles 2.5 and 97.5. Differences are paired by episode; better or worse means that "
        "the interval of the difference excludes zero.",
        f"Moving metrics look at pixels of which a channel differs by more than "
        f"{MOVING_THRESHOLD:g} from the last context frame, in the true frame. Within an episode "
        f"every such pixel counts alike; windows and episodes without any do not count.",
        f"{COPY}: the last context frame, held. {CEILING}: the true frames through the model's "
        f"tokenizer and back; its repetition rate is that of the true tokens.",
        f"{SHUFFLED}: the same contexts, but from the last context frame on the actions of "
        f"another window (a fixed permutation in which no window keeps its own).",
        f"Windows: {data['windows_per_episode']} per episode at most, evenly spaced; "
        f"{data['too_short']} episodes were too short for one. Split: share "
        f"{data['heldout_share']:g}, seed {data['split_seed']}.",
        f"Code: vidwm {report['vidwm']}, commit {report['commit'] or 'unknown'}. Machine: "
        f"{report['machine']['gpu'] or report['machine']['cpu']}, "
        f"{report['machine']['threads']} threads, torch {report['machine']['torch']}. "
        f"{report['created']}, {report['seconds']:.0f} s.",
    ]
    if setting["horizon"] > setting["trained_horizon"]:
        lines.append(
            f"The model was trained to predict {setting['trained_horizon']} frames; beyond that "
            f"its own predictions became its context."
        )
    if not data["heldout"]:
        lines.append("No episode was held out: these scores mean little if any was trained on.")
    return lines + ([_few_episodes(report)] if data["episodes"] < FEW_EPISODES else [])


def _few_episodes(report: Report) -> str:
    return (
        f"Only {report['data']['episodes']} episodes were measured: intervals over fewer than "
        f"{FEW_EPISODES} are too narrow to be trusted."
    )
