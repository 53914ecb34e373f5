"""What every reader does: read JSON, choose a camera, keep file names inside, build an episode.

A dataset comes from elsewhere, so the paths its own metadata builds are held inside its folder,
first as text, then with links followed. A link may lead to where it stands beside the folder's own
files, or into the store of the Hugging Face Hub's cache, whose downloads are links.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vidwm.data.clip import Episode
from vidwm.errors import UserError

MAX_DEFLATE_RATIO = 1100  # deflate cannot compress further: a file that claims more is damaged


def read_any_json(path: Path) -> Any:
    """The JSON value in a file; UserError names the file if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; the dataset is incomplete.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); restore the file.") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; UserError names the file if it is anything else."""
    value = read_any_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, not {type(value).__name__}.")
    return value


def read_json_lines(path: Path) -> dict[int, dict[str, Any]]:
    """Line number (from 1) -> the JSON object there; UserError names a line that is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; the dataset is incomplete.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable text ({error}); restore the file.") from error
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number} is not readable JSON ({error}); restore the file."
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} must hold a JSON object.")
        rows[number] = row
    return rows


def inside_name(root: Path, relative: str, *, stated_in: Path) -> str:
    """`relative` in its normal form; UserError if its text alone leaves the folder `root`."""
    normal = os.path.normpath(relative)
    first = normal.partition(os.sep)[0]  # "" in an absolute path
    if first in ("", os.pardir) or "\0" in normal or os.path.splitdrive(normal)[0]:
        raise UserError(
            f"{stated_in} names the file {relative!r}, which lies outside {root}; "
            f"expected a path inside the dataset's folder."
        )
    return normal


def inside(root: Path, relative: str, *, stated_in: Path) -> Path:
    """root / relative, or UserError if that would leave the folder `root`, by links too."""
    return linked_inside(root, root / inside_name(root, relative, stated_in=stated_in))


def linked_inside(root: Path, file: Path) -> Path:
    """`file`, which lies below `root`; UserError if links lead out of that folder."""
    try:
        real, real_root = os.path.realpath(file), os.path.realpath(root)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be followed ({error}); rename or restore it.") from error
    allowed = [real_root, *(str(p.parent / "blobs") for p in _snapshots(Path(real_root)))]
    if not any(os.path.commonpath([folder, real]) == folder for folder in allowed):
        raise UserError(
            f"{file} is a link to {real}, outside of {root}; put the file itself into the "
            f"dataset's folder."
        )
    return file


def _snapshots(root: Path) -> list[Path]:
    """The Hub cache's folder of snapshots that `root` lies in, if any: its files are links."""
    repository = "--"  # in the cache, datasets--owner--name/snapshots/<commit>/
    return [p for p in root.parents if p.name == "snapshots" and repository in p.parent.name]


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


def check_fits_memory(num_bytes: int, source: str) -> None:
    """UserError for an array larger than this machine's memory, before it is allocated."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > memory:
        raise UserError(
            f"{source} needs {num_bytes / 1e9:.1f} GB, but this machine has {memory / 1e9:.1f} GB "
            f"of memory; cut the episode into shorter ones, or remove it if it is damaged."
        )


def files_below(
    path: Path, suffixes: tuple[str, ...], *, order: Callable[[str], Any] = str
) -> list[Path]:
    """The file itself, or those below a folder that end so, sorted by their path within it.

    Hidden folders are skipped and links to folders not followed; UserError for a link that leaves.
    """
    if not path.is_dir():
        return [path]
    found = list[str]()
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = os.path.relpath(folder, path)
        found += [os.path.normpath(os.path.join(here, n)) for n in names if n.endswith(suffixes)]
    files = [path / name for name in sorted(found, key=order)]
    return [linked_inside(path, file) if file.is_symlink() else file for file in files]
