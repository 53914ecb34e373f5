"""Only some episodes: the ones of a list, and the ones that can be read; held out as ever."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vidwm.cli import main
from vidwm.data.cache import cached_tokens
from vidwm.data.cache_folder import contents_of
from vidwm.data.recordings import open_recordings
from vidwm.data.sampler import split_episodes
from vidwm.data.selection import Selection, split_dataset
from vidwm.data_config import DataOptions
from vidwm.errors import UserError

COUNT = 8


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        image = rng.integers(0, 255, (10, 16, 16, 3), dtype=np.uint8)
        image[0, 0, 0] = index
        action = rng.normal(size=(10, 2)).astype(np.float32)
        np.savez(folder / f"{index}.npz", image=image, action=action)
    return folder


def spoil(data: Path, *numbers: int) -> None:
    """The first is cut short, the others hold NaN."""
    first, *rest = numbers
    (data / f"{first}.npz").write_bytes((data / f"{first}.npz").read_bytes()[:300])
    for number in rest:
        with np.load(data / f"{number}.npz") as arrays:
            image, action = arrays["image"], arrays["action"]
        action[3] = np.nan
        np.savez(data / f"{number}.npz", image=image, action=action)


def listed(tmp_path: Path, content: object) -> Path:
    file = tmp_path / "episodes.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("wrap", [lambda ids: ids, lambda ids: {"episodes": ids, "notes": []}])
def test_only_the_listed_episodes_are_there(tmp_path: Path, data: Path, wrap: object) -> None:
    file = listed(tmp_path, wrap(["6", "1", "3"]))  # type: ignore[operator]
    chosen = open_recordings(DataOptions(data=data, episodes=file))
    assert list(chosen.episode_ids) == ["1", "3", "6"]  # in the order of the dataset
    assert len(chosen) == 3 and list(chosen.lengths) == [10] * 3
    assert [int(chosen.episode(i).frames[0, 0, 0, 0]) for i in range(3)] == [1, 3, 6]
    assert [chosen.episode(i).id for i in range(3)] == ["1", "3", "6"]
    assert (chosen.format, chosen.fps, chosen.path) == ("npz", 10.0, data)
    assert chosen.camera == "image"  # type: ignore[attr-defined]


def test_without_options_the_dataset_is_as_it_was(data: Path) -> None:
    assert not isinstance(open_recordings(DataOptions(data=data)), Selection)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["1", "77"], "lists 1 episodes that .* does not hold, such as '77'"),
        ([], "must be a JSON list of episode ids"),
        ({"good": ["1"]}, "must be a JSON list of episode ids"),
        ([1, 2], "must be a JSON list of episode ids"),
    ],
)
def test_a_wrong_list_is_one_sentence(
    tmp_path: Path, data: Path, content: object, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        open_recordings(DataOptions(data=data, episodes=listed(tmp_path, content)))
    with pytest.raises(UserError, match=r"absent\.json is not readable JSON"):
        open_recordings(DataOptions(data=data, episodes=tmp_path / "absent.json"))


def test_who_is_held_out_does_not_depend_on_the_list(tmp_path: Path, data: Path) -> None:
    everyone = [str(i) for i in range(COUNT)]
    _, out = split_episodes(everyone, 0.4, seed=0)
    for left_out in range(COUNT):
        ids = [name for name in everyone if name != str(left_out)]
        chosen = open_recordings(DataOptions(data=data, episodes=listed(tmp_path, ids)))
        train, heldout = split_dataset(chosen, 0.4, 0)
        assert {chosen.episode_ids[i] for i in heldout} == {str(i) for i in out} - {str(left_out)}
        assert sorted(train + heldout) == list(range(COUNT - 1))
    only_held = open_recordings(
        DataOptions(data=data, episodes=listed(tmp_path, [str(i) for i in out]))
    )
    with pytest.raises(UserError, match="are among the held-out ones of 8"):
        split_dataset(only_held, 0.4, 0)


def test_skipped_episodes_leave_the_split_alone(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = split_episodes([str(i) for i in range(COUNT)], 0.4, seed=0)
    spoil(data, 2, 5)
    chosen = open_recordings(DataOptions(data=data, on_bad_episode="skip"))
    assert list(chosen.episode_ids) == ["0", "1", "3", "4", "6", "7"]
    shown = capsys.readouterr().out
    assert "data: 2 of 8 episodes are damaged and skipped:" in shown
    assert "\n  2: " in shown and "2.npz is no readable npz file" in shown
    assert "\n  5: " in shown and "the action of frame 3 is NaN" in shown
    _, heldout = split_dataset(chosen, 0.4, 0)
    # Ids that could not be opened come last, and are ranked by their hash like all others.
    assert {chosen.episode_ids[i] for i in heldout} == {str(i) for i in out} - {"2", "5"}


def test_stop_is_the_default_and_names_the_episode(data: Path) -> None:
    spoil(data, 2)
    with pytest.raises(UserError, match=r"2\.npz is no readable.*--on_bad_episode skip leaves"):
        open_recordings(DataOptions(data=data))


def test_a_bad_episode_that_is_not_listed_does_not_stop(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(data, 2, 5)
    chosen = open_recordings(DataOptions(data=data, episodes=listed(tmp_path, ["0", "1"])))
    assert list(chosen.episode_ids) == ["0", "1"]
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match=r"2\.npz"):
        open_recordings(DataOptions(data=data, episodes=listed(tmp_path, ["0", "2"])))


def test_nothing_left_is_an_error(tmp_path: Path, data: Path) -> None:
    spoil(data, 2, 5)
    options = DataOptions(data=data, episodes=listed(tmp_path, ["2", "5"]), on_bad_episode="skip")
    with pytest.raises(UserError, match="of 2 episodes none is left"):
        open_recordings(options)


def test_tokens_are_cached_by_the_selection(tmp_path: Path, data: Path) -> None:
    def encode(frames: torch.Tensor) -> torch.Tensor:
        encoded.append(len(frames))
        return frames[:, :1, 0, 0].mul(255).round()

    encoded: list[int] = []
    for ids in (["0", "1"], ["0", "3"], ["0", "1"]):
        options = DataOptions(data=data, episodes=listed(tmp_path, ids))
        dataset = open_recordings(options)
        contents = contents_of(dataset, kind="tokens", size=(16, 16), tokens_per_frame=1)
        clips = cached_tokens(dataset, encode, contents, tmp_path / "tokens")
        assert [int(clips.clip(i, 0, 1, 1)) for i in range(2)] == [int(name) for name in ids]
    assert encoded == [10] * 4  # the third time nothing is encoded


def test_training_takes_the_report_of_a_check_and_skips_what_it_is_told_to(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(data, 2, 5)
    report = tmp_path / "good.json"
    assert main(["data", "check", str(data), "--fix_report", str(report)]) == 1
    tiny = "--steps 1 --batch_size 2 --widths [8,16] --downsample 8 --blocks 1 --fsq_levels [4,4]"
    command = ["tokenizer", "--data", str(data), *tiny.split(), "--perceptual_weight", "0"]
    assert main([*command, "--output_dir", str(tmp_path / "a")]) == 2
    assert "2.npz is no readable" in capsys.readouterr().err
    words = ["--episodes", str(report), "--output_dir", str(tmp_path / "b")]
    assert main([*command, *words]) == 0
    assert "skipped" not in capsys.readouterr().out
    words = ["--on-bad-episode", "skip", "--output_dir", str(tmp_path / "c")]
    assert main([*command, *words]) == 0
    assert "data: 2 of 8 episodes are damaged and skipped:" in capsys.readouterr().out
    weights = [
        (tmp_path / run / "checkpoints/last/model/model.safetensors").read_bytes() for run in "bc"
    ]
    assert weights[0] == weights[1]
