"""`vidwm rollout`: the files of one context's futures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vidwm.config import RolloutConfig
from vidwm.data.sampler import split_episodes
from vidwm.data.video import read_frames
from vidwm.errors import UserError
from vidwm.evaluation import sources
from vidwm.evaluation.rollout_videos import render_rollouts


@pytest.fixture
def config(
    tmp_path: Path, make_model: Callable, make_dataset: Callable, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RolloutConfig]:
    make_model().save_pretrained(tmp_path / "model")
    dataset = make_dataset((20,) * 4)
    dataset.episode_ids = [f"a b/..\\{i}?" for i in range(4)]
    monkeypatch.setattr(sources, "open_recordings", lambda *_, **__: dataset)

    def make(**changes) -> RolloutConfig:
        values = {
            "data": Path("memory"),
            "model": tmp_path / "model",
            "output_dir": tmp_path / "rollouts",
            "num_samples": 2,
        }
        return RolloutConfig(**(values | changes))

    return make


def test_strips_and_film_are_written_and_readable(
    config: Callable, capsys: pytest.CaptureFixture
) -> None:
    paths = render_rollouts(config(start=3))
    heldout = split_episodes([f"a b/..\\{i}?" for i in range(4)], 0.5, 0)[1]
    name = f"a_b_.._{heldout[0]}_start0003"
    assert [path.name for path in paths] == [
        f"{name}_sample0.mp4",
        f"{name}_sample0.gif",
        f"{name}_sample1.mp4",
        f"{name}_sample1.gif",
        f"{name}_film.png",
    ]
    assert sorted(config().output_dir.iterdir()) == sorted(paths)
    frames = read_frames(paths[0], 0, 5)
    assert frames.shape[2] == 4 * 16 * 7 + 3 * 2 * 7
    with Image.open(paths[1]) as gif:
        assert gif.n_frames > 1 and gif.size == frames.shape[1:3][::-1]
    with Image.open(paths[4]) as film:
        assert film.height == (3 * 16 + 2 * 2) * 7
    told = capsys.readouterr().out
    for word in ("mae ↓", "psnr ↑", "ssim ↑", "sample 1", "mean of samples", *map(str, paths)):
        assert word in told


def test_the_context_is_the_episode_at_the_chosen_start(
    config: Callable, make_dataset: Callable
) -> None:
    paths = render_rollouts(config(episode=2, start=4, num_samples=1))
    film = Image.open(paths[-1]).convert("RGB")
    truth = make_dataset((20,) * 4).videos[2]
    for column, frame in enumerate((4, 6)):
        shown = film.getpixel((column * 16 * 7 + 3, 3))
        assert shown == tuple(int(v) for v in truth[frame, :, 0, 0])
    assert film.getpixel((4 * 7 + 3, 5 * 7)) == (250, 250, 250)


def test_gif_files_can_be_left_out(config: Callable) -> None:
    paths = render_rollouts(config(gif=False))
    assert [path.suffix for path in paths] == [".mp4", ".mp4", ".png"]


def test_horizons_beyond_the_model_go_as_far_as_the_episode(config: Callable) -> None:
    paths = render_rollouts(config(horizon=8, num_samples=1))
    assert len(read_frames(paths[0], 0, 10)) == 10
    with pytest.raises(UserError, match=r"has 20 frames, but 2 context frames and a horizon of 9"):
        render_rollouts(config(horizon=9))
    with pytest.raises(UserError, match=r"need 21 with --start 12"):
        render_rollouts(config(start=12))


def test_an_episode_that_is_not_there_is_an_error(config: Callable) -> None:
    with pytest.raises(UserError, match=r"has 4 episodes, .* --episode 4 is not among them"):
        render_rollouts(config(episode=4))


def test_nothing_is_overwritten(config: Callable) -> None:
    taken = render_rollouts(config(num_samples=1))[1]
    before = taken.read_bytes()
    taken.write_bytes(b"mine")
    with pytest.raises(UserError, match="exists"):
        render_rollouts(config(num_samples=3))
    assert taken.read_bytes() == b"mine" != before
    assert len(list(config().output_dir.iterdir())) == 3
    # Other files in the folder are no hindrance.
    render_rollouts(config(start=1))
