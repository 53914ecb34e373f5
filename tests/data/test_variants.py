"""Variants of tokenised episodes: the same whoever makes them, and drawn alike by everyone."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vidwm.cli import main
from vidwm.data import cache_folder
from vidwm.data.augment import changed, draw_change
from vidwm.data.cache import CachedTokens
from vidwm.data.cache_folder import contents_of, read_contents
from vidwm.data.cache_writer import CacheWork, write_cache
from vidwm.data.recordings import open_recordings
from vidwm.data.variants import drawn_variant
from vidwm.data_config import CacheConfig, DataOptions, VariantOptions
from vidwm.errors import UserError

VARY = VariantOptions(crop=0.6, brightness=0.3, variants=3, variant_seed=5)


def corner(frames: torch.Tensor) -> torch.Tensor:
    """Three tokens a frame: the colour of its first pixel."""
    return (frames[..., 0, 0] * 255).round().long()


@pytest.fixture()
def source(tmp_path: Path, moving: Callable[..., np.ndarray]) -> Path:
    """Five npz episodes of 6 to 10 frames."""
    folder = tmp_path / "source"
    folder.mkdir()
    for index in range(5):
        frames = moving(6 + index, 16, 24, seed=index)
        actions = np.full((len(frames), 2), index, np.float32)
        np.savez(folder / f"{index}.npz", image=frames, action=actions)
    return folder


def work(source: Path, folder: Path, vary: VariantOptions | None = VARY, **chosen: Path):
    dataset = open_recordings(DataOptions(data=source, **chosen))
    contents = contents_of(dataset, kind="tokens", size=(16, 24), tokens_per_frame=3, vary=vary)
    return CacheWork(dataset=dataset, contents=contents, folder=folder, encode=corner)


def test_the_first_variant_is_as_recorded_and_the_others_are_of_one_draw(
    source: Path, tmp_path: Path
) -> None:
    job, plain = work(source, tmp_path / "cache"), work(source, tmp_path / "plain", None)
    write_cache(job)
    write_cache(plain)
    varied = CachedTokens(job.folder, read_contents(job.folder))
    recorded = CachedTokens(plain.folder, read_contents(plain.folder))
    assert (varied.variants(0), recorded.variants(0)) == (3, 1)
    changes = set()
    for episode, length in enumerate(job.contents.lengths):
        frames = torch.from_numpy(job.dataset.episode(episode).frames)
        whole = [varied.clip(episode, 0, length, 1, variant) for variant in range(3)]
        assert whole[0].equal(recorded.clip(episode, 0, length, 1))
        assert whole[0].equal(corner(frames.float() / 255))
        for variant in (1, 2):
            name = f"5:{variant}:image:{episode}"
            seed = int.from_bytes(sha256(name.encode()).digest(), "big")
            change = draw_change(VARY, np.random.default_rng(seed))
            assert whole[variant].equal(corner(changed(frames, change).float() / 255))
            changes.add(change)
        assert varied.actions(episode).equal(recorded.actions(episode))
    assert len(changes) == 2 * len(job.contents.lengths)


def test_whoever_makes_a_variant_makes_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By machines that share the work, after a kill, and with other episodes beside it."""
    monkeypatch.setattr(cache_folder, "SHARD_FRAMES", 60)
    alone, shared = work(source, tmp_path / "alone"), work(source, tmp_path / "shared")
    write_cache(alone)
    assert len(alone.contents.files) == 3  # of 20 frames, each of which is tokenised three times
    write_cache(shared, shard=(2, 2))
    write_cache(shared, shard=(1, 2))
    (shared.folder / "shard-00000.safetensors").unlink()
    write_cache(shared)
    for file in alone.folder.iterdir():
        assert (shared.folder / file.name).read_bytes() == file.read_bytes()
    (tmp_path / "few.json").write_text('["3", "4"]')
    few = work(source, tmp_path / "few", episodes=tmp_path / "few.json")
    write_cache(few)
    for place, episode in ((0, 3), (1, 4)):
        found, expected = (
            CachedTokens(job.folder, job.contents).clip(number, 0, 9, 1, 2)
            for job, number in ((few, place), (alone, episode))
        )
        assert found.equal(expected)


def test_variants_are_drawn_alike_and_evenly() -> None:
    drawn = [drawn_variant(draw, window, 3) for draw in range(60) for window in range(50)]
    counts = np.bincount(drawn, minlength=3)
    assert len(counts) == 3 and counts.min() > 900
    assert drawn[:8] == [1, 2, 2, 0, 2, 0, 2, 0] and drawn_variant(7, 3, 1) == 0


def test_a_cache_of_other_variants_is_not_taken(source: Path, tmp_path: Path) -> None:
    job = work(source, tmp_path / "cache")
    write_cache(job)
    for other in (None, VariantOptions(crop=0.6, brightness=0.3, variants=3)):
        with pytest.raises(UserError, match=r"the variants \(--variants, .*\) differ; remove it"):
            write_cache(work(source, job.folder, other))
    content = json.loads((job.folder / "cache.json").read_text())
    for wrong in ({"variants": 2.5}, {"variants": 0}, {"mirror": 1}, {"crop": "wide"}, [1]):
        vary = wrong if isinstance(wrong, list) else content["vary"] | wrong
        (job.folder / "cache.json").write_text(json.dumps(content | {"vary": vary}))
        with pytest.raises(UserError, match="does not describe a cache"):
            read_contents(job.folder)


def test_a_cache_without_variants_is_named_and_written_as_before_there_were_any(
    source: Path, tmp_path: Path
) -> None:
    job = work(source, tmp_path / "cache", None)
    write_cache(job)
    index = job.folder / "cache.json"
    content = json.loads(index.read_text())
    assert content.pop("vary") is None
    index.write_text(json.dumps(content))
    names = ("format", "kind", "data", "camera", "episode_ids", "size", "tokenizer")
    text = json.dumps([[content[name] for name in names], content["lengths"]])
    assert read_contents(job.folder).key == sha256(text.encode()).hexdigest()[:16]
    (file,) = job.folder.glob("*.safetensors")
    assert sorted(load_file(file)) == ["actions", "tokens"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--variants", "3", "--tokenizer", "t"], "but not how: give crop, brightness"),
        (["--variant_seed", "3", "--tokenizer", "t"], "variant_seed is the seed of variants, but"),
        (["--crop", "0.9", "--variants", "3"], "variants are cached as tokens: give a tokenizer"),
        (
            ["--crop", "0.9", "--tokenizer", "t"],
            "crop: a cache keeps what was recorded; give",
        ),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["data", "cache", "d", "--output_dir", "o", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_options_of_variants_go_along_alone() -> None:
    config = CacheConfig(data=Path("d"), output_dir=Path("o"), tokenizer=Path("t"),
                         crop=0.6, brightness=0.3, variants=3, variant_seed=5)  # fmt: skip
    assert config.cached_variants == VARY and type(config.cached_variants) is VariantOptions
