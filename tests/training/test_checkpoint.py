"""Checkpoints survive failures of the disk, and say which file is damaged."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from vidwm.errors import UserError
from vidwm.training import checkpoint as module
from vidwm.training.checkpoint import (
    TrainState,
    list_checkpoints,
    read_checkpoint,
    save_checkpoint,
)


def state_of(step):
    weight = torch.full((2, 3), float(step))
    parts = {"model": {"weight": weight, "tied": weight, "view": weight.t()}, "random": {}}
    return TrainState(stage="tiny", step=step, seconds=1.5, parts=parts, random={"python": None})


def save(folder, step, keep_last=2, export=lambda directory: directory.mkdir()):
    return save_checkpoint(folder, state_of(step), export, keep_last)


def test_round_trip_with_tied_and_strided_tensors(tmp_path):
    read = read_checkpoint(save(tmp_path, 7))
    written = state_of(7)
    assert (read.stage, read.step, read.seconds, read.random) == ("tiny", 7, 1.5, {"python": None})
    for name, tensor in written.parts["model"].items():
        assert torch.equal(read.parts["model"][name], tensor)


def test_keeps_the_newest_and_points_last_at_it(tmp_path):
    for step in (5, 10, 15):
        save(tmp_path, step)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["00000010", "00000015"]
    assert os.readlink(tmp_path / "last") == "00000015"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000010", "00000015", "last"]


def test_last_is_a_text_file_where_links_are_impossible(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    save(tmp_path, 5)
    save(tmp_path, 10)
    assert (tmp_path / "last").read_text() == "00000010\n"


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["save_file", "write_json", "_flush", "export", "rename"])
def test_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch, place):
    save(tmp_path, 5)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    export = no_space if place == "export" else lambda directory: directory.mkdir()
    with monkeypatch.context() as patch:
        if place == "rename":
            patch.setattr(os, "rename", no_space)
        elif place != "export":
            patch.setattr(module, place, no_space)
        with pytest.raises(UserError, match="00000010: no space left on device"):
            save(tmp_path, 10, keep_last=1, export=export)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert [p.name for p in list_checkpoints(tmp_path)] == ["00000005"]
    assert os.readlink(tmp_path / "last") == "00000005"
    save(tmp_path, 10)  # and once there is room again
    assert read_checkpoint(tmp_path / "last").step == 10


def test_the_reason_safetensors_gives_is_passed_on(tmp_path, monkeypatch):
    def refuse(*args):
        text = "Error while serializing: I/O error: No space left on device (os error 28)"
        raise module.SafetensorError(text)

    monkeypatch.setattr(module, "save_file", refuse)
    with pytest.raises(UserError, match="00000005: no space left on device"):
        save(tmp_path, 5)


def test_leftovers_of_a_killed_run_are_ignored_and_swept(tmp_path):
    (tmp_path / ".00000010.tmp").mkdir()
    (tmp_path / ".00000010.tmp/model.safetensors").write_bytes(b"half")
    assert list_checkpoints(tmp_path) == []
    save(tmp_path, 15)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000015", "last"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damaged_weights_are_named(tmp_path, damage):
    file = save(tmp_path, 5) / "model.safetensors"
    content = file.read_bytes()
    if damage == "truncate":
        file.write_bytes(content[:-8])
    elif damage == "flip":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        file.unlink()
    with pytest.raises(
        UserError, match=r"00000005/model\.safetensors is (damaged|missing).*restore"
    ):
        read_checkpoint(tmp_path / "00000005")


@pytest.mark.parametrize("content", ["", '{"format": 1, "st', "{}", '{"format": 1, "parts": []}'])
def test_damaged_state_is_named(tmp_path, content):
    file = save(tmp_path, 5) / "state.json"
    file.write_text(content)
    with pytest.raises(UserError, match=r"00000005/state\.json"):
        read_checkpoint(tmp_path / "00000005")


def test_format_of_the_future_is_refused(tmp_path):
    file = save(tmp_path, 5) / "state.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match="format 2, this vidwm reads 1"):
        read_checkpoint(tmp_path / "00000005")
