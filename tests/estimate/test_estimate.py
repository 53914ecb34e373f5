from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from vidwm.cli import main
from vidwm.config import TokenizerConfig
from vidwm.config_loader import load_config
from vidwm.estimate.counting import Work
from vidwm.estimate.gpus import Gpu
from vidwm.estimate.networks import model_at, tokenizer_to_train
from vidwm.estimate.phases import Phase, finetune_step, size, tokenizer_step
from vidwm.finetune_config import FinetuneConfig

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "assets/tiny"


@pytest.mark.parametrize(
    ("name", "tokenizer", "transformer"),
    [("rt1-single", 104.41, 120.38), ("rt1-multi", 129.45, 127.10)],
)
def test_released_sizes_are_the_published_ones(
    name: str, tokenizer: float, transformer: float
) -> None:
    model = model_at(Path(name))
    assert round(size(model.tokenizer) / 1e6, 2) == tokenizer
    assert round(size(model.transformer) / 1e6, 2) == transformer
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize(("kind", "name"), [("single", "rt1-single"), ("multi", "rt1-multi")])
def test_configs_of_rt1_describe_the_released_tokenizers(kind: str, name: str) -> None:
    config = load_config(TokenizerConfig, ROOT / f"configs/tokenizer_rt1_{kind}.yaml")
    tokenizer, released = tokenizer_to_train(config), model_at(Path(name)).tokenizer
    assert type(tokenizer) is type(released) and tokenizer.config == released.config


def test_a_step_of_grpo_adds_up() -> None:
    config = FinetuneConfig(
        data=ROOT / "assets/sample", model=TINY, output_dir=Path("o"), batch_size=8, group_size=4
    )
    step_of = finetune_step(config, model_at(TINY))
    whole, half = step_of(8), step_of(4)
    for name in ("encode", "prefill", "pixels", "perceptual", "train"):
        assert whole.phases[name].work.flops == pytest.approx(2 * half.phases[name].work.flops)
    # Futures forwards and backwards cost three times what they cost forwards (attention 3.5).
    ratio = whole.phases["train"].work.flops / whole.phases["reference"].work.flops
    assert 2.9 < ratio < 3.5
    # All weights but the embedding are read at every position, in two bytes.
    assert whole.phases["decode steps"].work.bytes > 4 * 64 * 2 * 0.9 * size(
        model_at(TINY).transformer
    )
    twice = pytest.approx(2 * half.passing["activations"], rel=0.02)
    assert whole.passing["activations"] == twice


def test_what_is_frozen_has_no_gradients_and_no_weight_counts_twice() -> None:
    config = TokenizerConfig(
        data=ROOT / "assets/sample",
        output_dir=Path("o"),
        init_from=TINY / "tokenizer",
        trained="decoder",
        perceptual_weight=0.0,
    )
    tokenizer = tokenizer_to_train(config)
    memory = tokenizer_step(config, tokenizer)(1).memory
    decoder = size(tokenizer.decoder)
    assert memory["weights"] == 4 * size(tokenizer) and memory["loss networks"] == 0
    assert 4 * decoder <= memory["gradients"] < memory["weights"]


@pytest.mark.parametrize(
    "given",
    [{"init_from": TINY / "tokenizer"}, {"quantizer": "vq"}, {"perceptual_weight": 1.0}],
)
def test_checkpointing_takes_memory_for_work(given: dict[str, Any]) -> None:
    config = TokenizerConfig(
        data=Path("d"),
        output_dir=Path("o"),
        height=32,
        width=32,
        **{"perceptual_weight": 0.0} | given,
    )
    usual, lean = (
        tokenizer_step(changed, tokenizer_to_train(changed))(2)
        for changed in (config, dataclasses.replace(config, gradient_checkpointing=True))
    )
    assert lean.passing["activations"] < 0.6 * usual.passing["activations"]
    assert 1.1 < lean.phases["train"].work.flops / usual.phases["train"].work.flops < 1.34
    assert lean.memory == usual.memory


def test_the_slower_of_arithmetic_and_memory_is_the_floor() -> None:
    gpu = Gpu(name="toy", bandwidth=10, half=100, tf32=50, single=10)
    assert gpu.floor(1000, 10) == 10 and gpu.floor(10, 1000) == 100
    assert gpu.floor(1000, 10, "single") == 100
    assert Phase(Work(1000, 10), half=False).floor(gpu) == 20


def test_the_stage_follows_from_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    config = ROOT / "configs/finetune_demo.yaml"
    model = ("--model", str(TINY))
    assert main(["estimate", *model, f"--config={config}", "--batch_size", "2"]) == 0
    shown = capsys.readouterr().out
    assert "decode steps" in shown and "H100" in shown


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--model", str(tmp_path / "none"), "--data", "x", "--output_dir", "o"]
    assert main(["estimate", "finetune", *words]) == 2
    assert "rt1-single or rt1-multi" in capsys.readouterr().err
