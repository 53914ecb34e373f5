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

    compared = {"mae": change(mae), "psnr": change(psnr)}
    return {"metrics": ["mae", "psnr"], "comparisons": {"model_vs_base": compared}}


def test_rows_and_figure_show_every_variant() -> None:
    reports = {"a": report(-5.0, 2.5), "b": report(3.0, -0.5)}
    assert study.rows(reports) == [
        ["variant", "mae ↓", "psnr ↑"],
        ["a", "-5.0 % [-6.0, -4.0]", "+2.5 % [+1.5, +3.5]"],
        ["b", "+3.0 % [+2.0, +4.0]", "-0.5 % [-1.5, +0.5]"],
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
