"""The bundled world model: it opens, is what its configs describe, and is small enough."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vidwm.data.datasets import open_dataset
from vidwm.evaluation.sources import check_fits
from vidwm.world_model.world_model import WorldModel

ROOT = Path(__file__).resolve().parents[1]


def settings(name: str) -> dict:
    return yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())


@pytest.mark.parametrize(("folder", "name"), [("tiny", "sample"), ("tiny-multistep", "multistep")])
def test_it_opens_and_is_what_its_configs_make(folder: str, name: str):
    model = WorldModel.from_pretrained(ROOT / "assets" / folder)
    tokenizer, pretrain = settings(f"tokenizer_{name}"), settings(f"pretrain_{name}")
    assert list(model.tokenizer.config.fsq_levels) == tokenizer["fsq_levels"]
    assert list(model.tokenizer.config.widths) == tokenizer["widths"]
    assert model.size == (tokenizer["height"], tokenizer["width"])
    assert model.transformer.config.hidden_size == pretrain["hidden_size"]
    assert model.transformer.config.num_hidden_layers == pretrain["num_layers"]
    assert model.actions.bins == pretrain["action_bins"]
    for name in ("context_frames", "horizon"):
        assert getattr(model.setting, name) == pretrain[name]
    check_fits(open_dataset(ROOT / "assets/sample"), model, resize=False)


def test_assets_are_small_enough_to_bundle():
    def megabytes(folder: str) -> float:
        return sum(f.stat().st_size for f in (ROOT / folder).rglob("*") if f.is_file()) / 1e6

    assert megabytes("assets/sample") <= 8
    assert megabytes("assets/tiny") <= 25
    assert megabytes("assets/tiny-multistep") <= 15
    assert megabytes("assets") <= 40
