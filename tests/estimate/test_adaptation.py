"""`vidwm estimate finetune --from`: the runs of an adaptation, one by one and as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vidwm.cli import main
from vidwm.estimate.estimate import runs_of, whole_rows
from vidwm.estimate.networks import model_at, model_to_adapt
from vidwm.estimate.phases import size
from vidwm.finetune_config import FinetuneConfig

TINY = Path(__file__).resolve().parents[2] / "assets/tiny"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Another robot: 32 x 40 pixels, six actions."""
    frames = np.zeros((12, 32, 40, 3), dtype=np.uint8)
    np.savez(tmp_path / "0.npz", image=frames, action=np.ones((12, 6), dtype=np.float32))
    return tmp_path


def config(data: Path, **changes: object) -> FinetuneConfig:
    settings = {
        **{"data": data, "from_": TINY, "output_dir": Path("o"), "reward": "mae=1"},
        **{"group_size": 2, "batch_size": 2, "pretrain_batch_size": 2},
    }
    return FinetuneConfig(**settings | changes)  # type: ignore[arg-type]


def test_the_start_has_the_shape_of_the_data(data: Path) -> None:
    old, found = model_at(TINY), model_to_adapt(config(data, horizon=2, frame_skip=2))
    assert found.size == (32, 40) and found.layout.tokens_per_frame == 20
    assert found.layout.horizon == 2 and found.layout.action_dims == 12
    grown = (
        2 * old.transformer.config.hidden_size * (found.layout.vocab_size - old.layout.vocab_size)
    )
    assert size(found.transformer) - size(old.transformer) == grown
    assert all(p.is_meta for p in found.parameters())
    assert model_to_adapt(config(data, resize=True)).size == old.size


def test_a_released_size_needs_no_data() -> None:
    found = model_to_adapt(config(Path("nowhere"), from_=Path("rt1-multi")))
    assert found.layout.vocab_size == 9008 and found.layout.tokens_per_frame == 80


def test_every_run_is_counted_and_the_whole_is_their_sum(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = config(data, tokenizer_steps=5, pretrain_steps=7, steps=3)
    runs = runs_of(asked)
    assert [(run.name, run.config.steps) for run in runs] == [
        *(("tokenizer", 5), ("pretrain", 7), ("finetune", 3)),
    ]
    words = ("estimate", "finetune", "--from", TINY, "--data", data, "--output_dir", "o")
    assert main([*map(str, words), "--tokenizer_steps", "0", "--reward", "mae=1"]) == 0
    shown = capsys.readouterr().out
    assert "tokenizer: " not in shown and "pretrain: 1000 steps" in shown
    assert "finetune: 200 steps" in shown and "all of them" in shown
    nothing = [*map(str, words), "--pretrain_steps", "0", "--steps", "0"]
    assert main(nothing) == 2 and "Nothing would be trained" in capsys.readouterr().err


def test_one_run_that_is_left_is_named_and_data_that_is_not_there_is_missed(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["estimate", "finetune", "--output_dir", "o", "--reward", "mae=1", "--steps", "0"]
    words += ["--pretrain_steps", "0", "--tokenizer_steps", "9", "--data"]
    assert main([*words, str(data), "--from", str(TINY)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("tokenizer: 9 steps") == 1 and "all of them" not in shown
    missed = "data not found: frames and actions of the released model"
    assert missed not in shown
    assert main([*words, "nowhere", "--from", "rt1-single"]) == 0
    assert missed in capsys.readouterr().out
    assert main([*words, str(data), "--from", "unknown"]) == 2
    said = capsys.readouterr().err
    assert "or give rt1-single or rt1-multi for the sizes" in said and "--model" not in said


def test_the_whole_takes_the_sum_of_times_and_the_largest_memory(data: Path) -> None:
    runs = runs_of(config(data, pretrain_steps=10**9, steps=10**9))
    rows = [whole_rows(some)[1:] for some in (runs[:1], runs[1:], runs, runs[::-1])]
    assert [run.name for run in runs] == ["pretrain", "finetune"] and rows[2] == rows[3]
    for first, second, both in zip(*rows[:3], strict=True):
        peaks = [float(row[1]) for row in (first, second, both)]
        assert peaks[0] != peaks[1] and peaks[2] == max(peaks[:2])
        hours = [[float(cell.removesuffix(" h")) for cell in row[2:]] for row in (first, second)]
        total = [a + b for a, b in zip(*hours, strict=True)]
        assert min(map(min, hours)) > 10
        found = [float(cell.removesuffix(" h")) for cell in both[2:]]
        assert found == pytest.approx(total, abs=0.2)
