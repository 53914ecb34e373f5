"""Later data is read as the mixture that a model was trained on was, or refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidwm.data.action_semantics import ActionSemantics
from vidwm.data.datasets import open_dataset
from vidwm.data.joined import parts_kept
from vidwm.data.kept_parts import KeptPart, dataset_name
from vidwm.data.recordings import open_recordings
from vidwm.data_config import DataOptions
from vidwm.errors import UserError
from vidwm.evaluation.sources import open_seen
from vidwm.world_model.world_model import Setting

MIX = {"sets/a": 3, "late": {"data": "sets/b", "action_shift": 1}}


@pytest.fixture(autouse=True)
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets sets/a, sets/b and new, all of two cameras."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("sets/a", "sets/b", "new")):
        Path(name).mkdir(parents=True)
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
        action = rng.normal(size=(6, 2)).astype(np.float32)
        np.savez(f"{name}/0.npz", image=image, aux_image=255 - image, action=action)


def mixture(content: Any) -> Path:
    Path("mix.json").write_text(json.dumps(content))
    return Path("mix.json")


def trained_on(content: Any, **changes: Any) -> Setting:
    """What a model keeps that was trained on a mixture."""
    dataset = open_recordings(DataOptions(data=mixture(content)))
    setting = Setting(
        context_frames=1, horizon=1, frame_skip=1, fps=1.0, action_names=("x", "y"), heldout=0.1,
        split_seed=0, parts=parts_kept(dataset),
    )  # fmt: skip
    return dataclasses.replace(setting, **changes)


def recorded(name: str) -> np.ndarray:
    return open_dataset(name).episode(0).actions


def shifted(name: str) -> np.ndarray:
    rows = recorded(name)
    return np.concatenate([rows[1:], rows[-1:]])


def read(data: str, setting: Setting, camera: str | None = None) -> np.ndarray:
    return open_seen(DataOptions(data=Path(data), camera=camera), setting).episode(0).actions


def test_what_is_kept_of_parts_names_no_folders_around_them(tmp_path: Path) -> None:
    kept = trained_on({str(tmp_path / "sets/a"): 3, "late": MIX["late"]}).parts
    assert kept == (
        KeptPart(name="a", dataset="a", weight=3, camera="image", semantics=ActionSemantics()),
        KeptPart(
            name="late", dataset="b", weight=1, camera="image", semantics=ActionSemantics(shift=1)
        ),
    )
    assert [KeptPart.from_json(json.loads(json.dumps(dataclasses.asdict(p)))) for p in kept] == [
        *kept
    ]
    assert kept[1].line == "late (b): weight 1, camera image, with action_shift 1"
    for broken in ({}, {"name": "a"}, {**dataclasses.asdict(kept[0]), "colour": 1}, "a"):
        with pytest.raises(UserError, match="part of a mixture is of no known form"):
            KeptPart.from_json(broken)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("x/bridge", "bridge"),
        ("x/bridge/", "bridge"),
        ("x/bridge/1.0.0", "bridge/1.0.0"),
        ("frames/part-0", "frames/part-0"),
        ("x/bridge/y/..", "bridge"),
        ("hf://datasets/lerobot/pusht", "pusht"),
    ],
)
def test_a_dataset_is_known_by_its_name(data: str, name: str) -> None:
    assert dataset_name(Path(data)) == name


def test_a_part_is_read_as_it_was_trained_on_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    setting = trained_on(MIX)
    Path("sets").rename("moved")
    assert (read("moved/b", setting) == shifted("moved/b")).all()
    line = capsys.readouterr().out.strip()
    assert line.endswith(
        "moved/b is read as late of the model's mixture: camera image, with action_shift 1"
    )
    assert (read("moved/a", setting) == recorded("moved/a")).all()
    line = capsys.readouterr().out.strip()
    assert line.endswith("read as a of the model's mixture: camera image, actions as recorded")


def test_a_stranger_is_refused_until_a_mixture_file_says_what_it_is() -> None:
    setting = trained_on(MIX)
    with pytest.raises(UserError, match=r"late: with action_shift 1\), and new is none of them"):
        read("new", setting)
    one = mixture({"new": {"action_shift": 2}})
    assert (read(str(one), setting)[:4] == recorded("new")[2:]).all()
    same = open_seen(DataOptions(data=mixture(MIX)), setting)
    assert (same.episode(0).actions == recorded("sets/a")).all()
    assert (same.episode(1).actions == shifted("sets/b")).all()


def test_parts_of_one_name_that_differ_are_refused_too() -> None:
    setting = trained_on({"one": {"data": "sets/a"}, "two": {"data": "sets/a", "action_shift": 1}})
    with pytest.raises(UserError, match="sets/a is several of them"):
        read("sets/a", setting)


def test_where_all_parts_mean_the_same_any_dataset_is_read_like_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = trained_on({"sets/a": 1, "sets/b": 2})
    capsys.readouterr()
    assert (read("new", plain) == recorded("new")).all()
    assert capsys.readouterr().out == ""
    late = {name: {"action_shift": 1} for name in ("sets/a", "sets/b")}
    assert (read("new", trained_on(late)) == shifted("new")).all()
    assert "new is read as all parts of the model's mixture" in capsys.readouterr().out


def test_a_model_of_no_mixture_reads_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    setting = trained_on(MIX, parts=(), camera="aux_image")
    capsys.readouterr()
    dataset = open_seen(DataOptions(data=Path("new")), setting)
    assert dataset.camera == "aux_image" and capsys.readouterr().out == ""


def test_a_part_is_seen_by_its_own_camera() -> None:
    def parts(**changes: Any) -> Setting:
        return trained_on({"sets/a": 1, "sets/b": {"camera": "aux_image"}}, **changes)

    def seen(data: str, setting: Setting, camera: str | None = None) -> str:
        return open_seen(DataOptions(data=Path(data), camera=camera), setting).camera

    assert [seen(name, parts()) for name in ("sets/a", "sets/b")] == ["image", "aux_image"]
    assert seen("sets/b", parts(camera="image")) == "aux_image"
    assert seen("sets/b", parts(), "image") == "image"
    with pytest.raises(UserError, match=r"new has the cameras .* choose one with --camera"):
        seen("new", parts())
    assert seen("new", parts(), "aux_image") == "aux_image"
    with np.load("new/0.npz") as arrays:
        image, action = arrays["image"], arrays["action"]
    np.savez("new/0.npz", image=image, action=action)
    assert seen("new", parts()) == "image"  # there is no other


def test_what_a_model_goes_on_with_is_kept_beside_what_it_knew() -> None:
    before = trained_on(MIX).parts
    after = parts_kept(
        open_recordings(DataOptions(data=mixture({"new": 1, "sets/a": {"action_shift": 2}}))),
        before,
    )
    shifts = sorted((part.name, part.semantics.shift) for part in after)
    assert shifts == [("a", 2), ("late", 1), ("new", 0)]
    assert parts_kept(open_recordings(DataOptions(data=Path("new"))), before) == before
