from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import study  # noqa: E402
import study_best_of  # noqa: E402

from vidwm.config import EvaluateConfig  # noqa: E402
from vidwm.config_loader import load_config  # noqa: E402
from vidwm.finetune_config import FinetuneConfig  # noqa: E402


@pytest.mark.parametrize("name", ["group_size", "metric", "repetition"])
def test_every_variant_is_a_config_of_as_many_rollouts(name: str) -> None:
    file = ROOT / "configs/finetune_multistep.yaml"
    for changes in study.variants(name, "lpips=1,mae=1").values():
        config = load_config(FinetuneConfig, file, changes)
        assert config.group_size * config.batch_size == study.ROLLOUTS
        assert config.mini_batches == 1


def report(mae: float, psnr: float) -> dict[str, Any]:
    def change(value: float) -> dict[str, Any]:
        return {"percent": {"change": value, "low": value - 1, "high": value + 1}}

    unknown = {"change": None, "low": None, "high": None}
    repeated = {"percent": unknown, "absolute": {"change": 0.01, "low": 0.0, "high": 0.02}}
    compared = {"mae": change(mae), "psnr": change(psnr), "repetition_rate": repeated}
    return {"metrics": list(compared), "comparisons": {"model_vs_base": compared}}


def test_rows_and_figure_show_every_variant() -> None:
    reports = {"a": report(-5.0, 2.5), "b": report(3.0, -0.5)}
    share = "+0.0100 [+0.0000, +0.0200]"
    assert study.rows(reports) == [
        ["variant", "mae ↓", "psnr ↑", "repetition_rate ↓"],
        ["a", "-5.0 % [-6.0, -4.0]", "+2.5 % [+1.5, +3.5]", share],
        ["b", "+3.0 % [+2.0, +4.0]", "-0.5 % [-1.5, +0.5]", share],
    ]
    mae, psnr = study.figure(reports, "title").axes
    assert mae.yaxis_inverted() and not psnr.yaxis_inverted()  # better is always up
    assert [line.get_ydata()[0] for line in mae.lines[:2]] == [-5.0, 3.0]


def test_more_futures_are_never_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_best_of, "spread_windows", lambda windows, count: [0, 50])
    found, episodes = study_best_of.best_scores(
        ROOT / "assets/tiny", ROOT / "assets/sample", (1, 4), windows=1, seed=0
    )
    assert episodes.shape == (2,) and found["mae"].shape == (2, 2)
    assert (found["mae"][:, 1] <= found["mae"][:, 0]).all()
    assert (found["psnr"][:, 1] >= found["psnr"][:, 0]).all()
    assert (found["mae"][:, 1] < found["mae"][:, 0]).any()


def test_intervals_are_over_episodes() -> None:
    values = np.array([[1.0], [3.0], [10.0]])
    ((value, low, high),) = study_best_of.intervals(values, np.array([0, 0, 1]))
    assert value == 6.0 and 2.0 <= low < 6.0 < high <= 10.0


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a study whose variants are not evaluated, only said to be."""

    def reported(settings: EvaluateConfig) -> None:
        settings.output_dir.mkdir(parents=True)
        (settings.output_dir / "report.json").write_text('{"found": 1}')

    monkeypatch.setattr(study, "evaluate", reported)
    file = tmp_path / "config.yaml"
    file.write_text(f"model: {ROOT / 'assets/tiny'}\ndata: {ROOT / 'assets/sample'}\n")
    return file


def test_a_folder_that_was_asked_other_things_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    folder, ran = tmp_path / "variant", []

    def trained(settings: FinetuneConfig) -> Path:
        ran.append(settings.steps)
        return folder / "finetune/checkpoints/00000003/model"

    monkeypatch.setattr(study, "finetune", trained)
    asked = (config, {"group_size": "4"})
    for _ in range(2):  # the second time it is read
        assert study.measured(*asked, 3, folder, 2) == {"found": 1} and ran == [3]
    others = [
        (config, {"group_size": "8"}, 3, folder, 2),
        (*asked, 4, folder, 2),
        (*asked, 3, folder, 1),
    ]
    for other in others:
        with pytest.raises(SystemExit, match="variant was asked other things"):
            study.measured(*other)
    config.write_text(config.read_text() + "beta: 0.5\n")
    with pytest.raises(SystemExit, match="variant was asked other things"):
        study.measured(*asked, 3, folder, 2)
    assert ran == [3]


@pytest.mark.parametrize("saved", [False, True])
def test_a_study_that_was_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Path, saved: bool
) -> None:
    run = tmp_path / "variant/finetune"
    asked = (config, {"group_size": "4"}, 3, run.parent, 2)

    def stopped(settings: FinetuneConfig) -> Path:
        (run / "checkpoints/00000002" if saved else run / "checkpoints").mkdir(parents=True)
        raise KeyboardInterrupt

    def trained(settings: FinetuneConfig) -> Path:
        assert settings.resume == saved == run.exists()  # else it would refuse the folder
        return run / "checkpoints/00000003/model"

    monkeypatch.setattr(study, "finetune", stopped)
    with pytest.raises(KeyboardInterrupt):
        study.measured(*asked)
    monkeypatch.setattr(study, "finetune", trained)
    assert study.measured(*asked) == {"found": 1}


def test_a_study_removes_no_folder_but_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    run = tmp_path / "variant/finetune"
    run.mkdir(parents=True)
    (run / "mine").touch()
    model = run / "checkpoints/00000003/model"
    monkeypatch.setattr(study, "finetune", lambda settings: model)
    study.measured(config, {"group_size": "4"}, 3, run.parent, 2)
    assert (run / "mine").exists()
