"""Caches of frames and tokens: what was recorded, in the same bytes however the work was shared."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vidwm.cli import main
from vidwm.data import cache_folder
from vidwm.data.cache import MAX_MAPS, CachedTokens, JoinedTokens, cached_tokens
from vidwm.data.cache_folder import contents_of, read_contents
from vidwm.data.cache_writer import CacheWork, write_cache
from vidwm.data.datasets import open_dataset
from vidwm.data.recordings import open_recordings
from vidwm.data.sampler import resize
from vidwm.data.selection import split_dataset
from vidwm.data_config import DataOptions
from vidwm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def cache(*words: object) -> int:
    return main(["data", "cache", *map(str, words)])


def tree(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def corner(frames: torch.Tensor) -> torch.Tensor:
    """Three tokens a frame: the colour of its first pixel."""
    return (frames[..., 0, 0] * 255).round().long()


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_folder, "SHARD_FRAMES", 20)


@pytest.fixture()
def source(tmp_path: Path, moving: Callable[..., np.ndarray]) -> Path:
    """Nine npz episodes of 6 to 14 frames: files of 2, 2, 1, 1, 1, 1 and 1 episodes."""
    folder = tmp_path / "source"
    folder.mkdir()
    for index in range(9):
        frames = moving(6 + index, 16, 24, seed=index)
        actions = np.random.default_rng(index).normal(size=(len(frames), 2)).astype(np.float32)
        np.savez(folder / f"{index}.npz", image=frames, action=actions)
    return folder


def work(source: Path, folder: Path) -> CacheWork:
    dataset = open_dataset(source)
    contents = contents_of(dataset, kind="tokens", size=(8, 12), tokens_per_frame=3)
    return CacheWork(dataset=dataset, contents=contents, folder=folder, encode=corner)


def test_frames_are_a_dataset_like_any_other(
    lerobot: tuple[Path, list[np.ndarray], list[np.ndarray]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = tmp_path / "few.json"
    few.write_text('["episode_000001", "episode_000003", "episode_000004"]')
    words = [lerobot[0], "--output_dir", tmp_path / "cache", "--height", 16, "--episodes", few]
    assert cache(*words) == 0
    said = capsys.readouterr().out
    assert "frames of 3 episodes, 26 frames at 16x48; 2 of 2 files are there: " in said
    old = open_recordings(DataOptions(data=lerobot[0], episodes=few))
    new = open_dataset(tmp_path / "cache")
    for name in ("fps", "action_names", "camera", "all_episode_ids"):
        assert getattr(new, name) == getattr(old, name) or name == "all_episode_ids"
    assert list(new.episode_ids) == list(old.episode_ids) and list(new.lengths) == [7, 9, 10]
    assert split_dataset(new, 0.4, 3) == split_dataset(old, 0.4, 3)
    for number in range(3):
        one, two = old.episode(number), pickle.loads(pickle.dumps(new)).episode(number)
        frames = resize(torch.from_numpy(one.frames), (16, 48)).numpy()
        assert (frames == two.frames).all() and (one.actions == two.actions).all()
        assert one.task == two.task != ""
        cut = new.span(number, 2, 5)
        assert (cut.frames == frames[2:5]).all() and (cut.actions == one.actions[2:5]).all()


def test_a_cache_knows_its_camera_by_its_last_part(old: Path, tmp_path: Path) -> None:
    wrist, front = "observation.images.wrist", "observation.images.front"
    assert cache(old, "--camera", "wrist", "--output_dir", tmp_path / "one") == 0
    for name in (None, "wrist", wrist):
        assert open_dataset(tmp_path / "one", camera=name).camera == wrist
    with pytest.raises(UserError, match=f"no camera 'front'; expected one of {wrist}"):
        open_dataset(tmp_path / "one", camera="front")
    assert cache(old, "--camera", "wrist+front", "--output_dir", tmp_path / "two") == 0
    for name in (None, "wrist+front", f"{wrist}+{front}"):
        assert open_dataset(tmp_path / "two", camera=name).camera == f"{wrist}+{front}"
    for name in ("front+wrist", "wrist"):
        with pytest.raises(UserError, match="is a cache of camera"):
            open_dataset(tmp_path / "two", camera=name)


def test_who_is_held_out_does_not_depend_on_a_list_given_with_the_cache(
    source: Path, tmp_path: Path
) -> None:
    def held(data: Path, few: Path) -> set[str]:
        dataset = open_recordings(DataOptions(data=data, episodes=few))
        return {dataset.episode_ids[i] for i in split_dataset(dataset, 0.4, 0)[1]}

    cached, few = tmp_path / "cached.json", tmp_path / "few.json"
    cached.write_text(json.dumps([str(i) for i in range(7)]))
    assert cache(source, "--output_dir", tmp_path / "cache", "--episodes", cached) == 0
    for left_out in range(7):
        few.write_text(json.dumps([str(i) for i in range(7) if i != left_out]))
        assert held(tmp_path / "cache", few) == held(source, few)


def test_tokens_and_actions_of_a_clip(source: Path, tmp_path: Path) -> None:
    job = work(source, tmp_path / "cache")
    assert write_cache(job) == 7
    clips = CachedTokens(job.folder, job.contents)
    for number in (8, 0, 3):
        episode = job.dataset.episode(number)
        frames = resize(torch.from_numpy(episode.frames), (8, 12))
        tokens = clips.clip(number, 1, 3, 2)
        assert tokens.dtype == torch.int64
        assert tokens.equal(corner(frames[1:6:2].float() / 255))
        assert clips.actions(number).equal(torch.from_numpy(episode.actions))


def test_caches_of_several_parts_are_read_as_one(source: Path, tmp_path: Path) -> None:
    job = work(source, tmp_path / "cache")
    write_cache(job)
    clips = CachedTokens(job.folder, job.contents)
    count = len(clips.lengths)
    twice = JoinedTokens([clips, JoinedTokens([clips])])
    assert list(twice.lengths) == list(clips.lengths) * 2
    for number in (0, count - 1, count, 2 * count - 1):
        assert twice.clip(number, 1, 2, 1).equal(clips.clip(number % count, 1, 2, 1))
        assert twice.actions(number).equal(clips.actions(number % count))


def test_two_machines_may_begin_a_cache_at_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is done with all of it right after this one has looked for cache.json."""
    job, exists = work(source, tmp_path / "cache"), Path.exists

    def slow(path: Path) -> bool:
        found = exists(path)
        if path.name == cache_folder.INDEX and not found:
            monkeypatch.setattr(Path, "exists", exists)
            write_cache(job)
        return found

    monkeypatch.setattr(Path, "exists", slow)
    cache_folder.begin(job.folder, job.contents)
    assert read_contents(job.folder) == job.contents


def test_however_the_work_is_shared_the_bytes_are_the_same(source: Path, tmp_path: Path) -> None:
    write_cache(work(source, tmp_path / "alone"))
    shared = work(source, tmp_path / "shared")
    assert write_cache(shared, shard=(2, 2)) == 3
    with pytest.raises(UserError, match=r"not complete: 4 of 7 files are missing, such as shard-"):
        CachedTokens(shared.folder, shared.contents)
    file = source / "4.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000] + bytes(500) + whole[1500:])
    with pytest.raises(UserError, match=r"4\.npz is no readable npz file"):
        write_cache(shared, shard=(1, 2), workers=2)
    file.write_bytes(whole)
    assert not (shared.folder / "shard-00002.safetensors").exists()
    assert (shared.folder / "shard-00000.safetensors").exists()
    assert write_cache(shared, shard=(1, 2)) == 4
    assert tree(shared.folder) == tree(tmp_path / "alone")


def test_a_killed_run_goes_on_to_the_same_bytes(source: Path, tmp_path: Path) -> None:
    assert cache(source, "--output_dir", tmp_path / "straight") == 0
    code = (
        "import time\n"
        "from vidwm.data import cache_folder, cache_writer\n"
        "cache_folder.SHARD_FRAMES = 20\n"
        "save = cache_writer.save_file\n"
        "def slow(tensors, path, about):\n"
        "    save(tensors, path, about)\n"
        "    if '00003' in str(path): print('ready', flush=True); time.sleep(60)\n"
        "cache_writer.save_file = slow\n"
        "from vidwm.cli import main\n"
        f"main(['data', 'cache', {str(source)!r}, '--output_dir', {str(tmp_path / 'new')!r}])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    child.kill()
    child.wait()
    left = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "new").glob("*.safetensors")}
    assert len(left) == 3 and len(list((tmp_path / "new").glob("*.partial"))) == 1
    assert cache(source, "--output_dir", tmp_path / "new") == 0
    assert tree(tmp_path / "new") == tree(tmp_path / "straight")
    assert {name: (tmp_path / "new" / name).stat().st_mtime_ns for name in left} == left


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_500, hard))  # 14 frames: the first file
    try:
        assert cache(source, "--output_dir", tmp_path / "new") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert "shard-00001.safetensors cannot be written (File too large); mend" in error
    assert "run the same command again" in error and error.count("\n") == 1
    assert len(list((tmp_path / "new").iterdir())) == 2
    assert cache(source, "--output_dir", tmp_path / "new") == 0
    assert len(open_dataset(tmp_path / "new")) == 9


def test_a_cache_of_other_contents_is_left_alone(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    assert cache(source, "--output_dir", folder) == 0
    before = tree(folder)
    (tmp_path / "few.json").write_text('["1", "2"]')
    assert cache(source, "--output_dir", folder, "--episodes", tmp_path / "few.json") == 2
    assert "the choice of episodes differ" in capsys.readouterr().err
    assert cache(source, "--output_dir", folder, "--width", 8) == 2
    assert "the size of frames differ" in capsys.readouterr().err
    shutil.copy(source / "0.npz", source / "9.npz")
    assert cache(source, "--output_dir", folder) == 2
    assert "the recorded files and the choice of episodes differ" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"out of date: .*source has changed"):
        open_dataset(folder)
    assert tree(folder) == before
    shutil.rmtree(source)
    assert len(open_dataset(folder)) == 9  # it stands alone


def test_tokens_of_another_tokenizer_are_not_taken(source: Path, tmp_path: Path) -> None:
    job = work(source, tmp_path / "cache")
    write_cache(job)
    before = tree(job.folder)
    changed = contents_of(
        job.dataset, kind="tokens", size=(8, 12), tokens_per_frame=3, tokenizer="another"
    )
    with pytest.raises(UserError, match="the tokenizer differ"):
        cached_tokens(job.dataset, corner, changed, job.folder)
    cached_tokens(job.dataset, corner, changed, tmp_path / "caches")
    assert [p.name for p in (tmp_path / "caches").iterdir()] == [changed.key]
    assert tree(job.folder) == before


def test_what_is_no_cache_is_not_touched(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    assert cache(source, "--output_dir", tmp_path / "mine") == 2
    assert "is no token or frame cache" in capsys.readouterr().err
    assert cache(source, "--output_dir", source / "in") == 2
    assert "lies inside of" in capsys.readouterr().err
    assert cache(source, "--output_dir", tmp_path / "new", "--shard", "3/2") == 2
    assert "shard must be i/n with i from 1 to n, got '3/2'" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_damaged_and_foreign_files_are_named(source: Path, tmp_path: Path) -> None:
    job = work(source, tmp_path / "cache")
    write_cache(job)
    file = job.folder / "shard-00002.safetensors"
    whole = file.read_bytes()
    for content in (whole[:-5], whole[:100], b"", whole.replace(b'\\"tasks', b'\\"works')):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"shard-00002\.safetensors is damaged .*; remove it"):
            CachedTokens(job.folder, job.contents).clip(4, 0, 2, 1)
    file.write_bytes(whole)
    same, larger = load_file(file), load_file(job.folder / "shard-00003.safetensors")
    for tensors, key in ((larger, job.contents.key), (same, "another")):
        save_file(tensors, file, {"vidwm": json.dumps({"key": key, "tasks": [""]})})
        with pytest.raises(UserError, match=r"shard-00002\.safetensors belongs to another cache"):
            CachedTokens(job.folder, job.contents).clip(4, 0, 2, 1)
    file.unlink()
    write_cache(job)
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [
        {"lengths": [5]},
        {"lengths": [0] * 9},
        {"lengths": [10**30] * 8 + [1.5]},
        {"size": [16]},
        {"kind": "thoughts"},
        {"fps": "fast"},
        {"episode_ids": [1] * 9},
        {"unknown": 1},
        {"format": 99},
    ],
)
def test_a_wrong_description_is_one_sentence(
    source: Path, tmp_path: Path, change: dict[str, object], edit_json: Callable[..., None]
) -> None:
    cache_folder.begin(tmp_path / "cache", work(source, tmp_path).contents)
    edit_json(tmp_path / "cache/cache.json", lambda content: content.update(change))
    with pytest.raises(UserError, match=r"cache\.json (does not describe|has format 99)"):
        read_contents(tmp_path / "cache")


def test_a_cache_of_tokens_is_not_data(source: Path, tmp_path: Path) -> None:
    write_cache(work(source, tmp_path / "cache"))
    with pytest.raises(UserError, match=r"is a cache of tokens: give the recordings as --data"):
        open_dataset(tmp_path / "cache")


def test_few_files_are_mapped_at_a_time(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_MAPS > 2
    monkeypatch.setattr("vidwm.data.cache.MAX_MAPS", 2)
    job = work(source, tmp_path / "cache")
    write_cache(job)
    clips = CachedTokens(job.folder, job.contents)
    for number in (0, 4, 5, 8, 0):
        clips.clip(number, 0, 2, 1)
    maps = Path("/proc/self/maps").read_text()
    assert sum(str(file) in maps for file in job.folder.iterdir()) == 2
