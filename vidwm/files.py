"""Reading and writing the plain files a model directory is made of, with errors a user can mend.

JSON and safetensors only. Weights are loaded strictly: every key and shape must match.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vidwm.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError when it is missing or not JSON."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; the directory is incomplete.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); restore the file.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(values).__name__}.")
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write an object as readable JSON, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def save_weights(module: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a module's parameters and buffers as safetensors, floating ones as `dtype`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}
    tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; UserError when it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; the directory is incomplete.") from None
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} is damaged ({error}); restore it from the original or an earlier checkpoint."
        ) from None


def load_weights(module: nn.Module, path: Path) -> None:
    """Load what `save_weights` wrote; UserError lists every key or shape that does not match."""
    load_weights_from(module, load_tensors(path), path)


def load_weights_from(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """As `load_weights`, of tensors that were read from `path`."""
    wanted = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    faults = [f"missing {name}" for name in sorted(wanted.keys() - found.keys())]
    faults += [f"unexpected {name}" for name in sorted(found.keys() - wanted.keys())]
    faults += [
        f"{name} has shape {found[name]}, expected {wanted[name]}"
        for name in sorted(wanted.keys() & found.keys())
        if wanted[name] != found[name]
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise UserError(f"{path} does not fit its config: {'; '.join(faults[:5])}{more}.")
    module.load_state_dict(tensors)
