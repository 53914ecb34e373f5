"""The trees in which robot HDF5 files keep episodes, told apart by what is in the file.

robomimic (MimicGen, RoboCasa): data/<demo>/obs/<camera>_image (T, H, W, 3) and data/<demo>/actions.
LIBERO: the same tree, but its writer stored what the simulator drew, and that is upside down where
macros_image_convention says "opengl"; and it took the picture after the step, so actions[t] is the
one that led TO frame t (LIBERO, scripts/create_dataset.py). It is known by its bddl_file_name.
Files rendered again from it may have lost these attributes and kept the camera's name,
agentview_rgb: they are turned upright too, while their actions follow their frames.
ALOHA / ACT: an episode a file, observations/images/<camera> and action; images are arrays or a
JPEG a frame, padded to one length. JPEGs are shown in the colours that the file says: recorders
that handed RGB to OpenCV wrote red and blue exchanged, and nothing in the file tells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from vidwm.data.hdf5_file import find, find_array, open_hdf5
from vidwm.data.hdf5_vlen import StoppedError, group_texts
from vidwm.errors import UserError

TEXTS = ("bddl_file_name", "macros_image_convention", "problem_info", "env_args")
ROBOSUITE_FPS, ALOHA_FPS = 20.0, 50.0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Names below an episode's group, and what is to be known about its arrays.

    images and states are groups that hold an array for each camera, and for each part of the state.
    """

    name: str
    images: str
    states: str
    action: str
    fps: float
    task: str = ""
    upside_down: bool = False
    action_led_here: bool = False


def read_texts(files: Sequence[Path]) -> dict[Path, dict[str, str]]:
    """The texts that `layout_of` goes by, of each file; those of changing length in one process."""
    texts: dict[Path, dict[str, str]] = {}
    careful: list[Path] = []
    for path in files:
        with open_hdf5(path) as file:
            data = find(file, "data")
            if not isinstance(data, h5py.Group):
                texts[path] = {}
                continue
            attributes = data.attrs
            known = [key for key in TEXTS if key in attributes]
            if any(attributes.get_id(key).dtype.kind == "O" for key in known):
                careful.append(path)
                continue
            values = {key: attributes[key] for key in known}
            fixed = {key: value for key, value in values.items() if isinstance(value, bytes)}
            texts[path] = {key: value.decode(errors="replace") for key, value in fixed.items()}
    try:
        texts.update(zip(careful, group_texts(careful, "data", TEXTS), strict=True))
    except StoppedError as stopped:
        raise UserError(
            f"{careful[stopped.args[0]]} is no readable HDF5 file (the texts of its group data "
            f"cannot be read); copy it again or remove it."
        ) from stopped
    return texts


def layout_of(file: h5py.File, texts: dict[str, str]) -> Layout:
    """UserError names what was looked for if the file is of neither tree."""
    data = find(file, "data")
    if isinstance(data, h5py.Group):
        libero = bool(texts.get("bddl_file_name"))
        convention = texts.get("macros_image_convention", "")
        first = next(iter(data), "")
        if not convention and (libero or find(data, f"{first}/obs/agentview_rgb") is not None):
            convention = "opengl"
        problem = _json(texts.get("problem_info", ""))
        kwargs = _json(texts.get("env_args", "")).get("env_kwargs")
        rate = kwargs.get("control_freq") if isinstance(kwargs, dict) else None
        return Layout(
            name="LIBERO" if libero else "robomimic",
            images="obs",
            states="obs",
            action="actions",
            fps=_rate(rate),
            task=" ".join(str(problem.get("language_instruction", "")).split()),
            upside_down=convention == "opengl",
            action_led_here=libero,
        )
    if isinstance(find(file, "observations/images"), h5py.Group):
        return Layout(
            name="ALOHA",
            images="observations/images",
            states="observations",
            action="action",
            fps=ALOHA_FPS,
        )
    raise UserError(
        f"{file.filename} is no HDF5 file of robot episodes; looked for data/<demo>/obs "
        f"(robomimic, LIBERO) and observations/images (ALOHA)."
    )


def episode_groups(file: h5py.File, layout: Layout, split: str | None) -> list[str]:
    """The groups of a file that hold an episode each: demo_9 before demo_10; "" for the file."""
    if layout.name == "ALOHA":
        if split is not None:
            raise UserError(f"{file.filename} has no split {split!r}; ALOHA files have none.")
        return [""]
    names = sorted(file["data"], key=natural_order)
    if split is not None:
        names = [name for name in names if name in _split(file, split)]
    if not names:
        raise UserError(f"{file.filename}: group data holds no episode; expected at least one.")
    return [f"data/{name}" for name in names]


def _split(file: h5py.File, split: str) -> set[str]:
    """Names of the demonstrations under mask/<split>."""
    mask = find_array(file, f"mask/{split}")
    if mask is None or mask.ndim != 1 or mask.dtype.kind != "S":
        masks = find(file, "mask")
        known = ", ".join(sorted(masks)) if isinstance(masks, h5py.Group) else "none"
        raise UserError(f"{file.filename} has no split {split!r} under mask; it has {known}.")
    return {name.decode(errors="replace") for name in mask[()]}


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """A sort key in which runs of digits count as numbers."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d{1,18})", name)
        if part
    ]


def _rate(stated: Any) -> float:
    valid = isinstance(stated, int | float) and 0 < stated < 1e6
    return float(stated) if valid else ROBOSUITE_FPS


def _json(text: str) -> dict[str, Any]:
    """Metadata that a reader can do without: no object, nothing known."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
