"""What a run computes in and what its chance depends on: precision, seeds, generator states.

The states of Python's, NumPy's and torch's generators travel with a checkpoint as plain tensors and
numbers, so a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidwm.provenance import cpu_name

SEED_STRIDE = 1_000_003  # more than the steps of a run, so that runs of other seeds share no draws


def pick_precision(name: str, device: torch.device) -> str:
    """Either fp32 or bf16; "auto" is bf16 on devices that multiply it faster, else fp32.

    Those are CUDA devices that have it, CPUs with AMX, and AMD's with AVX512-BF16. On Intel's,
    AVX512-BF16 alone is the slower way: a 4th generation Xeon without AMX reached 150 GFLOP/s in
    bf16 and 250 in fp32 on linear layers of 256 to 704 wide (2 threads, forward and backward).
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # torch names these probes as private, there are no others
    fast = torch.cpu._is_amx_tile_supported() or (
        torch.cpu._is_avx512_bf16_supported() and "AMD" in cpu_name()
    )
    return "bf16" if device.type == "cpu" and fast else "fp32"


def seed_of_step(seed: int, step: int) -> int:
    """What the random choices of one step of a run start from."""
    return seed * SEED_STRIDE + step


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch; call it before building modules with random weights."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All generator states: the large parts as tensors, the scalars as JSON values."""
    _, python_words, python_gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(python_words),
        "numpy": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
    }
    if torch.cuda.is_available():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"cuda.{index}"] = state
    numpy_scalars = [numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]]
    return tensors, {"python": python_gauss, "numpy": numpy_scalars}


def restore_random_state(tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    """Put back what `random_state` returned; devices that are gone are passed over."""
    random.setstate((3, tuple(tensors["python"].tolist()), scalars["python"]))
    words = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", words, *scalars["numpy"]))
    torch.set_rng_state(tensors["torch"])
    for index in range(torch.cuda.device_count()):
        if f"cuda.{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{index}"], index)
