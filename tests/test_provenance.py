"""What a result says about the code and the machine it came from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from vidwm import provenance
from vidwm.device import pick_device
from vidwm.errors import UserError


def test_the_commit_is_that_of_this_checkout() -> None:
    commit = provenance.git_commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)


def test_there_is_no_commit_outside_of_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()  # empty, so git finds no repository in it
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.git_commit() is None
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "elsewhere")
    assert provenance.git_commit() is None


def test_the_machine_is_described_without_naming_it() -> None:
    machine = provenance.machine()
    assert machine["torch"] == torch.__version__ and machine["cores"] >= 1
    assert machine["cpu"]
    text = json.dumps(machine)
    assert str(Path.home()) not in text and set(machine) == {
        *("cpu", "cores", "threads", "memory_gib", "gpu", "torch", "python")
    }


def test_devices_go_by_torch_names() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UserError, match="Unknown device 'gpu'"):
        pick_device("gpu")
    with pytest.raises(UserError, match="is not there"):
        pick_device("cuda:99")
