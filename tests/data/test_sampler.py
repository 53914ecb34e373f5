"""Splits, windows, order and clips: hand-computed, and the same in every run."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from vidwm.data.clip import Episode
from vidwm.data.sampler import (
    ClipSource,
    context_key,
    epoch_order,
    resize,
    split_episodes,
)
from vidwm.data.windows import Window, windows_of
from vidwm.errors import UserError

IDS = [f"episode_{i}" for i in range(20)]


@dataclass
class Recordings:
    """An EpisodeDataset in memory; pixel and action values tell episode and frame."""

    lengths: list[int]
    height: list[int]
    path: Path = Path("memory")
    format: str = "memory"
    fps: float = 10.0
    action_names: tuple[str, ...] = ("a", "b")
    reads: list[int] = field(default_factory=list)

    @property
    def episode_ids(self) -> list[str]:
        return [f"e{i}" for i in range(len(self.lengths))]

    def __len__(self) -> int:
        return len(self.lengths)

    def episode(self, index: int) -> Episode:
        self.reads.append(index)
        T, H = self.lengths[index], self.height[index]
        values = 20 * index + np.arange(T)
        frames = np.broadcast_to(values[:, None, None, None], (T, 3, H, H)).astype(np.uint8)
        actions = np.stack([values, -values], axis=1).astype(np.float32)
        return Episode(id=f"e{index}", frames=frames, actions=actions, fps=10.0)

    def span(self, index: int, start: int, stop: int) -> Episode:
        whole = self.episode(index)
        self.reads[-1:] = [(index, start, stop)]  # type: ignore[list-item]
        return whole.cut(start, stop)


def recordings(*lengths: int) -> Recordings:
    return Recordings(lengths=list(lengths), height=[8] * len(lengths))


def test_split_is_a_partition_by_id() -> None:
    train, heldout = split_episodes(IDS, 0.25, seed=3)
    assert len(heldout) == 5 and sorted(train + heldout) == list(range(20))
    assert train == sorted(train) and heldout == sorted(heldout)
    shuffled = IDS[::-1]
    _, again = split_episodes(shuffled, 0.25, seed=3)
    assert {shuffled[i] for i in again} == {IDS[i] for i in heldout}
    assert split_episodes(IDS, 0.25, seed=4)[1] != heldout


@pytest.mark.parametrize(
    ("count", "heldout", "expected"),
    [(20, 0.0, 0), (20, 0.001, 1), (2, 0.99, 1), (1, 0.5, 0), (0, 0.5, 0), (20, 0.99, 19)],
)
def test_split_sizes(count: int, heldout: float, expected: int) -> None:
    train, out = split_episodes(IDS[:count], heldout, seed=0)
    assert (len(train), len(out)) == (count - expected, expected)


@pytest.mark.parametrize("heldout", [-0.1, 1.0, float("nan")])
def test_split_share_is_checked(heldout: float) -> None:
    with pytest.raises(UserError, match="held-out share must be"):
        split_episodes(IDS, heldout, seed=0)


def test_windows() -> None:
    # 3 frames, 2 apart, span 5: two places in 6 frames, one in 5, none in 4.
    windows = windows_of([6, 5, 4, 6], [0, 1, 2], 3, 2)
    assert [*windows] == [Window(0, 0), Window(0, 1), Window(1, 0)]
    assert windows.episodes == [0, 1] and [*windows.of(1)] == [2]


def test_windows_are_found_by_number_as_in_a_list() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(1, 9, 50)]
    episodes = [*range(0, 50, 2), 49]
    listed = [Window(e, start) for e in episodes for start in range(lengths[e] - 4)]
    windows = windows_of(lengths, episodes, 3, 2)
    assert len(windows) == len(listed) and [*windows] == listed
    assert [*map(windows.index, listed)] == [*range(len(listed))]
    assert windows[-1] == listed[-1] and windows[2:9:3] == listed[2:9:3]
    for episode in windows.episodes:
        assert [windows[i].episode for i in windows.of(episode)] == [episode] * (
            lengths[episode] - 4
        )
    with pytest.raises(IndexError):
        windows[len(listed)]


def test_no_window_at_all() -> None:
    with pytest.raises(UserError, match=r"longest has 9 frames, but 4 .* span 10;"):
        windows_of([7, 9, 99], [0, 1], 4, 3)


@pytest.mark.parametrize(("clip_frames", "frame_skip"), [(0, 1), (1, 0)])
def test_window_sizes_are_checked(clip_frames: int, frame_skip: int) -> None:
    with pytest.raises(UserError, match="1 or more"):
        windows_of([9], [0], clip_frames, frame_skip)


def test_every_epoch_holds_every_window_once() -> None:
    order = [i for step in range(10) for i in epoch_order(15, seed=1, step=step, batch_size=6)]
    for epoch in range(4):
        assert sorted(order[15 * epoch : 15 * (epoch + 1)]) == list(range(15))
    assert order[:15] != order[15:30]


def test_order_depends_on_seed_and_step_alone() -> None:
    expected = epoch_order(100, seed=7, step=31, batch_size=8)
    epoch_order(100, seed=8, step=0, batch_size=8)
    np.random.seed(5)
    assert epoch_order(100, seed=7, step=31, batch_size=8) == expected
    assert epoch_order(100, seed=8, step=31, batch_size=8) != expected
    assert epoch_order(100, seed=-7, step=31, batch_size=8) != expected


def test_a_batch_larger_than_the_epoch() -> None:
    assert Counter(epoch_order(3, seed=0, step=0, batch_size=9)) == {0: 3, 1: 3, 2: 3}


def test_first_frames_of_windows_from_further_back() -> None:
    source = ClipSource(recordings(9, 9), clip_frames=3, frame_skip=2, episodes=[0, 1])
    windows = [source.windows.index(Window(1, 4)), source.windows.index(Window(0, 3))]
    assert source.steps_before(windows) == [2, 1]
    found = source.first_frames(windows, 2, [2, 0])
    assert found.dtype == torch.uint8 and found[:, :, 0, 0, 0].tolist() == [[20, 22], [3, 5]]


def test_clips_hold_what_was_recorded() -> None:
    source = ClipSource(recordings(7, 6, 3), clip_frames=3, frame_skip=2, episodes=[0, 1, 2])
    assert (len(source.windows), source.dropped) == (3 + 2, 1)
    batch = source.batch([4, 1])  # episode 1 from frame 1, episode 0 from frame 1
    assert batch.frames.shape == (2, 3, 3, 8, 8) and batch.frames.dtype == torch.uint8
    assert batch.frames[:, :, 0, 0, 0].tolist() == [[21, 23, 25], [1, 3, 5]]
    assert batch.actions[0].tolist() == [[21, -21], [23, -23], [25, -25]]
    assert batch.actions[1].tolist() == [[1, -1], [3, -3], [5, -5]]
    assert batch.keys.tolist() == [context_key("e1", 1), context_key("e0", 1)]


def test_keys_name_contexts_for_good() -> None:
    assert context_key("e0", 1) == 0x6DA607AA420E1D4E  # sha256sum of "e0:1", shifted
    assert len({context_key(f"e{i}", s) for i in range(50) for s in range(50)}) == 2500


def test_episodes_are_decoded_once_while_they_fit() -> None:
    dataset = recordings(4, 4, 4)
    source = ClipSource(dataset, clip_frames=4, frame_skip=1, episodes=[0, 1, 2])
    for _ in range(3):
        source.batch([0, 1, 2])
    assert dataset.reads == [0, 1, 2]


def test_of_episodes_that_do_not_fit_only_clips_are_decoded() -> None:
    dataset = recordings(4, 4, 4)
    two = 2 * 4 * 3 * 8 * 8
    source = ClipSource(dataset, clip_frames=2, frame_skip=1, episodes=[0, 1, 2], cache_bytes=two)
    found = [source.batch([number]) for number in (0, 3, 1, 7, 4, 8)]
    assert [int(batch.frames[0, 0, 0, 0, 0]) for batch in found] == [0, 20, 1, 41, 21, 42]
    assert dataset.reads == [0, 1, (2, 1, 3), (2, 2, 4)]


@pytest.mark.parametrize("frame_skip", [1, 2, 3])
def test_clips_are_the_same_whether_kept_or_not(frame_skip: int) -> None:
    kept, cut = (
        ClipSource(
            recordings(7, 9, 8),
            clip_frames=3,
            frame_skip=frame_skip,
            episodes=[0, 1, 2],
            size=(4, 4),
            cache_bytes=cache_bytes,
        )
        for cache_bytes in (10**6, 0)
    )
    one, two = (source.batch(range(len(source.windows))) for source in (kept, cut))
    assert one.frames.equal(two.frames) and one.actions.equal(two.actions)
    back = kept.steps_before(range(len(kept.windows)))
    older = [source.first_frames(range(len(back)), 2, back) for source in (kept, cut)]
    assert older[0].equal(older[1])
    assert cut.dataset.reads and not [r for r in cut.dataset.reads if isinstance(r, int)]


def test_kept_episodes_do_not_go_along_to_another_process() -> None:
    source = ClipSource(recordings(400), clip_frames=2, frame_skip=1, episodes=[0])
    before = source.batch([3])
    sent = pickle.dumps(source)
    assert len(sent) < 3000 and pickle.loads(sent).batch([3]).frames.equal(before.frames)


def test_sizes_must_agree_or_be_given() -> None:
    dataset = Recordings(lengths=[4, 4], height=[8, 12])
    mixed = ClipSource(dataset, clip_frames=2, frame_skip=1, episodes=[0, 1])
    with pytest.raises(
        UserError, match=r"memory holds .* sizes, 8x8 \(e0\) and 12x12 \(e1\); give"
    ):
        mixed.batch([0, 5])
    resized = ClipSource(dataset, clip_frames=2, frame_skip=1, episodes=[0, 1], size=(6, 10))
    assert resized.batch([0, 5]).frames.shape == (2, 2, 3, 6, 10)


def test_resize(moving: Callable[..., np.ndarray]) -> None:
    frames = torch.from_numpy(moving(70, 32, 48)).permute(0, 3, 1, 2).contiguous()
    assert resize(frames, (32, 48)) is frames
    half = resize(frames, (16, 24))
    assert half.shape == (70, 3, 16, 24) and half.dtype == torch.uint8
    means = frames.float().unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(-1, -2))
    assert (half.float() - means).abs().mean() < 2
    stripes = torch.tensor([200, 0, 0, 0], dtype=torch.uint8).repeat(2, 3, 16, 8)
    inner = resize(stripes, (16, 8))[..., 1:-1]
    assert inner.float().sub(50).abs().max() < 15  # all columns count, not the nearest two
    flat = torch.full((2, 3, 9, 9), 255, dtype=torch.uint8)
    assert resize(flat, (5, 7)).eq(255).all()
