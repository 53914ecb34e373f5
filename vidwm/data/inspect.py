"""`vidwm data inspect`: what recordings hold, said in seconds whatever their number.

What the files state is read of all episodes: format, number, lengths, cameras, size. What has to be
decoded comes from a sample of episodes, chosen by a seed, and the report says so: resolution,
ranges and histograms of actions and states, tasks. A contact sheet shows clips above their actions.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vidwm.data.cameras import open_cameras
from vidwm.data.clip import EpisodeDataset
from vidwm.data.contact_sheet import Clip, contact_sheet, cut_clip, save_contact_sheet
from vidwm.data.datasets import open_dataset
from vidwm.data.dimensions import Dimension, describe, dimension_lines
from vidwm.data.facts import codec_of, disk_usage, robot_of, states_of, version_of
from vidwm.data.joined import Joined
from vidwm.data.looking import choose_sample
from vidwm.data.mixture import mixture_lines, open_mixture
from vidwm.data.mixture_file import is_mixture
from vidwm.data_config import InspectConfig, RecordingOptions
from vidwm.errors import UserError

CLIPS = 6  # on a contact sheet
LISTED = 8  # tasks, or damaged episodes, that are named on screen


def inspect_command(config: InspectConfig) -> None:
    """Print the report; write the JSON file and the contact sheet where they are asked for."""
    for file in filter(None, (config.json, config.contact_sheet)):
        check_writable(file)
    if is_mixture(config.data):
        mixture = open_mixture(config, lambda _, part: _open(part))
        facts, clips = _inspect_parts(mixture, config)
        names = mixture.action_names
    else:
        dataset = _open(config)
        facts, clips = inspect_dataset(dataset, count=config.sample, seed=config.seed)
        names = dataset.action_names
        print("\n".join(report_lines(facts)))
    if config.json:
        write_json(config.json, facts)
    if config.contact_sheet and clips:
        save_contact_sheet(contact_sheet(clips, names), config.contact_sheet)
        print(f"\ncontact sheet of {len(clips)} random clips: {config.contact_sheet}")


def _open(options: RecordingOptions) -> EpisodeDataset:
    return open_cameras(
        options.data,
        options.camera,
        lambda data, name: open_dataset(data, camera=name, split=options.split),
    )


def _inspect_parts(mixture: Joined, config: InspectConfig) -> tuple[dict[str, Any], list[Clip]]:
    """Print a report of each part; their facts by name, and clips of as many parts as can be."""
    print("\n".join(mixture_lines(mixture)))
    facts: dict[str, Any] = {"path": str(mixture.path), "format": "mixture", "parts": {}}
    by_part = []
    for part in mixture.parts:
        found, clips = inspect_dataset(part.dataset, count=config.sample, seed=config.seed)
        print(f"\n== {part.name} ==\n" + "\n".join(report_lines(found)))
        facts["parts"][part.name] = {"weight": part.weight, **found}
        by_part.append(clips)
    in_turn = [clips[i] for i in range(CLIPS) for clips in by_part if i < len(clips)]
    return facts, in_turn[:CLIPS]


def inspect_dataset(
    dataset: EpisodeDataset, *, count: int, seed: int
) -> tuple[dict[str, Any], list[Clip]]:
    """The facts, as JSON holds them, and some random clips. Only `count` episodes are decoded.

    UserError when none of those can be read.
    """
    sample = choose_sample(dataset.lengths, count, seed)
    rng = np.random.default_rng(seed)
    read, actions, clips = list[int](), list[np.ndarray](), list[Clip]()
    tasks, sizes = Counter[str](), Counter[str]()
    for number, episode in sample.episodes(dataset):
        read.append(number)
        actions.append(episode.actions)
        tasks[episode.task] += 1
        sizes[f"{episode.frames.shape[3]}x{episode.frames.shape[2]}"] += 1
        if len(clips) < CLIPS:
            clips.append(cut_clip(episode, rng))
    if not read:
        raise UserError(
            f"{dataset.path}: none of the {len(sample.numbers)} episodes looked into can be read; "
            f"the first error: {next(iter(sample.unreadable.values()))}"
        )
    states = None
    with suppress(UserError):  # they are not needed
        states = states_of(dataset, read)
    size, files = disk_usage(dataset.path)
    lengths = np.array(dataset.lengths)
    facts = {
        "path": str(dataset.path),
        "format": dataset.format,
        "version": version_of(dataset),
        "robot": robot_of(dataset),
        "episodes": len(dataset),
        "frames": int(lengths.sum()),
        "fps": dataset.fps,
        "seconds": float(lengths.sum() / dataset.fps),
        "episode_frames": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
        },
        "cameras": list(getattr(dataset, "cameras", ())),
        "camera": getattr(dataset, "camera", None),
        "codec": codec_of(dataset),
        "bytes": size,
        "files": files,
        "sample": {"episodes": len(sample.numbers), "seed": seed, "unreadable": sample.unreadable},
        "resolutions": dict(sizes),
        "tasks": dict(tasks.most_common()),
        "actions": [
            asdict(d) for d in describe(np.concatenate(actions), list(dataset.action_names))
        ],
        "states": [asdict(d) for d in describe(states.rows, states.names)] if states else None,
    }
    return facts, clips


def report_lines(facts: dict[str, Any]) -> list[str]:
    """The facts for people."""
    frames, sample = facts["episode_frames"], facts["sample"]
    others = [camera for camera in facts["cameras"] if camera != facts["camera"]]
    tasks = [f"{task} ({count})" for task, count in facts["tasks"].items() if task]
    version = " ".join(filter(None, (facts["format"], facts["version"])))
    lines = [
        f"data        {facts['path']}",
        f"format      {version}" + (f", robot {facts['robot']}" if facts["robot"] else ""),
        f"episodes    {facts['episodes']:,} of {_range(frames)} frames",
        f"frames      {facts['frames']:,}, {duration(facts['seconds'])} at {facts['fps']:g} frames "
        f"per second",
        f"camera      {facts['camera']}" + (f"; there are also {', '.join(others)}" * bool(others)),
        f"resolution  {', '.join(facts['resolutions'])} (width x height)"
        + (f", {facts['codec']}" if facts["codec"] else ""),
        f"disk        {megabytes(facts['bytes'])} in {facts['files']:,} files",
        f"tasks       {_some(tasks) or 'none stated'}",
        "",
        f"Looked into {sample['episodes']} of {facts['episodes']:,} episodes (seed "
        f"{sample['seed']}); resolution, tasks and what follows are of those.",
    ]
    lines += [f"cannot be read: {error}" for error in list(sample["unreadable"].values())[:LISTED]]
    for title in ("action", "state"):
        if dimensions := [Dimension(**values) for values in facts[f"{title}s"] or []]:
            lines += ["", *dimension_lines(title, dimensions)]
    return lines


def duration(seconds: float) -> str:
    """12.3 s, 4 min 5 s or 7 h 8 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def megabytes(size: int) -> str:
    """In MB of 10^6 bytes, or GB of 10^9."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def check_writable(file: Path) -> None:
    """UserError, before any work is done, when a file cannot be written under this name."""
    if file.is_dir():
        raise UserError(f"{file} is a folder; give the name of a file to write.")
    above = next(folder for folder in file.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"{file} cannot be written: {above} is a file; choose another name.")


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write readable JSON, making the folder; a failure leaves no half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    try:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _range(frames: dict[str, Any]) -> str:
    if frames["min"] == frames["max"]:
        return str(frames["min"])
    return f"{frames['min']} to {frames['max']} (median {frames['median']:g})"


def _some(items: list[str]) -> str:
    left = len(items) - LISTED
    return ", ".join(items[:LISTED]) + (f" and {left} more" if left > 0 else "")
