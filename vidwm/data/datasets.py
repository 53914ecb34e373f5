"""open_dataset: which reader a path needs is read off its files, never off a flag."""

from __future__ import annotations

from pathlib import Path

from vidwm.data.clip import EpisodeDataset
from vidwm.data.hdf5 import SUFFIXES, HDF5Dataset
from vidwm.data.lerobot import LeRobotDataset
from vidwm.data.manifest import ManifestDataset
from vidwm.data.manifest_file import NAMES
from vidwm.data.npz import NpzDataset
from vidwm.data.rlds import RLDSDataset, find_rlds
from vidwm.errors import UserError


def open_dataset(
    path: str | Path, *, camera: str | None = None, split: str | None = None
) -> EpisodeDataset:
    """Open recorded episodes in any known format, by what the files are.

    `camera` is one of the dataset's cameras, `split` one of its splits; None takes the reader's
    default, stated in its docstring. UserError if the path does not exist, is of no known format,
    is damaged, or has no such camera or split.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"Dataset {path} does not exist; expected a folder of recorded episodes.")
    if (path / "meta" / "info.json").is_file():
        return LeRobotDataset(path, camera=camera, split=split)
    rlds = find_rlds(path)
    if len(rlds) > 1:
        raise UserError(
            f"Dataset {path} holds several RLDS datasets or versions "
            f"({', '.join(str(found.relative_to(path)) for found in rlds)}); name one of them."
        )
    if rlds:
        return RLDSDataset(rlds[0], camera=camera, split=split)
    manifest = next((path / name for name in NAMES if (path / name).is_file()), path)
    if manifest.suffix in (".jsonl", ".csv"):
        return ManifestDataset(manifest, camera=camera, split=split)
    if path.suffix in SUFFIXES or any(next(path.rglob("*" + s), None) for s in SUFFIXES):
        return HDF5Dataset(path, camera=camera, split=split)
    if path.suffix == ".npz" or next(path.rglob("*.npz"), None):
        return NpzDataset(path, camera=camera, split=split)
    raise UserError(
        f"Dataset {path} is of no known format; looked for meta/info.json (LeRobotDataset), "
        f"dataset_info.json with features.json up to two folders down (RLDS), {' or '.join(NAMES)} "
        f"(videos), *.hdf5, *.h5 and *.npz files."
    )
