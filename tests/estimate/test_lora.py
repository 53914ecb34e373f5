"""What low-rank updates spare, against counts by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.estimate.test_counting import CONFIG, INNER, LAYERS, D, L, V, loss
from vidwm.config import PretrainConfig
from vidwm.estimate.counting import cost
from vidwm.estimate.networks import model_at
from vidwm.estimate.phases import finetune_step, pretrain_step, size, with_adapters
from vidwm.finetune_config import FinetuneConfig
from vidwm.lora_config import LoraOptions
from vidwm.world_model.transformer import Transformer

pytest.importorskip("peft")

TINY = Path(__file__).resolve().parents[2] / "assets/tiny"
RANK = 3
MODEL = model_at(TINY)


@pytest.mark.parametrize("embeddings", [False, True])
def test_flops_of_training_are_those_of_the_formula(embeddings: bool) -> None:
    with torch.device("meta"):
        transformer = Transformer(CONFIG)
    policy = with_adapters(transformer, LoraOptions(lora_rank=RANK), embeddings=embeddings)
    attending = 4 * D * D
    fixed = LAYERS * (attending + 3 * D * INNER) + D * V
    a, b = LAYERS * RANK * (6 * D + INNER), LAYERS * RANK * (4 * D + 2 * INNER + D)
    attention = LAYERS * 4 * L * L * D
    forward = 2 * L * (fixed + a + b) + attention
    assert cost(policy, loss).of(3).flops == 3 * forward
    # A fixed matrix has the gradient of its input alone, an update also its own.
    backward = 2 * L * (fixed + 2 * a + 2 * b) + 5 * attention // 2
    if not embeddings:  # nothing before the first layer learns: q, k and v pass nothing on
        backward -= 2 * L * (3 * D * D + 3 * RANK * D)
    assert cost(policy, loss, backward=True).of(3).flops == 3 * (forward + backward)


def adapters() -> int:
    """Weights beside the projections of the tiny transformer."""
    c = MODEL.transformer.config
    queries, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    sides = 2 * (c.hidden_size + queries) + 2 * (c.hidden_size + keys)
    return c.num_hidden_layers * RANK * (sides + 3 * (c.hidden_size + c.intermediate_size))


def test_memory_of_pretraining_with_a_trained_embedding() -> None:
    config = PretrainConfig(
        data=TINY, init_from=TINY, output_dir=Path("o"), lora_rank=RANK, ema_decay=0.9
    )
    step, whole = pretrain_step(config, MODEL)(2), size(MODEL.transformer) + adapters()
    learns = adapters() + MODEL.transformer.model.embed_tokens.weight.numel()
    assert step.memory["weights"] == step.memory["average"] == 4 * whole
    assert step.memory["gradients"] == 4 * learns and step.memory["moments"] == 8 * learns
    assert step.phases["AdamW"].work.bytes == 28 * learns
    assert all(value.requires_grad for value in MODEL.transformer.parameters())  # it was a copy


def test_grpo_samples_from_a_merged_copy_and_moves_the_updates_alone() -> None:
    def step(rank: int):
        config = FinetuneConfig(
            data=TINY, model=TINY, output_dir=Path("o"), group_size=4, reward="mae=1",
            mini_batches=2, batch_size=2, lora_rank=rank,
        )  # fmt: skip
        return finetune_step(config, MODEL)(2)

    plain, low = step(0), step(RANK)
    assert low.memory["gradients"] == 4 * adapters() and low.memory["moments"] == 8 * adapters()
    assert low.memory["weights"] == plain.memory["weights"] + 4 * adapters()
    assert low.memory["reference"] == plain.memory["reference"]
    for same in ("prefill", "decode steps", "reference"):
        assert low.phases[same] == plain.phases[same]
    old, new = (s.phases["old log-probabilities"].work.flops for s in (plain, low))
    assert old < new < 1.2 * old
    assert low.phases["train"].work.flops < 0.85 * plain.phases["train"].work.flops
    copies = [next(v for k, v in s.passing.items() if "caches" in k) for s in (plain, low)]
    assert copies[1] - copies[0] == 4 * size(MODEL.transformer)
