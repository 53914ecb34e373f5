"""Where the weights of the perceptual networks lie, and how they are read.

ST-LPIPS files ship whole inside the PyPI package `stlpips_pytorch`. Of LPIPS only the linear heads
ship (package `lpips`); the ImageNet trunks are torchvision's and are looked for in the folder named
by the environment variable VIDWM_PERCEPTUAL_WEIGHTS, then in torch's hub cache (TORCH_HOME). Only
with VIDWM_DOWNLOAD=1 are they fetched into that cache. No module of those packages is imported or
executed. The files exist only in PyTorch's own format; `weights_only=True` keeps it from running
any code, and SHA-256 sums tell other files from those the metrics were published with.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from vidwm.errors import UserError

WEIGHTS_VARIABLE = "VIDWM_PERCEPTUAL_WEIGHTS"
DOWNLOAD_VARIABLE = "VIDWM_DOWNLOAD"
SOURCE = "https://download.pytorch.org/models/"


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """package_file: path inside an installed package, and its SHA-256; trunk_file: torchvision's
    file, if apart, whose name holds the first digits of its SHA-256.
    """

    package: str
    package_file: str
    sha256: str
    trunk_file: str | None = None


WEIGHT_FILES = {
    "st_lpips_alex": WeightFiles(
        package="stlpips_pytorch",
        package_file="weights/vST0.0/alex_shift_tolerant.pth",
        sha256="b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    ),
    "st_lpips_vgg": WeightFiles(
        package="stlpips_pytorch",
        package_file="weights/vST0.0/vgg_shift_tolerant.pth",
        sha256="44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
    ),
    "lpips_alex": WeightFiles(
        package="lpips",
        package_file="weights/v0.1/alex.pth",
        sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        trunk_file="alexnet-owt-7be5be79.pth",
    ),
    "lpips_vgg": WeightFiles(
        package="lpips",
        package_file="weights/v0.1/vgg.pth",
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        trunk_file="vgg16-397923af.pth",
    ),
    "lpips_squeeze": WeightFiles(
        package="lpips",
        package_file="weights/v0.1/squeeze.pth",
        sha256="4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
        trunk_file="squeezenet1_1-b8a52dc0.pth",
    ),
}


def load_weights(name: str) -> tuple[list[Tensor], list[Tensor]]:
    """Trunk tensors (weight, bias, weight, ... in network order) and heads (width,) of one metric.

    UserError when a file is missing, damaged or another; it says which, and where to put it.
    """
    files = WEIGHT_FILES[name]
    path = _package_file(files)
    _verify(path, files.sha256)
    package_state = _read(path)
    heads = [value.flatten() for key, value in package_state.items() if key.startswith("lin")]
    if files.trunk_file is None:
        state, prefix = package_state, "net."
    else:
        path = _trunk_file(name, files.trunk_file, may_download=True)
        _verify(path, path.stem.rpartition("-")[2])
        state, prefix = _read(path), "features."
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


def _trunk_file(name: str, file_name: str, *, may_download: bool = False) -> Path:
    chosen = os.environ.get(WEIGHTS_VARIABLE)
    folders = [Path(chosen)] if chosen else []
    folders.append(Path(torch.hub.get_dir()) / "checkpoints")
    for folder in folders:
        if (folder / file_name).is_file():
            return folder / file_name
    if may_download and os.environ.get(DOWNLOAD_VARIABLE) == "1":
        return _downloaded(folders[-1] / file_name)
    raise UserError(
        f"The metric {name} needs the file {file_name}, found neither in the folder named by "
        f"{WEIGHTS_VARIABLE} ({chosen or 'not set'}) nor in {folders[-1]}: download "
        f"{SOURCE}{file_name} into one of them, set {DOWNLOAD_VARIABLE}=1, "
        f"or use st_lpips_alex, which needs no download."
    )


def _downloaded(path: Path) -> Path:
    """The file, fetched; it takes its name only once it is whole and has the right sum."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digits = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(f"{SOURCE}{path.name}", str(path), digits)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Cannot download {SOURCE}{path.name} ({error}): put the file into {path.parent} "
            f"yourself, or use st_lpips_alex, which needs no download."
        ) from error
    return path


def _verify(path: Path, digits: str) -> None:
    """UserError unless the SHA-256 of a file begins with `digits`."""
    found = _sha256(path, path.stat().st_mtime_ns)
    if not found.startswith(digits):
        raise UserError(
            f"The weight file {path} has SHA-256 {found[: len(digits)]}, not {digits}: it is "
            f"damaged or another file; fetch it again."
        )


@cache
def _sha256(path: Path, changed: int) -> str:
    """Of a file last changed then; large files are read once a process."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise UserError(
            f"The weight file {path} is damaged or not a PyTorch weight file: fetch it again."
        ) from error
