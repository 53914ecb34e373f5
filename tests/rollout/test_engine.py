from __future__ import annotations

from typing import Any

import pytest
import torch

from vidwm.errors import UserError
from vidwm.rollout.engine import Rollouts, Sampling, generate
from vidwm.rollout.naive import generate_naive
from vidwm.world_model.layout import Layout
from vidwm.world_model.likelihood import sequence_logprobs
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.transformer import Transformer

LAYOUT = Layout(
    tokens_per_frame=3, codebook_size=12, action_dims=2, action_bins=5, context_frames=2, horizon=3
)


def model(kv_heads: int = 2, positions: int = 64) -> Transformer:
    """Weights large enough for the distributions to be far from flat."""
    torch.manual_seed(kv_heads)
    transformer = Transformer(
        TransformerConfig(
            vocab_size=LAYOUT.vocab_size,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=kv_heads,
            max_position_embeddings=positions,
            bos_token_id=LAYOUT.bos,
            eos_token_id=LAYOUT.eos,
        )
    )
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return transformer


def request(contexts: int = 3, frames: int = 8) -> dict[str, Any]:
    """Arguments of `generate`: contexts, actions and names, the same whatever was drawn before."""
    generator = torch.Generator().manual_seed(5)
    return {
        "prompt_tokens": torch.randint(0, 12, (contexts, 2, 3), generator=generator),
        "bins": torch.randint(0, 5, (contexts, frames, 2), generator=generator),
        "keys": torch.randint(0, 2**62, (contexts,), generator=generator),
        "group_size": 4,
        "sampling": Sampling(seed=9),
    }


def part(asked: dict[str, Any], contexts: list[int]) -> dict[str, Any]:
    names = ("prompt_tokens", "bins", "keys")
    return asked | {name: asked[name][contexts] for name in names}


def assert_equal(found: Rollouts, expected: Rollouts) -> None:
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("horizon", [None, 1, 7])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(seed=9), Sampling(temperature=0.0), Sampling(temperature=1.3, top_k=6, top_p=0.8)],
)
def test_equals_the_naive_twin(sampling: Sampling, horizon: int | None) -> None:
    transformer = model()
    asked = request(contexts=2) | {"group_size": 2, "sampling": sampling, "horizon": horizon}
    found = generate(transformer, LAYOUT, **asked)
    assert found.tokens.shape == (2, 2, horizon or 3, 3)
    assert found.logprobs.dtype == torch.float32
    assert_equal(found, generate_naive(transformer, LAYOUT, **asked))


def test_equals_the_naive_twin_with_one_key_head() -> None:
    asked = request(contexts=2) | {"group_size": 2}
    assert_equal(generate(model(1), LAYOUT, **asked), generate_naive(model(1), LAYOUT, **asked))


@pytest.mark.parametrize("horizon", [3, 5])
def test_tokens_do_not_depend_on_batch_size_order_or_split(horizon: int) -> None:
    transformer, asked = model(), request() | {"horizon": horizon}
    whole = generate(transformer, LAYOUT, **asked)
    order = [2, 0, 1]
    shuffled = generate(transformer, LAYOUT, **part(asked, order))
    assert_equal(shuffled, Rollouts(tokens=whole.tokens[order], logprobs=whole.logprobs[order]))
    for b in range(3):
        alone = generate(transformer, LAYOUT, **part(asked, [b]))
        rows = slice(b, b + 1)
        assert_equal(alone, Rollouts(tokens=whole.tokens[rows], logprobs=whole.logprobs[rows]))
    for first, size in ((0, 1), (1, 3)):
        some = generate(
            transformer, LAYOUT, **(asked | {"group_size": size, "first_rollout": first})
        )
        rows = slice(first, first + size)
        expected = Rollouts(tokens=whole.tokens[:, rows], logprobs=whole.logprobs[:, rows])
        assert_equal(some, expected)


def test_rollouts_of_a_group_differ_and_follow_the_seed_and_the_key() -> None:
    transformer, asked = model(), request()
    tokens = generate(transformer, LAYOUT, **asked).tokens
    assert len({tuple(rollout.flatten().tolist()) for rollout in tokens[0]}) == 4
    reseeded = generate(transformer, LAYOUT, **(asked | {"sampling": Sampling(seed=10)}))
    renamed = generate(transformer, LAYOUT, **(asked | {"keys": asked["keys"] + 1}))
    assert not torch.equal(reseeded.tokens, tokens) and not torch.equal(renamed.tokens, tokens)


def test_greedy_rollouts_of_a_group_are_one_and_the_same() -> None:
    asked = request() | {"sampling": Sampling(temperature=0.0)}
    tokens = generate(model(), LAYOUT, **asked).tokens
    assert (tokens == tokens[:, :1]).all()


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_equal_those_of_the_training_graph(temperature: float) -> None:
    transformer, asked = model(), request()
    asked["sampling"] = Sampling(temperature=temperature)
    found = generate(transformer, LAYOUT, **asked)
    expected, _ = sequence_logprobs(
        transformer,
        LAYOUT,
        found.tokens,
        asked["prompt_tokens"],
        asked["bins"],
        temperature=temperature,
    )
    torch.testing.assert_close(found.logprobs, expected, rtol=0, atol=1e-4)


def test_draws_each_first_token_as_often_as_the_model_says() -> None:
    transformer, asked = model(), request(contexts=1) | {"group_size": 4000, "horizon": 1}
    tokens = generate(transformer, LAYOUT, **asked).tokens[0, :, 0, 0]
    prompt = LAYOUT.prompt(asked["prompt_tokens"], asked["bins"])
    expected = transformer(prompt)[0, -1, :12].softmax(dim=-1).detach()
    shares = torch.bincount(tokens, minlength=12) / 4000
    error = (expected * (1 - expected) / 4000).sqrt()
    assert ((shares - expected).abs() < 4 * error + 1e-3).all()


def test_actions_after_the_context_steer_only_what_follows() -> None:
    transformer, asked = model(), request() | {"horizon": 2}
    before = generate(transformer, LAYOUT, **asked)
    bins = asked["bins"].clone()
    bins[:, 2] = (bins[:, 2] + 1) % 5
    after = generate(transformer, LAYOUT, **(asked | {"bins": bins}))
    assert torch.equal(after.tokens[:, :, 0], before.tokens[:, :, 0])
    assert (after.logprobs[:, :, 1] != before.logprobs[:, :, 1]).all()


def test_results_can_enter_a_training_graph() -> None:
    transformer, asked = model(), request()
    found = generate(transformer, LAYOUT, **asked)
    assert not found.tokens.is_inference() and not found.logprobs.requires_grad
    logprobs, _ = sequence_logprobs(
        transformer, LAYOUT, found.tokens, asked["prompt_tokens"], asked["bins"]
    )
    logprobs.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 0}, "group_size and horizon must be at least 1, got 0 and 3"),
        ({"horizon": 0}, "got 4 and 0"),
        ({"horizon": 8}, "8 frames after 2 context frames need 9 actions, got 8"),
        ({"prompt_tokens": torch.full((3, 2, 3), 12)}, r"tokens must lie in 0\.\.11, got 12\.\.12"),
        ({"bins": torch.full((3, 8, 2), 5)}, r"action bins must lie in 0\.\.4, got 5\.\.5"),
        ({"prompt_tokens": torch.zeros(3, 1, 3, dtype=torch.long)}, r"tokens must be \(B, 2, 3\)"),
        ({"keys": torch.zeros(2, dtype=torch.long)}, r"keys must be \(3,\) int64"),
    ],
)
def test_requests_that_cannot_be_served_are_errors(change: dict[str, Any], message: str) -> None:
    for function in (generate, generate_naive):
        with pytest.raises(ValueError, match=message):
            function(model(), LAYOUT, **(request() | {"horizon": 3} | change))


def test_a_context_beyond_the_positions_is_an_error_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"take 24 tokens, more than .* 23"):
        generate(model(positions=23), LAYOUT, **request())
    generate(model(positions=24), LAYOUT, **request())


def test_a_transformer_of_another_layout_is_an_error_with_both_numbers() -> None:
    other = Layout(tokens_per_frame=3, codebook_size=12, action_dims=2, context_frames=2, horizon=2)
    with pytest.raises(UserError, match="has 24 ids, the layout 526"):
        generate(model(), other, **request())


@pytest.mark.parametrize("change", [{"temperature": -0.1}, {"top_k": -1}, {"top_p": 0.0}])
def test_sampling_out_of_range_is_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Sampling needs"):
        Sampling(**change)
