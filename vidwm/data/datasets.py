"""open_dataset: which reader a path needs is read off its files, never off a flag.

A folder must be of one format: two are an error that names both, since picking one would be a guess
about the user's data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vidwm.data.cache import CachedFrames
from vidwm.data.cache_folder import INDEX
from vidwm.data.clip import EpisodeDataset
from vidwm.data.hdf5 import SUFFIXES, HDF5Dataset
from vidwm.data.hub_dataset import hub_name, open_hub_dataset
from vidwm.data.lerobot import LeRobotDataset
from vidwm.data.manifest import ManifestDataset
from vidwm.data.manifest_file import NAMES
from vidwm.data.npz import NpzDataset
from vidwm.data.rlds import RLDSDataset, find_rlds
from vidwm.errors import UserError

LEROBOT_INFO = Path("meta", "info.json")
MANIFEST_SUFFIXES = (".jsonl", ".csv")
EPISODE_FILES = {**dict.fromkeys(SUFFIXES, "HDF5"), ".npz": "npz"}


def open_dataset(
    path: str | Path,
    *,
    camera: str | None = None,
    split: str | None = None,
    damaged: dict[str, str] | None = None,
) -> EpisodeDataset:
    """Open recorded episodes in any known format, by what the files are.

    `path` is a folder or file, or a LeRobotDataset of the Hugging Face Hub (hub_dataset.py).
    `camera` is one of the dataset's cameras, `split` one of its splits; None takes the reader's
    default, stated in its docstring. UserError if the path does not exist, is of no known format or
    of several, is damaged, or has no such camera or split. Where `damaged` is given, episodes with
    a file of their own that cannot be opened are left out and noted in it (id: why) instead.
    """
    on_hub = hub_name(path)
    if on_hub is not None:
        return open_hub_dataset(on_hub, camera=camera, split=split)
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"Dataset {path} does not exist; expected a folder of recorded episodes, or a dataset "
            f"of the Hugging Face Hub as hf://datasets/<owner>/<name>."
        )
    found = dict(_formats(path))
    if len(found) > 1:
        named = " and ".join(f"{name} ({file.relative_to(path)})" for name, file in found.items())
        raise UserError(
            f"Dataset {path} holds several formats, {named}; keep one, or move the others into "
            f"folders beside it."
        )
    for name, file in found.items():
        if name == "LeRobotDataset":
            return LeRobotDataset(path, camera=camera, split=split)
        if name == "RLDS":
            return _open_rlds(path, camera, split)
        if name == "a manifest":
            return ManifestDataset(file, camera=camera, split=split)
        if name == "a cache":
            return CachedFrames(path, camera=camera, split=split)
        if name == "HDF5":
            return HDF5Dataset(path, camera=camera, split=split)
        return NpzDataset(path, camera=camera, split=split, damaged=damaged)
    raise UserError(
        f"Dataset {path} is of no known format; looked for {LEROBOT_INFO} (LeRobotDataset), "
        f"dataset_info.json with features.json up to two folders down (RLDS), {' or '.join(NAMES)} "
        f"(videos), {INDEX} (`vidwm data cache`), *.hdf5, *.h5 and *.npz files."
    )


def _formats(path: Path) -> Iterator[tuple[str, Path]]:
    """Every format that a path has files of, with the first such file."""
    if not path.is_dir():
        by_suffix = {**dict.fromkeys(MANIFEST_SUFFIXES, "a manifest"), **EPISODE_FILES}
        if path.suffix in by_suffix:
            yield by_suffix[path.suffix], path
        return
    if (path / LEROBOT_INFO).is_file():
        yield "LeRobotDataset", path / LEROBOT_INFO
    if (path / INDEX).is_file():
        yield "a cache", path / INDEX
    for folder in find_rlds(path)[:1]:
        yield "RLDS", folder / "dataset_info.json"
    manifests = [path / name for name in NAMES if (path / name).is_file()]
    if len(manifests) > 1:
        raise UserError(f"Dataset {path} has both {' and '.join(NAMES)}; keep one of them.")
    for manifest in manifests:
        yield "a manifest", manifest
    yield from _episode_files(path)


def _episode_files(path: Path) -> Iterator[tuple[str, Path]]:
    """The first file of each format that is known by its suffix alone, hidden folders left out."""
    missing = set(EPISODE_FILES.values())
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names) if missing else ():
            kind = EPISODE_FILES.get(os.path.splitext(name)[1])
            if kind in missing:
                missing.remove(kind)
                yield kind, Path(folder, name)


def _open_rlds(path: Path, camera: str | None, split: str | None) -> RLDSDataset:
    found = find_rlds(path)
    if len(found) > 1:
        raise UserError(
            f"Dataset {path} holds several RLDS datasets or versions "
            f"({', '.join(str(folder.relative_to(path)) for folder in found)}); name one of them."
        )
    return RLDSDataset(found[0], camera=camera, split=split)
