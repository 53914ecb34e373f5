"""Low-rank updates: what they train, what is left of them in a saved model, and resuming."""

import builtins

import pytest
import torch
from safetensors.torch import load_file

from tests.pipeline import PRETRAIN, TOKENIZER, fails, metrics, run, weights, write_episodes
from tests.training.test_sharpness import BINS, LAYOUT, PROMPT, TOKENS, small
from vidwm.lora_config import LoraOptions
from vidwm.training.lora import PROJECTIONS, add_adapters, merged
from vidwm.world_model.likelihood import sequence_logprobs
from vidwm.world_model.transformer import Transformer

pytest.importorskip("peft")


def adapted(rank: int = 2, **changes) -> Transformer:
    """With adapters that are no longer zero."""
    transformer = small()
    add_adapters(transformer, LoraOptions(lora_rank=rank, lora_alpha=8.0), **changes)
    with torch.no_grad():
        for name, value in transformer.named_parameters():
            if "lora_B" in name:
                value.normal_()
    return transformer


def test_merged_is_a_plain_transformer_that_predicts_the_same():
    transformer = adapted()
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    plain = merged(transformer)
    for ours, theirs in zip(
        sequence_logprobs(transformer, LAYOUT, TOKENS, PROMPT, BINS),
        sequence_logprobs(plain, LAYOUT, TOKENS, PROMPT, BINS),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert plain.state_dict().keys() == small().state_dict().keys()
    after = transformer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_sum_is_the_one_of_the_paper():
    transformer = adapted(rank=2)
    wrapped = transformer.model.layers[0].mlp.up_proj
    a, b = (wrapped.get_parameter(f"lora_{x}.default.weight") for x in "AB")
    expected = wrapped.base_layer.weight + 8.0 / 2 * b @ a
    torch.testing.assert_close(merged(transformer).model.layers[0].mlp.up_proj.weight, expected)


@pytest.mark.parametrize("embeddings", [False, True])
def test_adapters_alone_are_trained_and_embeddings_where_ids_are_new(embeddings):
    transformer = adapted(embeddings=embeddings)
    trained = {name for name, value in transformer.named_parameters() if value.requires_grad}
    assert ("model.embed_tokens.weight" in trained) == embeddings
    adapters = trained - {"model.embed_tokens.weight"}
    assert len(adapters) == 2 * len(PROJECTIONS) and all("lora_" in name for name in adapters)


def test_no_rank_no_adapters():
    transformer = small()
    add_adapters(transformer, LoraOptions())
    assert merged(transformer) is transformer
    assert all(value.requires_grad for value in transformer.parameters())


def test_without_the_package_a_sentence_says_how_to_get_it(monkeypatch):
    found = builtins.__import__

    def absent(name, *arguments, **keywords):
        if name == "peft":
            raise ModuleNotFoundError("No module named 'peft'")
        return found(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ValueError, match=r"pip install 'vidwm\[lora\]'"):
        adapted()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with data and a pretrained model."""
    root = tmp_path_factory.mktemp("lora")
    data = ("--data", write_episodes(root / "data"), "--steps", 1, "--sample_every", 0)
    run("tokenizer", *data, *TOKENIZER, "--output_dir", root / "tokenizer")
    tokenizer = root / "tokenizer/checkpoints/last/model"
    run("pretrain", *data, *PRETRAIN, "--tokenizer", tokenizer, "--output_dir", root / "pretrain")
    return root


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_stage_trains_resumes_and_saves_plain_models(base, tmp_path, capsys, stage):
    given = base / "pretrain/checkpoints/last/model"
    words = {
        "pretrain": ("pretrain", "--init_from", given, "--batch_size", 2, "--ema_decay", 0.5),
        "finetune": (
            *("finetune", "--model", given, "--batch_size", 2, "--group_size", 4),
            *("--reward", "mae=1", "--eval_every", 0, "--sharpness_rate", 0.05),
        ),
    }[stage]
    words = (*words, "--data", base / "data", "--lora_rank", 2, "--learning_rate", 0.01)
    words = (*words, "--log_every", 1, "--precision", "fp32")
    run(*words, "--steps", 2, "--output_dir", tmp_path / "whole")
    run(*words, "--steps", 1, "--output_dir", tmp_path / "parts")
    run(*words, "--steps", 2, "--output_dir", tmp_path / "parts", "--resume")
    runs = (base / "pretrain", tmp_path / "whole", tmp_path / "parts")
    before, whole, parts = map(weights, runs)
    assert before.keys() == whole.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    moved = {name for name in whole if not torch.equal(whole[name], before[name])}
    assert any("q_proj" in name for name in moved)
    embedding = "model.embed_tokens.weight"
    assert (embedding in moved) == (stage == "pretrain")
    matrices = {n for n in moved if n.split(".")[-2] in PROJECTIONS}
    assert moved - matrices <= {embedding, "model.norm.weight"}
    for name in matrices:
        change = (whole[name] - before[name]).double()
        assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 2, name
    if stage == "finetune":
        assert metrics(tmp_path / "whole")[-1]["sampler_gap"] < 1e-4
    checkpoint = load_file(tmp_path / "whole/checkpoints/last/transformer.safetensors")
    assert any("lora_A" in name for name in checkpoint)
    other = (*words, "--lora_rank", 3, "--steps", 3, "--output_dir", tmp_path / "parts")
    assert "the transformer was built differently" in fails(capsys, *other, "--resume")
