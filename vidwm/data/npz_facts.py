"""What npz files cannot say and `vidwm data convert` wrote beside them: rate, names, tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vidwm.data.reading import read_json
from vidwm.errors import UserError

FILE = "convert.json"
FPS = 10.0  # where nothing is stated


@dataclass(frozen=True)
class NpzFacts:
    """fps in frames per second; a name per action dimension (none: unknown); tasks by episode."""

    fps: float = FPS
    action_names: tuple[str, ...] = ()
    tasks: Mapping[str, str] = field(default_factory=dict)


def read_npz_facts(folder: Path) -> NpzFacts:
    """What convert.json of a folder states; UserError when it is not as `convert` writes it."""
    file = folder / FILE
    if not file.is_file():
        return NpzFacts()
    stated = read_json(file)
    fps, names, tasks = (stated.get(key) for key in ("fps", "action_names", "tasks"))
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < math.inf:
        raise _wrong(file, "fps", "a rate above 0", fps)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _wrong(file, "action_names", "a list of names", names)
    if not isinstance(tasks, dict) or not all(isinstance(task, str) for task in tasks.values()):
        raise _wrong(file, "tasks", "a task by episode", tasks)
    return NpzFacts(float(fps), tuple(names), tasks)


def _wrong(file: Path, key: str, expected: str, found: object) -> UserError:
    return UserError(
        f"{file}: {key!r} must be {expected}, got {str(found)[:80]!r}; mend or remove the file."
    )
