"""The command: what it writes, that it agrees with itself, and what it refuses."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidwm.config import EvaluateConfig
from vidwm.data.clip import EpisodeDataset
from vidwm.data.sampler import split_episodes
from vidwm.data.video import read_frames
from vidwm.errors import UserError
from vidwm.evaluation import sources
from vidwm.evaluation.evaluate import evaluate, evaluate_command


def prepared(
    folder: Path, make_model: Callable, dataset: EpisodeDataset, patch: pytest.MonkeyPatch
) -> Callable[..., EvaluateConfig]:
    """A maker of configs for two saved models and some episodes, half of them held out."""
    make_model(seed=0).save_pretrained(folder / "model")
    make_model(seed=1).save_pretrained(folder / "base")
    patch.setattr(sources, "open_recordings", lambda *_, **__: dataset)

    def make(**changes) -> EvaluateConfig:
        values = {
            "data": Path("memory"),
            "model": folder / "model",
            "base": folder / "base",
            "output_dir": folder / "report",
            "windows_per_episode": 2,
            "num_samples": 2,
            "bootstrap": 200,
        }
        return EvaluateConfig(**(values | changes))

    return make


@pytest.fixture
def config(
    tmp_path: Path, make_model: Callable, make_dataset: Callable, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., EvaluateConfig]:
    return prepared(tmp_path, make_model, make_dataset(), monkeypatch)


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory, make_model: Callable, make_dataset: Callable
) -> tuple[Path, str]:
    """One evaluation: its folder, and what it said on the screen."""
    screen = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(screen):
        make = prepared(tmp_path_factory.mktemp("done"), make_model, make_dataset(), patch)
        evaluate_command(make())
    return make().output_dir, screen.getvalue()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_everything_is_written_and_agrees(done: tuple[Path, str], make_dataset: Callable) -> None:
    folder, screen = done
    report = json.loads((folder / "report.json").read_text())
    rows = rows_of(folder / "windows.csv")
    heldout = split_episodes(make_dataset().episode_ids, 0.5, 0)[1]
    assert {row["episode"] for row in rows} == {f"episode/{i}" for i in heldout}
    assert report["data"]["episodes"] == 4 and report["data"]["windows"] == 8
    # report.json: the mean over episodes of the means over windows, here all of equal weight.
    for subject, scores in report["subjects"].items():
        values = [float(row["mae"]) for row in rows if row["subject"] == subject]
        assert scores["mae"]["mean"] == pytest.approx(np.mean(values), rel=1e-5)
        assert scores["mae"]["low"] <= scores["mae"]["mean"] <= scores["mae"]["high"]
        assert np.mean(scores["mae"]["curve"]["mean"]) == pytest.approx(np.mean(values), rel=1e-5)
    text = (folder / "report.md").read_text()
    mean = f"{report['subjects']['model']['mae']['mean']:.5f}"
    change = f"{report['comparisons']['model_vs_base']['mae']['percent']['change']:+.1f} %"
    for told in (text, screen):
        assert mean in told and change in told
        assert "Mean of 2 futures per window" in told and "mae ↓" in told and "psnr ↑" in told
    assert "never the best" in text
    for name in ("report.md", "report.json", "curves.png", "differences.png", "videos"):
        assert str(folder / name) in screen


def test_plots_and_videos_can_be_read_and_are_linked(done: tuple[Path, str]) -> None:
    folder, _ = done
    text = (folder / "report.md").read_text()
    for name in ("curves.png", "differences.png"):
        with Image.open(folder / name) as picture:
            picture.load()
        assert f"]({name})" in text
    videos = sorted((folder / "videos").iterdir())
    assert [video.suffix for video in videos] == [".gif", ".mp4"] * 4
    # Of four episodes one window each, named after it.
    shown = {video.name.split("_", 1)[1].split("_start")[0] for video in videos}
    assert shown == {row["episode"].replace("/", "_") for row in rows_of(folder / "windows.csv")}
    frames = read_frames(videos[1], 0, 5)
    # Five panels: context, truth, base, model, difference.
    assert frames.shape[2] == 5 * 16 * 7 + 4 * 2 * 7
    assert f"](videos/{videos[0].name})" in text


def test_a_second_run_gives_the_same_scores(done: tuple[Path, str], config: Callable) -> None:
    again = evaluate(config())
    first = json.loads((done[0] / "report.json").read_text())
    for key in ("subjects", "comparisons"):
        assert first[key] == again[key]


def test_without_a_base_there_is_nothing_to_compare_it_with(config: Callable) -> None:
    report = evaluate(config(base=None, num_samples=1))
    assert "base" not in report["subjects"]
    assert set(report["comparisons"]) == {"shuffled_actions_vs_model", "model_vs_copy_last_frame"}


def test_a_static_world_and_one_window_make_a_report_too(
    config: Callable, make_dataset: Callable, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    dataset = make_dataset((9,), static=True)
    monkeypatch.setattr(sources, "open_recordings", lambda *_, **__: dataset)
    evaluate_command(config(num_samples=1))
    folder, screen = config().output_dir, capsys.readouterr().out
    report = json.loads((folder / "report.json").read_text())
    assert report["subjects"]["model"]["moving_mse"]["mean"] is None
    assert report["subjects"]["model"]["mae"]["low"] is None
    assert report["comparisons"]["model_vs_base"]["mae"]["verdict"] == "unknown"
    assert rows_of(folder / "windows.csv")[0]["moving_mse"] == ""
    # One episode cannot be split: it was measured, but not held out, and that is said.
    assert "NOT held out" in screen and "Only 1 episodes" in screen


def test_a_folder_that_holds_something_is_left_alone(config: Callable) -> None:
    folder = config().output_dir
    folder.mkdir()
    (folder / "report.json").write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        evaluate(config())
    assert [file.read_text() for file in folder.iterdir()] == ["mine"]
    with pytest.raises(UserError, match="is a file"):
        evaluate(config(output_dir=folder / "report.json"))


def test_mistakes_are_told_before_anything_is_written(config: Callable) -> None:
    for wrong, message in (
        ({"model": Path("nowhere")}, "No world model at nowhere"),
        ({"horizon": 50}, "is long enough"),
        ({"perceptual": "mae"}, "no perceptual network"),
        ({"device": "abacus"}, "Unknown device 'abacus'"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(config(**wrong))
    assert not config().output_dir.exists()
