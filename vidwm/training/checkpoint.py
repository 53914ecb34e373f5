"""Checkpoints that a crash cannot spoil: write to a temporary sibling, flush, rename.

checkpoints/00000200/            complete, or not there at all
    state.json                   step, seconds, generator scalars, size and CRC-32 of each file
    <module>.safetensors         weights; <module>_ema: their average
    <module>_optimizer.safetensors   "<parameter>/exp_avg" and the like
    random.safetensors           generator states
    model/                       what the stage exports, for users
checkpoints/last                 -> 00000200, for people and scripts; resuming takes the newest
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidwm.errors import UserError
from vidwm.files import read_json, write_json

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """What a run continues from: `step` steps done in `seconds`, and the tensors of each part."""

    stage: str
    step: int
    seconds: float
    parts: dict[str, dict[str, Tensor]]
    random: dict[str, Any]


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.isdigit() and p.is_dir())


def save_checkpoint(
    folder: Path, state: TrainState, export: Callable[[Path], None], keep_last: int
) -> Path:
    """Write `folder`/<step>, point `last` at it, remove all but the newest `keep_last`.

    `export(directory)` writes the user-facing model. On any failure the checkpoints that were there
    stay as they were; UserError says why the disk refused.
    """
    final = folder / f"{state.step:08d}"
    temporary = folder / f".{final.name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            _remove(leftover)
        temporary.mkdir()
        _write(temporary, state)
        export(temporary / "model")
        for path in [*temporary.rglob("*"), temporary]:
            _flush(path)
        os.rename(temporary, final)
        _flush(folder)
        _point(folder / "last", final.name)
    except (OSError, SafetensorError) as error:
        # safetensors wraps the system's reason: "Error ...: I/O error: No space left on device"
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
        raise UserError(
            f"Cannot save the checkpoint {final}: {reason.lower()}; earlier checkpoints are intact:"
            f" mend that and continue with --resume."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in list_checkpoints(folder)[:-keep_last]:
        # renamed first, so that a half-removed checkpoint is never taken for a complete one
        _remove(old.rename(folder / f".{old.name}.tmp"))
    return final


def read_checkpoint(path: Path) -> TrainState:
    """Read a checkpoint, every byte checked; UserError names the file that is damaged."""
    values = read_json(path / "state.json")
    try:
        if values["format"] != FORMAT:
            raise UserError(
                f"{path / 'state.json'} has format {values['format']}, this vidwm reads {FORMAT}; "
                f"continue with the version that wrote it."
            )
        parts = {name: _read_part(path, name, seal) for name, seal in values["parts"].items()}
        return TrainState(parts=parts, **{k: values[k] for k in _SCALARS})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / 'state.json'} is damaged ({error}); {_remedy(path)}") from None


_SCALARS = ("stage", "step", "seconds", "random")


def _write(directory: Path, state: TrainState) -> None:
    seals = {}
    for name, tensors in state.parts.items():
        path = directory / f"{name}.safetensors"
        # cloned, because safetensors refuses tensors that share memory (tied weights)
        save_file({k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}, path)
        seals[name] = _seal(path)
    scalars = {name: getattr(state, name) for name in _SCALARS}
    write_json(directory / "state.json", {"format": FORMAT, **scalars, "parts": seals})


def _read_part(path: Path, name: str, seal: dict[str, int]) -> dict[str, Tensor]:
    file = path / f"{name}.safetensors"
    if not file.is_file():
        raise UserError(f"{file} is missing; {_remedy(path)}")
    found = _seal(file)
    if found != seal:
        detail = f"found {found}, expected {seal}".replace("'", "")
        raise UserError(f"{file} is damaged ({detail}); {_remedy(path)}")
    return load_file(file)


def _remedy(path: Path) -> str:
    return f"restore it, or remove {path} to continue from the checkpoint before it."


def _seal(path: Path) -> dict[str, int]:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return {"bytes": path.stat().st_size, "crc32": checksum}


def _flush(path: Path) -> None:
    """Wait until the disk holds this file, or this folder's list of names."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point(link: Path, name: str) -> None:
    """Swap `last` in one rename; a text file where the file system knows no symbolic links."""
    temporary = link.with_name(".last.tmp")
    try:
        temporary.symlink_to(name)
    except OSError:
        temporary.write_text(name + "\n", encoding="utf-8")
    os.replace(temporary, link)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
