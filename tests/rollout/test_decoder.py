from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidwm.rollout.decoder import Decoder
from vidwm.rollout.kv_cache import GroupCache
from vidwm.rollout.sampling import Sampling
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.transformer import Transformer

CONTEXTS = torch.randint(0, 40, (2, 12), generator=torch.Generator().manual_seed(1))
FUTURES = torch.randint(0, 40, (2, 3, 4), generator=torch.Generator().manual_seed(2))


def small(kv_heads: int = 2) -> Transformer:
    """Two layers, width 16, with weights large enough for the outputs to depend on everything."""
    transformer = Transformer(
        TransformerConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            max_position_embeddings=16,
            bos_token_id=38,
            eos_token_id=39,
        )
    )
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return transformer


def plain(transformer: Transformer) -> Tensor:
    """States of the futures (2, 3, 4, 16), by the forward pass of training."""
    contexts = CONTEXTS[:, None].expand(-1, 3, -1)
    states = transformer.hidden(torch.cat([contexts, FUTURES], dim=2).flatten(0, 1))
    return states.unflatten(0, (2, 3))[:, :, 12:]


def decoder_of(transformer: Transformer, slack: int = 0) -> Decoder:
    return Decoder(transformer, 38, Sampling(), torch.float32, slack)


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_steps_of_any_size_equal_the_plain_forward(kv_heads: int) -> None:
    transformer = small(kv_heads)
    hidden, prefix = transformer.prefill(CONTEXTS)
    expected = transformer.hidden(CONTEXTS)
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5)
    cache, decoder, parts = GroupCache(prefix, 3, 4), decoder_of(transformer), []
    for part in FUTURES.split([1, 2, 1], dim=2):
        parts.append(decoder.feed(part, cache))
        cache.length += part.shape[2]
    torch.testing.assert_close(torch.cat(parts, 2), plain(transformer), rtol=1e-4, atol=1e-5)
    assert cache.prefix[0][0].shape == (2, kv_heads, 12, 4)
    with pytest.raises(ValueError, match="do not fit into the"):
        decoder.feed(FUTURES[..., :1], cache)


@torch.no_grad()
def test_rollouts_need_not_be_in_step_and_what_is_taken_back_leaves_no_trace() -> None:
    transformer = small()
    cache = GroupCache(transformer.prefill(CONTEXTS)[1], 3, 6)
    decoder, expected = decoder_of(transformer, slack=2), plain(transformer)
    decoder.feed(FUTURES, cache)
    cache.length = torch.tensor([[0, 1, 2], [3, 2, 0]])
    decoder.feed(torch.full((2, 3, 3), 7), cache)  # wrong guesses, beyond the last position too
    places = cache.length[..., None] + torch.arange(1)
    found = decoder.feed(FUTURES.gather(2, places), cache)
    right = expected.gather(2, places[..., None].expand(-1, -1, -1, 16))
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_cache_cut_down_to_some_rollouts_goes_on_with_those() -> None:
    transformer = small()
    cache = GroupCache(transformer.prefill(CONTEXTS)[1], 3, 4)
    decoder, expected = decoder_of(transformer), plain(transformer)
    decoder.feed(FUTURES[..., :3], cache)
    cache.length = torch.full((2, 3), 3)
    cache.select(torch.tensor([1]), torch.tensor([[2, 0]]))
    found = decoder.feed(FUTURES[1:, [2, 0], 3:], cache)
    torch.testing.assert_close(found, expected[1:, [2, 0], 3:], rtol=1e-4, atol=1e-5)
