from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vidwm.errors import UserError
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.transformer import Transformer

IDS = torch.randint(0, 40, (2, 12), generator=torch.Generator().manual_seed(1))


def small(**changes: Any) -> Transformer:
    """Two layers, width 16, with weights large enough for the outputs to depend on everything."""
    sizes: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16,
        "bos_token_id": 38,
        "eos_token_id": 39,
    }
    transformer = Transformer(TransformerConfig(**(sizes | changes)))
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return transformer


@torch.no_grad()
def test_logits_equal_the_reference_implementation(shared: Path) -> None:
    transformer = Transformer.from_pretrained(shared / "golden" / "transformer")
    golden = load_file(shared / "golden" / "transformer_io.safetensors")
    logits = transformer(golden["input_ids"])
    torch.testing.assert_close(logits, golden["logits"], rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_saved_directory_opens_in_transformers(tmp_path: Path, kv_heads: int) -> None:
    transformers = pytest.importorskip("transformers")
    ours = small(num_key_value_heads=kv_heads, rope_theta=500.0)
    ours.save_pretrained(tmp_path)
    theirs, report = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert set(theirs.state_dict()) == set(ours.state_dict())
    torch.testing.assert_close(theirs(IDS).logits, ours(IDS), rtol=0, atol=1e-4)


@torch.no_grad()
def test_opens_a_directory_that_transformers_wrote(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        rope_parameters={"rope_type": "default", "rope_theta": 700.0},
    )
    theirs = transformers.LlamaForCausalLM(config)
    theirs.save_pretrained(tmp_path)
    ours = Transformer.from_pretrained(tmp_path)
    assert ours.config.rope_theta == 700.0 and ours.config.num_key_value_heads == 4
    torch.testing.assert_close(ours(IDS), theirs(IDS).logits, rtol=0, atol=1e-4)


def test_round_trip_is_bit_exact_and_rewriting_works(tmp_path: Path) -> None:
    transformer = small()
    small().save_pretrained(tmp_path)
    transformer.save_pretrained(tmp_path)
    loaded = Transformer.from_pretrained(tmp_path)
    assert loaded.config == transformer.config
    for name, value in transformer.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_opens_half_precision_files_without_metadata(tmp_path: Path) -> None:
    transformer = small()
    transformer.save_pretrained(tmp_path)
    halves = {name: value.half() for name, value in transformer.state_dict().items()}
    save_file(halves, tmp_path / "model.safetensors")
    loaded = Transformer.from_pretrained(tmp_path)
    assert loaded.lm_head.weight.dtype == torch.float32
    assert torch.equal(loaded.lm_head.weight, halves["lm_head.weight"].float())


def test_can_be_saved_in_half_precision(tmp_path: Path) -> None:
    transformer = small()
    transformer.save_pretrained(tmp_path, torch.bfloat16)
    stored = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    weight = Transformer.from_pretrained(tmp_path).lm_head.weight
    assert torch.equal(weight, transformer.lm_head.weight.bfloat16().float())


@torch.no_grad()
@pytest.mark.parametrize("changed", [1, 6, 11])
def test_a_later_token_changes_no_earlier_logits(changed: int) -> None:
    transformer, other = small(), IDS.clone()
    other[:, changed] = (other[:, changed] + 1) % 40
    before, after = transformer(IDS), transformer(other)
    torch.testing.assert_close(after[:, :changed], before[:, :changed], rtol=0, atol=0)
    assert (after[:, changed] - before[:, changed]).abs().min() > 0


@torch.no_grad()
def test_head_runs_at_the_asked_positions_and_ids_alone() -> None:
    transformer = small()
    logits = transformer(IDS)
    places = torch.tensor([3, 4, 9])
    torch.testing.assert_close(transformer(IDS, places), logits[:, places])
    torch.testing.assert_close(transformer(IDS, slice(-1, None)), logits[:, -1:])
    some = transformer.head(transformer.hidden(IDS), slice(5, 20))
    torch.testing.assert_close(some, logits[..., 5:20])


def joined(ids: torch.Tensor, futures: torch.Tensor) -> torch.Tensor:
    """Context (B, P) before each of its futures (B, G, L) -> (B * G, P + L)."""
    context = ids[:, None].expand(-1, futures.shape[1], -1)
    return torch.cat([context, futures], dim=-1).flatten(0, 1)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_shared_prefix_equals_the_plain_forward_in_values_and_gradients(kv_heads: int) -> None:
    transformer, futures = small(num_key_value_heads=kv_heads), torch.randint(0, 40, (2, 3, 4))
    weight = torch.randn(2, 3, 4, 16)
    plain = transformer.hidden(joined(IDS, futures))[:, 12:].unflatten(0, (2, 3))
    (plain * weight).sum().backward()
    expected = {
        name: p.grad.clone() for name, p in transformer.named_parameters() if p.grad is not None
    }
    transformer.zero_grad()
    shared = transformer.continue_group(futures, transformer.prefill(IDS)[1])
    torch.testing.assert_close(shared, plain, rtol=1e-4, atol=1e-5)
    (shared * weight).sum().backward()
    found = {name: p.grad for name, p in transformer.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        scale = expected[name].abs().max()
        torch.testing.assert_close(gradient / scale, expected[name] / scale, rtol=0, atol=1e-5)


def test_runs_and_trains_under_bf16_autocast() -> None:
    transformer = small()
    exact = transformer(IDS)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = transformer(IDS)
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).abs().mean() < 0.05 * exact.abs().mean()
    rounded.float().square().mean().backward()
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 for p in transformer.parameters()
    )


def test_a_sequence_beyond_the_positions_is_an_error_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"17 tokens is longer than .* 16"):
        small()(torch.zeros(1, 17, dtype=torch.long))


def test_files_that_are_missing_or_damaged_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        Transformer.from_pretrained(tmp_path)
    small().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        Transformer.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        Transformer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read as JSON"):
        Transformer.from_pretrained(tmp_path)


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    transformer = small()
    transformer.save_pretrained(tmp_path)
    weights = dict(transformer.state_dict())
    weights["model.extra"] = weights.pop("model.norm.weight")
    weights["lm_head.weight"] = weights["lm_head.weight"][:-1].contiguous()
    save_file(weights, tmp_path / "model.safetensors")
    expected = (
        "missing model.norm.weight.*unexpected model.extra.*"
        r"lm_head.weight has shape \(39, 16\), expected \(40, 16\)"
    )
    with pytest.raises(UserError, match=expected):
        Transformer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', only 'silu' is supported"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope type is 'llama3'"),
        ({"head_dim": 8}, "head_dim 8 times num_attention_heads 4 must equal hidden_size 16"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"hidden_size": 18, "head_dim": None}, "hidden_size 18 must be a multiple of twice"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 must be a multiple of"),
    ],
)
def test_configs_of_other_architectures_are_errors(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    small().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        Transformer.from_pretrained(tmp_path)
