"""Mixtures of datasets: a YAML or JSON file that names them with their weights.

    my_data: 3                                            # path: weight
    hf://datasets/lerobot/pusht: 1
    wrist: {data: other, camera: wrist, split: train}     # name: settings of `PartOptions`
    cached: {beside: part-0}                              # a path that starts where this file lies

The key is the part's name, and its path where no `data` is given. Relative paths start where the
command runs, as in configs; `beside` instead of `data` lets a folder and its file move together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vidwm.config_loader import build_config, read_mapping
from vidwm.data_config import PartOptions, RecordingOptions
from vidwm.errors import UserError
from vidwm.options import all_at_once

BESIDE = "beside"
SUFFIXES = (".yaml", ".yml", ".json")


def is_mixture(path: Path) -> bool:
    """Whether `path` is by its name the file of a mixture."""
    return path.suffix.lower() in SUFFIXES


def read_mixture(options: RecordingOptions) -> dict[str, PartOptions]:
    """The parts of the mixture `options.data`, by name, in the order of the file.

    Parts that name no camera or split take those of `options`. UserError lists all mistakes.
    """
    file = options.data
    entries = read_mapping(file, kind="mixture")
    if not entries:
        raise UserError(f"The mixture {file} is empty; give it `path: weight` lines.")
    parts, problems = dict[str, PartOptions](), list[str]()
    for name, entry in entries.items():
        values = entry if isinstance(entry, Mapping) else {"weight": entry}
        where = f" (of {name} in {file})"
        given = {"data": ("data", name, where)}
        given |= {str(key): (str(key), value, where) for key, value in values.items()}
        if BESIDE in given:
            if "data" in values:
                problems.append(f"{BESIDE} is instead of data{where}; keep one of them.")
            given["data"] = ("data", str(file.parent / str(given.pop(BESIDE)[1])), where)
        try:
            part = build_config(PartOptions, given)
        except UserError as error:
            problems.append(str(error))
            continue
        if is_mixture(part.data):
            problems.append(f"{file} names the mixture {part.data}; name its datasets instead.")
        parts[name] = replace(
            part, camera=part.camera or options.camera, split=part.split or options.split
        )
    if problems:
        raise all_at_once(problems)
    return parts


def episodes_of_part(
    name: str, names: Sequence[str], listed: Sequence[str], file: Path
) -> list[str]:
    """Of episodes listed as "<part>/<id>" the ids of one part; UserError if it has none.

    Of `names`, those of all parts, the longest that an episode begins with is its part's.
    """
    own = [
        episode.removeprefix(f"{name}/")
        for episode in listed
        if name == max((n for n in names if episode.startswith(f"{n}/")), key=len, default=None)
    ]
    if not own:
        raise UserError(
            f"The episode list has none of {name} of the mixture {file}, whose ids begin with "
            f"'{name}/'; take {name} out of the mixture, or list some."
        )
    return own
