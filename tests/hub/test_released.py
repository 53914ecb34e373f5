"""Released checkpoints become world models: golden ones, and small ones of our own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file

from vidwm.cli import main
from vidwm.errors import UserError
from vidwm.files import load_tensors, save_weights
from vidwm.rollout.engine import generate
from vidwm.rollout.sampling import Sampling
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.compressive_config import CompressiveConfig
from vidwm.tokenizer.vqgan_frame import WEIGHTS, VQGANConfig, VQGANTokenizer
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.presets import rt1_bins
from vidwm.world_model.transformer import Transformer
from vidwm.world_model.world_model import WorldModel

SMALL = VQGANConfig(height=32, width=48, widths=(8, 8, 16), groups=4, latent=6, fsq_levels=(5, 3))


COMPRESSIVE = CompressiveConfig(
    height=32,
    width=64,
    widths=(8, 8, 32, 32),
    blocks=1,
    groups=4,
    latent=6,
    context_levels=(5, 3),
    fsq_levels=(5, 4, 3),
)


def released(
    folder: Path,
    vocab: int = 15 + 256 + 2,
    tokenizer: VQGANTokenizer | CompressiveTokenizer | None = None,
) -> dict[str, Path]:
    """A tokenizer and a transformer as RLVR-World's scripts leave them."""
    folders = {"tokenizer": folder / "tokenizer", "transformer": folder / "transformer"}
    (tokenizer or VQGANTokenizer(SMALL)).save_pretrained(folders["tokenizer"])
    Transformer(
        TransformerConfig(
            vocab_size=vocab,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            bos_token_id=vocab - 2,
            eos_token_id=vocab - 1,
        )
    ).save_pretrained(folders["transformer"])
    return folders


def imported(folders: dict[str, Path], output: Path, *size: object) -> int:
    named = [word for name, path in folders.items() for word in (f"--{name}", str(path))]
    return main(["import", *named, "--output_dir", str(output), *map(str, size)])


def test_imports_opens_predicts_and_keeps_every_weight(tmp_path, capsys):
    folders = released(tmp_path)
    assert imported(folders, tmp_path / "model", "--height", 32, "--width", 48) == 0
    assert str(tmp_path / "model") in capsys.readouterr().out
    for part, file in (("tokenizer", WEIGHTS), ("transformer", "model.safetensors")):
        before, after = load_file(folders[part] / file), load_file(tmp_path / "model" / part / file)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    model = WorldModel.from_pretrained(tmp_path / "model")
    assert model.size == (32, 48) and model.setting.model_fps == 3
    frames, actions = torch.rand(1, 5, 3, 32, 48), torch.rand(1, 5, 13)
    rollouts = generate(
        model.transformer,
        model.layout,
        model.context(frames),
        model.bins(actions),
        group_size=2,
        keys=torch.zeros(1).long(),
        sampling=Sampling(),
    )
    assert model.decode(rollouts.tokens, model.context(frames)).shape == (1, 2, 1, 3, 32, 48)
    again = tmp_path / "again"
    model.save_pretrained(again)
    assert (again / "tokenizer/config.json").read_bytes() == (
        folders["tokenizer"] / "config.json"
    ).read_bytes()


def test_multi_step_models_predict_beyond_their_horizon(tmp_path):
    folders = released(tmp_path, 60 + 15 + 256 + 2, CompressiveTokenizer(COMPRESSIVE))
    assert imported(folders, tmp_path / "model", "--height", 32, "--width", 64) == 0
    model = WorldModel.from_pretrained(tmp_path / "model")
    assert (model.setting.context_frames, model.setting.horizon) == (1, 7)
    assert (model.layout.vocab_size, model.layout.tokens_per_frame) == (333, 2)
    frames, actions = torch.rand(1, 9, 3, 32, 64), torch.rand(1, 9, 13)
    rollouts = generate(
        model.transformer,
        model.layout,
        model.context(frames),
        model.bins(actions),
        group_size=2,
        keys=torch.zeros(1).long(),
        sampling=Sampling(),
        horizon=8,
    )
    decoded = model.decode(rollouts.tokens, model.context(frames))
    assert decoded.shape == (1, 2, 8, 3, 32, 64)
    saved = load_file(folders["tokenizer"] / WEIGHTS)
    kept = load_file(tmp_path / "model/tokenizer" / WEIGHTS)
    assert saved.keys() == kept.keys() and all(torch.equal(saved[n], kept[n]) for n in saved)
    world = tmp_path / "model/world_model.json"
    world.write_text(world.read_text().replace("multi_step", "single_step"))
    with pytest.raises(UserError, match=r"kind 'single_step', but its tokenizer .* 'multi_step'"):
        WorldModel.from_pretrained(tmp_path / "model")


def test_the_tokenizer_follows_from_the_transformer(tmp_path, capsys, monkeypatch):
    def unreachable(name: str, **_: object) -> None:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    for vocab, kind in ((4633, "frame"), (9008, "compressive")):
        folder = released(tmp_path / kind, vocab)["transformer"]
        output = ("--output_dir", tmp_path / "model")
        message = refusal(capsys, "import", "--transformer", folder, *output)
        assert f"Cannot fetch thuml/rt1-{kind}-tokenizer" in message


def test_the_released_multi_step_transformer_has_the_published_number_of_parameters():
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "max_position_embeddings": 8192}
    heads = {"num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 12}
    for vocab, millions in ((4633, 120.38), (9008, 127.10)):
        ends = {"bos_token_id": vocab - 2, "eos_token_id": vocab - 1}
        with torch.device("meta"):
            transformer = Transformer(TransformerConfig(vocab_size=vocab, **sizes, **heads, **ends))
        count = sum(p.numel() for p in transformer.parameters())
        assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read(tmp_path, dtype):
    folders = released(tmp_path)
    tokenizer = VQGANTokenizer.from_pretrained(folders["tokenizer"])
    save_weights(tokenizer, folders["tokenizer"] / WEIGHTS, dtype)
    assert imported(folders, tmp_path / "model", "--height", 32, "--width", 48) == 0
    found = load_tensors(tmp_path / "model/tokenizer" / WEIGHTS)["quant_linear.weight"]
    expected = tokenizer.quant_linear.weight.to(dtype).float()
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_the_golden_checkpoints(shared, tmp_path):
    golden = shared / "golden"
    folders = {"tokenizer": golden / "frame_tokenizer", "transformer": golden / "transformer"}
    assert imported(folders, tmp_path / "model") == 0
    model = WorldModel.from_pretrained(tmp_path / "model")
    layout = load_file(golden / "layout_io.safetensors")
    tokens = layout["single_frame_tokens"].flatten(2).long()
    ids = model.layout.sequence(
        tokens[:, :4], tokens[:, 4:], model.bins(layout["single_actions"])[:, :4]
    )
    assert torch.equal(ids, layout["single_input_ids"].long())
    bins = rt1_bins()
    torch.testing.assert_close(bins.low, layout["action_ranges"][:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(bins.high, layout["action_ranges"][:, 1], rtol=0, atol=1e-5)
    logits = load_file(golden / "transformer_io.safetensors")
    with torch.no_grad():
        found = model.transformer(logits["input_ids"].long())
    torch.testing.assert_close(found, logits["logits"], rtol=1e-4, atol=1e-4)
    frames = load_file(golden / "frame_tokenizer_io.safetensors")
    tokens = frames["indices"].flatten(2).long()
    decoded = model.decode(tokens, tokens)
    torch.testing.assert_close(decoded, frames["decoded"].clamp(0, 1), rtol=0, atol=1e-3)


def refusal(capsys, *arguments: object) -> str:
    assert main([str(word) for word in arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "Traceback" not in message
    return message


def test_parts_of_different_models_are_refused(tmp_path, capsys):
    folders = released(tmp_path, vocab=300)
    assert imported(folders, tmp_path / "model", "--height", 32, "--width", 48) == 2
    assert "300 ids, tokenizer and actions need 273" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    message = refusal(capsys, "import", "--transformer", "x", "--output_dir", tmp_path / "model")
    assert "exists already" in message


def test_names_that_lead_nowhere_are_told(tmp_path, capsys, monkeypatch):
    output = ("--output_dir", tmp_path / "model")
    message = refusal(capsys, "import", "--transformer", "./nowhere", *output)
    assert "./nowhere is neither a folder nor a repository" in message

    def unreachable(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("no connection\nand a long story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    message = refusal(capsys, "import", "--transformer", "owner/model", *output)
    assert "owner/model from the Hugging Face Hub (no connection)" in message
    assert "https://huggingface.co/owner/model" in message
