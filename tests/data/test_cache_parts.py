"""Caches of views and mixtures: what is read from them is what is read without them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vidwm.cli import main
from vidwm.config import PretrainConfig
from vidwm.data import cache_folder
from vidwm.data.clip import EpisodeDataset
from vidwm.data.joined import recordings_of
from vidwm.data.order import clip_order, shares_of
from vidwm.data.recordings import open_recordings
from vidwm.data.sampler import windows_of
from vidwm.data.selection import split_dataset
from vidwm.data_config import DataOptions
from vidwm.errors import UserError
from vidwm.tokenizer.frame import FrameTokenizer, FrameTokenizerConfig
from vidwm.training.pretrain import tokenised

VIEWS = "aux_image,image+other_image"


def cache(*words: object) -> int:
    return main(["data", "cache", *map(str, words)])


def opened(data: Path, **options: object) -> EpisodeDataset:
    return open_recordings(DataOptions(data=data, **options))  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in found}


def assert_same(one: EpisodeDataset, two: EpisodeDataset) -> None:
    """Episodes, who is held out, and what the steps of a run see."""
    assert list(one.episode_ids) == list(two.episode_ids) and one.camera == two.camera
    assert list(recordings_of(one)) == list(recordings_of(two))
    assert list(one.lengths) == list(two.lengths) and one.action_names == two.action_names
    for number in range(len(one)):
        a, b = one.episode(number), two.episode(number)
        assert a.id == b.id and a.task == b.task
        assert (a.frames == b.frames).all() and (a.actions == b.actions).all()
    sides = split_dataset(one, 0.4, 1)
    assert split_dataset(two, 0.4, 1) == sides
    windows = windows_of(one.lengths, sides[0], 3, 1)
    first, second = (shares_of(dataset, windows) for dataset in (one, two))
    assert first == second
    assert clip_order(len(windows), first, 0, 3, 8) == clip_order(len(windows), second, 0, 3, 8)


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets a (5 episodes) and b (3) with three cameras, and mix.json; files of 20 frames."""
    monkeypatch.setattr(cache_folder, "SHARD_FRAMES", 20)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, count in (("a", 5), ("b", 3)):
        (tmp_path / name).mkdir()
        for index in range(count):
            image = rng.integers(0, 255, (8 + index, 16, 16, 3), dtype=np.uint8)
            cameras = {"image": image, "aux_image": 255 - image, "other_image": image[:, ::-1]}
            action = rng.normal(size=(len(image), 2)).astype(np.float32)
            np.savez(tmp_path / name / f"{index}.npz", action=action, **cameras)
    write_mixture()
    return tmp_path


def write_mixture(weight: float = 3, **settings: object) -> None:
    second = {"data": "b", "action_shift": 1, "discrete_actions": ["action_1"], "camera": VIEWS}
    Path("mix.json").write_text(json.dumps({"a": weight, "late": second | settings}))


def test_views_are_read_from_a_cache_as_from_the_recordings(
    sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("a", "--camera", VIEWS, "--output_dir", "frames")
    assert cache(*words, "--shard", "2/3") == 0
    with pytest.raises(UserError, match=r"view-0 is not complete: .* run its"):
        opened(Path("frames"))
    assert cache(*words, "--shard", "1/3") == 0 and cache(*words, "--shard", "3/3") == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in shown] == ["frames/view-0", "frames/view-1"] * 3
    assert "4 of 4 files are there" in shown[-1] and "at 16x32" in shown[-1]
    written = [int(line.split(" of them by")[0].split(", ")[-1]) for line in shown]
    assert written == [1, 2, 2, 1, 1, 1]  # of eight files: shares of 3, 3 and 2
    for camera in (None, VIEWS):
        assert_same(opened(Path("frames"), camera=camera), opened(Path("a"), camera=VIEWS))
    Path("few.json").write_text('["3", "1"]')
    few = {"episodes": Path("few.json")}
    assert_same(opened(Path("frames"), **few), opened(Path("a"), camera=VIEWS, **few))
    before = files(sets / "frames")
    assert cache(*words) == 0 and files(sets / "frames") == before
    assert cache("a", "--camera", "image,aux_image", "--output_dir", "frames") == 2
    assert "views.json is there already and names other parts" in capsys.readouterr().err
    assert files(sets / "frames") == before


def test_a_cache_of_other_views_is_told_apart(
    sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cache("b", "--camera", VIEWS, "--output_dir", "frames") == 0
    with pytest.raises(UserError, match=r"a cache of the views aux_image,image\+other_image, not"):
        opened(Path("frames"), camera="image")
    with pytest.raises(UserError, match=r"view-0 is a cache of camera|view-0 has no camera"):
        opened(Path("frames"), camera="image+other_image,aux_image")
    assert main(["data", "inspect", "frames"]) == 0
    assert main(["data", "check", "frames/view-1", "--camera", "image+other_image"]) in (0, 1)
    for wrong in ("[]", "{}", "[1]", "nonsense"):
        Path("frames/views.json").write_text(wrong)
        with pytest.raises(UserError, match=r"views\.json (must be|is not readable)"):
            opened(Path("frames"))


def test_a_mixture_is_read_from_a_cache_as_from_its_parts(
    sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cache("mix.json", "--output_dir", "frames") == 0
    assert "give frames/mixture.yaml as --data" in capsys.readouterr().out
    mixture = Path("frames/mixture.yaml")
    assert_same(opened(mixture), opened(Path("mix.json")))
    Path("few.json").write_text('["late/0", "late/1", "a/0", "a/1", "a/4"]')
    few = {"episodes": Path("few.json")}
    assert_same(opened(mixture, **few), opened(Path("mix.json"), **few))
    before = files(sets / "frames")
    assert cache("mix.json", "--output_dir", "frames") == 0 and files(sets / "frames") == before
    write_mixture(weight=2)
    assert cache("mix.json", "--output_dir", "frames") == 2
    assert "mixture.yaml is there already and names other" in capsys.readouterr().err
    write_mixture(action_form="state")
    assert cache("mix.json", "--output_dir", "more") == 2
    assert "robot states" in capsys.readouterr().err and not Path("more").exists()
    write_mixture()
    assert cache("mix.json", "--output_dir", "b/frames") == 2
    assert "b/frames lies inside of b" in capsys.readouterr().err
    assert files(sets / "frames") == before


def test_another_machine_may_see_the_folder_elsewhere(
    sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache("mix.json", "--output_dir", "frames", "--shard", "1/2") == 0
    Path("frames").rename("mounted")
    assert cache("mix.json", "--output_dir", "mounted", "--shard", "2/2") == 0
    assert_same(opened(Path("mounted/mixture.yaml")), opened(Path("mix.json")))
    monkeypatch.chdir("mounted")
    assert opened(Path("mixture.yaml")).episode_ids[-1] == "late/2@image+other_image"
    monkeypatch.chdir(sets)
    Path("both.json").write_text('{"a": {"beside": "a", "data": "a"}}')
    with pytest.raises(UserError, match=r"beside is instead of data \(of a in both.json\)"):
        opened(Path("both.json"))


def test_pretraining_finds_the_tokens_of_every_part_and_view(
    sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = FrameTokenizerConfig(height=16, width=16, patch=4, widths=(8,), fsq_levels=(4, 4))
    tokenizer = FrameTokenizer(shape).eval()
    tokenizer.save_pretrained("tokenizer")
    vary = {"crop": 0.7, "variants": 2}
    words = [word for name, value in vary.items() for word in (f"--{name}", value)]
    words += ["--tokenizer", "tokenizer", "--resize", "true", "--output_dir", "tokens"]
    assert cache("mix.json", *words) == 0
    before = files(sets / "tokens")
    assert len({Path(name).parent for name in before}) == 3
    config = PretrainConfig(
        data=Path("mix.json"), tokenizer=Path("tokenizer"), cache_dir=Path("tokens"),
        output_dir=Path("run"), device="cpu", resize=True, **vary,
    )  # fmt: skip
    dataset = open_recordings(config)
    clips = tokenised(config, dataset, tokenizer)
    assert files(sets / "tokens") == before
    assert list(clips.lengths) == list(dataset.lengths) and clips.variants(0) == 2
    frames = torch.from_numpy(dataset.episode(6).frames[1:4])  # late/1@aux_image
    assert clips.clip(6, 1, 3, 1).equal(tokenizer.encode(frames.float() / 255))
    Path("tokens/thesis.tex").write_text("years of work")
    assert cache("mix.json", *words) == 2
    assert "tokens exists and is no folder of several caches" in capsys.readouterr().err
