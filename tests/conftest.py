"""Shared by all tests: the Triton interpreter, fixed seeds, the folder of data beside the repo."""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pipeline import PRETRAIN, TOKENIZER, train_stages

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(autouse=True)
def seed() -> int:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden files beside the repository; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the data beside the repository, {SHARED.name}/")
    return SHARED


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder with data and a run of each training stage, which tests only read."""
    root = tmp_path_factory.mktemp("pipeline")
    train_stages(root, TOKENIZER, PRETRAIN)
    return root
