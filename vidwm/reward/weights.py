"""Where the weights of the perceptual networks lie, and how they are read.

ST-LPIPS files ship whole inside the PyPI package `stlpips_pytorch`. Of LPIPS only the linear heads
ship (package `lpips`); the ImageNet trunks are torchvision's and must already be on this machine,
in the folder named by the environment variable VIDWM_PERCEPTUAL_WEIGHTS or in torch's hub cache.
Nothing is ever downloaded here, and no module of those packages is imported or executed. The files
exist only in PyTorch's own format; `weights_only=True` keeps it from running any code.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from vidwm.errors import UserError

WEIGHTS_VARIABLE = "VIDWM_PERCEPTUAL_WEIGHTS"


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """package_file: path inside an installed package; trunk_file: torchvision's file, if apart."""

    package: str
    package_file: str
    trunk_file: str | None = None


WEIGHT_FILES = {
    "st_lpips_alex": WeightFiles(
        package="stlpips_pytorch", package_file="weights/vST0.0/alex_shift_tolerant.pth"
    ),
    "st_lpips_vgg": WeightFiles(
        package="stlpips_pytorch", package_file="weights/vST0.0/vgg_shift_tolerant.pth"
    ),
    "lpips_alex": WeightFiles(
        package="lpips",
        package_file="weights/v0.1/alex.pth",
        trunk_file="alexnet-owt-7be5be79.pth",
    ),
    "lpips_vgg": WeightFiles(
        package="lpips", package_file="weights/v0.1/vgg.pth", trunk_file="vgg16-397923af.pth"
    ),
    "lpips_squeeze": WeightFiles(
        package="lpips",
        package_file="weights/v0.1/squeeze.pth",
        trunk_file="squeezenet1_1-b8a52dc0.pth",
    ),
}


def load_weights(name: str) -> tuple[list[Tensor], list[Tensor]]:
    """Trunk tensors (weight, bias, weight, ... in network order) and heads (width,) of one metric.

    UserError when a file is missing or damaged; it says which, and where to put it.
    """
    files = WEIGHT_FILES[name]
    package_state = _read(_package_file(files))
    heads = [value.flatten() for key, value in package_state.items() if key.startswith("lin")]
    if files.trunk_file is None:
        state, prefix = package_state, "net."
    else:
        state, prefix = _read(_trunk_file(name, files.trunk_file)), "features."
    trunk = [
        value
        for key, value in state.items()
        if key.startswith(prefix) and key.endswith((".weight", ".bias"))
    ]
    return trunk, heads


def weights_at_hand(name: str) -> bool:
    """Whether `load_weights(name)` would find its files."""
    files = WEIGHT_FILES[name]
    try:
        _package_file(files)
        if files.trunk_file is not None:
            _trunk_file(name, files.trunk_file)
    except UserError:
        return False
    return True


def _package_file(files: WeightFiles) -> Path:
    # find_spec on a top-level name locates the package without running any of its code.
    spec = find_spec(files.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / files.package_file
        if path.is_file():
            return path
    raise UserError(
        f"The weight file {files.package_file} of the package {files.package} is not installed: "
        f"run `pip install {files.package}`."
    )


def _trunk_file(name: str, file_name: str) -> Path:
    chosen = os.environ.get(WEIGHTS_VARIABLE)
    folders = [Path(chosen)] if chosen else []
    folders.append(Path(torch.hub.get_dir()) / "checkpoints")
    for folder in folders:
        if (folder / file_name).is_file():
            return folder / file_name
    raise UserError(
        f"The metric {name} needs the file {file_name}, found neither in the folder named by "
        f"{WEIGHTS_VARIABLE} ({chosen or 'not set'}) nor in {folders[-1]}: download "
        f"https://download.pytorch.org/models/{file_name} into one of them, "
        f"or use st_lpips_alex, which needs no download."
    )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise UserError(
            f"The weight file {path} is damaged or not a PyTorch weight file: fetch it again."
        ) from error
