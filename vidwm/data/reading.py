"""What every reader does: read JSON, choose a camera, keep file names inside, build an episode.

A dataset comes from elsewhere, so the paths its own metadata builds are held inside its folder.
They are compared as text: links are followed, since downloads from the Hugging Face Hub are links.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidwm.data.clip import Episode
from vidwm.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; UserError names the file if it is anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; the dataset is incomplete.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); restore the file.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, not {type(value).__name__}.")
    return value


def inside(root: Path, relative: str, *, stated_in: Path) -> Path:
    """root / relative, or UserError if that would leave the folder `root`."""
    normal = os.path.normpath(relative)
    outside = os.path.isabs(normal) or normal.split(os.sep)[0] == os.pardir or "\0" in normal
    if outside or os.path.splitdrive(normal)[0]:
        raise UserError(
            f"{stated_in} names the file {relative!r}, which lies outside {root}; "
            f"expected a path inside the dataset's folder."
        )
    return root / normal


def build_episode(source: str, **fields: Any) -> Episode:
    """Episode(**fields); its UserError is made to name `source`, the file that was read."""
    try:
        return Episode(**fields)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def choose_camera(cameras: Sequence[str], camera: str | None, *, where: Path) -> str:
    """`camera`, given in full or by its last part, or the first one if it is None."""
    if not cameras:
        raise UserError(f"{where} lists no camera images; expected at least one camera.")
    if camera is None:
        return cameras[0]
    if camera in cameras:
        return camera
    by_last_part = [name for name in cameras if name.replace("/", ".").endswith("." + camera)]
    if len(by_last_part) == 1:
        return by_last_part[0]
    raise UserError(f"{where} has no camera {camera!r}; expected one of {', '.join(cameras)}.")
