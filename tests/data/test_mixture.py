"""Mixtures and several cameras: which episodes there are, who is held out, what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidwm.cli import main
from vidwm.data.joined import Joined, camera_read
from vidwm.data.order import Share, shares_of
from vidwm.data.recordings import open_recordings
from vidwm.data.sampler import check_frame_size, split_episodes, windows_of
from vidwm.data.selection import split_dataset
from vidwm.data.tiled import tile
from vidwm.data_config import DataOptions
from vidwm.errors import UserError


def write(folder: Path, count: int, *, seed: int = 0, dims: int = 2, size: int = 8) -> Path:
    """npz episodes of 6 frames with two cameras; the first pixels say which episode and camera."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        image = rng.integers(0, 255, (6, size, size, 3), dtype=np.uint8)
        image[:, 0, 0] = index
        action = rng.normal(size=(6, dims)).astype(np.float32)
        np.savez(folder / f"{index}.npz", image=image, aux_image=255 - image, action=action)
    return folder


@pytest.fixture
def mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    """mix(content): the file of a mixture, beside datasets a (5 episodes) and b (3)."""
    write(tmp_path / "a", 5)
    write(tmp_path / "b", 3, seed=1)
    monkeypatch.chdir(tmp_path)

    def make(content: Any) -> Path:
        file = Path("mix.json")
        file.write_text(json.dumps(content))
        return file

    return make


def opened(data: Path, **options: Any) -> Joined:
    dataset = open_recordings(DataOptions(data=data, **options))
    assert isinstance(dataset, Joined)
    return dataset


def test_a_mixture_is_its_parts_one_after_the_other(
    mix: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file = mix({"a": 3, "wrist": {"data": "b", "camera": "aux_image", "weight": 1}})
    dataset = opened(file)
    assert list(dataset.episode_ids) == [f"a/{i}" for i in range(5)] + [f"wrist/{i}" for i in "012"]
    assert [int(dataset.episode(i).frames[0, 0, 0, 0]) for i in range(8)] == [
        *range(5), 255, 254, 253,
    ]  # fmt: skip
    assert dataset.span(6, 2, 5).frames.shape == (3, 3, 8, 8)
    assert dataset.span(6, 2, 5).id == dataset.episode(6).id == "wrist/1"
    windows = windows_of(dataset.lengths, [0, 1, 4, 7], 5, 1)
    assert shares_of(dataset, windows) == (Share("a", 6, 3.0), Share("wrist", 2, 1.0))
    shown = capsys.readouterr().out
    assert "a: 75.0% of the clips; 5 episodes of npz" in shown
    assert "wrist: 25.0% of the clips; 3 episodes of npz, 18 frames" in shown


def test_yaml_reads_as_json_does(mix: Callable[[Any], Path]) -> None:
    Path("mix.yaml").write_text("a: 2\nb: {weight: 1, camera: aux_image}\n")
    dataset = opened(Path("mix.yaml"))
    assert [part.weight for part in dataset.parts] == [2.0, 1.0]
    assert dataset.camera == "image,aux_image"


def test_every_part_is_split_as_it_is_alone(mix: Callable[[Any], Path]) -> None:
    dataset = opened(mix({"a": 1, "b": 1}))
    train, heldout = split_dataset(dataset, 0.34, seed=2)
    alone = [split_episodes([str(i) for i in range(n)], 0.34, 2)[1] for n in (5, 3)]
    assert heldout == alone[0] + [5 + i for i in alone[1]]
    assert sorted(train + heldout) == list(range(8))


def test_the_views_of_a_recording_are_held_out_together(mix: Callable[[Any], Path]) -> None:
    dataset = opened(Path("a"), camera="aux_image,image")
    assert list(dataset.episode_ids[:2]) == ["0@aux_image", "1@aux_image"]
    assert list(dataset.recordings) == [str(i) for i in range(5)] * 2
    assert int(dataset.episode(6).frames[0, 0, 0, 0]) == 1
    train, heldout = split_dataset(dataset, 0.4, seed=0)
    assert len(heldout) == 4 and {i % 5 for i in heldout}.isdisjoint(i % 5 for i in train)
    assert shares_of(dataset, windows_of(dataset.lengths, train, 2, 1)) == ()


def test_tiles_stand_side_by_side(mix: Callable[[Any], Path]) -> None:
    dataset = open_recordings(DataOptions(data=Path("a"), camera="aux_image+image"))
    frames, span = dataset.episode(3).frames, dataset.span(3, 1, 4)
    assert frames.shape == (6, 3, 8, 16) and (span.frames == frames[1:4]).all()
    assert (frames[:, :, :, :8] == 255 - frames[:, :, :, 8:]).all()
    assert dataset.camera == "aux_image+image" and len(dataset) == 5
    assert split_dataset(dataset, 0.4, 0) == split_dataset(
        open_recordings(DataOptions(data=Path("a"))), 0.4, 0
    )


def test_three_tiles_are_two_by_two_and_take_the_size_of_the_first() -> None:
    views = [np.full((2, 3, size, size), value, np.uint8) for size, value in
             ((4, 10), (8, 20), (4, 30))]  # fmt: skip
    whole = tile(views)
    assert whole.shape == (2, 3, 8, 8)
    corners = [whole[0, 0, y, x] for y in (0, 7) for x in (0, 7)]
    assert corners == [10, 20, 30, 0]
    assert tile(views[:1]).shape == (2, 3, 4, 4) and tile(views[:2]).shape == (2, 3, 4, 8)


def test_a_list_of_episodes_names_the_parts(mix: Callable[[Any], Path]) -> None:
    file, listed = mix({"a": 1, "b": 1}), Path("list.json")

    def chosen(*ids: str) -> list[str]:
        listed.write_text(json.dumps(ids))
        return list(opened(file, episodes=listed).episode_ids)

    assert chosen("b/2", "a/1", "a/0") == ["a/0", "a/1", "b/2"]
    with pytest.raises(UserError, match="list has none of b of the mixture"):
        chosen("a/1")
    with pytest.raises(UserError, match=r"1 episodes of no part .* such as 'c/1'"):
        chosen("a/1", "b/1", "c/1")
    with pytest.raises(UserError, match="lists 1 episodes that b does not hold"):
        chosen("a/1", "b/7")


def test_a_listed_episode_is_of_the_part_with_the_longest_name(mix: Callable[[Any], Path]) -> None:
    file = mix({"set": {"data": "a"}, "set/b": {"data": "b"}})
    ids = ["set/0", "set/3", "set/b/2"]
    Path("list.json").write_text(json.dumps(ids))
    assert list(opened(file, episodes=Path("list.json")).episode_ids) == ids


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "mix.json is empty"),
        ([1], "The mixture file mix.json must hold `key: value`"),
        ({"a": 0}, r"weight must be above 0, got 0.0 \(of a in mix.json\)"),
        ({"a": None}, "weight must be a number"),
        ({"a": {"wieght": 2}}, "Unknown key wieght .*did you mean weight"),
        ({"a": {1: 2}}, "Unknown key 1"),
        ({"a": "x", "b": -1}, "2 settings are wrong"),
        ({"a": 1, "absent": 1}, "Dataset absent does not exist"),
        ({"a": 1, "other.yaml": 1}, "names the mixture other.yaml"),
        ({"a": {"camera": "front"}}, "front"),
    ],
)
def test_a_wrong_mixture_is_a_sentence(
    mix: Callable[[Any], Path], content: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        opened(mix(content))


def test_other_action_dimensions_are_named(mix: Callable[[Any], Path]) -> None:
    write(Path("c"), 2, dims=7)
    with pytest.raises(UserError, match="actions of a have 2 dimensions, those of c 7; one model"):
        opened(mix({"a": 1, "c": 1}))


def test_frames_of_another_size_in_a_later_part_are_noticed(mix: Callable[[Any], Path]) -> None:
    write(Path("c"), 2, size=16)
    dataset = opened(mix({"a": 1, "c": 1}))
    with pytest.raises(UserError, match=r"episode c/0 are 16x16, the model expects 8x8"):
        check_frame_size(dataset, (8, 8), resize=False)
    check_frame_size(dataset, (8, 8), resize=True)


def test_frames_of_another_size_in_a_view_of_a_part_are_noticed(mix: Callable[[Any], Path]) -> None:
    for file in Path("b").iterdir():
        with np.load(file) as arrays:
            image, action = arrays["image"], arrays["action"]
        np.savez(file, image=image, aux_image=image.repeat(2, axis=1), action=action)
    dataset = opened(mix({"a": 1, "b": {"camera": "image,aux_image"}}))
    with pytest.raises(UserError, match=r"episode b/0@aux_image are 16x8, the model expects 8x8"):
        check_frame_size(dataset, (8, 8), resize=False)


def test_the_camera_that_was_read_is_known(mix: Callable[[Any], Path]) -> None:
    for camera, read in ((None, "image"), ("aux_image,image", "aux_image,image")):
        dataset = open_recordings(DataOptions(data=Path("a"), camera=camera))
        assert camera_read(dataset, camera) == read
    for camera, read in ((None, "image"), ("image+aux_image", "image+aux_image")):
        assert camera_read(opened(mix({"a": 1, "b": 1}), camera=camera), camera) == read
    mixed = opened(mix({"a": 1, "b": {"camera": "aux_image"}}))
    assert camera_read(mixed, None) is None and camera_read(mixed, "image") == "image"


@pytest.mark.parametrize("camera", ["image,image", "image+", ",image"])
def test_a_camera_is_named_once(mix: Callable[[Any], Path], camera: str) -> None:
    with pytest.raises(UserError, match="must name every camera once"):
        open_recordings(DataOptions(data=Path("a"), camera=camera))


def test_inspect_and_check_list_the_parts(
    mix: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file = mix({"a": 3, "b": {"camera": "image,aux_image"}})
    words = ["data", "inspect", str(file), "--json", "facts.json", "--contact_sheet", "sheet.png"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "a: 75.0% of the clips" in shown and "== b ==" in shown
    facts = json.loads(Path("facts.json").read_text())
    assert [(p["weight"], p["episodes"]) for p in facts["parts"].values()] == [(3, 5), (1, 6)]
    assert Path("sheet.png").is_file()

    Path("b/1.npz").write_bytes(Path("b/1.npz").read_bytes()[:200])
    assert main(["data", "check", str(file), "--fix_report", "good.json"]) == 1
    shown = capsys.readouterr().out
    assert "== b ==" in shown and "b/1.npz is no readable npz file" in shown
    assert json.loads(Path("good.json").read_text())["episodes"] == [
        *(f"a/{i}" for i in range(5)), "b/0", "b/2",
    ]  # fmt: skip
    assert len(opened(file, episodes=Path("good.json"))) == 5 + 2 * 2
