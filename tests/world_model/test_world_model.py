import dataclasses
import json

import pytest
import torch

from vidwm.data.action_semantics import ActionSemantics
from vidwm.data.kept_parts import KeptPart
from vidwm.errors import UserError
from vidwm.tokenizer.frame import FrameTokenizer, FrameTokenizerConfig
from vidwm.world_model.actions import ActionBins
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.transformer import Transformer
from vidwm.world_model.world_model import Setting, WorldModel, codec_for


@pytest.fixture
def model() -> WorldModel:
    tokenizer = FrameTokenizer(
        FrameTokenizerConfig(height=8, width=8, patch=2, widths=(8, 8), fsq_levels=(4, 4))
    )
    actions = ActionBins.fit(torch.randn(50, 3), bins=8)
    setting = Setting(
        context_frames=2,
        horizon=2,
        frame_skip=1,
        fps=5.0,
        action_names=("x", "y", "grip"),
        heldout=0.1,
        split_seed=0,
    )
    layout = codec_for(tokenizer, actions, setting).layout
    transformer = Transformer(small(layout.vocab_size))
    return WorldModel(tokenizer, transformer, actions, setting).eval()


def small(vocab_size: int) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
    )


def test_directory_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    again = WorldModel.from_pretrained(tmp_path / "m")
    frames, actions = torch.rand(2, 3, 3, 8, 8), torch.randn(2, 3, 3)
    assert again.setting == model.setting and again.layout == model.layout
    for found, before in zip(again.encode(frames), model.encode(frames), strict=True):
        assert torch.equal(found, before)
    assert torch.equal(again.bins(actions), model.bins(actions))
    ids = torch.arange(10)[None]
    assert torch.equal(again.transformer(ids), model.transformer(ids))
    assert "x, y, grip" in (tmp_path / "m/README.md").read_text()


def test_parts_are_kept_and_a_model_saved_before_they_were_opens(model, tmp_path):
    part = KeptPart(
        name="late", dataset="b", weight=2.0, camera="front",
        semantics=ActionSemantics(form="delta", shift=1, discrete=(2,)),
    )  # fmt: skip
    model.setting = dataclasses.replace(model.setting, parts=(part,))
    model.save_pretrained(tmp_path)
    assert WorldModel.from_pretrained(tmp_path).setting == model.setting
    listed = "- late (b): weight 2, camera front, with action_form delta, action_shift 1"
    assert listed in (tmp_path / "README.md").read_text()
    path = tmp_path / "world_model.json"
    values = json.loads(path.read_text())
    del values["parts"]
    path.write_text(json.dumps(values))
    older = WorldModel.from_pretrained(tmp_path)
    assert older.setting.parts == () and "mixture" not in older.card()


def test_half_precision_halves_the_files_and_opens_as_float32(model, tmp_path):
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    part = "transformer/model.safetensors"
    full, half = (tmp_path / name / part for name in ("full", "half"))
    assert half.stat().st_size < 0.7 * full.stat().st_size
    again = WorldModel.from_pretrained(tmp_path / "half")
    weight = again.transformer.lm_head.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model.transformer.lm_head.weight.half().float())


def test_parts_of_different_models_do_not_fit(model):
    with pytest.raises(UserError, match="different models"):
        WorldModel(model.tokenizer, Transformer(small(99)), model.actions, model.setting)


def test_other_versions_and_missing_keys_are_named(model, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "world_model.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "format_version": 99}))
    with pytest.raises(UserError, match="version 99"):
        WorldModel.from_pretrained(tmp_path)
    del values["fps"]
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="lacks fps"):
        WorldModel.from_pretrained(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        WorldModel.from_pretrained(tmp_path / "nothing")
