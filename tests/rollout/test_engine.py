from __future__ import annotations

import dataclasses
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import torch

from vidwm.errors import UserError
from vidwm.rollout.engine import Request, Rollouts, generate, generate_mixed
from vidwm.rollout.naive import generate_naive
from vidwm.rollout.sampling import Sampling
from vidwm.world_model.compressive_layout import CompressiveLayout
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
        "context": torch.randint(0, 12, (contexts, 2, 3), generator=generator),
        "bins": torch.randint(0, 5, (contexts, frames, 2), generator=generator),
        "keys": torch.randint(0, 2**62, (contexts,), generator=generator),
        "group_size": 4,
        "sampling": Sampling(seed=9),
    }


def part(asked: dict[str, Any], contexts: list[int]) -> dict[str, Any]:
    names = ("context", "bins", "keys")
    return asked | {name: asked[name][contexts] for name in names}


def of(found: Rollouts, *index: Any) -> Rollouts:
    """Some of the contexts, or of their rollouts."""
    return dataclasses.replace(found, tokens=found.tokens[index], logprobs=found.logprobs[index])


def assert_equal(found: Rollouts, expected: Rollouts) -> None:
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("horizon", [None, 1, 7])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=9),
        Sampling(temperature=0.0),
        Sampling(temperature=1.3, top_k=6, top_p=0.8),
        Sampling(min_p=0.1),
    ],
)
@pytest.mark.parametrize("drafts", [True, False])
def test_equals_the_naive_twin(sampling: Sampling, horizon: int | None, drafts: bool) -> None:
    transformer = model()
    asked = request(contexts=2) | {"group_size": 2, "sampling": sampling, "horizon": horizon}
    found = generate(transformer, LAYOUT, **asked, drafts=drafts)
    assert found.tokens.shape == (2, 2, horizon or 3, 3)
    assert found.logprobs.dtype == torch.float32
    assert_equal(found, generate_naive(transformer, LAYOUT, **asked))


@pytest.mark.parametrize("drafts", [True, False])
@pytest.mark.parametrize("horizon", [3, 7])
def test_equals_the_naive_twin_after_a_context_in_full(horizon: int, drafts: bool) -> None:
    """Ids, prompt and way back are others; horizons beyond the layout's keep the full frames."""
    layout = CompressiveLayout(
        tokens_per_frame=3,
        codebook_size=8,
        tokens_per_context_frame=4,
        context_codebook_size=4,
        action_dims=2,
        action_bins=5,
        context_frames=2,
        horizon=3,
    )
    asked = request(contexts=2) | {"group_size": 2, "horizon": horizon}
    asked["context"] = torch.randint(0, 4, (2, *layout.context_shape))
    found = generate(model(), layout, **asked, drafts=drafts)
    assert found.tokens.max() < 8
    assert_equal(found, generate_naive(model(), layout, **asked))


def test_equals_the_naive_twin_with_one_key_head() -> None:
    asked = request(contexts=2) | {"group_size": 2}
    assert_equal(generate(model(1), LAYOUT, **asked), generate_naive(model(1), LAYOUT, **asked))


@pytest.mark.parametrize("horizon", [3, 5])
def test_tokens_do_not_depend_on_batch_size_order_or_split(horizon: int) -> None:
    transformer, asked = model(), request() | {"horizon": horizon}
    whole = generate(transformer, LAYOUT, **asked)
    order = [2, 0, 1]
    shuffled = generate(transformer, LAYOUT, **part(asked, order))
    assert_equal(shuffled, of(whole, order))
    for b in range(3):
        alone = generate(transformer, LAYOUT, **part(asked, [b]))
        assert_equal(alone, of(whole, slice(b, b + 1)))
    for first, size in ((0, 1), (1, 3)):
        some = generate(
            transformer, LAYOUT, **(asked | {"group_size": size, "first_rollout": first})
        )
        assert_equal(some, of(whole, slice(None), slice(first, first + size)))


def decoded(contexts: list[int]) -> Rollouts:
    return generate(model(), LAYOUT, **part(request(), contexts))


def test_two_processes_draw_what_one_does() -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(decoded, [[0, 2], [1]]))
    whole = decoded([0, 1, 2])
    assert_equal(parts[0], of(whole, [0, 2]))
    assert_equal(parts[1], of(whole, [1]))


@pytest.mark.parametrize("drafts", [True, False])
@pytest.mark.parametrize("horizon", [3, 5])
def test_a_cache_budget_splits_the_batch_and_changes_no_token(horizon: int, drafts: bool) -> None:
    transformer, asked = model(), request() | {"horizon": horizon, "drafts": drafts}
    whole = generate(transformer, LAYOUT, **asked)
    sizes = []

    def counted(ids: torch.Tensor) -> Any:
        sizes.append(len(ids))
        return Transformer.prefill(transformer, ids)

    transformer.prefill = counted  # type: ignore[method-assign]
    suffix = 12 + (16 if drafts else 0)  # 3 frames of 3 + 2 actions, without the last token's 3
    one = 2 * 2 * 2 * 8 * (11 + 4 * suffix) * 4 / 1e9
    assert_equal(generate(transformer, LAYOUT, **asked, max_cache_gb=2.1 * one), whole)
    assert sizes[:2] == [2, 1]
    with pytest.raises(UserError, match=r"One context with 4 rollouts needs .* GB"):
        generate(transformer, LAYOUT, **asked, max_cache_gb=0.9 * one)


def test_contexts_of_other_lengths_and_group_sizes_are_decoded_as_if_alone() -> None:
    transformer, asked = model(), request()
    frames, sizes = (2, 1, 2, 2), (4, 4, 1, 4)
    prompts = [asked["context"][i % 3, :c] for i, c in enumerate(frames)]
    requests = [
        Request(context=prompt, bins=asked["bins"][i % 3], key=i, group_size=size)
        for i, (prompt, size) in enumerate(zip(prompts, sizes, strict=True))
    ]
    found = generate_mixed(transformer, LAYOUT, requests, sampling=asked["sampling"])
    for one, part in zip(requests, found, strict=True):
        alone = generate_naive(
            transformer,
            dataclasses.replace(LAYOUT, context_frames=len(one.context)),
            one.context[None],
            one.bins[None],
            keys=torch.tensor([one.key]),
            group_size=one.group_size,
            sampling=asked["sampling"],
        )
        assert_equal(part, alone)


@pytest.mark.parametrize("drafts", [True, False])
def test_only_legal_tokens_are_drawn(drafts: bool) -> None:
    transformer, asked = model(), request() | {"drafts": drafts}
    legal = torch.zeros(3, 12, dtype=torch.bool)
    legal[0, :4] = legal[1, 4:9] = legal[2, 11] = True
    found = generate(transformer, LAYOUT, **asked, legal=legal)
    places = legal.expand(3, 4, 3, 3, 12)
    assert places.gather(-1, found.tokens[..., None]).all()
    assert (found.logprobs[..., 2] == 0).all()
    del asked["drafts"]
    assert_equal(found, generate_naive(transformer, LAYOUT, **asked, legal=legal))
    everywhere = generate(transformer, LAYOUT, **asked, legal=legal[1])
    assert ((everywhere.tokens >= 4) & (everywhere.tokens < 9)).all()


def test_decoding_leaves_the_weights_as_they_were_and_stores_none_twice() -> None:
    transformer, asked = model(), request()
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    first = generate(transformer, LAYOUT, **asked)
    assert all(torch.equal(before[n], v) for n, v in transformer.state_dict().items())
    attention = transformer.model.layers[0].self_attn
    with torch.no_grad():
        attention.k_proj.weight.mul_(1.5)  # as an optimizer would
    moved = generate(transformer, LAYOUT, **asked)
    assert (moved.logprobs != first.logprobs).any()
    transformer.load_state_dict(before)
    assert_equal(generate(transformer, LAYOUT, **asked), first)
    storages = {getattr(attention, f"{x}_proj").weight.untyped_storage().data_ptr() for x in "qkv"}
    assert len(storages) == 1


def test_decoding_in_bf16_is_close_to_fp32() -> None:
    transformer, asked = model(), request() | {"sampling": Sampling(temperature=0.0)}
    exact = generate(transformer, LAYOUT, **asked)
    rounded = generate(transformer, LAYOUT, **asked, dtype=torch.bfloat16)
    first = (slice(None), slice(None), 0, 0)
    assert rounded.logprobs.dtype == torch.float32
    assert (rounded.tokens[first] == exact.tokens[first]).float().mean() > 0.6
    torch.testing.assert_close(rounded.logprobs[first], exact.logprobs[first], rtol=0, atol=0.1)


def test_a_model_cast_to_bf16_decodes_as_one_that_is_decoded_in_bf16() -> None:
    transformer, asked = model(), request()
    tables = transformer.model.cos.clone()
    rounded = generate(transformer, LAYOUT, **asked, dtype=torch.bfloat16)
    transformer.to(torch.bfloat16)
    assert torch.equal(transformer.model.cos, tables)
    cast = generate(transformer, LAYOUT, **asked)
    first = (slice(None), slice(None), 0, 0)
    torch.testing.assert_close(cast.logprobs[first], rounded.logprobs[first], rtol=0, atol=0.1)
    assert (cast.tokens == rounded.tokens).float().mean() > 0.9
    drafted = generate(transformer, LAYOUT, **asked, drafts=True)
    plain = generate(transformer, LAYOUT, **asked, drafts=False)
    assert (drafted.tokens == plain.tokens).float().mean() > 0.95


def test_training_goes_on_after_rollouts_in_inference_mode() -> None:
    transformer, asked = model(), request()
    with torch.inference_mode():
        found = generate(transformer, LAYOUT, **asked)
    tokens = found.tokens.clone()
    logprobs, _ = sequence_logprobs(transformer, LAYOUT, tokens, asked["context"], asked["bins"])
    logprobs.sum().backward()
    assert all(p.grad is not None for p in transformer.model.parameters())


@pytest.mark.parametrize("drafts", [True, False])
def test_scores_that_are_no_numbers_are_an_error(drafts: bool) -> None:
    transformer = model()
    with torch.no_grad():
        transformer.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="scores are not numbers"):
        generate(transformer, LAYOUT, **request(), drafts=drafts)


@pytest.mark.parametrize("drafts", [True, False])
def test_a_window_may_be_a_single_token(drafts: bool) -> None:
    layout = dataclasses.replace(LAYOUT, tokens_per_frame=1, horizon=1)
    asked = request(contexts=2) | {"group_size": 2}
    asked["context"] = asked["context"][..., :1]
    found = generate(model(), layout, **asked, drafts=drafts)
    assert found.tokens.shape == (2, 2, 1, 1) and found.tokens_per_pass == 1
    assert_equal(found, generate_naive(model(), layout, **asked))


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
        asked["context"],
        asked["bins"],
        temperature=temperature,
    )
    torch.testing.assert_close(found.logprobs, expected, rtol=0, atol=1e-4)


def test_draws_each_first_token_as_often_as_the_model_says() -> None:
    transformer, asked = model(), request(contexts=1) | {"group_size": 4000, "horizon": 1}
    tokens = generate(transformer, LAYOUT, **asked).tokens[0, :, 0, 0]
    prompt = LAYOUT.prompt(asked["context"], asked["bins"])
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
        transformer, LAYOUT, found.tokens, asked["context"], asked["bins"]
    )
    logprobs.sum().backward()
